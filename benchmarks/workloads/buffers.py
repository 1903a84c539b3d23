"""How many megabytes a second travel to a task, and back?"""

from __future__ import annotations

import mmap
import os
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.tasks import changed, fresh_array
from benchmarks.workloads.base import Metric, Scale, Values, WarmWorkload
from benchmarks.workloads.forked import forked

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.systems.base import System

__all__ = ["WORKLOADS"]

_COUNT = 8_000_000  # 64-bit integers: 64 MB
_TIMES = 6


class Buffers(WarmWorkload):
    """An array of 64 MB, changed between sends: to a task, back from one, or shared by promise."""

    metrics = {"rate": Metric("MiB/s", more_is_better=True)}  # noqa: RUF012 - a constant

    def __init__(self, way: Literal["to", "back", "shared"], question: str) -> None:
        self.name = f"buffers-{way}"
        self.question = question
        self.needs = frozenset({"call", "shared"} if way == "shared" else {"call"})
        self._way = way

    def measure(self, system: System, scale: Scale) -> Values:
        import numpy as np

        array = np.arange(scale.of(_COUNT, least=1_000), dtype=np.int64)
        send: Callable[[int], None]
        if self._way == "shared":  # sent to each worker with the first task there
            send = partial(self._again, system, system.shared(array), len(array))
        else:
            send = partial(self._to if self._way == "to" else self._back, system, array)
        for i in range(4):
            send(i)
        return _rate(send, scale)

    def _to(self, system: System, array: Any, i: int) -> None:
        array[0] = array[-1] = i
        assert system.call(changed, array) == (array.nbytes, i, i)

    def _back(self, system: System, array: Any, i: int) -> None:
        result = system.call(fresh_array, len(array), i)
        assert len(result) == len(array)
        assert int(result[-1]) == i
        result[0] = i + 1  # private and writable, as if pickled

    def _again(self, system: System, array: Any, count: int, _: int) -> None:
        assert system.call(changed, array) == (8 * count, 0, count - 1)

    def floors(self) -> dict[str, Callable[[Scale], Values]]:
        return {"floor: memcpy": _memcpy, "floor: warm shared segment": _segment} if self._way == "to" else {}


def _rate(send: Callable[[int], None], scale: Scale) -> Values:
    sent, began = 0, perf_counter()
    while sent < _TIMES or perf_counter() - began < scale.seconds:
        send(sent)
        sent += 1
        if perf_counter() - began > 4 * scale.seconds:
            break
    size = 8 * scale.of(_COUNT, least=1_000)
    return {"rate": sent * size / 2**20 / (perf_counter() - began), "count": float(sent)}


def _memcpy(scale: Scale) -> Values:
    """Copy an array onto another that is there already."""
    import numpy as np

    source = np.arange(scale.of(_COUNT, least=1_000), dtype=np.int64)
    target = source.copy()
    return _rate(lambda _: np.copyto(target, source), scale)


def _segment(scale: Scale) -> Values:
    """Copy an array into memory shared with a child, which copies it out into memory of its own."""
    import numpy as np

    source = np.arange(scale.of(_COUNT, least=1_000), dtype=np.int64)
    memory = mmap.mmap(-1, source.nbytes)
    shared = np.frombuffer(memory, np.int64)
    calls_out, calls_in = os.pipe()
    answers_out, answers_in = os.pipe()

    def serve() -> None:
        os.close(calls_in)
        while os.read(calls_out, 1):
            private = shared.copy()
            os.write(answers_in, b"1" if private[0] == private[-1] else b"0")

    def send(i: int) -> None:
        source[0] = source[-1] = i
        np.copyto(shared, source)
        os.write(calls_in, b"1")
        assert os.read(answers_out, 1) == b"1"

    pid = forked(serve)
    for i in range(3):
        send(i)
    values = _rate(send, scale)
    os.close(calls_in)
    os.waitpid(pid, 0)
    for fd in (calls_out, answers_out, answers_in):
        os.close(fd)
    return values


WORKLOADS = [
    Buffers("to", "How many MiB/s of an array of 64 MB, changed each time, reach a task?"),
    Buffers("back", "How many MiB/s of an array of 64 MB come back from a task, private and writable?"),
    Buffers("shared", "How many MiB/s does a task read of an array of 64 MB that was promised not to change?"),
]
