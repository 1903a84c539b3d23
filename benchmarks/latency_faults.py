"""Measures the times that taskrun promises after faults: a table, and JSON with ``--json FILE``.

::

    python benchmarks/latency_faults.py [--runs 5] [--backends process,pool,fork] [--json figures.json]

Each figure is the worst and the median of so many runs, in seconds. The promises are in docs/reliability.md. On a machine that
is busy with other things they say more about that machine: the load is printed beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import select
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import taskrun

Measure = Callable[[str], float]

PROMISES = {
    "a crash is told": 1.0,
    "full strength after a crash": 1.0,
    "timeout: the future fails": 1.0,
    "timeout: the slot is back": 1.0,
    "timeout of a task that ignores SIGTERM": 1.0,
    "kill: the future fails": 1.0,
    "kill: the slot is back": 1.0,
    "Ctrl-C ends the program": 1.0,
    "no worker after SIGKILL of the parent": 2.0,
    "no worker after SIGKILL, deep in C": 2.0,
}
"""Seconds: beyond the limit itself, for timeouts."""


def hold(path: str, ignore: bool = False) -> None:
    """Tell that one runs, and go on for a minute."""
    if ignore:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(60)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def pids(path: str, count: int) -> list[int]:
    """Wait until *count* tasks have told their pid."""
    while not os.path.exists(path) or len(Path(path).read_text().split()) < count:
        time.sleep(0.0005)
    return [int(line) for line in Path(path).read_text().split()]


def fresh(name: str) -> str:
    path = f"/tmp/taskrun-latency-{os.getpid()}-{name}"  # noqa: S108 - removed by `main`
    if os.path.exists(path):
        os.remove(path)
    return path


def since(began: float) -> float:
    return time.monotonic() - began


def executor(backend: str, workers: int = 1) -> taskrun.Executor:
    ex = taskrun.Executor(backend, max_workers=workers)
    ex.submit(abs, -1).result()
    return ex


def crash_is_told(backend: str) -> float:
    with executor(backend) as ex:
        began = time.monotonic()
        assert ex.submit(die).exception(60) is not None
        return since(began)


def strength_after_crash(backend: str) -> float:
    with executor(backend) as ex:
        future = ex.submit(die)
        future.exception(60)
        began = time.monotonic()
        ex.submit(abs, -1).result(60)
        return since(began)


def stopped(backend: str, *, limit: float | None, ignore: bool = False, slot: bool = False) -> float:
    """Return how long after its limit, or after `kill`, the future fails; with *slot*, the next task has run."""
    path = fresh("hold")
    with executor(backend) as ex:
        future = ex.options(timeout=limit).submit(hold, path, ignore)
        pids(path, 1)
        while not (future.running() or future.done()):  # it is known here a little later than there
            time.sleep(0.001)
        began = future._task.begun + limit if limit is not None and future._task is not None else time.monotonic()
        if limit is None:
            future.kill()
        following = ex.submit(abs, -1)
        (following.result if slot else future.exception)(60)
        return since(began)


PROGRAM = """
import os, sys, time, taskrun, warnings
warnings.simplefilter("ignore")
def work(path):
    with open(path, "a") as file: file.write(f"{os.getpid()}\\n")
    if sys.argv[3] == "C": sum(range(3_000_000_000))
    time.sleep(60)
with taskrun.Executor(sys.argv[1], max_workers=2) as ex:
    for _ in range(20): ex.submit(work, sys.argv[2])
    while True: time.sleep(0.01)
"""


def end_of_parent(backend: str, number: int, how: str = "") -> float:
    path = fresh("program")
    arguments = [sys.executable, "-c", PROGRAM, backend, path, how]
    program = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, process_group=0)
    watched = [os.pidfd_open(pid) for pid in pids(path, 2)]
    began = time.monotonic()
    program.send_signal(number)
    program.wait(60)
    if number == signal.SIGKILL:
        for fd in watched:
            select.select([fd], [], [], 60)
    took = since(began)
    for fd in watched:
        os.close(fd)
    return took


MEASURES: dict[str, Measure] = {
    "a crash is told": crash_is_told,
    "full strength after a crash": strength_after_crash,
    "timeout: the future fails": lambda backend: stopped(backend, limit=0.5),
    "timeout: the slot is back": lambda backend: stopped(backend, limit=0.5, slot=True),
    "timeout of a task that ignores SIGTERM": lambda backend: stopped(backend, limit=0.5, ignore=True),
    "kill: the future fails": lambda backend: stopped(backend, limit=None),
    "kill: the slot is back": lambda backend: stopped(backend, limit=None, slot=True),
    "Ctrl-C ends the program": lambda backend: end_of_parent(backend, signal.SIGINT),
    "no worker after SIGKILL of the parent": lambda backend: end_of_parent(backend, signal.SIGKILL),
    "no worker after SIGKILL, deep in C": lambda backend: end_of_parent(backend, signal.SIGKILL, "C"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--backends", default="process,pool,fork")
    parser.add_argument("--json", metavar="FILE")
    asked = parser.parse_args()
    backends = asked.backends.split(",")
    figures: dict[str, dict[str, dict[str, float]]] = {}
    print(f"Python {platform.python_version()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    print(f"{f'seconds, worst (median) of {asked.runs}':42}{'promise':>9}" + "".join(f"{backend:>18}" for backend in backends))
    late = 0
    for name, measure in MEASURES.items():
        line = f"{name:42}{PROMISES[name]:9.1f}"
        for backend in backends:
            took = [measure(backend) for _ in range(asked.runs)]
            worst, median = max(took), statistics.median(took)
            late += worst > PROMISES[name]
            figures.setdefault(name, {})[backend] = {"worst": worst, "median": median, "promise": PROMISES[name]}
            line += f"{worst:9.3f} ({median:.3f})".rjust(18)
        print(line, flush=True)
    for name in ("hold", "program"):
        fresh(name)
    if asked.json:
        about = {"python": platform.python_version(), "cpus": os.cpu_count(), "load": os.getloadavg(), "runs": asked.runs}
        Path(asked.json).write_text(json.dumps({"about": about, "seconds": figures}, indent=1))
    print("all within their promise" if not late else f"{late} beyond their promise")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
