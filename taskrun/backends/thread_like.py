"""What the backends share whose workers are threads of this process: made up for when they wait, abandoned, never stopped."""

from __future__ import annotations

import gc
import sys
import threading
import time
import traceback
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from taskrun.backends.base import Backend
from taskrun.errors import TaskKilledError, TaskTimeoutError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager
    from types import FrameType

    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler
    from taskrun.task import Task

__all__ = ["ThreadLikeBackend", "finalize", "frame_of", "initialize", "note_stack", "try_initializer"]


class _Here(threading.local):
    made_up = False
    """For this thread, which waits, another worker may run."""


_here = _Here()


class ThreadLikeBackend(Backend):
    """`_target` says how many workers there may be now; guarded by the scheduler's lock. `start` sets all three."""

    shares_context = True
    _scheduler: Scheduler
    _settings: WorkerSettings
    _target: int
    _allowed = 0  # of those, by `allow`

    @classmethod
    def default_max_workers(cls, cpus: int) -> int:
        """More than CPUs, as in the standard library: threads mostly wait."""
        return min(32, cpus + 4)

    def _fewer_wanted(self) -> None:
        """`_target` is smaller now: have workers look whether they are still wanted."""

    # -- waiting ---------------------------------------------------------------------------------------------------------------

    def waiting(self) -> AbstractContextManager[None]:
        """Make up for a worker of ours that waits for another task."""
        return self.waiting_elsewhere() if self.owns_current_thread() else nullcontext()

    @contextmanager
    def waiting_elsewhere(self) -> Iterator[None]:
        """Make up for the worker of ours in whose thread this is called, once, for however much it waits."""
        if _here.made_up:
            yield
            return
        with self.one_more():
            _here.made_up = True
            try:
                yield
            finally:
                _here.made_up = False

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Let there be one more worker."""
        with self._scheduler.lock:
            self._target += 1
        self.wake()
        try:
            yield
        finally:
            with self._scheduler.lock:
                self._target -= 1
            self._fewer_wanted()

    def allow(self, extra: int) -> None:
        with self._scheduler.lock:
            self._target += extra - self._allowed
            self._allowed = extra
        self.wake()
        self._fewer_wanted()

    # -- stopping and ending ---------------------------------------------------------------------------------------------------

    def _give_up_all(self, tasks: Iterable[Task], *, force: bool) -> None:
        """Ask the *tasks* that run to end; *force*: let their futures fail and abandon whoever runs them."""
        for task in tasks:
            task.cancel_requested = True
            if force:
                error = TaskKilledError(f"task {task.name!r} was abandoned when its executor was stopped", task=task.name)
                self.stop(task, error, "killed")
                self._scheduler.fail(task, error, "killed")


def note_stack(error: BaseException, thread: threading.Thread | None) -> None:
    """Put the stack of *thread*, which goes on, into a timeout's error."""
    frame = None if thread is None else frame_of(thread)
    if frame is not None and isinstance(error, TaskTimeoutError):
        error.stack = "".join(traceback.format_stack(frame))


def frame_of(thread: threading.Thread) -> FrameType | None:
    """Return the frame that *thread* is in; None: it runs no Python code, or has ended.

    Without the collector meanwhile: in Python 3.11 a deadlock follows if it runs in there (python/cpython#106883).
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames().get(thread.ident or 0)
    finally:
        if collects:
            gc.enable()


def try_initializer(scheduler: Scheduler) -> float | None:
    """Run the initializer; return 0.0, or after a failure the seconds to wait before the next try, None: no more."""
    settings = scheduler.settings
    try:
        if settings.initializer is not None:
            settings.initializer(*settings.initargs)
    except BaseException as error:  # the user's initializer may raise anything; every future says so
        return scheduler.initializer_failed(error)
    scheduler.initializer_ok()
    return 0.0


def initialize(scheduler: Scheduler) -> bool:
    """Run the initializer in this worker until it goes well; False: it will not."""
    while pause := try_initializer(scheduler):
        time.sleep(pause)
    return pause is not None


def finalize(scheduler: Scheduler) -> None:
    """Run the finalizer in this worker, which ends in order."""
    if scheduler.settings.finalizer is not None:
        try:
            scheduler.settings.finalizer()
        except BaseException:
            traceback.print_exc()  # nobody waits for its outcome
