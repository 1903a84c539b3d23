"""Runs each task in the caller, at `submit`: for debugging, and for seeing what concurrency buys."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, ClassVar, Literal

from taskrun.backends.base import Backend, Capabilities
from taskrun.backends.calls import call
from taskrun.errors import TaskTimeoutError

if TYPE_CHECKING:
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler
    from taskrun.task import Task

__all__ = ["SerialBackend"]


class SerialBackend(Backend):
    """The submitting thread is the worker; when `submit` returns, the task is over."""

    name: ClassVar[str] = "serial"
    shares_context: ClassVar[bool] = True
    capabilities = Capabilities(
        cancel_queued=False, retry="in the caller", timeout="after the call", primitives="yes", concurrent=False
    )

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        """Remember whom to serve; the initializer runs before the first task."""
        self._scheduler = scheduler
        self._settings = settings
        self._ready = False
        self._starting = threading.RLock()  # one thread runs the initializer, the others wait for it

    def wake(self) -> None:
        """Run what the calling thread has queued."""
        if not self._ready and not self._initialize():
            return
        while (task := self._scheduler.pull_one()) is not None:
            self._run(task)

    def _initialize(self) -> bool:
        with self._starting:
            while not self._ready:
                try:
                    if self._settings.initializer is not None:
                        self._settings.initializer(*self._settings.initargs)
                except Exception as error:  # the user's initializer may raise anything; every future says so
                    pause = self._scheduler.initializer_failed(error)
                    if pause is None:
                        return False
                    time.sleep(pause)
                else:
                    self._ready = True
        self._scheduler.initializer_ok()
        return True

    def _run(self, task: Task) -> None:
        error, value, run = call(task, threading.current_thread().name)
        limit = task.options.timeout
        elapsed = run[2]
        interrupt = error if isinstance(error, KeyboardInterrupt) else None
        if limit is not None and elapsed > limit and interrupt is None:
            late = TaskTimeoutError(limit=limit, elapsed=elapsed, task=task.name, attempt=task.number)
            self._scheduler.fail(task, late, "timeout", run)
        elif error is not None:
            self._scheduler.fail(task, error, "raised", run)
        else:
            self._scheduler.succeed(task, value, run)
        if interrupt is not None:
            raise interrupt  # Ctrl-C was meant for the program, not only for this task

    def stop(self, task: Task, error: BaseException, cause: Literal["timeout", "killed"]) -> bool:
        """The task runs in the caller: nobody can stop it."""
        return False

    def shutdown(self) -> None:
        """Run the finalizer, if the initializer ran."""
        ready, self._ready = self._ready, False
        if ready and self._settings.finalizer is not None:
            self._settings.finalizer()

    def abort(self, *, force: bool) -> None:
        """There is nothing to stop: no task outlives `submit`."""

    def join(self, timeout: float | None = None) -> bool:
        """There is nothing to wait for."""
        return True
