"""Running one attempt in a thread of this process: what the thread-like backends share."""

from __future__ import annotations

import inspect
import time
from typing import TYPE_CHECKING, Any

from taskrun.task import CurrentTask, entered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from taskrun.task import Task

__all__ = ["call"]


def call(task: Task, worker: str) -> tuple[BaseException | None, Any, tuple[Any, ...]]:
    """Run *task* in a copy of its context: (error or None, value, run record). Raises nothing."""
    # Taken once: a deadline may settle the task, which empties it, while it runs.
    fn, args, kwargs, context = task.fn, task.args, task.kwargs, task.context
    limit, begun = task.options.timeout, task.begun
    deadline = None if limit is None or begun is None else begun + limit
    current = CurrentTask(task.name, task.index, task.number, deadline, task.seed_root, task)
    error: BaseException | None = None
    value: Any = None
    started = time.monotonic()
    cpu = time.thread_time()
    try:
        # A copy, since a retry starts from the submitter's context again, not from what this attempt left.
        value = _enter(current, fn, args, kwargs) if context is None else context.copy().run(_enter, current, fn, args, kwargs)
    except BaseException as raised:  # an outcome like any other: SystemExit of a task must not end its worker
        # Without this frame in the traceback, which would close a cycle: exception -> traceback -> frame -> exception.
        error = raised.with_traceback(raised.__traceback__ and raised.__traceback__.tb_next)
    run = (worker, started, time.monotonic() - started, time.thread_time() - cpu, None)
    return error, value, run


def _enter(current: CurrentTask, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    token = entered.set(current)
    try:
        value = fn(*args, **kwargs)
        if inspect.iscoroutine(value) and inspect.iscoroutinefunction(fn):
            import asyncio

            return asyncio.run(value)
        return value
    finally:
        entered.reset(token)
