"""Running one attempt in a thread of this process: what the thread-like backends share."""

from __future__ import annotations

import time
from contextvars import copy_context
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from taskrun.cpu_meter import CpuMeter
from taskrun.exception_text import without_first_frame
from taskrun.task import Entered, entered

if TYPE_CHECKING:
    from taskrun.backends.on_a_loop import OnTheLoop
    from taskrun.backends.soft_timeout import SoftTimeout
    from taskrun.coroutines import CoroutineRunner
    from taskrun.scheduler import Outcome, Scheduler
    from taskrun.task import Task

__all__ = ["call", "outcome_of"]


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
        error = without_first_frame(raised)
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
