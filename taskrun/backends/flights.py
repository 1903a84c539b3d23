"""Attempts that were sent to a foreign engine, and what becomes of those that it does not run: for `RemoteBackend`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from taskrun.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Collection

    from taskrun.task import Cause, Task

__all__ = ["Failure", "Flight", "lost_with_engine", "may_wait", "not_sendable"]

_WAITING = 100  # flights that may wait for a worker without a slot: the engine has to remember each
_WAITING_BYTES = 64_000_000  # of their calls


class Failure(NamedTuple):
    """Why an attempt has no answer."""

    error: BaseException
    cause: Cause


class Flight:
    """An attempt that was sent."""

    __slots__ = ("handle", "sent", "size", "started", "stopped", "task", "where", "worker")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.sent = False
        """The engine has it, or is given it at this moment."""
        self.size = 0
        """Bytes of its call."""
        self.handle: Any = None
        """The engine's, as `send` returned it."""
        self.started: float | None = None
        """`time.monotonic()` here when its start was reported."""
        self.worker: str | None = None
        """Who runs it, for people."""
        self.where: Any = None
        """The same for the engine."""
        self.stopped: Failure | None = None
        """What to report once its worker is gone."""


def may_wait(flight: Flight, waiting: Collection[Flight]) -> bool:
    """Return whether *flight* may wait for a worker without a slot, as *waiting* do."""
    return len(waiting) < _WAITING and sum(other.size for other in waiting) + flight.size <= _WAITING_BYTES


def not_sendable(task: Task, error: BaseException, backend: str) -> BaseException:
    """Return what a task ends in that the engine did not take, though it is there."""
    text = f"task {task.name!r} could not be sent to the cluster: {type(error).__name__}: {error}"
    failure = BackendUnavailableError(text, backend=backend)
    failure.__cause__ = error
    return failure


def lost_with_engine(task: Task, reason: str, error: BaseException | None) -> BaseException:
    """Return what a task ends in that was under way when its engine was lost."""
    from taskrun.errors import WorkerCrashedError

    text = f"task {task.name!r} (attempt {task.number}) was under way: {reason}"
    crash = WorkerCrashedError(text, task=task.name, attempt=task.number, guilt="unknown")
    crash.__cause__ = error
    return crash
