"""How a worker is stopped: it writes its stack, is asked to end (SIGTERM), and is killed if it does not."""

from __future__ import annotations

import math
import signal
from typing import TYPE_CHECKING, Protocol, TypeVar

from taskrun.errors import TaskKilledError

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskrun.task import Cause, Task

__all__ = ["GONE_WITHIN", "LOOK_AGAIN", "STACK_PATIENCE", "TAKEN_UP_WITHIN", "Look", "Stop"]

STACK_PATIENCE = 0.25
"""Seconds for a worker to write its stack before it is asked to end: milliseconds, once it has a CPU to itself."""
_KILL_AFTER = 0.3  # seconds between SIGTERM and SIGKILL
GONE_WITHIN = 3.0
"""Seconds after SIGKILL when it is looked whether the worker has ended, and whether the template has not said so."""
TAKEN_UP_WITHIN = 0.05
"""Seconds for a worker to take up what it was sent; then it is looked whether somebody has stopped it (SIGSTOP)."""
LOOK_AGAIN = 0.5
"""Seconds between two looks at a worker that takes its time to end."""
_TICK = 0.005


class Look:
    """When it is looked why something takes its time, again and again; the first time so long after it began to."""

    __slots__ = ("next",)

    def __init__(self) -> None:
        self.next = 0.0
        """`time.monotonic()`; 0 before it began."""

    def is_due(self, now: float, every: float) -> bool:
        """Return whether to look now."""
        if now < self.next:
            return False
        began, self.next = self.next > 0, now + every
        return began


class HasStack(Protocol):
    """A worker process that can write its stack."""

    def has_stack(self) -> bool: ...


T = TypeVar("T", bound=HasStack)


class Stop:
    """A worker's execution: for which task and with which error, and how far it has come."""

    __slots__ = ("asked_at", "cause", "error", "gone_by", "killed", "task", "terminate_at")

    def __init__(self, task: Task | None, error: BaseException | None, cause: Cause, now: float, patience: float = 0.0) -> None:
        self.task = task
        """The one to stop; None: it was answered, or whichever runs is meant (`error` is None)."""
        self.error = error
        self.cause: Cause = cause
        self.terminate_at = now + patience
        """Until then the worker may write its stack."""
        self.asked_at: float | None = None
        """When SIGTERM was sent."""
        self.killed = False
        self.gone_by = math.inf
        """When it should have ended, killed as it is; if nobody has said so by then, it is looked why."""

    @classmethod
    def of_everything(cls, now: float) -> Stop:
        """Stop the worker whatever it runs; the caller sends the signals, and nobody else escalates."""
        stop = cls(None, None, "killed", now)
        stop.asked_at = math.inf
        return stop

    def error_for(self, task: Task) -> BaseException | None:
        """Return the error of *task*, which ran when the worker ended; None: it is not the one that was to be stopped."""
        if self.task is task:
            return self.error
        if self.error is not None:
            return None
        message = f"task {task.name!r} was running when its executor was told to stop all workers"
        return TaskKilledError(message, task=task.name, attempt=task.number)

    def kill(self, handle: T, now: float, send: Callable[[T, int], None]) -> None:
        """Send SIGKILL."""
        self.killed = True
        self.gone_by = now + GONE_WITHIN
        send(handle, signal.SIGKILL)

    def step(self, handle: T, now: float, send: Callable[[T, int], None]) -> float | None:
        """Do what is due; return when to be called next (monotonic), or None."""
        if self.asked_at is None:
            if now < self.terminate_at:
                if handle.has_stack():
                    self.terminate_at = min(self.terminate_at, now + _TICK)  # it may not be complete yet
                return min(self.terminate_at, now + _TICK)
            self.asked_at = now
            send(handle, signal.SIGTERM)
        if self.killed:
            return self.gone_by if now < self.gone_by < math.inf else None
        when = self.asked_at + _KILL_AFTER
        if now < when:
            return None if when == math.inf else when
        self.kill(handle, now, send)
        return self.gone_by
