"""Tasks that wait for one another for ever: found when the last of them begins to wait, and refused by name.

Only what a worker thread of this process waits for is known here, and only without a limit of time: `Future.result`,
`Future.exception`, `wait`, `as_completed`, `map_unordered`. A worker process has no futures of its own executor.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from taskrun.bell import wait_at
from taskrun.future import Future
from taskrun.task import Entered, Task, entered

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from contextlib import AbstractContextManager
    from threading import Lock as Gate

__all__ = ["needing", "own_task", "wait_for_any", "waiting_for"]

_SOON = 0.05  # seconds; who hears of one of many that often need not look through all of them each time


class _Wait(NamedTuple):
    """What a task waits for."""

    others: Sequence[Future[Any]]
    all_of_them: bool
    """Else any one of them ends it."""


# Each attempt that waits -> for what. An entry is written by its own task's thread and read by all: one step of a dict each
# time, so that no lock is needed. Who begins to wait writes first and looks then: of those that close a circle together at
# least the last one sees it.
_waits: dict[Task, _Wait] = {}


def own_task() -> Task | None:
    """Return the task that this thread runs, if it is a worker of the task's executor and the attempt still counts."""
    inside = entered.get()
    if not isinstance(inside, Entered):
        return None
    task = inside.task
    scheduler = None if task is None else task.future._scheduler
    return task if scheduler is not None and scheduler._backend.owns_current_thread() else None


def needing(others: Sequence[Any], *, all_of_them: bool = True) -> AbstractContextManager[None]:
    """Return the context in which this thread waits for *others*, all of them or any one.

    Entering raises RuntimeError where that never ends.
    """
    ours = [future for future in others if isinstance(future, Future)]
    if not ours or (len(ours) < len(others) and not all_of_them):  # what is another library's may end it
        return nullcontext()
    own = own_task()
    return nullcontext() if own is None else waiting_for(own, ours, all_of_them=all_of_them)


def wait_for_any(gate: Gate, others: Callable[[], Collection[Any]]) -> None:
    """Wait until *gate* is open, which any one of *others* opens. Raises RuntimeError where that never ends."""
    if own_task() is None:
        wait_at(gate, None)
    elif not wait_at(gate, _SOON):
        with needing(list(others()), all_of_them=False):
            wait_at(gate, None)


@contextmanager
def waiting_for(own: Task, others: Sequence[Future[Any]], *, all_of_them: bool = True) -> Iterator[None]:
    """Note that *own* waits for *others* meanwhile. Raises RuntimeError where that closes a circle."""
    before = _waits.get(own)
    _waits[own] = _Wait(others, all_of_them)
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
    """Return a way from *own* back to it, both included, of tasks that cannot go on; empty if there is none."""
    if not _way_back(own, lambda _: True):  # nearly always
        return []
    stuck = _stuck(own)
    return _way_back(own, stuck.__contains__) if own in stuck else []


def _way_back(own: Task, may_pass: Callable[[Task], bool]) -> list[Task]:
    came_from: dict[Task, Task] = {}
    pending = [own]
    while pending:
        task = pending.pop()
        wait = _waits.get(task)
        for following in () if wait is None else _open_tasks(wait):
            if following is own:
                way = [own, task]
                while way[-1] is not own:
                    way.append(came_from[way[-1]])
                return way[::-1]
            if following not in came_from and may_pass(following):
                came_from[following] = task
                pending.append(following)
    return []


def _open_tasks(wait: _Wait) -> Iterator[Task]:
    for future in wait.others:
        # The attempt that counts now: one that was given up (its time was up) may wait on, and nobody waits for it.
        task = future._task
        if task is not None and not task.settled:
            yield task


def _stuck(own: Task) -> set[Task]:
    """Return those of *own* and of what it waits for, directly or not, of which none can go on before another one does."""
    needs: dict[Task, tuple[list[Task], bool]] = {}
    pending = [own]
    while pending:
        task = pending.pop()
        wait = _waits.get(task)
        if wait is None or task in needs:
            continue
        following = list(_open_tasks(wait))
        if wait.all_of_them or len(following) == len(wait.others):  # else one is done, and the task about to hear of it
            needs[task] = following, wait.all_of_them
            pending += following
    while going := [
        task
        for task, (following, all_of_them) in needs.items()
        if (sum(each in needs for each in following) < (1 if all_of_them else len(following)))
    ]:
        for task in going:
            del needs[task]
    return set(needs)
