"""What to do when a worker cannot be started: wait a little longer each time, and give up at last."""

from __future__ import annotations

import errno
import os
import time

__all__ = ["StartFailures", "look_for_descriptors"]

_MOST = 5  # in a row, before anything has been done
_PASSING = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)  # somebody may give back what lacks
_SHORTAGE = 30.0  # seconds that a lack may last


class StartFailures:
    """Counts failures in a row to start some of *what*. Used by one thread."""

    def __init__(self, what: str = "worker processes") -> None:
        self._what = what
        self.not_before = 0.0
        """`time.monotonic()` before which none is started."""
        self._count = 0.0
        self._since = 0.0

    def add(self, error: BaseException, *, somebody_works: bool, weight: float = 1.0) -> str | None:
        """Note one, which counts as *weight*. Return what to say if that was one too many, else None."""
        now = time.monotonic()
        if now < self.not_before:
            return None  # of several that were tried at the same time: one failure
        if not self._count:
            self._since = now
        self._count += weight
        self.not_before = now + min(0.05 * (2 ** min(self._count, 10) - 1), 1.0)
        passing = _is_shortage(error) and now - self._since < _SHORTAGE
        if self._count <= _MOST or passing or somebody_works:
            return None
        return (
            f"{self._what} could not be started {self._count:g} times in a row, the last time: {error}; "
            "look at the limits on processes, descriptors and memory (ulimit -a), then make a new executor"
        )

    def pause(self, seconds: float) -> None:
        """Start none for so long."""
        self.not_before = max(self.not_before, time.monotonic() + seconds)

    def progress(self) -> None:
        """A worker has taken a task up: they can be started here."""
        self._count = 0.0


def look_for_descriptors(count: int) -> None:
    """Raise OSError unless so many can be had now: what is made by halves for want of one may do worse than fail."""
    found: list[int] = []
    try:
        while len(found) < count:
            found += os.pipe()
    finally:
        for fd in found:
            os.close(fd)


def _is_shortage(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _PASSING
    return isinstance(error, MemoryError) or "can't start new thread" in str(error)  # CPython's words, a RuntimeError
