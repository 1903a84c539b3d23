"""Work for the CPU and waiting, on every backend, and what a task costs there: `make choosing`.

    python docs/examples/choosing.py                                              # every built-in backend usable here
    python docs/examples/choosing.py --workers 100 --backend thread process asyncio

Exits with 1 if the results are not the same on all. What the figures mean is in docs/explanation/choosing.md.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import platform
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import taskrun
from taskrun.plugins import describe_backends

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PIECES = 16
NUMBERS = 12_500
"""In each piece of the work for the CPU."""
WAITS = 80
SECONDS = 0.1
TASKS = 500


def count_primes(first: int, last: int) -> int:
    """Return how many primes there are from *first* up to *last*: pure Python, so that it needs the GIL all the time."""
    return sum(all(number % divisor for divisor in range(2, math.isqrt(number) + 1)) for number in range(first, last))


async def wait(number: int) -> int:
    """Wait as for a reply from the network; awaited on an event loop by `asyncio`, in a worker by the others."""
    await asyncio.sleep(SECONDS)
    return number


def nothing(number: int) -> int:
    return number


class Figures(NamedTuple):
    """What was measured on one backend, in seconds, and what came out."""

    cpu: float
    waiting: float
    first: float
    """From making the executor to the first result."""
    task: float
    """One more task that does nothing, of many that are submitted at once."""
    results: list[list[int]]


def best(runs: list[Figures]) -> Figures:
    """Return the least of each figure: what else the machine has to do only ever makes a run slower."""
    cpu, waiting, first, task, _ = zip(*runs, strict=True)
    return Figures(min(cpu), min(waiting), min(first), min(task), runs[0].results)


def measure(backend: str, workers: int, scale: float) -> Figures:
    """Run both workloads on new executors, then the tasks that do nothing; starting the workers is part of the time."""
    starts = range(1_000_000, 1_000_000 + PIECES * NUMBERS, NUMBERS)
    cpu, primes = timed_map(backend, workers, count_primes, starts, (start + int(NUMBERS * scale) for start in starts))
    waiting, waited = timed_map(backend, workers, wait, range(math.ceil(WAITS * scale)))
    started = time.perf_counter()
    with taskrun.Executor(backend, max_workers=workers) as ex:
        ex.submit(nothing, 0).result()
        first = time.perf_counter() - started
        tasks = math.ceil(TASKS * scale)
        for _ in range(2):  # once more, because the other workers start during the first round
            begun = time.perf_counter()
            numbers = [future.result() for future in [ex.submit(nothing, number) for number in range(tasks)]]
            task = (time.perf_counter() - begun) / tasks
    return Figures(cpu, waiting, first, task, [primes, waited, numbers])


def timed_map(backend: str, workers: int, function: Callable[..., object], *inputs: Iterable[int]) -> tuple[float, list[int]]:
    started = time.perf_counter()
    with taskrun.Executor(backend, max_workers=workers) as ex:
        results = list(ex.map(function, *inputs))
    return time.perf_counter() - started, results


def compare(asked: argparse.Namespace) -> bool:
    """Measure each backend and print a line for it; False: the results of one are not those of the first."""
    same = True
    base: Figures | None = None
    print(f"{'backend':12}{'CPU-bound':>11}{'':8}{'I/O-bound':>11}{'':8}{'first result':>14}{'a task':>10}")
    for info in describe_backends():
        if info.name not in asked.backend:
            continue
        if info.problem is not None:
            print(f"{info.name:12}not usable here: {info.problem}", flush=True)
            continue
        runs = [measure(info.name, asked.workers, asked.scale) for _ in range(asked.repeat)]
        found = best(runs)
        base = base or found
        print(info.name.ljust(12) + line(found, base), flush=True)
        if any(run.results != base.results for run in runs):
            same = False
            print(f"{info.name:12}THE RESULTS DIFFER from those of the first backend", flush=True)
    return same


def line(found: Figures, base: Figures) -> str:
    """Return the figures as columns; a speed-up is how many times faster than the first backend."""
    cpu, waiting = base.cpu / found.cpu, base.waiting / found.waiting
    works = f"{found.cpu:9.2f} s{cpu:7.1f}x{found.waiting:10.2f} s{waiting:7.1f}x"
    return f"{works}{found.first * 1e3:11.1f} ms{found.task * 1e6:7.0f} us"


def _above_zero(kind: Callable[[str], float]) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise ValueError
        return value

    number.__name__ = f"{kind.__name__} above 0"  # argparse says it
    return number


def main(arguments: list[str] | None = None) -> int:
    cpus = len(os.sched_getaffinity(0))
    built_in = [info.name for info in describe_backends() if info.source == "taskrun"]
    parser = argparse.ArgumentParser(description="Measure two kinds of work on the backends of taskrun.")
    parser.add_argument(
        "--backend", nargs="+", default=built_in, choices=built_in, help="which; speed-ups are against the first"
    )
    parser.add_argument(
        "--workers", type=_above_zero(int), default=max(8, cpus), help="max_workers of every backend (%(default)s)"
    )
    parser.add_argument("--scale", type=_above_zero(float), default=1.0, help="how much work there is (%(default)s)")
    parser.add_argument("--repeat", type=_above_zero(int), default=1, help="measure so often and show the least (%(default)s)")
    asked = parser.parse_args(arguments)
    gil = "with the GIL" if getattr(sys, "_is_gil_enabled", lambda: True)() else "without the GIL"
    print(f"Python {platform.python_version()} {gil}, CPUs that may be used: {cpus}, max_workers={asked.workers}")
    return 0 if compare(asked) else 1


if __name__ == "__main__":
    sys.exit(main())
