"""What the tests of the interpreter backend run in sub-interpreters: importable there, where pytest need not be."""

from __future__ import annotations

import random
import sys
import threading
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import taskrun

LOCAL = threading.local()
VARIABLE: ContextVar[str] = ContextVar("inside", default="unset")
SEEN: list[Any] = []


def prepare(value: str) -> None:
    LOCAL.value = value
    VARIABLE.set(value)
    SEEN.append(value)


def prepared() -> tuple[Any, str, list[Any]]:
    return getattr(LOCAL, "value", None), VARIABLE.get(), SEEN


def identity(_: object = None) -> int:
    from concurrent import interpreters

    return int(interpreters.get_current().id)


def nested() -> tuple[int, int]:
    with taskrun.Executor("interpreter", max_workers=1) as ex:
        return identity(), ex.submit(identity).result(30)


def fail_and_tell(log: str, fail_until: int) -> None:
    """Write down the interpreter that this runs in; fail in the first so many."""
    with open(log, "a") as file:
        file.write(f"{identity()}\n")
    if len(Path(log).read_text().split()) < fail_until:
        raise LookupError("no such licence server")


def until_asked(started: str, ended: str, limit: float) -> None:
    """Run until asked to cancel, and tell."""
    task = taskrun.current_task()
    Path(started).touch()
    deadline = time.monotonic() + limit
    while task is not None and not task.cancelled and time.monotonic() < deadline:
        time.sleep(0.002)
    Path(ended).write_text("asked" if task is not None and task.cancelled else "not asked")


def is_asked() -> bool:
    task = taskrun.current_task()
    return task is not None and task.cancelled


def import_alone() -> None:
    import faulthandler  # noqa: F401 - it does not support sub-interpreters


class Alone:
    """Comes out of pickling where it was made, and in only where faulthandler can be imported."""

    def __reduce__(self) -> Any:
        return __import__, ("faulthandler",)


def break_down() -> None:
    """Leave the interpreter such that it cannot even answer."""
    import pickle

    pickle.dump = None  # type: ignore[assignment]


def draw() -> float:
    return random.random()


def double_through(queue_in: Any, queue_out: Any) -> None:
    queue_out.put(queue_in.get() * 2)


def leave_a_thread(path: str) -> None:
    """Start a thread that outlives its task."""

    def run() -> None:
        time.sleep(0.1)
        Path(path).touch()

    threading.Thread(target=run).start()


def path() -> list[str]:
    return sys.path


def say(text: str) -> None:
    print(text)
