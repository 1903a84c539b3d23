"""One place owns time: back-off and deadlines of an executor wait here, in one thread that is started when first needed."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from taskrun.bell import Bell, wait_at
from taskrun.threads import OwnThread

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Lock as Gate

__all__ = ["Timer"]

_log = logging.getLogger("taskrun")


class Timer:
    """Calls functions at given times (`time.monotonic`). They must be quick, must not block and must not be the user's.

    `_lock` guards the heap and the thread; it is a leaf. Re-entrant: signal handlers come here.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.RLock()
        self._bell = Bell()  # rings when the thread has to look again
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._count = 0  # breaks ties: functions do not compare
        self._thread: OwnThread | None = None
        self._stopped = False

    def call_at(self, when: float, fn: Callable[..., object], *args: Any) -> bool:
        """Call ``fn(*args)`` at *when*; False when the interpreter, shutting down, gives no thread for it."""
        with self._lock:
            self._count += 1
            entry = (when, self._count, fn, args)
            heapq.heappush(self._heap, entry)
            if self._heap[0] is entry:
                self._bell.ring()
            if self._thread is None and not self._stopped:
                self._thread = OwnThread(f"{self._name}-timer", self._run)
                try:
                    self._thread.start()
                except BaseException as error:  # no thread is to be had, or Ctrl-C: if it did start after all, it leaves
                    self._thread = None
                    if not isinstance(error, RuntimeError):
                        raise
                    self._heap.remove(entry)
                    return False
        return True

    def stop(self) -> None:
        """Forget everything and end the thread."""
        with self._lock:
            self._stopped = True
            self._heap.clear()
            self._bell.ring()

    def join(self) -> None:
        """Wait until the thread has ended, after `stop`."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        gate: Gate | None = None  # kept until it is open: the bell would gather those that nobody waits at any more
        while True:
            with self._lock:
                if self._stopped or self._thread is not threading.current_thread():
                    return
                left = self._heap[0][0] - time.monotonic() if self._heap else None
                due = heapq.heappop(self._heap) if left is not None and left <= 0 else None
                if gate is None:
                    gate = self._bell.listen()
            if due is None:
                # A wait beyond what the C library knows raises OverflowError: look again in an hour.
                if wait_at(gate, None if left is None else min(left, 3600.0)):
                    gate = None
                continue
            _, _, fn, args = due
            try:
                fn(*args)
            except BaseException:  # the deadlines of every other task depend on this thread
                _log.exception("error in the timer of %s", self._name)
            del fn, args, due
