"""How fast is a map over a million tiny items, and how close to a perfect split over uneven ones?"""

from __future__ import annotations

import os
import pickle
import random
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from benchmarks.tasks import echo, spin
from benchmarks.workloads.base import WORKERS, Metric, Scale, Values, WarmWorkload, rate, seconds_of, wrong_if_not
from benchmarks.workloads.forked import forked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.systems.base import System

__all__ = ["WORKLOADS"]


class MapOfTiny(WarmWorkload):
    """`map` of a function that returns its argument, over numbers."""

    name = "map-million"
    question = "How many items a second does a map of a million tiny items do, with the system's own chunks?"
    metrics = {"rate": Metric("items/s", more_is_better=True)}  # noqa: RUF012 - a constant
    needs = frozenset({"map"})

    def measure(self, system: System, scale: Scale) -> Values:
        def run(count: int) -> None:
            wrong_if_not(system.map(echo, range(count)) == list(range(count)), "map")

        run(200)
        # The million counts: how large the chunks are may depend on it. Who would take too long does fewer.
        return rate(run, scale.of(1_000_000), 1.5 * scale.seconds, least=500)

    def floors(self) -> dict[str, Callable[[Scale], Values]]:
        def run(count: int) -> None:
            halves = [range(count // 2), range(count // 2, count)]
            assert list(chain(*_hand_split(echo, halves))) == list(range(count))

        return {"floor: hand-split fork": lambda scale: rate(run, scale.of(1_000_000), 9e9, least=scale.of(1_000_000))}


class MapOfWork(WarmWorkload):
    """`map` over 2,000 items that take a millisecond each, or on average."""

    metrics = {"wall": Metric("s", more_is_better=False)}  # noqa: RUF012 - a constant
    needs = frozenset({"map"})

    def __init__(self, name: str, what: str, *, skewed: bool) -> None:
        self.name = name
        self.question = f"How long do 2,000 items of 1 ms take on two workers, {what}?"
        self._skewed = skewed

    def _loops(self, scale: Scale) -> list[int]:
        """Return how long each item takes, in loops: the same for every system."""
        one = scale.loops(1e-3)
        count = scale.of(2_000, least=10)
        if not self._skewed:
            return [one] * count
        rng = random.Random(5)
        shares = [rng.paretovariate(1.5) for _ in range(count)]  # most are short, a few take most of the time
        return [max(1, round(one * count * share / sum(shares))) for share in shares]

    def measure(self, system: System, scale: Scale) -> Values:
        loops = self._loops(scale)
        wrong_if_not(system.map(spin, loops[:4]) == loops[:4], "map")
        return {"wall": seconds_of(lambda: wrong_if_not(system.map(spin, loops) == loops, "map")) / scale.of(2_000) * 2_000}

    def floors(self) -> dict[str, Callable[[Scale], Values]]:
        return {"floor: hand-split fork": self._by_hand}

    def _by_hand(self, scale: Scale) -> Values:
        """Two children, each with its half of the work, shared out by somebody who knew how long each item takes."""
        loops = self._loops(scale)
        parts: list[list[int]] = [[] for _ in range(WORKERS)]
        for each in sorted(loops, reverse=True):
            min(parts, key=sum).append(each)
        return {"wall": seconds_of(partial(_hand_split, spin, parts)) / scale.of(2_000) * 2_000}


def _hand_split(fn: Callable[[Any], Any], parts: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Run each part in a forked child; return their results, pickled once."""
    pipes = [os.pipe() for _ in parts]

    def work(part: Sequence[Any], fd: int) -> None:
        with open(fd, "wb") as stream:
            pickle.dump([fn(item) for item in part], stream, 5)

    pids = [forked(partial(work, part, fd)) for part, (_, fd) in zip(parts, pipes, strict=True)]
    results = []
    for out, fd in pipes:
        os.close(fd)
        with open(out, "rb") as stream:
            results.append(pickle.load(stream))
    for pid in pids:
        os.waitpid(pid, 0)
    return results


WORKLOADS = [
    MapOfTiny(),
    MapOfWork("map-uniform", "all the same", skewed=False),
    MapOfWork("map-skewed", "a few of them much longer", skewed=True),
]
