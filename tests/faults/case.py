"""What runs faults, in an interpreter of their own: ``python case.py THEME CONFIGURATION DIRECTORY short|full [NAME...]``.

A watchdog turns silence into a failure with all stacks. After each fault it is checked that every future has resolved, that
innocent tasks are right and ran exactly once, that capacity is whole again, and that nothing is left: no thread, child or
descriptor. Whether interpreter exit ends, and what the process tree looks like then, is seen from outside (`outside`).
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import patience

patience.PATIENCE = 60.0  # before others take it over: whole themes run side by side on a machine that is busy anyway

import acts  # noqa: E402
from leftovers import Inventory  # noqa: E402
from patience import PATIENCE  # noqa: E402
from table import faults_of  # noqa: E402

import taskrun  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Case", "Run"]

SILENCE = 180.0
"""Seconds after which a fault is believed to hang (its waits end after `PATIENCE`)."""


class Run:
    """An executor under test, and what it was given."""

    def __init__(self, ex: taskrun.Executor, workers: int, directory: Path) -> None:
        self.ex = ex
        self.workers = workers
        self.directory = directory
        self.log = str(directory / "innocents")
        self.futures: list[taskrun.Future[Any]] = []
        self._innocents: dict[int, taskrun.Future[int]] = {}

    def submit(self, fn: Callable[..., Any], *args: Any, **options: Any) -> taskrun.Future[Any]:
        """Submit a task that may well fail; *options* are those of `Executor.options`."""
        self.futures.append((self.ex.options(**options) if options else self.ex).submit(fn, *args))
        return self.futures[-1]

    def innocents(self, count: int) -> list[taskrun.Future[int]]:
        """Submit tasks that have to come to their right end, having run exactly once."""
        first = len(self._innocents)
        added = {i: self.ex.submit(acts.innocent, self.log, i) for i in range(first, first + count)}
        self._innocents |= added
        return list(added.values())

    def check_innocents(self) -> None:
        for i, future in self._innocents.items():
            assert future.result(PATIENCE) == acts.product(i)
            assert len(future.attempts) == 1, future.attempts
        runs = Counter(acts.lines(self.log))
        assert runs == {str(i): 1 for i in self._innocents}, runs

    def check_capacity(self) -> None:
        """See that as many tasks as there are workers run at the same time."""
        meeting = self.directory / "meeting"
        meeting.mkdir()
        there = [self.ex.submit(acts.meet, str(meeting), i, self.workers, PATIENCE) for i in range(self.workers)]
        assert [future.result(2 * PATIENCE) for future in there] == [self.workers] * self.workers

    def check_futures(self) -> None:
        """After shutdown: each has come to an outcome."""
        lost = [future for future in (*self.futures, *self._innocents.values()) if not future.done()]
        assert not lost, lost


class Case:
    """Where a fault happens: a configuration, a directory, and how much of it."""

    def __init__(self, configuration: str, directory: Path, *, full: bool) -> None:
        self.configuration = configuration
        self.backend, _, method = configuration.partition(":")
        self.backend_options = {"start_method": method} if method else {}
        self.full = full
        self.directory = directory
        self._runs = 0

    @property
    def in_processes(self) -> bool:
        """Whether workers are processes: what a task does to its own concerns nobody else."""
        return self.backend in ("process", "pool", "fork")

    @property
    def keeps_workers(self) -> bool:
        """Whether a worker runs one task after the other."""
        return self.backend != "fork"

    def count(self, short: int, full: int) -> int:
        """Return how many: in `make test`, in `make soak`."""
        return full if self.full else short

    @contextlib.contextmanager
    def executor(self, *, workers: int = 2, whole: bool = True, **options: Any) -> Iterator[Run]:
        """Make an executor; at the end check it, and shut it down. *whole* False: it was broken or shut down on purpose."""
        workers = 1 if self.backend == "serial" else workers
        directory = self.directory / str(self._runs)
        self._runs += 1
        directory.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", taskrun.UnsafeForkWarning)  # with start_method="fork" it is known
            ex = taskrun.Executor(self.backend, max_workers=workers, **{**self.backend_options, **options})
        run = Run(ex, workers, directory)
        try:
            yield run
            if whole:
                run.check_innocents()
                run.check_capacity()
            ex.shutdown()
        except BaseException:
            ex.kill_workers()
            raise
        run.check_futures()
        stats = ex.stats()
        assert (stats["queued"], stats["unfinished"], stats["workers"]) == (0, 0, []), stats

    def log(self, name: str) -> str:
        """Return the path of a file for tasks to write lines into."""
        return str(self.directory / name)


def main(theme: str, configuration: str, directory: str, scale: str, *names: str) -> int:
    """Run the faults of one theme on one configuration; return the exit code."""
    failed, told = 0, os.dup(2)  # a fault may have its processes say nothing
    for fault in faults_of(theme):
        if (names and fault.name not in names) or configuration not in (fault.everywhere if names else fault.on):
            continue
        place = Path(directory, fault.name)
        place.mkdir()
        faulthandler.dump_traceback_later(SILENCE if scale == "short" else 7 * SILENCE, exit=True, file=told)
        began, cpu, before = time.monotonic(), _cpu(), Inventory()
        try:
            fault.run(Case(configuration, place, full=scale == "full"))
            left = before.left_for_good()
            assert not left, "left behind: " + "; ".join(left)
            verdict = "ok"
        except Exception:
            traceback.print_exc()
            verdict, failed = "FAILED", failed + 1
        print(f"{verdict} {fault.name} {time.monotonic() - began:.2f}s {_cpu() - cpu:.2f}s", flush=True)
    faulthandler.dump_traceback_later(SILENCE, exit=True, file=told)  # for the end of the interpreter
    return failed and 1


def _cpu() -> float:
    """Return the seconds of CPU that this process and its reaped children have taken."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    sys.modules["case"] = sys.modules["__main__"]
    sys.exit(main(*sys.argv[1:]))
