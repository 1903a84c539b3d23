"""How long does one task take, from submit to result, when nothing else is under way?"""

from __future__ import annotations

import os
import pickle
import statistics
import threading
from functools import partial
from queue import SimpleQueue
from time import perf_counter
from typing import TYPE_CHECKING, Any

from benchmarks.tasks import echo
from benchmarks.workloads.base import Metric, Scale, Values, WarmWorkload
from benchmarks.workloads.forked import forked

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.systems.base import System

__all__ = ["WORKLOADS"]

_COUNT = 3_000


class RoundTrip(WarmWorkload):
    """One task at a time, each waited for."""

    name = "round-trip"
    question = "How long does one task take from submit to result, with nothing else under way?"
    metrics = {  # noqa: RUF012 - a constant
        "p50": Metric("us", more_is_better=False),
        "p99": Metric("us", more_is_better=False),
    }
    needs = frozenset({"call"})

    def measure(self, system: System, scale: Scale) -> Values:
        return _times(partial(system.call, echo), scale)

    def floors(self) -> dict[str, Callable[[Scale], Values]]:
        return {"floor: pipe ping-pong": _pipes, "floor: thread hand-off": _threads}


def _times(call: Callable[[Any], Any], scale: Scale) -> Values:
    times, until = [], perf_counter() + 4 * scale.seconds
    for i in range(scale.of(_COUNT, least=20)):
        began = perf_counter()
        value = call(i)
        ended = perf_counter()
        assert value == i
        times.append(ended - began)
        if ended > until and len(times) >= 100:
            break
    cuts = statistics.quantiles(times, n=100)
    return {"p50": cuts[49] * 1e6, "p99": cuts[98] * 1e6, "count": float(len(times))}


def _pipes(scale: Scale) -> Values:
    """A pickled call to a child over one pipe, and its pickled answer over another."""
    calls_out, calls_in = os.pipe()
    answers_out, answers_in = os.pipe()

    def serve() -> None:
        os.close(calls_in)
        while data := os.read(calls_out, 1000):
            fn, args = pickle.loads(data)
            os.write(answers_in, pickle.dumps(fn(*args), 5))

    def call(value: int) -> Any:
        os.write(calls_in, pickle.dumps((echo, (value,)), 5))
        return pickle.loads(os.read(answers_out, 1000))

    pid = forked(serve)
    for i in range(200):
        call(i)
    values = _times(call, scale)
    os.close(calls_in)
    os.waitpid(pid, 0)
    for fd in (calls_out, answers_out, answers_in):
        os.close(fd)
    return values


def _threads(scale: Scale) -> Values:
    """A call to a thread over one queue, and its answer over another."""
    calls: SimpleQueue[Any] = SimpleQueue()
    answers: SimpleQueue[Any] = SimpleQueue()

    def serve() -> None:
        while (work := calls.get()) is not None:
            fn, args = work
            answers.put(fn(*args))

    def call(value: int) -> Any:
        calls.put((echo, (value,)))
        return answers.get()

    thread = threading.Thread(target=serve)
    thread.start()
    for i in range(200):
        call(i)
    values = _times(call, scale)
    calls.put(None)
    thread.join()
    return values


WORKLOADS = [RoundTrip()]
