"""Functions for the tests' tasks; workers can import this module."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any


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


_kept: list[bytearray] = []


def keep(size: int) -> int:
    """Let this process have so many bytes of memory from now on."""
    while (resident := int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")) < size:
        _kept.append(bytearray(b"x") * 1_000_000)
    return resident
