"""What a workload is, and how long one measurement of it may take."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from benchmarks.tasks import echo, loops_a_second

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.systems.base import System

__all__ = [
    "SCALES",
    "WORKERS",
    "Metric",
    "Scale",
    "Skipped",
    "Values",
    "WarmWorkload",
    "Workload",
    "rate",
    "seconds_of",
    "wrong_if_not",
]

Values = dict[str, float]

WORKERS = 2


class Skipped(Exception):  # noqa: N818 - nothing went wrong
    """This system is not measured on this workload, for the reason given."""


@dataclass(frozen=True)
class Scale:
    """How much to do."""

    name: str
    seconds: float
    """What one timed piece may take."""
    longest: float
    """Above so many seconds a piece of fixed size is left out."""
    part: float
    """How much of the full counts."""
    speed: float = 0.0
    """How many loops of `tasks.spin` are a second of work; 0 lets each measurement find out by itself.

    On a shared machine two answers to that, seconds apart, differ by half, so that whoever compares gives one for all.
    """

    def loops(self, seconds: float) -> int:
        """Return how many loops of `tasks.spin` are so many *seconds* of work."""
        return max(1, round(seconds * (self.speed or loops_a_second())))

    def of(self, count: int, least: int = 1) -> int:
        """Return this scale's part of *count*."""
        return max(least, round(count * self.part))


TINY = Scale("tiny", 0.01, 10.0, 0.0002)
QUICK = Scale("quick", 0.2, 6.0, 0.3)
FULL = Scale("full", 0.6, 45.0, 1.0)
SCALES = {scale.name: scale for scale in (TINY, QUICK, FULL)}


@dataclass(frozen=True)
class Metric:
    """What one number of a workload means."""

    unit: str
    more_is_better: bool


class Workload(ABC):
    """One question about speed. `run` gives the numbers of one system, in an interpreter of its own."""

    name: str
    question: str
    """What the numbers answer, in a sentence."""
    metrics: ClassVar[dict[str, Metric]]
    needs: frozenset[str] = frozenset({"submit"})
    """What a system must offer, see `System.can`."""
    rounds: int | None = None
    """No more of them, for numbers that hardly scatter or take long."""

    def floors(self) -> dict[str, Callable[[Scale], Values]]:
        """Return what is measured beside the systems: what no system could do better, by name."""
        return {}

    @abstractmethod
    def run(self, make: Callable[..., System], scale: Scale) -> Values:
        """Check that the system gives right results, then measure it. Raises Skipped, or AssertionError if they are wrong.

        *make* constructs the system: ``make()``, or ``make(tasks_per_worker=1)``; it is not opened yet.
        """


class WarmWorkload(Workload):
    """A workload on a system that is up: its workers run, the functions are there."""

    def run(self, make: Callable[..., System], scale: Scale) -> Values:
        with make() as system:
            self.check(system)
            return self.measure(system, scale)

    def check(self, system: System) -> None:
        """See that results are right; this is the warm-up, too."""
        if "submit" in system.can:
            wrong_if_not(system.gather([system.submit(echo, i) for i in range(200)]) == list(range(200)), "submit")
        else:
            wrong_if_not([system.call(echo, i) for i in range(20)] == list(range(20)), "call")

    @abstractmethod
    def measure(self, system: System, scale: Scale) -> Values:
        """Return the numbers of an open system that gives right results."""


def wrong_if_not(right: bool, what: str) -> None:
    """Raise AssertionError, naming *what* gave a wrong result."""
    if not right:
        raise AssertionError(f"wrong results of {what}")


def seconds_of(run: Callable[[], object]) -> float:
    """Return how long *run* takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def rate(run: Callable[[int], object], most: int, seconds: float, least: int = 100) -> Values:
    """Return how many a second *run* does: with *most*, or with as many as take about so many *seconds*.

    The count is raised until it takes a good part of that; the last of the runs counts.
    """
    count = min(least, most)
    while True:
        took = seconds_of(partial(run, count))
        if count >= most or took >= seconds / 2:
            return {"rate": count / took, "count": float(count)}
        count = min(most, max(2 * count, int(count * min(20.0, 0.9 * seconds / took))))
