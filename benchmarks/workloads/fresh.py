"""What does it cost to give each task a process of its own, from a small parent and from a large one?"""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING

from benchmarks.tasks import pid
from benchmarks.workloads.base import Metric, Scale, Values, Workload, rate
from benchmarks.workloads.forked import Ballast, forked

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.systems.base import System

__all__ = ["WORKLOADS"]

_LARGE = 500_000_000


class Fresh(Workload):
    """Each task in a process that runs nothing else."""

    metrics = {"rate": Metric("tasks/s", more_is_better=True)}  # noqa: RUF012 - a constant
    needs = frozenset({"submit", "fresh"})

    def __init__(self, name: str, parent: str, ballast: int) -> None:
        self.name = name
        self.question = f"How many tasks a second, each in a fresh process, from a parent that holds {parent}?"
        self._ballast = ballast

    def run(self, make: Callable[..., System], scale: Scale) -> Values:
        ballast = Ballast(scale.of(self._ballast) if scale.part < 0.1 else self._ballast)
        with make(tasks_per_worker=1) as system:

            def some(count: int) -> None:
                pids = system.gather([system.submit(pid) for _ in range(count)])
                assert len(set(pids)) == count, "a process ran more than one task"
                assert os.getpid() not in pids

            some(scale.of(20, least=3))
            values = rate(some, scale.of(3_000, least=5), 2 * scale.seconds, least=scale.of(20, least=5))
        del ballast
        return values

    def floors(self) -> dict[str, Callable[[Scale], Values]]:
        return {"floor: raw fork": self._raw}

    def _raw(self, scale: Scale) -> Values:
        """`os.fork`, the answer through a pipe, `waitpid`; one at a time."""
        ballast = Ballast(scale.of(self._ballast) if scale.part < 0.1 else self._ballast)

        def one() -> int:
            out, into = os.pipe()
            child = forked(lambda: os.write(into, pickle.dumps(pid())))
            os.close(into)
            with open(out, "rb") as stream:
                value = pickle.load(stream)
            os.waitpid(child, 0)
            assert value == child
            return child

        def some(count: int) -> None:
            for _ in range(count):
                one()

        values = rate(some, scale.of(3_000, least=5), 2 * scale.seconds, least=scale.of(20, least=5))
        del ballast
        return values


WORKLOADS = [Fresh("fresh-small", "little", 0), Fresh("fresh-500MB", "500 MB of small objects", _LARGE)]
