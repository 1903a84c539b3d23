"""The one queue: tasks in the order in which workers take them up. Owner: the scheduler, under its lock."""

from __future__ import annotations

import sys
import threading
from collections import deque
from itertools import chain, filterfalse, repeat, starmap
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskrun.task import Task

__all__ = ["CallerQueue", "TaskQueue"]

_is_settled = attrgetter("settled")

_LOWEST = -sys.maxsize
_COMPACT_FROM = 1024  # cancelled tasks are left in place and skipped; above this many the queue is cleaned


class TaskQueue:
    """Tasks by priority, first in first out among equals. Cancelled ones stay in place (`task.settled`) and are skipped.

    A signal handler that submits or cancels, or Ctrl-C, may come after any call and in any loop, but not inside of what is
    written in C.
    """

    def __init__(self) -> None:
        # Nearly every task has priority 0: that level is reached without a lookup.
        self._plain: deque[Task] = deque()
        self._levels: dict[int, deque[Task]] = {0: self._plain}
        self._order: list[int] = [0]  # the priorities in use, highest first
        self._size = 0
        self._dead = 0

    def __len__(self) -> int:
        """How many tasks wait, cancelled ones not counted."""
        waiting = self._size - self._dead
        return waiting if waiting > 0 else 0  # a handler may look while the code that it has interrupted counts

    def _level(self, priority: int) -> deque[Task]:
        if priority == 0:
            return self._plain
        while priority not in self._levels:
            order = self._order
            level: deque[Task] = deque()
            longer = sorted((*order, priority), reverse=True)
            if self._order is order:  # else a handler has made a level meanwhile
                self._levels[priority] = level
                self._order = longer
        return self._levels[priority]

    def top_priority(self) -> int:
        """Return the highest priority that something here has; of an empty queue, less than any. In threads of ours."""
        for priority in self._order:
            level = self._levels[priority]
            while level and level[0].settled:
                level.popleft()
                self._size -= 1
                self._dead -= self._dead > 0
            if level:
                return priority
        return _LOWEST

    def put(self, task: Task) -> None:
        """Add *task* behind those of its priority."""
        priority = task.options.priority
        level = self._level(priority) if priority else self._plain
        # No call in between, here and below: Ctrl-C finds all of this done or nothing.
        task.pulled = False
        self._size += 1
        level.append(task)

    def put_back(self, tasks: Sequence[Task]) -> None:
        """Add *tasks* before those of their priority, keeping their order."""
        for task in reversed(tasks):
            level = self._level(task.options.priority)
            task.pulled = False
            self._size += 1
            level.appendleft(task)

    def take_one(self) -> Task | None:
        """Remove and return the first task, or None."""
        if not self._size:
            return None
        if len(self._order) == 1:  # the hot path of every backend that takes one at a time
            plain = self._plain
            while plain:
                task = plain.popleft()
                self._size -= 1
                if not task.settled:
                    task.pulled = True
                    return task
                self._dead -= self._dead > 0  # Ctrl-C may have come before it was counted
            return None
        for priority in self._order:
            level = self._levels[priority]
            while level:
                task = level.popleft()
                self._size -= 1
                if not task.settled:
                    task.pulled = True
                    return task
                self._dead -= self._dead > 0
        return None

    def take(self, limit: int) -> list[Task]:
        """Remove and return up to *limit* tasks."""
        tasks: list[Task] = []
        if len(self._order) == 1:  # as in `take_one`
            plain, dead = self._plain, 0
            while plain and len(tasks) < limit:
                task = plain.popleft()
                if task.settled:
                    dead += 1
                else:
                    task.pulled = True
                    tasks.append(task)
            self._size -= len(tasks) + dead
            self._dead -= min(dead, self._dead)
            return tasks
        while len(tasks) < limit and (first := self.take_one()) is not None:
            tasks.append(first)
        return tasks

    def take_while(self, limit: int, suits: Callable[[Task], bool]) -> list[Task]:
        """Remove and return the first tasks that *suits* agrees to, up to *limit*; not for a queue that Ctrl-C may strike."""
        tasks: list[Task] = []
        while len(tasks) < limit and (first := self.take_one()) is not None:
            if not suits(first):
                self.put_back((first,))
                break
            tasks.append(first)
        return tasks

    def everything(self) -> list[Task]:
        """Return all that is here, in order, cancelled tasks included."""
        return list(chain.from_iterable(map(self._levels.__getitem__, self._order)))

    def skip(self, task: Task) -> None:
        """Note that *task*, which waits here, was cancelled (its `settled` is set)."""
        self._dead += 1
        if self._dead > _COMPACT_FROM and self._dead * 2 > self._size:
            self.clean()

    def clean(self) -> None:
        """Remove the cancelled tasks, and count the others anew."""
        for priority in self._order:
            self._clean_level(self._levels[priority])
        while True:
            size = self._size
            waiting = sum(map(len, self._levels.values()))
            if self._size == size:  # else a handler came in between; none comes before the next line is done
                self._size, self._dead = waiting, 0
                return

    @staticmethod
    def _clean_level(level: deque[Task]) -> None:
        """Take each task out and append those that are not settled: in one call in C, so that nothing comes in between."""
        while level:
            first, last = level[0], level[-1]
            each_once = starmap(level.popleft, repeat((), len(level)))
            alive = filterfalse(_is_settled, each_once)
            if level and level[0] is first and level[-1] is last:  # else a handler has put something here, or has taken it
                level.extend(alive)
                return


class CallerQueue(TaskQueue):
    """A queue for each thread, for backends that run a task in the thread that submits it: nobody runs another's task."""

    def __init__(self) -> None:
        self._own = threading.local()

    def _queue(self) -> TaskQueue:
        queue: TaskQueue | None = getattr(self._own, "queue", None)
        if queue is None:
            queue = self._own.queue = TaskQueue()
        return queue

    def __len__(self) -> int:
        queue = self._queue()
        queue.clean()  # a task may have been cancelled by another thread, which does not see this queue
        return len(queue)

    def put(self, task: Task) -> None:
        self._queue().put(task)

    def put_back(self, tasks: Sequence[Task]) -> None:
        self._queue().put_back(tasks)

    def take_one(self) -> Task | None:
        return self._queue().take_one()

    def take(self, limit: int) -> list[Task]:
        return self._queue().take(limit)

    def everything(self) -> list[Task]:
        return self._queue().everything()

    def skip(self, task: Task) -> None:
        """Do nothing: the queue that it waits in may be another thread's; see `__len__`."""

    def clean(self) -> None:
        self._queue().clean()
