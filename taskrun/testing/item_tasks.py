"""The functions that the conformance suite maps over many items, importable as those in `tasks`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import taskrun
from taskrun.testing.tasks import VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator


def index_of_task(_: object) -> int:
    task = taskrun.current_task()
    return -1 if task is None else task.index


def fail_each_seventh(item: int) -> int:
    if item % 7 == 6:
        raise KeyError(item)
    return item


def raise_while_handling(item: int, last: int) -> int:
    if item == last:
        try:
            raise KeyError("first")
        except KeyError:
            raise ValueError("handled")  # noqa: B904 - it is the context, not the cause
    return item


def stop_at_the_last(item: int, last: int) -> int:
    if item == last:
        raise StopIteration
    return item


def swap_variable(item: int) -> str:
    """Return what the variable was, and set it."""
    found = VARIABLE.get()
    VARIABLE.set(f"of item {item}")
    return found


def grow(items: list[int]) -> int:
    items.append(1)
    return len(items)


_THE_LIST: list[int] = []


def the_one_list(_: object) -> list[int]:
    return _THE_LIST


def a_generator_at_the_end(item: int, last: int) -> Any:
    return no_items() if item == last else item


def no_items() -> Iterator[int]:
    yield from ()


def kind_of_item(item: object) -> str:
    return type(item).__name__


async def _itself(item: int) -> int:
    return item


def return_a_coroutine(item: int) -> Any:
    return _itself(item)


def look_around(directory: str, item: int, tiny: int) -> int:
    """Return 0 for items below *tiny*; later how many ran at once while this one did, itself included: two if they can."""
    if item < tiny:
        return 0
    mine = Path(directory, str(item))
    mine.touch()
    most, until = 1, time.monotonic() + 0.05
    while most < 2 and time.monotonic() < until:
        most = max(most, len(os.listdir(directory)))
        time.sleep(0.001)
    mine.unlink()
    return most
