"""What one parent process can feed: tasks and bytes a second, to each backend that is usable here.

    python benchmarks/scaling.py [--seconds 2] [backend ...]

A task that does nothing shows what a task costs; one that takes a megabyte and gives it back shows what bytes cost.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time

import taskrun
from taskrun.plugins import describe_backends

OPTIONS: dict[str, dict[str, object]] = {"ray": {"object_store_memory": 200_000_000}}


def nothing(_: object) -> None:
    pass


def echo(data: bytes) -> bytes:
    return data


def rate(results: object, seconds: float) -> float:
    """Return how many results a second there are."""
    iterator = iter(results)  # type: ignore[call-overload]
    for _ in range(10):
        next(iterator)  # workers have started, and the window is open
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        next(iterator)
        count += 1
    found = count / (time.perf_counter() - started)
    iterator.close()
    return found


def measure(name: str, seconds: float) -> tuple[float, float, float]:
    """Return seconds to the first result, tasks a second, and MB a second there and back."""
    started = time.perf_counter()
    with taskrun.Executor(name, max_workers=2, **OPTIONS.get(name, {})) as ex:  # type: ignore[arg-type]
        ex.submit(nothing, 1).result()
        first = time.perf_counter() - started
        tasks = rate(ex.map(nothing, itertools.count()), seconds)
        data = os.urandom(1_000_000)
        transferred = rate(ex.map(echo, itertools.repeat(data), buffersize=16), seconds)
    return first, tasks, transferred


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    parser.add_argument("backends", nargs="*", help="default: all that are usable here")
    arguments = parser.parse_args()
    usable = [info.name for info in describe_backends() if info.problem is None]
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs; 2 workers")
    print("| backend | first result, s | tasks/s | MB/s there and back |\n|---|---|---|---|")
    for name in arguments.backends or usable:
        first, tasks, transferred = measure(name, arguments.seconds)
        print(f"| `{name}` | {first:.2f} | {tasks:,.0f} | {transferred:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
