"""Tasks that wait for one another for ever: found when the last of them begins to wait, and refused by name.

Only what a worker thread of this process waits for is known here, only without a limit of time, and only what it cannot do
without: `Future.result`, `Future.exception`, `wait` for all, `wait` and `as_completed` where one is left. A worker process has
no futures of its own executor.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from taskrun.task import Entered, Task, entered

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from taskrun.future import Future

__all__ = ["needing", "own_task", "waiting_for"]

# Each attempt that waits -> what it waits for, all of it. An entry is written by its own task's thread and read by all: one
# step of a dict each time, so that no lock is needed. Who begins to wait writes first and looks then: of those that close a
# circle together at least the last one sees it.
_waits: dict[Task, Sequence[Future[Any]]] = {}


def own_task() -> Task | None:
    """Return the task that this thread runs, if it is a worker of the task's executor and the attempt still counts."""
    inside = entered.get()
    if not isinstance(inside, Entered):
        return None
    task = inside.task
    scheduler = None if task is None else task.future._scheduler
    return task if scheduler is not None and scheduler._backend.owns_current_thread() else None


def needing(others: Sequence[Future[Any]]) -> AbstractContextManager[None]:
    """Return the context in which this thread waits for all of *others*. Entering raises RuntimeError where that never ends."""
    own = own_task() if others else None
    return nullcontext() if own is None else waiting_for(own, others)


@contextmanager
def waiting_for(own: Task, others: Sequence[Future[Any]]) -> Iterator[None]:
    """Note that *own* waits for all of *others* meanwhile. Raises RuntimeError where that closes a circle."""
    before = _waits.get(own)
    _waits[own] = others
    try:
        circle = _circle(own)
        if circle:
            raise RuntimeError(
                f"this wait would never end: {' waits for '.join(f'task {task.name!r}' for task in circle)}; "
                "let one of them return without that result, or wait with a timeout"
            )
        yield
    finally:
        if before is None:
            _waits.pop(own, None)
        else:
            _waits[own] = before


def _circle(own: Task) -> list[Task]:
    """Return the way from *own* back to it, both included; empty if there is none."""
    came_from: dict[Task, Task] = {}
    pending = [own]
    while pending:
        task = pending.pop()
        for future in _waits.get(task, ()):
            # The attempt that counts now: one that was given up (its time was up) may wait on, and nobody waits for it.
            following = future._task
            if following is None or following.settled:
                continue
            if following is own:
                way = [own, task]
                while way[-1] is not own:
                    way.append(came_from[way[-1]])
                return way[::-1]
            if following not in came_from:
                came_from[following] = task
                pending.append(following)
    return []
