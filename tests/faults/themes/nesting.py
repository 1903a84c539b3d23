"""Line 9: executors inside tasks, on every combination of backends."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

import acts
from patience import PATIENCE
from table import CONCURRENT, PROCESSES, fault

import taskrun

if TYPE_CHECKING:
    from case import Case

SOME = ("thread", "process", "pool", "fork")
ALL = ("serial", "thread", "dummy", "asyncio", "process", "pool", "fork")


def inner_sum(backend: str, method: str | None) -> int:
    """Use an executor of one's own, also for a task that crashes and one that is late."""
    options = {"start_method": method} if method else {}
    # For good: `catch_warnings` puts back what it found, and with other tasks in other threads that may be anything.
    warnings.simplefilter("ignore", taskrun.UnsafeForkWarning)
    with taskrun.Executor(backend, max_workers=2, **options) as ex:
        total = sum(ex.map(abs, [-1, -2, -3]))
        if ex.capabilities.crash_isolation:
            crashed = ex.submit(os._exit, 3)
            assert type(crashed.exception(PATIENCE)).__name__ == "WorkerCrashedError"
            total += ex.submit(abs, -4).result(PATIENCE)
        else:
            total += 4
    return total


@fault("process", "pool", "fork", "thread", "asyncio", soak=(*CONCURRENT, "serial"))
def each_backend_inside(case: Case) -> None:
    """And by each start method, where the full table is run."""
    inner: list[tuple[str, str | None]] = [(name, None) for name in (ALL if case.full else SOME)]
    if case.full:
        inner += [(name, method) for name in ("process", "pool") for method in ("spawn", "fork")]
    if case.backend == "interpreter":
        inner = [(name, method) for name, method in inner if name != "fork" and method != "fork"]  # they cannot fork
    with case.executor() as run:
        futures = {each: run.submit(inner_sum, *each) for each in inner}
        run.innocents(3)
        for each, future in futures.items():
            assert future.result(3 * PATIENCE) == 10, each


@fault("process", "pool", "fork", soak=PROCESSES)
def a_worker_is_killed_that_has_workers(case: Case) -> None:
    """They end with it, though each has a process group of its own."""
    with case.executor() as run:
        for backend in ("process", "pool", "fork") if case.full else (case.backend,):
            pids = case.log(f"pids-{backend}")
            outer = run.submit(spin_inside, backend, pids)
            assert acts.until(lambda pids=pids: len(acts.lines(pids)) == 2)
            inner = [int(line) for line in acts.lines(pids)]
            assert outer.kill()
            assert isinstance(outer.exception(PATIENCE), taskrun.TaskKilledError)
            assert acts.until(lambda inner=inner: not any(os.path.exists(f"/proc/{pid}") for pid in inner)), backend
        run.innocents(3)


def spin_inside(backend: str, pids: str) -> None:
    with taskrun.Executor(backend, max_workers=2) as ex:
        for _ in range(2):
            ex.submit(acts.spin, pids)
