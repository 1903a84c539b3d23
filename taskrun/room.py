"""Back-pressure: where `submit` waits when `max_pending` tasks wait already, and who need not."""

from __future__ import annotations

import signal
import sys
import threading
from typing import TYPE_CHECKING

from taskrun.errors import QueueFullError
from taskrun.threads import OwnThread

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["Room"]


class Room:
    """Blocks a user's thread until `has_room`; guarded by the scheduler's lock, which `wait` must be called under.

    `limit` counts unfinished tasks: `max_pending` that wait plus one for each worker that runs one. Counting the ones that
    wait alone would need every start of a task reported at once, which a batch in a worker process does not do.
    """

    def __init__(self, lock: threading.RLock, max_pending: int | None, max_workers: int) -> None:
        self.limit = None if max_pending is None else max_pending + max_workers
        self._max_pending = max_pending
        self._freed = threading.Condition(lock)
        self.waiting = 0

    def wait(self, full: Callable[[], bool]) -> None:
        """Return when *full* turns false; at once in threads that must not block. Raises QueueFullError in an event loop."""
        if _must_not_block():
            return
        if _in_event_loop():
            raise QueueFullError(
                f"{self._max_pending} tasks wait already (max_pending={self._max_pending}), and waiting for room would block "
                "the event loop that runs in this thread; await some of the futures first, or submit from a thread "
                "(`await asyncio.to_thread(executor.submit, ...)`)",
                limit=self._max_pending,
            )
        self.waiting += 1
        try:
            while full():
                self._freed.wait()
        finally:
            self.waiting -= 1

    def notify(self) -> None:
        """Have everybody who waits look again; under the lock."""
        self._freed.notify_all()


def _must_not_block() -> bool:
    """Return True where blocking could never end: taskrun's own threads (tasks, callbacks) and signal handlers."""
    return isinstance(threading.current_thread(), OwnThread) or _in_signal_handler()


def _in_event_loop() -> bool:
    asyncio = sys.modules.get("asyncio")  # not loaded: no loop can run here
    return asyncio is not None and asyncio._get_running_loop() is not None


def _in_signal_handler() -> bool:
    """Return True below a Python signal handler: they run in the main thread, on top of whatever it was doing."""
    if threading.current_thread() is not threading.main_thread():
        return False
    handlers = {code for number in signal.valid_signals() if (code := _code_of(signal.getsignal(number))) is not None}
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code in handlers:
            return True
        frame = frame.f_back
    return False


def _code_of(handler: object) -> object:
    return getattr(getattr(handler, "__func__", handler), "__code__", None)
