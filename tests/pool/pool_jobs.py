"""What the tests of Pool run in workers: importable there, so without pytest."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import taskrun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 20.0
"""Seconds after which something that takes milliseconds is believed to hang."""


def until(condition: Callable[[], object]) -> None:
    """Wait until *condition* holds, which nobody announces; an assertion fails when it does not in time."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("the moment waited for did not come")
        time.sleep(0.001)


class Gate:
    """A task that runs from `started` until `open`; on `serial`, where it runs in the caller, it is open."""

    def __init__(self, kind: str, directory: Path, name: str = "gate") -> None:
        self.started, self._open = directory / f"{name}.started", directory / f"{name}.open"
        if kind == "serial":
            self.open()

    def open(self) -> None:
        self._open.touch()

    @property
    def task(self) -> tuple[Any, tuple[str, str]]:
        return hold, (str(self.started), str(self._open))


def hold(started: str, go_on: str) -> str:
    """Make the file *started*, return once *go_on* is there."""
    Path(started).touch()
    until(Path(go_on).exists)
    return "went on"


def square(x: int, wait: float = 0.0) -> int:
    time.sleep(wait)
    return x * x


def slowly(item: int) -> int:
    time.sleep(0.005)
    return item


def multiply(x: int, y: int) -> int:
    return x * y


def keywords(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    return args, kwargs


def fail_for(bad: tuple[int, ...], item: int) -> int:
    """Return *item*, or raise KeyError if it is one of *bad*."""
    if item in bad:
        raise KeyError(item)
    return item


def odd_fails(item: int) -> int:
    if item % 2:
        raise KeyError(item)
    return item


def stop_iteration(item: int) -> int:
    raise StopIteration(item)


def late_error(item: int) -> None:
    """Raise, the later items first."""
    time.sleep(0.2 if item == 0 else 0.0)
    raise KeyError(item)


def mark(path: str, item: int) -> int:
    """Leave a line for each item."""
    with open(path, "a") as file:
        file.write(f"{item}\n")
    return item


def marks(path: Path) -> list[int]:
    return sorted(map(int, path.read_text().split())) if path.exists() else []


def process_id(_: object = None) -> int:
    return os.getpid()


def thread_id(_: object = None) -> int:
    return threading.get_ident()


def identity(item: Any) -> Any:
    return item


def die(item: int) -> int:
    """Kill the worker for item 3."""
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


class Stuck:
    """What does not pickle."""

    def __reduce__(self) -> Any:
        raise RuntimeError("cannot pickle")


def make_stuck(_: object = None) -> Stuck:
    return Stuck()


class StuckError(ValueError):
    """An error that does not pickle."""

    def __init__(self) -> None:
        super().__init__("stuck")
        self.stuck = Stuck()

    def __reduce__(self) -> Any:
        raise RuntimeError("cannot pickle")


def raise_stuck() -> None:
    raise StuckError


class SaidWhen(Exception):
    pass


def until_when(total: int, when: int) -> Iterator[int]:
    """Yield numbers up to *total*; raise when *when* is reached, -1: at once."""
    if when == -1:
        raise SaidWhen
    for number in range(total):
        if number == when:
            raise SaidWhen
        yield number


READY: list[Any] = []


def prepare(*values: Any) -> None:
    READY.extend(values)


def prepared(_: object = None) -> list[Any]:
    return READY


def refuse() -> None:
    raise LookupError("no licence")


def nested(backend: str, item: int) -> list[int]:
    """Run a pool in a task."""
    with taskrun.Pool(2, backend=backend) as pool:
        return pool.map(square, range(item))


def leave(code: int) -> None:
    raise SystemExit(code)


class Countdown:
    """An input with a length that is not in memory."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[int]:
        yield from range(self.number, 0, -1)


async def awaited(item: int) -> int:
    import asyncio

    await asyncio.sleep(0)
    return item + 1
