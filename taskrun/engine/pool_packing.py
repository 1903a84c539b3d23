"""What one worker of the pool backend is sent, as bytes: what it has already does not travel again."""

from __future__ import annotations

import pickle
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from taskrun.cpus import cpu_count
from taskrun.engine import surroundings
from taskrun.engine.ahead import Bundle
from taskrun.engine.pool_worker import Call
from taskrun.engine.sent import Sent
from taskrun.reach import new_moment

if TYPE_CHECKING:
    from taskrun.engine.sent import Piece
    from taskrun.options import WorkerSettings
    from taskrun.shipping import Shipment, Shipped
    from taskrun.task import Task

__all__ = ["PoolPacking"]


class PoolPacking:
    """Used by one thread of the worker's pool at a time."""

    def __init__(self) -> None:
        self._sent = Sent()
        self._path: list[str] = []  # `sys.path` as the worker has it, and as it is now
        self._path_now: list[str] = []

    @property
    def shipped(self) -> Shipped:
        """What the worker was sent for its tasks to refer to."""
        return self._sent.shipped

    def setup(
        self, number: int, settings: WorkerSettings, context_vars: list[tuple[str, Any]]
    ) -> tuple[dict[str, Any], list[Piece]]:
        """Return what worker *number* is told before its first task. Runs the user's code; raises SerializationError."""
        self._path_now = list(sys.path)
        return self._sent.pack_setup(partial(surroundings.describe, settings, number, cpu_count(), context_vars))

    def call_for(self, task: Task, number: int, context_vars: list[tuple[str, Any]], seeded: bool) -> Call:
        """Return *task*. Runs the user's code; raises SerializationError."""
        new_moment()
        values = None if task.context is None else surroundings.context_payload(task.context, context_vars, task.name)
        self._path_now = list(sys.path)
        path = list(map(str, self._path_now)) if self._path_now != self._path else None
        return Call(number, _about(task, seeded, values, path), tuple(self._sent.pack(task)))

    def note_sent(self) -> list[Shipment]:
        """Note that the worker gets what was packed last, `setup` or `call_for`; return what it gets for the first time."""
        self._path = self._path_now
        return self._sent.note_sent()

    def bundle(self, task: Task, seeded: bool) -> Bundle | None:
        """Return *task* to be sent ahead, perhaps with others; None: it is to be sent by itself when nothing else runs.

        So is what brings something that the worker lacks, or runs the user's code to be packed: that may take long, and
        meanwhile no answer would be taken.
        """
        new_moment()
        if task.context is not None or sys.path != self._path:
            return None
        ready = self._sent.pack_ready(task)
        return None if ready is None else Bundle(task, _about(task, seeded, None, None), *ready)

    def alike(self, bundle: Bundle, task: Task) -> bytes | None:
        """Return the arguments of *task* for the same message; None: it has to be one of its own."""
        ready = self._sent.pack_ready(task) if bundle.suits(task) else None
        return None if ready is None else ready[1]


def _about(task: Task, seeded: bool, values: bytes | None, path: list[str] | None) -> bytes:
    options = task.options
    fields = (task.name, task.index, task.number, options.timeout, options.soft_timeout, task.seed_root, seeded, True)
    return pickle.dumps((fields, values, path), 5)
