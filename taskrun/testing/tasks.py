"""The functions that the conformance suite submits: importable, so that every backend can send them anywhere."""

from __future__ import annotations

import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import taskrun

__all__ = ["add", "attempt_number", "fail_until", "raise_awkward", "raise_chain", "seed_of_task", "touch_then_wait"]

VARIABLE: ContextVar[str] = ContextVar("taskrun_testing_variable", default="unset")
INITIALIZED: list[Any] = []


class AwkwardError(ValueError):
    """An exception whose constructor does not take its own `args`."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


def add(a: Any, b: Any = 0, *, c: Any = 0) -> Any:
    return a + b + c


def raise_awkward() -> None:
    raise AwkwardError(code=7)


def raise_chain() -> None:
    try:
        raise KeyError("inner")
    except KeyError as inner:
        error = ValueError("outer", 2)
        error.add_note("a note")
        raise error from inner


def raise_this(error: BaseException) -> None:
    raise error


def attempt_number() -> int:
    task = taskrun.current_task()
    return 0 if task is None else task.attempt


def fail_until(attempt: int) -> int:
    if attempt_number() < attempt:
        raise OSError("not yet")
    return attempt_number()


def seed_of_task() -> tuple[int, int, float]:
    task = taskrun.current_task()
    if task is None:
        raise AssertionError("current_task() is None inside a task")
    return task.index, task.seed, task.rng.random()


def touch_then_wait(started: str, go_on: str, limit: float = 30.0) -> str:
    """Say by the file *started* that the task runs; return once the file *go_on* is there."""
    Path(started).touch()
    deadline = time.monotonic() + limit
    while not Path(go_on).exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    return "went on"


def read_variable() -> str:
    return VARIABLE.get()


def set_variable(value: str) -> str:
    VARIABLE.set(value)
    return VARIABLE.get()


def initialize(value: Any) -> None:
    INITIALIZED.append(value)


def fail_to_initialize() -> None:
    raise LookupError("no such licence server")


def last_initialized() -> Any:
    return INITIALIZED[-1] if INITIALIZED else None


async def double_later(value: int) -> int:
    return value * 2
