"""Runs tasks in sub-interpreters of this process (Python 3.14 and later): each has a GIL of its own, and shares no objects.

A worker is a thread as those of the `thread` backend, with a sub-interpreter of its own in which its tasks run; how they get
there, and their outcomes back, is in `subinterpreter`. The thread itself pickles and unpickles: the user's code in that holds
up one worker.

The scheduler's lock guards `_there`, since `notice_cancel` and `stop` look at it from other threads.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from taskrun.backends.base import Capabilities, refuse_waiting_in
from taskrun.backends.subinterpreter import SubInterpreter
from taskrun.backends.thread import ThreadBackend, ThreadWorker
from taskrun.cpus import cpu_count
from taskrun.engine.surroundings import describe, locate_context_vars

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler
    from taskrun.task import Task

__all__ = ["InterpreterBackend"]

_LONGEST = 3600.0  # seconds of one sleep: a lock cannot be waited for as long as a user may like an idle worker to live


class InterpreterBackend(ThreadBackend):
    """The interpreters cannot be stopped: one whose task timed out is abandoned with its thread."""

    name: ClassVar[str] = "interpreter"
    capabilities = Capabilities(kill="slot only", recycle_by_count=True, pickles="yes", primitives="Queue")

    shares_context = False
    combines_items = False
    """Nobody could take back what a run there has not begun: signals reach the main interpreter only."""

    @classmethod
    def unavailable(cls) -> str | None:
        """Sub-interpreters with an interface in the standard library came with Python 3.14."""
        if sys.version_info < (3, 14):
            running = ".".join(map(str, sys.version_info[:2]))
            return f'interpreter needs Python 3.14 or later, and this is {running}; install that, or use backend="thread" here'
        if importlib.util.find_spec("_interpreters") is None:
            return f'this {sys.implementation.name} was built without the module _interpreters; use backend="thread" here'
        return None

    @classmethod
    def default_max_workers(cls, cpus: int) -> int:
        """As many as CPUs: they run Python at the same time."""
        return cpus

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        """Remember whom to serve; threads and interpreters start when there is work."""
        self._context_vars = locate_context_vars(settings.context_vars)
        self._there: dict[threading.Thread, SubInterpreter] = {}
        super().start(scheduler, settings)

    # -- in a worker -----------------------------------------------------------------------------------------------------------

    def _work(self, worker: ThreadWorker) -> None:
        there = self._come_to_life(worker)
        if there is not None:
            self._serve(worker, there)
            there.close(orderly=not worker.abandoned)
            with self._scheduler.lock:
                del self._there[worker]
        self._leave(worker)

    def _come_to_life(self, worker: ThreadWorker) -> SubInterpreter | None:
        """Make the interpreter of *worker* and run the initializer in it; None: it will not have one."""
        scheduler = self._scheduler
        while not worker.abandoned:
            there = None
            try:
                there = SubInterpreter(worker.name)
                error = there.begin(partial(describe, self._settings, 0, cpu_count(), self._context_vars))
            except BaseException as problem:  # it cannot be made, or what it has to know cannot be sent
                if there is not None:
                    there.close()
                scheduler.break_down(f"workers cannot be started: {problem}", problem)
                return None
            if error is None:
                if self._settings.initializer is not None:
                    scheduler.initializer_ok()
                with scheduler.lock:
                    self._there[worker] = there
                return there
            there.close()
            pause = scheduler.initializer_failed(error)
            if pause is None:
                return None
            time.sleep(pause)
        return None

    def _serve(self, worker: ThreadWorker, there: SubInterpreter) -> None:
        """Run tasks in *there* until it is old enough or nothing more comes."""
        scheduler, settings = self._scheduler, self._settings
        while self._next(worker):
            task = worker.task
            if task is None:
                continue
            outcome = there.run(task, worker.name, self._context_vars)
            with scheduler.lock:
                worker.task = None
                if not worker.abandoned:
                    there.ask(False)
            scheduler.settle_ours((outcome,))
            del task, outcome  # an idle worker keeps nothing alive
            old = settings.max_age_per_child is not None and there.moved > there.born + settings.max_age_per_child
            if worker.abandoned or there.broken or old or there.done == settings.max_tasks_per_child:
                return

    def _sleep(self, worker: ThreadWorker) -> bool:
        """Sleep as a thread does, but not longer than the interpreter may be idle, or live."""
        settings, there = self._settings, self._there[worker]
        ends = [
            since + limit
            for since, limit in ((there.born, settings.max_age_per_child), (there.moved, settings.idle_timeout))
            if limit is not None
        ]
        if not ends:
            return super()._sleep(worker)
        while (left := min(ends) - time.monotonic()) > 0:
            if worker.gate.acquire(timeout=min(left, _LONGEST)):
                return True
        with self._scheduler.lock:
            if not worker.coming:
                self._parked.remove(worker)
                return False
        return super()._sleep(worker)  # let go just now: there is work

    # -- stopping --------------------------------------------------------------------------------------------------------------

    def stop(self, task: Task, error: BaseException, cause: Literal["timeout", "killed"]) -> bool:
        """Give the task's place to another interpreter; this one cannot be stopped, but its task can see that it should."""
        self.notice_cancel(task)
        return super().stop(task, error, cause)

    def notice_cancel(self, task: Task) -> None:
        with self._scheduler.lock:
            worker = self._worker_of(task)
            if worker is not None:
                self._there[worker].ask(True)

    def _note_stack(self, error: BaseException, worker: ThreadWorker) -> None:
        """The frames of another interpreter are its own: to touch them here would not be safe."""

    # -- waiting ---------------------------------------------------------------------------------------------------------------

    def waiting(self) -> AbstractContextManager[None]:
        refuse_waiting_in(threading.current_thread() if self.owns_current_thread() else None)
        return nullcontext()

    # -- ending ----------------------------------------------------------------------------------------------------------------

    def abort(self, *, force: bool) -> None:
        """Abandon the interpreters whose tasks run, and those that come to life or end."""
        with self._scheduler.lock:
            busy = [worker.task for worker in self._workers if worker.task is not None]
        for task in busy:
            self.notice_cancel(task)
        super().abort(force=force)
        if force:
            with self._scheduler.lock:
                for worker in self._workers:
                    worker.abandoned = True
