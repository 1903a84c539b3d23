"""The functions that the conformance suite submits: importable, so that every backend can send them anywhere."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import taskrun

VARIABLE: ContextVar[str] = ContextVar("taskrun_testing_variable", default="unset")
INITIALIZED: list[Any] = []


class AwkwardError(ValueError):
    """An exception whose constructor does not take its own `args`."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


@dataclass(frozen=True)
class FrozenError(Exception):
    key: str


class StubbornError(LookupError):
    """An exception that comes out of pickling, but never in again."""

    def __reduce__(self) -> Any:
        return _refuse, (str(self),)


def _refuse(text: str) -> Any:
    raise RuntimeError(f"cannot rebuild {text!r}")


class Counted:
    """Counts how often it was unpickled in this process."""

    loads: ClassVar[int] = 0

    def __init__(self, value: int) -> None:
        self.value = value

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        Counted.loads += 1


def use_counted(number: int, counted: Counted) -> tuple[int, int]:
    """Return the sum, and how often anything was unpickled in this process."""
    return counted.value + number, Counted.loads


def kinds_in(items: list[Any], *, named: Any) -> list[str]:
    return [type(item).__name__ for item in items] + [type(named).__name__]


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


def submit_some(executor: taskrun.Executor, count: int) -> list[taskrun.Future[Any]]:
    """Submit *count* tasks to the executor that this one runs on."""
    return [executor.submit(add, i) for i in range(count)]


def fork_and_return(how: str) -> str:
    """Fork, and come back in both processes."""
    if os.fork() != 0:
        return "parent"
    if how == "raise":
        raise ValueError("in the child")
    return "child"


def raise_this(error: BaseException) -> None:
    raise error


def attempt_number() -> int:
    task = taskrun.current_task()
    return 0 if task is None else task.attempt


def fail_until(attempt: int) -> int:
    if attempt_number() < attempt:
        raise OSError("not yet")
    return attempt_number()


def seed_of_task(_: object = None) -> tuple[int, int, float]:
    task = taskrun.current_task()
    if task is None:
        raise AssertionError("current_task() is None inside a task")
    return task.index, task.seed, task.rng.random()


def hold(started: str, go_on: str, finished: str, limit: float = 60.0) -> str:
    """Make the file *started*, return once *go_on* is there, having made *finished*; an empty name is no file."""
    if started:
        Path(started).touch()
    wait_for_file(go_on, limit=limit)
    if finished:
        Path(finished).touch()
    return "went on"


def wait_for_file(path: str, value: Any = None, *, limit: float = 60.0) -> Any:
    """Return *value* once the file is there (at once if *path* is empty)."""
    deadline = time.monotonic() + limit
    while path and not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    return value


def run_on(path: str, end: str, limit: float = 60.0) -> None:
    """Write the time into *path*, again and again, until *end* is there; a process does not heed SIGTERM."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    deadline = time.monotonic() + limit
    with open(path, "wb", buffering=0) as seen:
        while (now := time.monotonic()) < deadline and not os.path.exists(end):
            seen.seek(0)
            seen.write(f"{now:20.9f}".encode())


def write_line(path: str, text: Any) -> None:
    """Append a line in one write."""
    with open(path, "a") as file:
        file.write(f"{text}\n")


def nap_and_count(path: str, seconds: float) -> int:
    """Sleep, then return how many tasks with that path have come so far."""
    time.sleep(seconds)
    with open(path, "ab", buffering=0) as file:
        file.write(b".")
        return file.tell()


def meet(directory: str, name: str, count: int, limit: float) -> int:
    """Return how many are there once *count* tasks are; fewer when they do not come."""
    Path(directory, name).touch()
    deadline = time.monotonic() + limit
    while (there := len(list(Path(directory).iterdir()))) < count and time.monotonic() < deadline:
        time.sleep(0.002)
    return there


def count_neighbours(directory: str, name: str) -> int:
    """Return how many tasks ran at once, as seen by this one: itself included."""
    mark = Path(directory, name)
    mark.touch()
    time.sleep(0.01)
    there = len(list(Path(directory).iterdir()))
    mark.unlink()
    return there


def until_asked_to_cancel(limit: float) -> str:
    task = taskrun.current_task()
    deadline = time.monotonic() + limit
    while task is not None and time.monotonic() < deadline:
        if task.cancelled:
            return "asked"
        time.sleep(0.002)
    return "not asked"


def note_when_asked_to_cancel(path: Path, limit: float) -> None:
    path.write_text(until_asked_to_cancel(limit))


def spin(limit: float) -> None:
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        time.sleep(0.001)


def spin_and_answer(limit: float) -> str:
    try:
        spin(limit)
    except taskrun.TaskTimeoutError:
        return "answered"
    return "not asked"


def sum_on(backend: str, count: int) -> int:
    with taskrun.Executor(backend, max_workers=2) as ex:
        return sum(ex.map(add, range(count), range(count)))


def about_task() -> tuple[str, int, float | None]:
    task = taskrun.current_task()
    if task is None:
        raise AssertionError("current_task() is None inside a task")
    return task.name, task.attempt, None if task.deadline is None else task.deadline - time.monotonic()


def append_to(items: list[Any], item: Any) -> list[Any]:
    items.append(item)
    return items


def divide(a: Any, b: Any) -> Any:
    return a / b


def make_lock() -> Any:
    return threading.Lock()


def kind_of(_: Any, second: Any) -> str:
    return type(second).__name__


def raise_stubborn() -> None:
    raise StubbornError("stubborn")


def read_variable(_: object = None) -> str:
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


async def sleep_for(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def sleep_and_answer(seconds: float) -> str:
    try:
        await asyncio.gather(sleep_for(seconds), sleep_for(seconds))
    except TimeoutError:
        await asyncio.sleep(0)  # it was raised once: the task may take its time now
        return "answered"
    return "in time"


def raise_frozen(key: str) -> None:
    raise FrozenError(key)


def kinds_of(*values: object) -> tuple[str, ...]:
    return tuple(type(value).__name__ for value in values)


def fail_before_attempt(number: int) -> int:
    task = taskrun.current_task()
    assert task is not None
    if task.attempt < number:
        raise OSError("not yet")
    return task.attempt


async def tell_how_it_ended(started: str, ended: str, seconds: float) -> None:
    write_line(started, "")
    how = "cancelled"
    try:
        await asyncio.sleep(seconds)
        how = "ran out"
    finally:
        write_line(ended, how)


def die() -> None:
    """Take the worker down."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # it may take a moment


def die_unless_there(path: str) -> int:
    """Add a line to a file and take the worker down, the first time; then return the number of lines."""
    there = os.path.exists(path)
    write_line(path, 1)
    if not there:
        die()
    return len(Path(path).read_text().split())


def mark_and_return(value: Any) -> tuple[str, float, Any]:
    first = value[0]
    if not isinstance(value, bytes):
        value[0] = 1
    return type(value).__name__, first, value


def make_file(path: str, item: int) -> int:
    """Return *item*, once there is a file if a path was given."""
    if path:
        Path(path).touch()
    return item


def write_to_nobody() -> str:
    """Write into a pipe that nobody reads from."""
    out, into = os.pipe()
    os.close(out)
    try:
        os.write(into, b"x")
    except BrokenPipeError:
        return "an error"
    finally:
        os.close(into)
    return "nothing"
