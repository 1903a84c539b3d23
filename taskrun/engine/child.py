"""A child of the fork backend: one task, from its surroundings to its answer. All it needs is loaded before the fork."""

from __future__ import annotations

import contextlib
import faulthandler  # noqa: F401 - `notes.prepare_stack` loads it
import os
import resource
import sys
import time
from contextvars import copy_context
from typing import TYPE_CHECKING, NoReturn

from taskrun.coroutines import CoroutineRunner
from taskrun.engine import notes, posix, surroundings
from taskrun.engine.answer import ANSWER, NOT_READY
from taskrun.engine.attempt import About, awaited, run_attempt
from taskrun.engine.ending import end_a_copy, forget_exit_handlers, renew_primitives, run_exit_handlers
from taskrun.exceptions import dump_exception
from taskrun.serialization import note_fork

if TYPE_CHECKING:
    from taskrun.options import WorkerSettings
    from taskrun.task import Task

__all__ = ["become_child"]


def become_child(
    parent: int, number: int, task: Task, settings: WorkerSettings, threads: int, answers: int, notes_fd: int
) -> NoReturn:
    """Be the child that *parent* has just forked: run *task*, write the answer to the pipe *answers*, end."""
    status = 1
    try:
        posix.leave_parent(parent)
        forget_exit_handlers()
        renew_primitives()
        note_fork()
        status = _Child(number, task, settings, threads, answers, notes_fd).work()
    except BaseException:  # nothing may return into the parent's loop
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


class _Child:
    """What happens in the child: one task, from its surroundings to its answer."""

    def __init__(self, number: int, task: Task, settings: WorkerSettings, threads: int, answers: int, notes_fd: int) -> None:
        self._number = number
        self._task = task
        self._settings = settings
        self._threads = threads
        self._answers = answers
        self._notes = notes_fd

    def work(self) -> int:
        """Run the task and answer; return the exit status."""
        notes.prepare_stack(self._notes)
        runner = CoroutineRunner()
        started = time.monotonic()
        try:
            surroundings.apply_settings(self._settings, self._number, self._threads)
            initializer = self._settings.initializer
            if initializer is not None:
                me = os.getpid()
                awaited(runner, initializer(*self._settings.initargs))
                if os.getpid() != me:  # forked by it, and came back from it in both
                    end_a_copy()
        except BaseException as error:  # an initializer may raise anything; the parent turns it into an InitializerError
            self._answer(NOT_READY, started, time.monotonic() - started, dump_exception(error, task="initializer"))
            return 0
        notes.take_up(self._notes, self._number)
        kind, started, duration, data = self._run(runner)
        self._answer(kind, started, duration, data)
        return run_exit_handlers(self._settings.finalizer, runner)

    def _run(self, runner: CoroutineRunner) -> tuple[bytes, float, float, bytes]:
        task, options = self._task, self._task.options
        seeded = self._settings.seed is not None
        about = About(task.name, task.index, task.number, options.timeout, options.soft_timeout, task.seed_root, seeded, False)
        context = copy_context() if task.context is None else task.context
        asked = notes.Asked(self._notes, self._number)
        return run_attempt(about, task.fn, task.args, task.kwargs, context, asked, runner)

    def _answer(self, kind: bytes, started: float, duration: float, data: bytes) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        head = ANSWER.pack(kind, started, duration, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, len(data))
        with contextlib.suppress(BrokenPipeError):  # the parent is gone
            view = memoryview(head + data)
            while view:
                view = view[os.write(self._answers, view) :]
        os.close(self._answers)
