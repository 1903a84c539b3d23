"""How fast do results come from an endless input, how far ahead is it read, and does memory stay flat?"""

from __future__ import annotations

from contextlib import closing, nullcontext
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING, Any

from benchmarks.machine import resident_bytes
from benchmarks.tasks import echo
from benchmarks.workloads.base import Metric, Scale, Values, WarmWorkload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.systems.base import System

__all__ = ["WORKLOADS"]

_LOOK_EVERY = 100


class Stream(WarmWorkload):
    """Results taken one by one from a map over a generator."""

    metrics = {  # noqa: RUF012 - a constant
        "rate": Metric("items/s", more_is_better=True),
        "ahead": Metric("items", more_is_better=False),
        "growth": Metric("MB", more_is_better=False),
    }

    def __init__(self, name: str, *, ordered: bool, items: int, rounds: int | None = None) -> None:
        self.name = name
        order = "in order" if ordered else "as they come"
        self.question = f"How fast do {items:,} results come {order} from an endless input, and how far ahead is it read?"
        self.needs = frozenset({"stream" if ordered else "stream-unordered"})
        self.rounds = rounds
        self._ordered = ordered
        self._items = items

    def measure(self, system: System, scale: Scale) -> Values:
        self._take(system, 500, 9e9)
        # Those that take one by one over a pipe are not asked for millions.
        return self._take(system, scale.of(self._items, least=500), 5 * scale.seconds * self._items / 1_000_000)

    def _take(self, system: System, items: int, seconds: float) -> Values:
        read = 0

        def source() -> Iterator[int]:
            nonlocal read
            for number in count(1) if system.lazy else range(1, items + 1):
                read = number
                yield number

        results: Any = (system.stream if self._ordered else system.stream_unordered)(echo, source())
        ahead = taken = total = 0
        began, before = perf_counter(), resident_bytes()
        with closing(results) if hasattr(results, "close") else nullcontext():
            for value in results:
                taken += 1
                total += value
                if taken % _LOOK_EVERY == 0:
                    ahead = max(ahead, read - taken)
                    if perf_counter() - began > seconds:
                        break
                if taken == items:
                    break
            took, grown = perf_counter() - began, resident_bytes() - before
        if self._ordered:
            assert total == taken * (taken + 1) // 2, "wrong results of a stream"
        return {"rate": taken / took, "ahead": float(ahead), "growth": max(0.0, grown / 1e6), "count": float(taken)}


WORKLOADS = [
    Stream("stream", ordered=True, items=1_000_000),
    Stream("stream-unordered", ordered=False, items=1_000_000),
    Stream("stream-long", ordered=True, items=10_000_000, rounds=1),
]
