"""Runs each task in the caller, at `submit`: for debugging, and for seeing what concurrency buys."""

from __future__ import annotations

import threading
import time
import traceback
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from taskrun.backends.base import Backend, Capabilities
from taskrun.backends.calls import call
from taskrun.coroutines import CoroutineRunner
from taskrun.errors import ConfigError, SerializationError, TaskTimeoutError
from taskrun.exception_text import is_a

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Outcome, Scheduler
    from taskrun.task import Task

__all__ = ["SerialBackend"]


class SerialBackend(Backend):
    """The submitting thread is the worker; when `submit` returns, the task is over."""

    name: ClassVar[str] = "serial"
    shares_context = True
    capabilities = Capabilities(
        cancel_queued=False,
        retry="in the caller",
        timeout="after the call",
        pickles="with check_pickle",
        concurrent=False,
    )
    option_names: ClassVar[Mapping[str, str]] = {
        "check_pickle": "True: calls and results are pickled both ways, to find what a worker process would refuse"
    }

    def configure(self, options: Mapping[str, Any]) -> None:
        check_pickle = options.get("check_pickle", False)
        if not isinstance(check_pickle, bool):
            raise ConfigError(
                f"check_pickle must be True or False, not {check_pickle!r}", setting="check_pickle", allowed="True or False"
            )
        if check_pickle:  # threading's locks and queues do not pickle, and would not mean anything elsewhere
            self.capabilities = self.capabilities._replace(primitives="no")

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        """Remember whom to serve; the initializer runs before the first task."""
        self._scheduler = scheduler
        self._settings = settings
        self._check_pickle = settings.backend_options.get("check_pickle", False)
        self._inside: set[int] = set()  # identifiers of the threads that run a task; each adds and removes its own
        self._reporting: set[int] = set()  # ... that report one, in `wake`
        self._ready = False
        self._starting = threading.RLock()  # one thread runs the initializer, the others wait for it
        self._runners: dict[int, CoroutineRunner] = {}  # by thread: each enters its own item only, `shutdown` takes all

    @property
    def pickles_arguments(self) -> bool:
        return bool(self._check_pickle)

    # -- getting workers to work -----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Run what the calling thread has queued."""
        if threading.get_ident() in self._reporting or self._scheduler.callbacks.inside():
            return  # a retry, or submitted in a callback: a loop below us goes on with it, however many there will be
        self._work_off()

    def _work_off(self) -> None:
        """Run what is in the queue of the calling thread."""
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
                except KeyboardInterrupt:  # the caller's own, here
                    raise
                except BaseException as error:  # the user's initializer may raise anything; every future says so
                    pause = self._scheduler.initializer_failed(error)
                    if pause is None:
                        return False
                    time.sleep(pause)
                else:
                    self._ready = True
        self._scheduler.initializer_ok()
        return True

    # -- in a worker -----------------------------------------------------------------------------------------------------------

    def _run(self, task: Task) -> None:
        me = threading.get_ident()
        nested = me in self._inside
        try:
            self._inside.add(me)
            outcome = self._call_pickled(task) if self._check_pickle else self._call(task)
        finally:
            if not nested:
                self._inside.discard(me)
        _, succeeded, error, _, run = outcome
        limit = task.options.timeout
        elapsed = 0.0 if run is None else run[2]
        interrupt = error if not succeeded and is_a(error, KeyboardInterrupt) else None
        if limit is not None and elapsed > limit and interrupt is None:
            late = TaskTimeoutError(limit=limit, elapsed=elapsed, task=task.name, attempt=task.number)
            outcome = (task, False, late, "timeout", run)
        self._report(outcome)
        try:
            if interrupt is not None:
                raise interrupt  # Ctrl-C was meant for the program, not only for this task
        finally:
            # The frames of the task's traceback lead back to this one: it must not lead to the error again.
            del outcome, error, interrupt

    def _report(self, outcome: Outcome) -> None:
        me = threading.get_ident()
        nested = me in self._reporting
        try:
            self._reporting.add(me)
            self._scheduler.settle((outcome,))
        finally:
            if not nested:
                self._reporting.discard(me)
            del outcome

    def _call(self, task: Task) -> Outcome:
        runner = self._runners.setdefault(threading.get_ident(), CoroutineRunner())
        return call(self._scheduler, task, threading.current_thread().name, runner)

    def _call_pickled(self, task: Task) -> Outcome:
        from taskrun.backends.pickled_call import Place, dump_call, load_answer, run_in

        try:
            payload = dump_call(task, [])
        except SerializationError as error:
            return task, False, error, "serialization", None
        context, place = task.context, Place()
        try:
            answer = run_in(place, payload) if context is None else context.copy().run(run_in, place, payload)
        finally:
            place.runner.close()
        return load_answer(task, answer)

    # -- stopping --------------------------------------------------------------------------------------------------------------

    def stop(self, task: Task, error: BaseException, cause: Literal["timeout", "killed"]) -> bool:
        """The task runs in the caller: nobody can stop it."""
        return False

    # -- waiting ---------------------------------------------------------------------------------------------------------------

    def owns_current_thread(self) -> bool:
        """Return True in a task."""
        return threading.get_ident() in self._inside

    def waiting(self) -> AbstractContextManager[None]:
        """Run what the caller waits for, if it is still queued: it asks in a callback, or Ctrl-C has torn the loop."""
        self._work_off()
        return nullcontext()

    # -- ending ----------------------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Run the finalizer, if the initializer ran."""
        ready, self._ready = self._ready, False
        if ready and self._settings.finalizer is not None:
            try:
                self._settings.finalizer()
            except BaseException:
                traceback.print_exc()  # as in a worker: the executor ends all the same
        while self._runners:
            self._runners.popitem()[1].close()

    def abort(self, *, force: bool) -> None:
        """There is nothing to stop: no task outlives `submit`."""

    def join(self, timeout: float | None = None) -> bool:
        """There is nothing to wait for."""
        return True
