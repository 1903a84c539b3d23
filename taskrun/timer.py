"""One place owns time: back-off and deadlines of an executor wait here, in one thread that is started when first needed."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from taskrun.threads import OwnThread

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Timer"]

_log = logging.getLogger("taskrun")


class Timer:
    """Calls functions at given times (`time.monotonic`). They must be quick, must not block and must not be the user's.

    Its condition guards the heap and the thread; it is a leaf: no other lock is taken under it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._count = 0  # breaks ties: functions do not compare
        self._thread: OwnThread | None = None
        self._stopped = False

    def call_at(self, when: float, fn: Callable[..., object], *args: Any) -> bool:
        """Call ``fn(*args)`` at *when*; False when the interpreter, shutting down, gives no thread for it."""
        with self._changed:
            self._count += 1
            entry = (when, self._count, fn, args)
            heapq.heappush(self._heap, entry)
            if self._thread is None:
                thread = OwnThread(f"{self._name}-timer", self._run)
                try:
                    thread.start()
                except RuntimeError:
                    self._heap.remove(entry)
                    return False
                self._thread = thread
            elif self._heap[0] is entry:
                self._changed.notify()
        return True

    def stop(self) -> None:
        """Forget everything and end the thread."""
        with self._changed:
            self._stopped = True
            self._heap.clear()
            self._changed.notify()

    def join(self) -> None:
        """Wait until the thread has ended, after `stop`."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and (not self._heap or self._heap[0][0] > time.monotonic()):
                    pause = self._heap[0][0] - time.monotonic() if self._heap else None
                    # A pause beyond what the C library can wait for raises OverflowError: look again in an hour.
                    self._changed.wait(None if pause is None else min(max(pause, 0.0), 3600.0))
                if self._stopped:
                    return
                _, _, fn, args = heapq.heappop(self._heap)
            try:
                fn(*args)
            except BaseException:  # the deadlines of every other task depend on this thread
                _log.exception("error in the timer of %s", self._name)
            del fn, args
