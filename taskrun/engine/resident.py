"""How much memory this worker process holds, looked at as often as is worth it."""

from __future__ import annotations

import contextlib
import os
import time
from mmap import PAGESIZE

__all__ = ["Resident", "resident_now"]

_EVERY = 0.02  # seconds between looks: one costs as much as a tiny task
_AFTER = 0.001  # seconds that a task has taken, for which one is worth it
_STATM = "/proc/self/statm"


def resident_now() -> int | None:
    """Return how many bytes this process holds; None where nobody says so, or no descriptor is left."""
    try:
        with open(_STATM, "rb", buffering=0) as statm:
            return _size(statm.fileno())
    except OSError:
        return None


class Resident:
    """Keeps a descriptor, since there may be none left to be had later. Raises OSError."""

    def __init__(self) -> None:
        self.always = False
        """The worker is not to grow too large: each task is followed by a look."""
        self._at = 0.0
        self._statm = os.open(_STATM, os.O_RDONLY | os.O_CLOEXEC)

    @property
    def due(self) -> float:
        """When to look next, though tasks are short."""
        return 0.0 if self.always else self._at + _EVERY

    def after(self, duration: float, ended: float) -> int:
        """Return the size in bytes after a task that took *duration* seconds; 0: not looked at, it is as it was."""
        # A long task hides the cost of the look; a short one may have to be passed over.
        return self.now() if duration > _AFTER or ended - self._at > _EVERY or self.always else 0

    def now(self) -> int:
        """Return the size in bytes; 0: a task has closed everything."""
        self._at = time.monotonic()
        try:
            return _size(self._statm)
        except (OSError, IndexError, ValueError):
            return 0

    def close(self) -> None:
        """Close the descriptor, in a copy of the process."""
        with contextlib.suppress(OSError):
            os.close(self._statm)


def _size(statm: int) -> int:
    return int(os.pread(statm, 128, 0).split()[1]) * PAGESIZE
