"""Running one attempt in a thread of this process: what the thread-like backends share."""

from __future__ import annotations

import time
from contextvars import copy_context
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from taskrun.task import Entered, entered

if TYPE_CHECKING:
    from taskrun.backends.on_a_loop import OnTheLoop
    from taskrun.backends.soft_timeout import SoftTimeout
    from taskrun.coroutines import CoroutineRunner
    from taskrun.scheduler import Outcome, Scheduler
    from taskrun.task import Task

__all__ = ["CpuMeter", "call", "outcome_of"]


_SHORT = 50e-6  # seconds: of a call as short as this nobody asks what part of it was waiting
_EVERY = 1e-3  # seconds between looks at the clock, while calls are short


class CpuMeter:
    """Tells what CPU time each of the calls of one thread took, without a look at the clock for each.

    To look costs as much as some tiny tasks. So a short call is taken to have computed all the time; a longer one is charged
    with what the thread has used since the last look, a millisecond before it at most, but not with more than it lasted.
    """

    __slots__ = ("_at", "_used")

    def __init__(self) -> None:
        self._at = 0.0  # time.monotonic() of the last look
        self._used = 0.0

    def reset(self) -> None:
        """Look at the clock: what the thread did until now was no call's."""
        self._used, self._at = time.thread_time(), time.monotonic()

    def used(self, duration: float, ended: float) -> float:
        """Return the CPU seconds of a call that lasted so long and ended just now (`time.monotonic`)."""
        if duration < _SHORT and ended - self._at < _EVERY:
            return duration
        before = self._used
        self._used, self._at = time.thread_time(), ended
        return min(duration, self._used - before)


def call(
    scheduler: Scheduler, task: Task, worker: str, runner: CoroutineRunner | OnTheLoop, meter: CpuMeter | None = None
) -> Outcome:
    """Run *task* in a copy of its context, its soft timeout armed; return what to report. Raises nothing.

    *runner* is the worker's: it awaits coroutines. *meter* too, if it does nothing but run tasks.
    """
    # Taken once: a deadline may settle the task, which empties it, while it runs.
    fn, args, kwargs, options = task.fn, task.args, task.kwargs, task.options
    # A copy, since a retry starts from the submitter's context again, not from what this attempt left.
    run_in = (copy_context() if task.context is None else task.context.copy()).run
    current = Entered((task, fn, scheduler.settings.max_workers))
    error: BaseException | None = None
    value: Any = None
    alarm, soft = None, options.soft_timeout
    if meter is None:
        meter = CpuMeter()
        meter.reset()
    started = time.monotonic()
    try:
        if soft is not None:
            from taskrun.backends.soft_timeout import SoftTimeout

            alarm = SoftTimeout(scheduler.timer, runner, soft, current.current().name, task.number)
        try:
            run_in(entered.set, current)
            value = run_in(fn, *args, **kwargs)
            if type(value) is CoroutineType:
                value = run_in(runner.run, value)
        finally:
            if alarm is not None:
                alarm.disarm()
    except BaseException as raised:  # an outcome like any other: SystemExit of a task must not end its worker
        # Without this frame in the traceback, which would close a cycle: exception -> traceback -> frame -> exception.
        error = raised.with_traceback(raised.__traceback__ and raised.__traceback__.tb_next)
    ended = time.monotonic()
    duration = ended - started
    run = (worker, started, duration, meter.used(duration, ended), None)
    if alarm is None and error is None:
        return task, True, value, None, run
    try:
        return outcome_of(task, value, error, alarm, run)
    finally:
        # The frames of the task's traceback lead back to this one: it must not lead to the error again.
        del task, fn, args, kwargs, current, run_in, error, value, alarm


def outcome_of(task: Task, value: Any, error: BaseException | None, alarm: SoftTimeout | None, run: tuple[Any, ...]) -> Outcome:
    """Return what to report of an attempt that ended in *value*, or in *error* if that is not None."""
    if error is None:
        return task, True, value, None, run
    timed_out = alarm.public(error) if alarm is not None else None
    if timed_out is not None:
        return task, False, timed_out, "timeout", run
    return task, False, error, "raised", run
