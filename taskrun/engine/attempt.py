"""One attempt in the main thread of a worker process, from its function and arguments to its outcome as bytes.

For the backends whose worker processes run one task at a time; the worker of `process` has a faster loop of its own.
"""

from __future__ import annotations

import os
import time
from contextlib import nullcontext
from types import CoroutineType
from typing import TYPE_CHECKING, Any, NamedTuple

from taskrun.engine import generators
from taskrun.engine.alarm import SoftAlarm
from taskrun.engine.answer import DONE, LATE, RAISED, UNSENDABLE
from taskrun.engine.ending import end_a_copy
from taskrun.exception_text import without_frames_of
from taskrun.exceptions import dump_exception, explain_lack
from taskrun.serialization import dump_result
from taskrun.task import CurrentTask, entered

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from taskrun.coroutines import CoroutineRunner
    from taskrun.engine.notes import Asked

__all__ = ["About", "awaited", "run_attempt"]


class About(NamedTuple):
    """What there is to know of an attempt besides its function, arguments and context. Picklable; times in seconds."""

    name: str
    position: int
    number: int
    timeout: float | None
    soft_timeout: float | None
    seed_root: int | None
    seeded: bool
    """The global generators are to be seeded for it."""
    fresh: bool
    """The process was started without what the parent has loaded and changed."""


def run_attempt(
    about: About,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Any,
    context: Context,
    asked: Asked,
    runner: CoroutineRunner,
    dump: Callable[..., bytes] = dump_result,
) -> tuple[bytes, float, float, bytes]:
    """Run it; return the kind of the outcome (see `answer`), when the call began, the seconds it took, and the pickle.

    *dump* pickles what it returns. Raises nothing.
    """
    name, soft, me = about.name, about.soft_timeout, os.getpid()
    started = time.monotonic()
    deadline = None if about.timeout is None else started + about.timeout
    current = CurrentTask(name, about.position, about.number, deadline, about.seed_root, asked)
    alarm = None if soft is None else SoftAlarm(soft, current, runner, globals(), _call.__code__)
    try:
        if about.seeded:
            generators.seed_generators(current.seed)
        with alarm or nullcontext():
            value = context.run(_call, current, runner, fn, args, kwargs)
        duration = time.monotonic() - started
    except BaseException as error:  # SystemExit and KeyboardInterrupt of a task are its outcomes, too
        duration = time.monotonic() - started
        _end_a_copy(me)
        late = alarm is not None and error is alarm.raised
        without_frames_of(globals(), error)
        if about.fresh:
            explain_lack(error)
        return LATE if late else RAISED, started, duration, dump_exception(error, task=name)
    _end_a_copy(me)
    try:
        return DONE, started, duration, dump(value, task=name)
    except BaseException as error:  # SerializationError, or what a signal handler of the user's raised
        return UNSENDABLE, started, duration, dump_exception(error, task=name)


def _call(current: CurrentTask, runner: CoroutineRunner, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Run the task's code, in its context."""
    entered.set(current)
    return awaited(runner, fn(*args, **kwargs))


def awaited(runner: CoroutineRunner, value: Any) -> Any:
    """Return *value*, or what it comes to if it is a coroutine."""
    return runner.run(value) if type(value) is CoroutineType else value


def _end_a_copy(me: int) -> None:
    if os.getpid() != me:
        end_a_copy()
