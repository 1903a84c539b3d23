"""What the pool backend has taken back from behind tasks that do not end, and what runs in its place.

It is *owed*: it goes first, alone, in the order in which it was submitted. What runs meanwhile though it was submitted later
may wait for it. If such tasks hold all workers and nothing ends, there is one worker more for each of them, one after the
other (`Waits.note_stuck`), for what is owed only: with one task at a time for each worker that would run already.
"""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING

from taskrun.backends.pool_workers import PoolWorkers
from taskrun.runs import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler
    from taskrun.task import Task

__all__ = ["PoolOwed"]

_OUT_OF_TURN = 0.02  # seconds that a task may run before what was submitted earlier is thought to wait for its end


class PoolOwed(PoolWorkers):
    """The part of the backend that knows what is owed."""

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        self._owed: list[Task] = []  # under the scheduler's lock
        self._slow: set[Task] = set()  # out of turn, and does not end; the keeper's
        self._have_stood_still = False  # tasks of this executor wait for each other: nothing is sent together any more
        super().start(scheduler, settings)

    def _owe(self, tasks: Sequence[Task]) -> list[Task]:
        """Have these, which were pulled and do not begin where they were, run elsewhere. Under the lock.

        In one go with taking them, so that who cancels one finds it somewhere. Returns those that are not to run; follow with
        `_see_to`.
        """
        unwanted: list[Task] = []
        for task in tasks:
            if not self._scheduler.wanted(task):
                unwanted.append(task)
            elif task.pulled and not task.settled:
                self._scheduler.unbegin(task)
                insort(self._owed, task, key=_by_priority)
        return unwanted

    def _see_to(self, unwanted: list[Task], rest: Sequence[Task]) -> None:
        """Give back what is not to run, and have the keeper look for somebody who does the *rest*. Not under the lock."""
        if unwanted:
            self._scheduler.give_back(unwanted)
        if rest:
            self._have_it_look()

    def _next_owed(self, *, only: bool) -> Task | None:
        """Take the first of what is owed, if nothing of a higher priority is queued, or *only* that is asked for.

        Under the lock.
        """
        while self._owed:
            if not only and self._owed[0].options.priority < self._scheduler.top_priority():
                return None
            task = self._owed.pop(0)
            if task.pulled and not task.settled:
                return task
        return None

    def _all_owed(self) -> list[Task]:
        """Take all of it. Under the lock."""
        owed, self._owed = self._owed, []
        return owed

    def _forgive(self, task: Task) -> bool:
        """Take *task* out of what is owed; False: it is not. Under the lock; one step, for who may be torn by Ctrl-C."""
        for place, each in enumerate(self._owed):
            if each is task:
                del self._owed[place]
                return True
        return False

    def held_back(self) -> int:
        return len(self._owed)

    # -- what runs in its place ------------------------------------------------------------------------------------------------

    def _look_at_turns(self, now: float) -> list[float]:
        """Note which tasks run though earlier ones are owed, and do not end; return when to look again."""
        if not (self._owed or self._slow):
            return []
        with self._scheduler.lock:
            first = min(map(_turn, self._owed), default=None)
            running = {
                worker.task
                for worker in self._processes.values()
                if worker.task is not None and worker.busy and not (worker.packing or worker.answering or worker.dead)
            }
        out_of_turn = {task for task in running if first is not None and _turn(task) > first}
        for task in self._slow - out_of_turn:
            self._slow.discard(task)
            self._scheduler.note_moving(task)
        for task in out_of_turn - self._slow:
            begun = task.begun
            if begun is not None and now >= begun + _OUT_OF_TURN and type(task.fn) is not Run:
                self._slow.add(task)
                self._scheduler.note_stuck(task)
        return [now + _OUT_OF_TURN]

    def _allow(self, extra: int) -> None:
        super()._allow(extra)
        if extra and self._slow:  # all workers stood still: what they are at waits for others, it seems
            self._have_stood_still = True

    def _only_owed(self, at_work: int) -> bool:
        """Return whether another worker, beside so many *at work*, is there for what is owed only."""
        return at_work >= self._settings.max_workers + max(0, self._extra - len(self._slow))


def _turn(task: Task) -> tuple[float, int]:
    return task.queued, task.index


def _by_priority(task: Task) -> tuple[int, float, int]:
    return -task.options.priority, task.queued, task.index
