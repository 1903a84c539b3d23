"""What backends take tasks from the queue by, say that they have begun, and give them back.

The lock plan is the scheduler's; see there.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from taskrun.future_state import PENDING, RUNNING
from taskrun.waits import Waits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from taskrun.backends.base import Backend
    from taskrun.options import WorkerSettings
    from taskrun.task import Task

__all__ = ["Pulling"]


class Pulling(Waits):
    """The part of the scheduler that backends pull from; what became of a task they tell `Completing`."""

    def __init__(self, backend: Backend, settings: WorkerSettings, max_pending: int | None, seed: int | None) -> None:
        super().__init__(backend, settings, max_pending, seed)
        self.arm_timer = self._deadlines.arm  # for `begin`'s sake, outside of the lock

    @property
    def queued(self) -> int:
        """How many tasks wait to be pulled."""
        return len(self._queue)

    def top_priority(self) -> int:
        """Return the highest priority of what waits to be pulled. Under the lock, in threads of ours."""
        return self._queue.top_priority()

    def pull(self, limit: int) -> list[Task]:
        """Take up to *limit* tasks; they stay pending (and may be asked back by `revoke`) until `begin`."""
        with self.lock:
            return self._queue.take(limit)

    def pull_while(self, limit: int, suits: Callable[[Task], bool]) -> list[Task]:
        """Take the first tasks, up to *limit*, as long as *suits* agrees, which is asked under the lock. In threads of ours."""
        with self.lock:
            return self._queue.take_while(limit, suits)

    def pull_one(self) -> Task | None:
        """Take one task and begin it: for workers that take one at a time and start it at once."""
        with self.lock:
            task = self.take_one()
        self.arm_timer()
        return task

    def take_one(self) -> Task | None:
        """Do as `pull_one`, for who holds the lock; follow with `arm_timer` outside of it."""
        task = self._queue.take_one()
        if task is not None:
            self._begin(task, time.monotonic())
        return task

    def begin(self, task: Task, when: float | None = None) -> bool:
        """Note that a worker took *task* up, at *when* (`time.monotonic`); False: it is over or was given back, forget it."""
        with self.lock:
            begun = self.note_begun(task, when)
        self.arm_timer()
        return begun

    def note_begun(self, task: Task, when: float | None = None) -> bool:
        """Do as `begin`, for who holds the lock; follow with `arm_timer` outside of it."""
        if task.settled or not task.pulled:
            return False
        if task.begun is None:
            self._begin(task, time.monotonic() if when is None else when)
        return True

    def wanted(self, task: Task) -> bool:
        """Return whether *task*, which was pulled, is to begin after all. Under the lock."""
        return not (self._discard or task in self._killed)

    def give_back(self, tasks: Iterable[Task]) -> None:
        """Put tasks that were pulled and did not run back at the head of the queue: no blame, no attempt used up."""
        with self.lock:
            back = [task for task in tasks if not task.settled and task.pulled]
            killed = {task: self._killed[task] for task in back if task in self._killed}
            self._put_back([task for task in back if task not in killed])
            refused = self._turn_away()
            ending = self._progress()
        for task, error in killed.items():
            self.fail(task, error, "killed")
        self._after_turning_away(refused, ending)
        self._backend.wake()

    def _put_back(self, tasks: list[Task]) -> None:
        """Under the lock. A task sent ahead may have been believed to run."""
        for task in tasks:
            self.unbegin(task)
        self._queue.put_back(tasks)

    def unbegin(self, task: Task) -> None:
        """Note that *task*, which was pulled, has not begun after all. Under the lock."""
        task.begun = None
        task.future._state = PENDING
        self._deadlines.drop(task)

    def _begin(self, task: Task, now: float) -> None:
        """Under the lock; follow with `arm_timer` outside of it."""
        task.begun = now
        task.future._state = RUNNING
        timeout = task.options.timeout
        if timeout is not None and not self._inline:
            self._deadlines.note(task, now + timeout)
