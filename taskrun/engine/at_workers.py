"""What other threads want of a task that is at a worker: to have it back, to look whether it has begun, to stop it.

The lock plan is the supervisor's; see there.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from taskrun.engine.dispatch import PULLED, RECALLED
from taskrun.engine.handle import Handle
from taskrun.threads import inside

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskrun.engine.answers import Answers
    from taskrun.engine.fleet import Fleet
    from taskrun.scheduler import Scheduler
    from taskrun.task import Cause, Task

__all__ = ["AtWorkers"]

_HELD_UP = 0.25  # seconds after which a stop is carried out by another thread


class AtWorkers(ABC):
    """The part of the supervisor that any thread may call about one task."""

    _fleet: Fleet
    _answers: Answers

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        # Of the flights and token pipes. A lock of C, re-entrant: a signal handler or a destructor may strike the thread that
        # holds it, in the middle of a change, and ask for a task back; and Ctrl-C must not leave it held.
        self._lock = threading.RLock()

    @abstractmethod
    def tell(self, what: Callable[..., None], *args: Any) -> None:
        """Have the I/O thread call ``what(*args)`` soon."""

    def revoke(self, task: Task) -> bool:
        """Take a task back if no worker has claimed it."""
        if self._struck():
            return False  # "not to be had" is a permitted answer
        with self._lock:
            place = task.place
            if place is PULLED:
                task.place = RECALLED
                return True
            if not isinstance(place, Handle) or place.dead or not place.take_back_one(task):
                return False
            task.place = None
            return True

    def _struck(self) -> bool:
        """Return True in a destructor or signal handler that struck this very thread in here: the pipe may be half read."""
        return inside(self._lock)

    def refresh(self, task: Task) -> None:
        """Look whether a worker has claimed *task*, and report it if so."""
        if self._struck():
            return
        with self._lock:
            place = task.place
            begun = isinstance(place, Handle) and not place.dead and place.has_claimed(task)
        if begun:
            self._scheduler.begin(task)

    def notice_cancel(self, task: Task) -> None:
        """Let `current_task().cancelled` be true in the worker that runs *task*."""
        with self._lock:
            place = task.place
            if isinstance(place, Handle) and not place.dead:
                for sequence, each in place.flight.items():
                    if each is task:
                        place.note_cancel(sequence)

    def stop(self, task: Task, error: BaseException, cause: Cause) -> None:
        """Stop a task that has begun, soon even if the I/O thread is held up (by a slow `__reduce__` of the user's, say)."""
        heard = threading.Event()
        self.tell(self._stop, task, error, cause, heard)
        self._scheduler.timer.call_at(time.monotonic() + _HELD_UP, self._stop_from_outside, task, error, cause, heard)

    def _stop(self, task: Task, error: BaseException, cause: Cause, heard: threading.Event) -> None:
        heard.set()
        place = task.place
        self._fleet.stop(task, error, cause)
        if isinstance(place, Handle) and not place.dead:
            self._answers.look_at(place)  # it may be over, and its worker busy with the next one

    def _take_back_in(self, tasks: list[Task]) -> None:
        self._fleet.returned += tasks  # looked up now: it is another list after each report

    def _stop_from_outside(self, task: Task, error: BaseException, cause: Cause, heard: threading.Event) -> None:
        if heard.is_set() or task.settled:
            return
        with self._lock:
            place = task.place
            if not isinstance(place, Handle) or place.dead or place.pidfd < 0:
                return
            self.tell(self._take_back_in, place.take_back())  # the signal must not hit the next one
            if not place.works_on(task):
                return
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(place.pidfd, signal.SIGKILL)
        self._scheduler.fail(task, error, cause)
