"""A thread with the interface of `multiprocessing.Process`, as far as a thread can have it."""

from __future__ import annotations

import threading
from functools import partial
from multiprocessing import dummy
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ThreadProcess", "active_children"]

_started: WeakSet[ThreadProcess] = WeakSet()


class ThreadProcess(dummy.DummyProcess):
    """Runs a function, or the `run` of a subclass, in a thread of its own."""

    _parent: threading.Thread
    _exitcode = 0

    @property
    def exitcode(self) -> int | None:  # type: ignore[override]  # the original knows 0 only
        """None while it runs; then 0, 1 after an error, or what it gave to `sys.exit`."""
        return None if self._started_as_none() else self._exitcode

    @property
    def pid(self) -> int | None:
        """The number of the thread in the kernel; None before the start."""
        return self.native_id

    @property
    def authkey(self) -> bytes:
        """The key of this process."""
        from multiprocessing import current_process

        return bytes(current_process().authkey)

    @property
    def sentinel(self) -> int:
        """Raise NotImplementedError: a thread has no descriptor that tells of its end."""
        _cannot("has no sentinel", "join(timeout)")

    def start(self) -> None:
        """Start it, from the thread that made it. Raises RuntimeError from another, or the second time."""
        if not self._start_called:
            self.run = partial(self._recorded, self.run)  # type: ignore[method-assign]
        super().start()
        _started.add(self)

    def _recorded(self, run: Callable[[], object]) -> None:
        del self.run  # the two refer to each other
        try:
            run()
        except SystemExit as error:
            code = error.code
            self._exitcode = code if isinstance(code, int) else 0 if code is None else 1
            raise
        except BaseException:
            self._exitcode = 1
            raise

    def _started_as_none(self) -> bool:
        return not self._start_called or self.is_alive()

    def terminate(self) -> NoReturn:
        """Raise NotImplementedError: a thread cannot be stopped from outside."""
        _cannot("cannot be terminated", "an Event that it looks at")

    def kill(self) -> NoReturn:
        """Raise NotImplementedError: a thread cannot be stopped from outside."""
        _cannot("cannot be killed", "an Event that it looks at")

    def close(self) -> None:
        """Let go of it. Raises ValueError while it runs."""
        if self.is_alive():
            raise ValueError("Cannot close a process while it is still running. You should first call join() or terminate().")


def active_children() -> list[ThreadProcess]:
    """Return the processes that the current thread has started and that still run."""
    here: Any = threading.current_thread()
    return [each for each in list(_started) if each._parent is here and each.is_alive()]


def _cannot(what: str, instead: str) -> NoReturn:
    raise NotImplementedError(f'a thread {what}: use {instead}, or Process of taskrun.get_context("process")')
