"""Tasks that wait for one another for ever: found when the last of them begins to wait, and refused by name.

Only what a worker thread of this process waits for is known here, and only without a limit of time: `Future.result` and
`Future.exception`. A worker process has no futures of its own executor.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskrun.future import Future

__all__ = ["waiting_for"]

# The future of each task that waits -> the one it waits for. An entry is written by its own task's thread and read by all: one
# step of a dict each time, so that no lock is needed. Who begins to wait writes first and looks then: of those that close a
# circle together at least the last one sees it.
_waits: dict[Future[Any], Future[Any]] = {}


@contextmanager
def waiting_for(own: Future[Any], other: Future[Any]) -> Iterator[None]:
    """Note that the task of *own* waits for *other* meanwhile. Raises RuntimeError where that closes a circle."""
    before = _waits.get(own)
    _waits[own] = other
    try:
        circle = _circle(own)
        if circle:
            raise RuntimeError(
                f"this wait would never end: {' waits for '.join(map(_name, circle))}; "
                "let one of them return without that result, or wait with a timeout"
            )
        yield
    finally:
        if before is None:
            _waits.pop(own, None)
        else:
            _waits[own] = before


def _circle(own: Future[Any]) -> list[Future[Any]]:
    """Return the way from *own* back to it, both included; empty if there is none."""
    way = [own]
    seen = {own}
    while (following := _waits.get(way[-1])) is not None:
        way.append(following)
        if following is own:
            return way
        if following in seen:
            break  # others wait in a circle
        seen.add(following)
    return []


def _name(future: Future[Any]) -> str:
    task = future._task
    return "a task that is over" if task is None else f"task {task.name!r}"
