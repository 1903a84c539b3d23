"""What does it cost to have an executor at all: imported, constructed, used once, shut down?"""

from __future__ import annotations

import os
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from benchmarks.tasks import echo
from benchmarks.workloads.base import WORKERS, Metric, Scale, Values, Workload
from benchmarks.workloads.forked import forked

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.systems.base import System

__all__ = ["WORKLOADS"]


class StartUp(Workload):
    """Construct, first result, shut down: once, since a second time finds helpers of the first. Importing is apart."""

    name = "start-up"
    question = "How long until the first result of a new executor, and how long does its shutdown take?"
    metrics = {  # noqa: RUF012 - a constant
        "total": Metric("ms", more_is_better=False),
        "first": Metric("ms", more_is_better=False),
        "shutdown": Metric("ms", more_is_better=False),
        "import": Metric("ms", more_is_better=False),
    }
    needs = frozenset({"call"})

    def run(self, make: Callable[..., System], scale: Scale) -> Values:
        system = make()
        importing = perf_counter()
        system.load()
        began = perf_counter()  # what is imported later counts
        system.open()
        value = system.call(echo, 5)
        first = perf_counter()
        system.close()
        ended = perf_counter()
        assert value == 5
        return {**_values(began, first, ended), "import": (began - importing) * 1e3}

    def floors(self) -> dict[str, Callable[[Scale], Values]]:
        return {"floor: raw fork": _raw}


def _serve(calls: tuple[int, int], answers: tuple[int, int]) -> None:
    os.close(calls[1])
    while data := os.read(calls[0], 1):
        os.write(answers[1], data)


def _raw(scale: Scale) -> Values:
    """Fork two children, have one answer a byte, have both end."""
    began = perf_counter()
    children = []
    for _ in range(WORKERS):
        calls, answers = os.pipe(), os.pipe()
        children.append((forked(partial(_serve, calls, answers)), calls, answers))
    _, calls, answers = children[0]
    os.write(calls[1], b"5")
    assert os.read(answers[0], 1) == b"5"
    first = perf_counter()
    for child, calls, _ in reversed(children):
        os.close(calls[1])  # the later one holds a copy of the earlier one's
        os.waitpid(child, 0)
    ended = perf_counter()
    return {**_values(began, first, ended), "import": 0.0}


def _values(began: float, first: float, ended: float) -> Values:
    return {"total": (ended - began) * 1e3, "first": (first - began) * 1e3, "shutdown": (ended - first) * 1e3}


WORKLOADS = [StartUp()]
