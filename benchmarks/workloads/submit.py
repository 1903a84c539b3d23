"""How many tasks a second go through when they are submitted one by one and gathered at the end?"""

from __future__ import annotations

import os
import pickle
import socket
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from benchmarks.tasks import KILOBYTES_10, noop, now_and_then, spin, ten_kilobytes
from benchmarks.workloads.base import (
    WORKERS,
    Metric,
    Scale,
    Skipped,
    Values,
    WarmWorkload,
    rate,
    seconds_of,
    wrong_if_not,
)
from benchmarks.workloads.forked import forked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.systems.base import System

__all__ = ["WORKLOADS"]

_EACH = 50  # one task in so many takes two milliseconds, in the mixed load
_BATCH = 64


class Submit(WarmWorkload):
    """Tasks submitted one by one, then gathered, on a system that is up."""

    metrics = {"rate": Metric("tasks/s", more_is_better=True)}  # noqa: RUF012 - a constant

    def __init__(self, name: str, what: str, count: int | None = None) -> None:
        self.name = name
        self.question = f"How many tasks a second, submitted one by one and gathered: {what}?"
        self._count = count

    def calls(self, scale: Scale) -> Iterator[tuple[Callable[..., Any], tuple[Any, ...]]]:
        """Yield function and arguments of each task."""
        while True:
            yield noop, ()

    def right(self, values: list[Any]) -> bool:
        """Return whether these are the results of the first tasks."""
        return all(value is None for value in values)

    def _run(self, system: System, scale: Scale, count: int) -> list[Any]:
        submit = system.submit
        return system.gather([submit(fn, *args) for fn, args in islice(self.calls(scale), count)])

    def measure(self, system: System, scale: Scale) -> Values:
        wrong_if_not(self.right(self._run(system, scale, 2 * _EACH)), self.name)
        run = partial(self._run, system, scale)
        if self._count is None:
            return rate(run, scale.of(50_000), scale.seconds)
        count = scale.of(self._count) if scale.part < 0.1 else self._count
        least = 500 / seconds_of(lambda: run(500))
        if count / least > scale.longest:
            raise Skipped(f"would take {count / least:.0f} s")
        pieces = max(1, min(5, int(scale.seconds * least / count)))  # small ones repeated: the clock is not the question
        return {"rate": pieces * count / sum(seconds_of(lambda: run(count)) for _ in range(pieces)), "count": float(count)}

    def floors(self) -> dict[str, Callable[[Scale], Values]]:
        return {"floor: batches over pipes": _batches} if self.name == "submit-10000" else {}


class Spinning(Submit):
    """Tasks that work for twenty microseconds."""

    def calls(self, scale: Scale) -> Iterator[tuple[Callable[..., Any], tuple[Any, ...]]]:
        loops = scale.loops(20e-6)
        while True:
            yield spin, (loops,)

    def right(self, values: list[Any]) -> bool:
        return set(values) == {values[0]} and values[0] > 0


class Large(Submit):
    """Tasks with results of ten kilobytes."""

    def calls(self, scale: Scale) -> Iterator[tuple[Callable[..., Any], tuple[Any, ...]]]:
        i = 0
        while True:
            yield ten_kilobytes, (i,)
            i += 1

    def right(self, values: list[Any]) -> bool:
        return all(len(value) == KILOBYTES_10 and value == ten_kilobytes(i) for i, value in enumerate(values))


class Mixed(Submit):
    """Tasks of which one in fifty takes two milliseconds, the others nothing."""

    def calls(self, scale: Scale) -> Iterator[tuple[Callable[..., Any], tuple[Any, ...]]]:
        loops = scale.loops(2e-3)
        while True:
            yield now_and_then, (loops,)
            for _ in range(_EACH - 1):
                yield now_and_then, (0,)

    def right(self, values: list[Any]) -> bool:
        return all((value > 0) == (i % _EACH == 0) for i, value in enumerate(values))


def _serve(sock: socket.socket) -> None:
    with sock.makefile("rwb", buffering=1 << 20) as stream:
        while True:
            calls = pickle.load(stream)
            if calls is None:
                return
            pickle.dump([fn(*args) for fn, args in calls], stream, 5)
            stream.flush()


def _batches(scale: Scale) -> Values:
    """Two workers, each handed no-ops 64 at a time, one batch ahead: no futures, no guarantees."""

    def run(streams: list[Any], count: int) -> None:
        got = 0
        for i in range(0, count, _BATCH):
            stream = streams[i // _BATCH % WORKERS]
            pickle.dump([(noop, ())] * _BATCH, stream, 5)
            stream.flush()
            if i >= 2 * WORKERS * _BATCH:
                got += len(pickle.load(stream))
        while got < count:
            for stream in streams:
                if got < count:
                    got += len(pickle.load(stream))

    pairs = [socket.socketpair() for _ in range(WORKERS)]
    pids = [forked(partial(_serve, theirs)) for _, theirs in pairs]
    streams = [ours.makefile("rwb", buffering=1 << 20) for ours, _ in pairs]
    most = WORKERS * _BATCH * max(4, scale.of(1_000))
    run(streams, WORKERS * _BATCH * 4)
    result = rate(partial(run, streams), most, scale.seconds, least=most)
    for stream in streams:
        pickle.dump(None, stream)
        stream.close()
    for ours, theirs in pairs:
        ours.close()
        theirs.close()
    for pid in pids:
        os.waitpid(pid, 0)
    return result


WORKLOADS = [
    *(Submit(f"submit-{n}", f"no-ops, {n:,} of them queued at once", n) for n in (1_000, 10_000, 100_000, 300_000)),
    Spinning("submit-20us", "each works 20 us"),
    Large("submit-10kB", "each returns 10 kB"),
    Mixed("submit-mixed", "one in 50 takes 2 ms, the others nothing"),
]
