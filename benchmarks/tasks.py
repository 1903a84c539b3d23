"""What the tasks of the benchmarks do. A module of its own, so that every system can import it in its workers."""

from __future__ import annotations

import os
import time
from typing import Any

__all__ = [
    "KILOBYTES_10",
    "blocked_by",
    "changed",
    "echo",
    "fresh_array",
    "loops_a_second",
    "noop",
    "now_and_then",
    "pid",
    "spin",
    "ten_kilobytes",
]

KILOBYTES_10 = 10_000


def noop() -> None:
    """Do nothing."""


def echo(value: Any) -> Any:
    """Return what was given."""
    return value


def pid() -> int:
    """Return the number of the process that this ran in."""
    return os.getpid()


def spin(loops: int) -> int:
    """Work so many *loops*: CPU time that does not shrink when another process has the CPU, as a busy wait would."""
    for _ in range(loops):
        pass
    return loops


def ten_kilobytes(value: int) -> bytes:
    """Return 10 kB that differ from task to task."""
    return value.to_bytes(8, "big") * (KILOBYTES_10 // 8)


def now_and_then(loops: int) -> int:
    """Spin, if there is anything to spin."""
    return spin(loops) if loops else 0


def blocked_by(path: str) -> str:
    """Wait until the file at *path* is gone."""
    while os.path.exists(path):
        time.sleep(0.01)
    return path


def changed(array: Any) -> tuple[int, int, int]:
    """Return what tells that the whole array arrived: its size, its first and its last element."""
    return array.nbytes, int(array[0]), int(array[-1])


def fresh_array(count: int, value: int) -> Any:
    """Return an array of *count* 64-bit integers, all of them *value*."""
    import numpy as np

    return np.full(count, value, np.int64)


def loops_a_second(probes: int = 15) -> float:
    """Return how many loops of `spin` this machine does in a second: in the best of so many *probes* of half a millisecond."""
    probe = 20_000
    return probe / min(_time_of(probe) for _ in range(probes))


def _time_of(loops: int) -> float:
    began = time.perf_counter()
    spin(loops)
    return time.perf_counter() - began
