"""Line 6: workers are replaced by count, memory, age and idleness, under load: nothing is lost, nothing runs twice."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import acts
from patience import PATIENCE, gone
from table import ENGINE, POOL, THREADS, fault

if TYPE_CHECKING:
    from case import Case

KEPT = (*ENGINE, *POOL)


@fault("process", "pool", "process:fork", "thread", soak=(*KEPT, *THREADS))
def by_count(case: Case) -> None:
    """With many tasks queued."""
    many = case.count(600 if case.backend == "process" else 200, 20_000)
    with case.executor(max_tasks_per_child=case.count(60, 200)) as run:
        run.innocents(many)


@fault("process", "pool", soak=KEPT)
def by_age(case: Case) -> None:
    """Under load, where no worker is ever idle."""
    with case.executor(max_age_per_child=0.15) as run:
        end = time.monotonic() + case.count(1, 20) * 0.6
        while time.monotonic() < end:
            for future in run.innocents(20):
                future.result(PATIENCE)
        workers = {future.attempts[0].worker for future in run._innocents.values()}
        assert len(workers) > 2, workers


@fault("process", "pool", soak=KEPT)
def by_memory(case: Case) -> None:
    """A worker that has grown leaves after its task; the others go on."""
    with case.executor(max_memory_per_child="120MB") as run:
        for _ in range(case.count(2, 30)):
            large = run.submit(hoard, 100 << 20)
            run.innocents(20)
            worker = large.result(PATIENCE)
            assert gone(worker)
        assert len({future.result() for future in run.futures}) == len(run.futures)


HOARD: list[bytes] = []


def hoard(size: int) -> int:
    HOARD.append(b"x" * size)
    return os.getpid()


@fault("process", "pool", "thread", soak=(*KEPT, *THREADS))
def by_idleness(case: Case) -> None:
    """At the moment when an idle worker leaves, tasks come."""
    with case.executor(idle_timeout=0.02) as run:
        for i in range(case.count(12, 300)):
            run.innocents(3)
            time.sleep(0.016 + (i % 8) / 1000)  # the moments are the point
        for future in run.innocents(3):
            future.result(PATIENCE)


@fault("process", "pool", soak=KEPT)
def workers_are_killed_while_they_are_replaced(case: Case) -> None:
    """Both at once: a replacement that dies is replaced."""
    with case.executor(max_tasks_per_child=3) as run:
        for i in range(case.count(40, 1000)):
            run.innocents(2)
            if i % 8 == 0:
                error = run.submit(acts.kill_self).exception(PATIENCE)
                assert type(error).__name__ == "WorkerCrashedError", error
