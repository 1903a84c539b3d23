"""Functions for the tests' tasks; workers can import this module."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import taskrun


def told(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def note_run(log: str, go_on: str = "") -> int:
    """Write a line, and wait for a file."""
    with open(log, "a") as file:
        file.write(f"{os.getpid()}\n")
    deadline = time.monotonic() + 60
    while go_on and not Path(go_on).exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    return os.getpid()


def runs(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def die(log: str) -> None:
    note_run(log)
    os.kill(os.getpid(), 9)


def die_once(log: str) -> str:
    note_run(log)
    if len(Path(log).read_text().split()) == 1:
        os.kill(os.getpid(), 9)
    return "survived"


def draw(_: object = None) -> float:
    return random.random()


def inner_workers() -> int:
    """Return how many workers an executor of a task's own has if nobody says."""
    with taskrun.Executor("process") as ex:
        return ex._max_workers
