"""No-op tasks submitted one by one and gathered: taskrun beside the standard executors, interleaved, as ratios.

Usage: python benchmarks/submit.py [TASKS] [ROUNDS]
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING

import taskrun

if TYPE_CHECKING:
    from concurrent.futures import Executor

PAIRS = {"process": 5.0, "thread": 1.0}
"""What is promised: at least so many times the throughput of the standard executor."""


def noop() -> None:
    pass


def rate(executor: Executor, tasks: int) -> float:
    """Return tasks per second of a warm executor."""
    began = time.perf_counter()
    for future in [executor.submit(noop) for _ in range(tasks)]:
        future.result()
    return tasks / (time.perf_counter() - began)


def main(tasks: int, rounds: int) -> int:
    context = multiprocessing.get_context("fork")
    kept = True
    for backend, promised in PAIRS.items():
        standard: Executor = ProcessPoolExecutor(2, mp_context=context) if backend == "process" else ThreadPoolExecutor(2)
        with standard, taskrun.Executor(backend, max_workers=2) as ours:
            rate(standard, 200), rate(ours, 200)
            rates = [(rate(standard, tasks), rate(ours, tasks)) for _ in range(rounds)]
        before, after = (statistics.median(column) for column in zip(*rates, strict=True))
        ratio = statistics.median(mine / theirs for theirs, mine in rates)
        kept = kept and ratio >= promised
        print(
            f"{backend:8} {after:10,.0f}/s  {type(standard).__name__} {before:10,.0f}/s  {ratio:5.1f}x (promised {promised:g}x)"
        )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5_000, int(sys.argv[2]) if len(sys.argv) > 2 else 7))
