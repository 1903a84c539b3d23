"""threading's locks and semaphores, which take the arguments of multiprocessing's as well.

Between processes it is ``acquire(block=True, timeout=None)``, between threads ``acquire(blocking=True, timeout=-1)``. A program
that is to run on both may write either here; what `release` raises is threading's.
"""

from __future__ import annotations

import _thread
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["ThreadBoundedSemaphore", "ThreadCondition", "ThreadLock", "ThreadRLock", "ThreadSemaphore"]


def _how_long(timeout: float | None) -> float:
    """Return a timeout as threading wants it: None and -1 are for ever, anything else below 0 is no time at all."""
    return -1 if timeout is None or timeout == -1 else max(timeout, 0)


class ThreadLock:
    """`threading.Lock`; the class of that cannot be derived from."""

    __slots__ = ("__weakref__", "_lock", "locked", "release")

    def __init__(self) -> None:
        self._lock = lock = threading.Lock()
        self.release = lock.release
        self.locked = lock.locked

    def acquire(self, block: bool = True, timeout: float | None = None, *, blocking: bool = True) -> bool:
        """Take the lock; return whether it could be had within *timeout* seconds."""
        return self._lock.acquire(True, _how_long(timeout)) if block and blocking else self._lock.acquire(False)

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._lock.__exit__(kind, error, traceback)

    def __repr__(self) -> str:
        return f"<{'locked' if self.locked() else 'unlocked'} {type(self).__name__} at {id(self):#x}>"


class ThreadRLock(_thread.RLock):  # type: ignore[misc]  # final for type checkers only
    """`threading.RLock`."""

    def acquire(  # type: ignore[override]
        self, block: bool = True, timeout: float | None = None, *, blocking: bool = True
    ) -> bool:
        """Take the lock, once more if this thread has it; return whether it could be had within *timeout* seconds."""
        return super().acquire(True, _how_long(timeout)) if block and blocking else super().acquire(False)


class _Counted(threading.Semaphore):
    def acquire(  # type: ignore[override]
        self, block: bool = True, timeout: float | None = None, *, blocking: bool = True
    ) -> bool:
        """Take one; return whether there was one within *timeout* seconds."""
        return super().acquire(True, timeout) if block and blocking else super().acquire(False)

    __enter__ = acquire

    def get_value(self) -> int:
        """Return how many there are."""
        return self._value


class ThreadSemaphore(_Counted):
    """`threading.Semaphore`."""


class ThreadBoundedSemaphore(_Counted, threading.BoundedSemaphore):
    """`threading.BoundedSemaphore`."""


class ThreadCondition(threading.Condition):
    """`threading.Condition`."""

    def __init__(self, lock: Any = None) -> None:
        super().__init__(ThreadRLock() if lock is None else lock)
