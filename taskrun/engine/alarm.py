"""`soft_timeout` in a worker process: SIGALRM raises TaskTimeoutError in the task, once."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

from taskrun.coroutines import in_a_step

if TYPE_CHECKING:
    from types import CodeType, FrameType

    from taskrun.coroutines import CoroutineRunner
    from taskrun.task import CurrentTask

__all__ = ["SoftAlarm"]

_AGAIN = 0.002  # seconds until the next try, where raising was not safe


class SoftAlarm:
    """A context in which the main thread runs a task for at most *limit* seconds.

    The error is raised only in code of the task: in a frame of the worker's own (one with *ours* as its globals) the call has
    not begun, or is over and its value counts. But a task that is a C function has no frame of its own: what runs it is
    *caller*, where raising is safe from end to end. A coroutine that waits, or whose turn it is not, gets it from *runner*.
    """

    def __init__(
        self, limit: float, current: CurrentTask, runner: CoroutineRunner, ours: dict[str, Any], caller: CodeType
    ) -> None:
        self.raised: BaseException | None = None
        """The error, once it was raised."""
        self._runner = runner
        self._limit = limit
        self._current = current
        self._ours = (ours, globals())
        self._caller = caller
        self._began = 0.0
        self._previous: Any = None
        self._over = False

    def __enter__(self) -> None:
        self._began = time.monotonic()
        self._previous = signal.signal(signal.SIGALRM, self._go_off)
        signal.setitimer(signal.ITIMER_REAL, self._limit, _AGAIN)

    def __exit__(self, *_: object) -> None:
        self._over = True  # one may have come that Python has not handled yet
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._previous if self._previous is not None else signal.SIG_DFL)

    def _go_off(self, _: int, frame: FrameType | None) -> None:
        if (
            self._over
            or frame is None
            or (any(frame.f_globals is ours for ours in self._ours) and frame.f_code is not self._caller)
        ):
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        from taskrun.errors import TaskTimeoutError

        elapsed, current = time.monotonic() - self._began, self._current
        error = TaskTimeoutError(limit=self._limit, elapsed=elapsed, task=current.name, attempt=current.attempt, soft=True)
        self.raised = error
        if in_a_step(frame) or not self._runner.interrupt(error, _nothing):
            raise error


def _nothing() -> None:
    """Leave it to the caller."""
