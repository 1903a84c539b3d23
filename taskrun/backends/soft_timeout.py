"""`soft_timeout` where tasks run in threads of this process: an exception raised in the thread from outside, once.

A coroutine is struck at its next await, everything else at its next step in Python.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from taskrun.errors import TaskTimeoutError

if TYPE_CHECKING:
    from taskrun.coroutines import Interrupts
    from taskrun.timer import Timer

__all__ = ["SoftTimeout"]


class _SoftTimeoutError(TaskTimeoutError):
    """What the interpreter raises in the thread: it makes the exception itself, from a class and without arguments."""

    alarm: SoftTimeout

    def __init__(self, *_: object) -> None:
        alarm = self.alarm
        super().__init__(limit=alarm.limit, elapsed=alarm.elapsed, task=alarm.name, attempt=alarm.attempt, soft=True)


class SoftTimeout:
    """The alarm of one attempt, set by the thread that runs it; a lock of its own makes it go off before `disarm` or never."""

    def __init__(self, timer: Timer, runner: Interrupts, limit: float, name: str, attempt: int) -> None:
        self._runner = runner
        self._handed_over: TaskTimeoutError | None = None  # what a coroutine was told
        self.limit = limit
        self.name = name
        self.attempt = attempt
        self._ident = threading.get_ident()
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._over = False
        timer.call_at(self._began + limit, self._go_off)

    @property
    def elapsed(self) -> float:
        """Seconds since the attempt began."""
        return time.monotonic() - self._began

    def _go_off(self) -> None:
        kind = type("TaskTimeoutError", (_SoftTimeoutError,), {"alarm": self, "__module__": TaskTimeoutError.__module__})
        error = TaskTimeoutError(limit=self.limit, elapsed=self.elapsed, task=self.name, attempt=self.attempt, soft=True)
        with self._lock:
            if not self._over and self._runner.interrupt(error, lambda: _raise_in(self._ident, kind)):
                self._handed_over = error

    def disarm(self) -> None:
        """Call off what has not been raised yet: it must not hit what the thread does next."""
        with self._lock:
            self._over = True
            _raise_in(self._ident, None)

    def public(self, error: BaseException) -> TaskTimeoutError | None:
        """Return *error* as the class that users know, if this alarm raised it."""
        if error is self._handed_over:
            return self._handed_over
        if not isinstance(error, _SoftTimeoutError) or error.alarm is not self:
            return None
        known = TaskTimeoutError(limit=self.limit, elapsed=error.elapsed, task=self.name, attempt=self.attempt, soft=True)
        known.__cause__, known.__context__ = error.__cause__, error.__context__
        known.__suppress_context__ = error.__suppress_context__
        return known.with_traceback(error.__traceback__)


def _raise_in(ident: int, kind: type[BaseException] | None) -> None:
    import ctypes  # at first use: most programs set no soft_timeout

    argument = ctypes.py_object(kind) if kind is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), argument)
