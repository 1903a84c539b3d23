"""What taskrun promises about its speed, as data: ours beside theirs, on one number of one workload.

The lines are those of issue 5. A peer is compared by its median over the same rounds; of several, the best one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.systems import PROCESS_PEERS

__all__ = ["GOALS", "Goal", "contestants_of"]

_PPE, _PPE_SERVER, _TPE, _POOL, _DUMMY = (
    "ProcessPoolExecutor-fork",
    "ProcessPoolExecutor-forkserver",
    "ThreadPoolExecutor",
    "mp.Pool",
    "mp.dummy",
)


@dataclass(frozen=True)
class Goal:
    """`ours` on `workload` is *at least* or *at most* `bound` times the best of `theirs`; without theirs, `bound` itself."""

    line: int
    workload: str
    metric: str
    ours: str
    kind: Literal["at least", "at most"]
    bound: float
    theirs: tuple[str, ...] = ()
    beside: str = ""
    """The workload of theirs, if it is another one."""

    def words(self) -> str:
        """Return the promise as one reads it."""
        if not self.theirs:
            return f"{self.ours}: {self.kind} {self.bound:,g}"
        theirs = self.theirs[0] if len(self.theirs) == 1 else f"the best of {len(self.theirs)} process pools"
        return f"{self.ours}: {self.kind} {self.bound:.3g}x {theirs}" + (f" on {self.beside}" if self.beside else "")


GOALS = [
    Goal(1, "submit-10000", "rate", "process", "at least", 15, (_PPE,)),
    Goal(1, "submit-10000", "rate", "process", "at least", 6, PROCESS_PEERS),
    Goal(1, "submit-10000", "rate", "process", "at least", 2, (_TPE,)),
    Goal(1, "submit-300000", "rate", "process", "at least", 0.9, ("process",), beside="submit-1000"),
    Goal(1, "submit-20us", "rate", "process", "at least", 1.5, (_POOL,)),
    Goal(1, "submit-10kB", "rate", "process", "at least", 2, (_POOL,)),
    Goal(1, "submit-mixed", "rate", "process", "at least", 1, (_POOL,)),
    Goal(1, "round-trip", "p50", "process", "at most", 1.7, ("floor: pipe ping-pong",)),
    Goal(1, "round-trip", "p99", "process", "at most", 0.6, (_PPE,)),
    Goal(2, "submit-10000", "rate", "thread", "at least", 4, (_TPE,)),
    Goal(2, "round-trip", "p50", "thread", "at most", 1, (_TPE,)),
    Goal(2, "round-trip", "p99", "thread", "at most", 1, (_TPE,)),
    Goal(2, "submit-10000", "rate", "dummy", "at least", 1 / 1.3, (_DUMMY,)),
    Goal(2, "submit-10000", "rate", "pool", "at least", 1 / 1.3, (_POOL,)),
    Goal(2, "round-trip", "p50", "dummy", "at most", 1.3, (_DUMMY,)),
    Goal(2, "round-trip", "p50", "pool", "at most", 1.3, (_POOL,)),
    Goal(3, "map-million", "rate", "process", "at least", 1, (_POOL,)),
    Goal(3, "map-million", "rate", "thread", "at least", 0.8, (_DUMMY,)),
    Goal(3, "map-uniform", "wall", "process", "at most", 1.05, ("floor: hand-split fork",)),
    Goal(3, "map-skewed", "wall", "process", "at most", 1.05, ("floor: hand-split fork",)),
    Goal(4, "stream", "rate", "process", "at least", 4, ("joblib",)),
    Goal(4, "stream", "ahead", "process", "at most", 20_000),
    Goal(4, "stream-unordered", "ahead", "process", "at most", 20_000),
    Goal(4, "stream-long", "growth", "process", "at most", 20),
    Goal(5, "buffers-to", "rate", "process", "at least", 8, (_PPE,)),
    Goal(5, "buffers-back", "rate", "process", "at least", 7, (_PPE,)),
    Goal(5, "buffers-shared", "rate", "process", "at least", 25, (_PPE,), beside="buffers-to"),
    Goal(6, "fresh-small", "rate", "fork", "at least", 1, ("floor: raw fork",)),
    Goal(6, "fresh-500MB", "rate", "fork", "at least", 1.5, ("floor: raw fork",)),
    Goal(6, "fresh-small", "rate", "process", "at least", 1.5, (_POOL,)),
    Goal(6, "fresh-500MB", "rate", "process", "at least", 0.9, ("process",), beside="fresh-small"),
    Goal(7, "start-up", "total", "process", "at most", 0.6, (_PPE_SERVER,)),
    Goal(7, "start-up", "total", "process-fork", "at most", 1.3, (_PPE,)),
    Goal(8, "memory", "bytes", "process", "at most", 500),
    Goal(8, "memory", "bytes", "thread", "at most", 500),
    Goal(8, "memory-million", "bytes", "process", "at most", 500),
    Goal(8, "idle", "cpu", "process", "at most", 1),
    Goal(8, "idle", "cpu", "thread", "at most", 1),
    Goal(8, "idle", "wakeups", "process", "at most", 0),
    Goal(9, "submit-10000", "rate", "process-options", "at least", 0.7, ("process",)),
    Goal(9, "submit-10000", "rate", "thread-options", "at least", 0.7, ("thread",)),
]


def contestants_of(workload: str) -> set[str]:
    """Return who has to be measured on *workload* for the goals to be decided."""
    names: set[str] = set()
    for goal in GOALS:
        if goal.workload == workload:
            names.add(goal.ours)
        if (goal.beside or goal.workload) == workload:
            names.update(goal.theirs)
    return names
