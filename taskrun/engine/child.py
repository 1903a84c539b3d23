"""A child of the fork backend: one task, from its surroundings to its answer. All it needs is loaded before the fork."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import sys
import time
from contextvars import copy_context
from types import CoroutineType
from typing import TYPE_CHECKING, Any, NoReturn

from taskrun.coroutines import CoroutineRunner
from taskrun.engine import posix, surroundings
from taskrun.engine.alarm import SoftAlarm
from taskrun.engine.answer import ANSWER, DONE, LATE, NOT_READY, RAISED, STACK_AT, UNSENDABLE
from taskrun.engine.ending import forget_exit_handlers, run_exit_handlers
from taskrun.exceptions import dump_exception
from taskrun.serialization import dump_result, note_fork
from taskrun.task import CurrentTask, entered

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskrun.options import WorkerSettings
    from taskrun.task import Task

__all__ = ["become_child"]


def become_child(parent: int, number: int, task: Task, settings: WorkerSettings, answers: int, notes: int) -> NoReturn:
    """Be the child that *parent* has just forked: run *task*, write the answer to the pipe *answers*, end."""
    status = 1
    try:
        posix.leave_parent(parent)
        _free_import_locks()
        forget_exit_handlers()
        note_fork()
        status = _Child(number, task, settings, answers, notes).work()
    except BaseException:  # nothing may return into the parent's loop
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _free_import_locks() -> None:
    """Forget the import locks that other threads held: they do not exist here, and nobody would release them."""
    bootstrap = sys.modules.get("_frozen_importlib") or sys.modules.get("importlib._bootstrap")
    for table in ("_module_locks", "_blocking_on"):
        with contextlib.suppress(Exception):
            getattr(bootstrap, table).clear()


class _Child:
    """What happens in the child: one task, from its surroundings to its answer."""

    def __init__(self, number: int, task: Task, settings: WorkerSettings, answers: int, notes: int) -> None:
        self._number = number
        self._task = task
        self._settings = settings
        self._answers = answers
        self._notes = notes

    def work(self) -> int:
        """Run the task and answer; return the exit status."""
        os.lseek(self._notes, STACK_AT, os.SEEK_SET)
        faulthandler.enable(file=self._notes, all_threads=True)
        faulthandler.register(posix.STACK_SIGNAL, file=self._notes, all_threads=True, chain=False)
        runner = CoroutineRunner()
        started = time.monotonic()
        try:
            surroundings.apply_settings(self._settings, self._number)
            initializer = self._settings.initializer
            if initializer is not None:
                _awaited(runner, initializer(*self._settings.initargs))
        except BaseException as error:  # an initializer may raise anything; the parent turns it into an InitializerError
            self._answer(NOT_READY, started, dump_exception(error, task="initializer"))
            return 0
        kind, started, data = self._run(runner)
        self._answer(kind, started, data)
        return run_exit_handlers(self._settings.finalizer, runner)

    def _run(self, runner: Any) -> tuple[bytes, float, bytes]:
        task = self._task
        options, name = task.options, task.name
        started = time.monotonic()
        deadline = None if options.timeout is None else started + options.timeout
        current = CurrentTask(options.name or task.fn, task.index, task.number, deadline, task.seed_root, _Asked(self._notes))
        alarm = None
        if options.soft_timeout is not None:
            alarm = SoftAlarm(options.soft_timeout, current, runner, globals(), _call.__code__)
        seeded = current.seed if self._settings.seed is not None else None
        if seeded is not None:
            surroundings.seed_generators(seeded)
        context = copy_context() if task.context is None else task.context
        try:
            with alarm or contextlib.nullcontext():
                value = context.run(_call, current, runner, task.fn, task.args, task.kwargs)
        except BaseException as error:  # SystemExit and KeyboardInterrupt of a task are its outcomes, too
            late = alarm is not None and error is alarm.raised
            return LATE if late else RAISED, started, dump_exception(error, task=name)
        try:
            return DONE, started, dump_result(value, task=name)
        except BaseException as error:  # SerializationError, or what a signal handler of the user's raised
            return UNSENDABLE, started, dump_exception(error, task=name)

    def _answer(self, kind: bytes, started: float, data: bytes) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        head = ANSWER.pack(
            kind, started, time.monotonic() - started, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, len(data)
        )
        with contextlib.suppress(BrokenPipeError):  # the parent is gone
            view = memoryview(head + data)
            while view:
                view = view[os.write(self._answers, view) :]
        os.close(self._answers)


class _Asked:
    """Tells `current_task().cancelled` what the parent wrote into the notes."""

    def __init__(self, notes: int) -> None:
        self._notes = notes

    @property
    def cancel_requested(self) -> bool:
        return os.pread(self._notes, 1, 0) == b"c"


def _call(current: CurrentTask, runner: Any, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Run the task's code, in its context."""
    entered.set(current)
    return _awaited(runner, fn(*args, **kwargs))


def _awaited(runner: Any, value: Any) -> Any:
    return runner.run(value) if type(value) is CoroutineType else value
