"""What does a task cost while it waits, and an executor while it has nothing to do?"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from typing import TYPE_CHECKING

from benchmarks.machine import cpu_seconds, resident_bytes, switches
from benchmarks.tasks import blocked_by, noop
from benchmarks.workloads.base import WORKERS, Metric, Scale, Values, WarmWorkload, wrong_if_not

if TYPE_CHECKING:
    from benchmarks.systems.base import System

__all__ = ["WORKLOADS"]


class Memory(WarmWorkload):
    """Tasks queued behind workers that are busy, and the growth of the parent."""

    metrics = {"bytes": Metric("bytes", more_is_better=False)}  # noqa: RUF012 - a constant
    needs = frozenset({"submit", "queue"})

    def __init__(self, name: str, count: int, rounds: int | None = None) -> None:
        self.name = name
        self.question = f"How many bytes of the parent does a queued task take, with {count:,} of them?"
        self.rounds = rounds
        self._count = count

    def measure(self, system: System, scale: Scale) -> Values:
        count = scale.of(self._count, least=100)
        with tempfile.NamedTemporaryFile() as gate:
            busy = [system.submit(blocked_by, gate.name) for _ in range(2 * WORKERS)]
            time.sleep(0.05)  # some systems take their first tasks in slowly; it is no condition
            gc.collect()
            before = resident_bytes()
            handles = [system.submit(noop) for _ in range(count)]
            grown = resident_bytes() - before
        wrong_if_not(system.gather(busy) == [gate.name] * len(busy), "the tasks that blocked")
        wrong_if_not(system.gather(handles) == [None] * count, "queued tasks")
        return {"bytes": grown / count, "count": float(count)}


class Idle(WarmWorkload):
    """An executor that has worked and has nothing to do now."""

    name = "idle"
    question = "How often do the threads and processes of an idle executor wake up in 10 seconds, and what CPU do they use?"
    metrics = {  # noqa: RUF012 - a constant
        "wakeups": Metric("in 10 s", more_is_better=False),
        "cpu": Metric("ms in 10 s", more_is_better=False),
    }
    rounds = 1

    def measure(self, system: System, scale: Scale) -> Values:
        seconds = min(10.0, scale.of(1_000) / 100)
        time.sleep(min(1.0, seconds))  # to come to rest
        me = os.getpid()
        before, cpu = switches(but_not=me), cpu_seconds(but_not=me)
        time.sleep(seconds)
        times = 10 / seconds
        after, cpu_after = switches(but_not=me), cpu_seconds(but_not=me)
        woken = sum(count - before.get(thread, 0) for thread, count in after.items())
        return {"wakeups": woken * times, "cpu": max(0.0, cpu_after - cpu) * 1e3 * times}


WORKLOADS = [Memory("memory", 100_000), Memory("memory-million", 1_000_000, rounds=1), Idle()]
