"""Back-pressure: where `submit` waits when `max_pending` tasks wait already, and who need not."""

from __future__ import annotations

import signal
import sys
import threading
from typing import TYPE_CHECKING

from taskrun.bell import Bell, wait_at
from taskrun.errors import QueueFullError
from taskrun.importable import loaded
from taskrun.threads import OwnThread

if TYPE_CHECKING:
    from threading import Lock as Gate
    from types import FrameType

__all__ = ["Room"]


class Room:
    """Where a user's thread waits for room. The scheduler's lock guards it; `wait` is called without.

    `limit` counts unfinished tasks: `max_pending` that wait plus one for each worker that runs one. Counting the ones that
    wait alone would need every start of a task reported at once, which a batch in a worker process does not do.
    """

    def __init__(self, max_pending: int | None, max_workers: int) -> None:
        self.limit = None if max_pending is None else max_pending + max_workers
        self._max_pending = max_pending
        self._freed = Bell()
        self.waiting: set[int] = set()
        """Identifiers of the threads that wait."""

    def listen(self) -> Gate:
        """Return the gate at which to `wait`. Under the lock."""
        return self._freed.listen()

    def wait(self, gate: Gate) -> bool:
        """Wait at *gate*, then look again; True: this thread must not block, and takes room that is not there.

        Raises QueueFullError in the thread of a running event loop.
        """
        if _must_not_block():
            return True
        if _in_event_loop():
            raise QueueFullError(
                f"{self._max_pending} tasks wait already (max_pending={self._max_pending}), and waiting for room would block "
                "the event loop that runs in this thread; await some of the futures first, or submit from a thread "
                "(`await asyncio.to_thread(executor.submit, ...)`)",
                limit=self._max_pending,
            )
        me = threading.get_ident()
        try:
            self.waiting.add(me)
            wait_at(gate, None)
        finally:
            self.waiting.discard(me)
        return False

    def notify(self) -> None:
        """Have everybody who waits look again. Under the lock."""
        self._freed.ring()


def _must_not_block() -> bool:
    """Return True where blocking could never end: taskrun's own threads (tasks, callbacks) and signal handlers."""
    return isinstance(threading.current_thread(), OwnThread) or _in_signal_handler()


def _in_event_loop() -> bool:
    running_loop = loaded("asyncio", "_get_running_loop")  # not loaded: no loop can run here
    return running_loop is not None and running_loop() is not None


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
