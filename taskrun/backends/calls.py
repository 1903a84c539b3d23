"""Running one attempt in a thread of this process: what the thread-like backends share."""

from __future__ import annotations

import time
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from taskrun.task import CurrentTask, entered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from taskrun.backends.on_a_loop import OnTheLoop
    from taskrun.backends.soft_timeout import SoftTimeout
    from taskrun.coroutines import CoroutineRunner
    from taskrun.scheduler import Outcome, Scheduler
    from taskrun.task import Task

__all__ = ["call", "current_of", "outcome_of"]


def call(scheduler: Scheduler, task: Task, worker: str, runner: CoroutineRunner | OnTheLoop) -> Outcome:
    """Run *task* in a copy of its context, its soft timeout armed; return what to report. Raises nothing.

    *runner* is the worker's: it awaits coroutines.
    """
    # Taken once: a deadline may settle the task, which empties it, while it runs.
    fn, args, kwargs, context, options = task.fn, task.args, task.kwargs, task.context, task.options
    current = current_of(scheduler, task)
    error: BaseException | None = None
    value: Any = None
    alarm, soft = None, options.soft_timeout
    started = time.monotonic()
    cpu = time.thread_time()
    try:
        if soft is not None:
            from taskrun.backends.soft_timeout import SoftTimeout

            alarm = SoftTimeout(scheduler.timer, runner, soft, current.name, task.number)
        try:
            # A copy, since a retry starts from the submitter's context again, not from what this attempt left.
            if context is None:
                value = _enter(current, runner, fn, args, kwargs)
            else:
                value = context.copy().run(_enter, current, runner, fn, args, kwargs)
        finally:
            if alarm is not None:
                alarm.disarm()
    except BaseException as raised:  # an outcome like any other: SystemExit of a task must not end its worker
        # Without this frame in the traceback, which would close a cycle: exception -> traceback -> frame -> exception.
        error = raised.with_traceback(raised.__traceback__ and raised.__traceback__.tb_next)
    run = (worker, started, time.monotonic() - started, time.thread_time() - cpu, None)
    try:
        return outcome_of(task, value, error, alarm, run)
    finally:
        # The frames of the task's traceback lead back to this one: it must not lead to the error again.
        del task, fn, args, kwargs, context, current, error, value, alarm


def current_of(scheduler: Scheduler, task: Task) -> CurrentTask:
    """Return what the code of *task*, which has begun, can ask about itself."""
    begun, options = task.begun, task.options
    deadline = None if options.timeout is None or begun is None else begun + options.timeout
    workers = scheduler.settings.max_workers
    return CurrentTask(options.name or task.fn, task.index, task.number, deadline, task.seed_root, task, workers)


def outcome_of(task: Task, value: Any, error: BaseException | None, alarm: SoftTimeout | None, run: tuple[Any, ...]) -> Outcome:
    """Return what to report of an attempt that ended in *value*, or in *error* if that is not None."""
    if error is None:
        return task, True, value, None, run
    timed_out = alarm.public(error) if alarm is not None else None
    if timed_out is not None:
        return task, False, timed_out, "timeout", run
    return task, False, error, "raised", run


def _enter(
    current: CurrentTask,
    runner: CoroutineRunner | OnTheLoop,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    token = entered.set(current)
    try:
        value = fn(*args, **kwargs)
        return runner.run(value) if type(value) is CoroutineType else value
    finally:
        entered.reset(token)
        del current, token  # they lead to the task, and from there to the error in whose traceback this frame is
