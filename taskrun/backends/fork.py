"""Runs each task in a child of its own, made by `os.fork`: arguments and closures are inherited, only the outcome is pickled.

A child inherits everything as it is at the fork, the locks that other threads hold among it: those of `logging` are seen to by
Python, the import locks in the child; nobody can free the user's.
"""

from __future__ import annotations

import math
import signal
import time
from typing import TYPE_CHECKING, ClassVar

from taskrun.backends.base import Capabilities
from taskrun.backends.kept import MOST_DEATHS, KeptBackend
from taskrun.backends.start_methods import warn_of_threads
from taskrun.cpus import affinity, cpu_count
from taskrun.threads import in_subinterpreter

if TYPE_CHECKING:
    from taskrun.engine.forked import ForkedChild
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler
    from taskrun.task import Task

__all__ = ["ForkBackend"]

_STILL_AT_WORK = 1.0
"""Seconds after its answer in which a child that does not end counts as a worker; then another may be made beside it."""
_LOOK_AT_CPUS = 1.0  # seconds between looks at how many CPUs there are: ten files of the kernel's
_LINGER = 10.0
"""Seconds that a child has, whatever the limit of its task, for what comes after its answer: the finalizer, exit handlers, the
queues that it flushes. The limit is the task's, and that was in time."""


class ForkBackend(KeptBackend["ForkedChild"]):
    """A child that dies fails only its own task; each is new, so that nothing has to be recycled."""

    name: ClassVar[str] = "fork"
    combines_items = False
    capabilities = Capabilities(
        crash_isolation=True,
        kill="yes",
        initializer="in each child",
        pickles="results",
        processes=True,
    )
    shares_context = True  # the context is inherited like everything else

    @classmethod
    def unavailable(cls) -> str | None:
        if in_subinterpreter():
            return 'a sub-interpreter allows no fork; use backend="process" here'
        return super().unavailable()

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        """Load all that a child needs, and start the keeper."""
        from taskrun.engine.forked import ForkedChild
        from taskrun.engine.posix import load_libc

        self._new_child = ForkedChild
        self._threads, self._threads_until, self._cpus = 1, 0.0, 0
        load_libc()
        warn_of_threads('backend="fork"', 'backend="process"')
        super().start(scheduler, settings)

    # -- getting workers to work -----------------------------------------------------------------------------------------------

    def _room(self) -> bool:
        if not self._scheduler.queued:
            return False
        now = time.monotonic()
        at_work = sum(now < child.answered_at + _STILL_AT_WORK for child in self._processes.values())
        return at_work < self._settings.max_workers and now >= self._failures.not_before

    def _feed(self) -> None:
        while self._room():
            task = self._scheduler.pull_one()
            if task is None:
                return
            if not self._start_child(task):
                return

    def _start_child(self, task: Task) -> bool:
        """Fork a child for *task*; False: that cannot be done now."""
        try:
            child = self._new_child(self._number, task)
            child.start(self._settings, self._inner_threads())
        except Exception as error:  # whatever it is, the task must not be lost
            self._scheduler.give_back([task])
            self._start_failed(error)
            return False
        self._number += 1
        self._failures.progress()
        task.worker = child.label
        with self._scheduler.lock:
            self._processes[child.number] = child
        if task.cancel_requested:  # meanwhile, when `notice_cancel` did not find it yet
            child.note_cancel()
        for fd in (child.pipe, child.pidfd):
            self._watch(child, fd)
        return True

    def _inner_threads(self) -> int:
        """Return how many threads libraries may use in a child; what limits the group is looked at once a second."""
        from taskrun.engine.surroundings import inner_threads

        now, cpus = time.monotonic(), affinity()
        if now >= self._threads_until or cpus != self._cpus:
            self._threads = inner_threads(self._settings, cpu_count())
            self._threads_until, self._cpus = now + _LOOK_AT_CPUS, cpus
        return self._threads

    # -- what workers say ------------------------------------------------------------------------------------------------------

    def _heard(self, process: ForkedChild, fd: int) -> None:
        self._read(process)
        if fd == process.pidfd:
            self._ended(process)

    def _read(self, child: ForkedChild) -> None:
        if child.pipe in self._by_fd and not child.read():
            self._forget(child.pipe)
            child.silent_since = None if child.settled else time.monotonic()
        try:
            outcome = None if child.settled or child.trouble is not None else child.outcome()
        except ValueError as error:
            self._forget(child.pipe)
            self._lose(child, error)
            return
        if outcome is None:
            return
        child.silent_since = None
        child.settled = True
        child.answered_at = time.monotonic()
        if outcome[3] == "initializer":
            self._not_ready(child, outcome[2])
            return
        if self._settings.initializer is not None:
            self._scheduler.initializer_ok()
        begun, limit = child.task.begun, child.task.options.timeout
        if begun is not None and limit is not None:
            child.may_linger_until = max(begun + limit, time.monotonic() + _LINGER)
        self._scheduler.settle((outcome,))

    def _not_ready(self, child: ForkedChild, error: BaseException) -> None:
        """The initializer failed: the task has not run."""
        self._initializer_failed(error)
        self._scheduler.give_back([child.task])

    def _ended(self, child: ForkedChild) -> None:
        """See a dead child off."""
        self._forget(child.pipe)
        self._forget(child.pidfd)
        child.reap()
        with self._scheduler.lock:
            del self._processes[child.number]
        if not child.settled:
            self._settle_dead(child)
        child.close()

    def _settle_dead(self, child: ForkedChild) -> None:
        """Report what became of the task of a dead child that has not answered: stopped, crashed, or not begun at all."""
        from taskrun.engine.crash import how_it_ended, verdict

        task = child.task
        stopped = child.stop is not None and child.stop.error_for(task) is not None
        if not (stopped or child.has_taken_up()):
            task.place = deaths = (task.place or 0) + 1
            if self._settings.initializer is not None:
                how = f"child {child.label} {how_it_ended(child.exit_status)} in the initializer"
                self._not_ready(child, RuntimeError(how))
                return
            if deaths < MOST_DEATHS:
                self._scheduler.give_back([task])  # without blame
                return
        oom = None if child.stop is not None else self._memory.killed(child.exit_status)
        error, cause = verdict(child, task, oom)
        self._scheduler.fail(task, error, cause)

    def _due(self, now: float) -> list[float]:
        """See to children that have answered and do not end (a thread goes on, an exit handler): they keep nobody waiting."""
        times = []
        for child in self._processes.values():
            if now < child.answered_at + _STILL_AT_WORK < math.inf:
                times.append(child.answered_at + _STILL_AT_WORK)
            if child.may_linger_until is not None:
                if now >= child.may_linger_until:
                    child.may_linger_until = None
                    child.signal(signal.SIGKILL)
                else:
                    times.append(child.may_linger_until)
        return times

    # -- stopping --------------------------------------------------------------------------------------------------------------

    def _still_runs(self, process: ForkedChild) -> bool:
        return not process.settled
