"""When the time of running tasks is up: a table, and one entry in the timer for the earliest of them."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from taskrun.task import Task
    from taskrun.timer import Timer

__all__ = ["Deadlines"]


class Deadlines:
    """Calls *expire* with each task that is still noted when its time has come, and with that time, in the timer's thread.

    *lock* is the scheduler's: `note` and `drop` are called under it, `arm` never. Times are those of `time.monotonic`.
    """

    def __init__(self, lock: AbstractContextManager[object], timer: Timer, expire: Callable[[Task, float], None]) -> None:
        self._lock = lock
        self._timer = timer
        self._expire = expire
        self.noted: dict[Task, float] = {}
        """Those of the tasks that run: never more than there are workers."""
        self._next = math.inf  # at most the smallest of them
        self._armed = math.inf  # when the timer looks at them next

    def note(self, task: Task, when: float) -> None:
        """Note that the time of *task* is up at *when*; follow with `arm` once the lock is released."""
        self.noted[task] = when
        if when < self._next:
            self._next = when

    def drop(self, task: Task) -> None:
        """Forget *task*, if it is noted."""
        if self.noted:
            self.noted.pop(task, None)

    def arm(self) -> None:
        """See to it that the timer looks at the deadlines in time; it may start the timer's thread."""
        if self._next < self._armed:  # the common case, no deadline at all, costs one comparison
            self._set_timer()

    def _set_timer(self) -> None:
        with self._lock:
            when = self._next
            if when >= self._armed:
                return
            self._armed = when
        try:
            self._timer.call_at(when, self._look)
        except BaseException:  # Ctrl-C: whoever comes next sets it
            self._armed = math.inf
            raise

    def _look(self) -> None:
        now = time.monotonic()
        with self._lock:
            due = [task for task, deadline in self.noted.items() if deadline <= now]
            for task in due:
                del self.noted[task]
            self._armed = math.inf
            self._next = min(self.noted.values(), default=math.inf)
        self.arm()
        for task in due:
            self._expire(task, now)
