"""The workers of the pool backend: how they come to life and end. `pool_watch` looks after them, what they run is `pool`.

A pool of one process for each worker: death, kill, timeout and a result that breaks off concern one pool, which is given up
and replaced; see `engine.small_pool`. Starting a process may take its time (a fork server that has to start first, or was
stopped), so that a second thread of ours besides the keeper, the *maker*, does it; and it lives as long as the processes, which
the kernel kills with the thread that made them.
"""

from __future__ import annotations

import os
import signal
import time
from abc import abstractmethod
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from taskrun.backends.kept import MOST_DEATHS
from taskrun.backends.pool_watch import PoolWatch
from taskrun.backends.start_methods import chosen_method, warn_of_threads
from taskrun.errors import SerializationError
from taskrun.serialization import not_received, not_sent
from taskrun.threads import OwnThread

if TYPE_CHECKING:
    from taskrun.engine.pool_worker import Answer
    from taskrun.engine.pooled import PooledWorker
    from taskrun.future import Future
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler
    from taskrun.task import Task

__all__ = ["PoolWorkers"]

_LOOK_EVERY = 0.002  # seconds, while a pool ends
_REAPED_WITHIN = 0.5  # seconds; else somebody else did it, and the exit status is unknown


class PoolWorkers(PoolWatch):
    """The part of the backend that makes and buries workers."""

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        """Start the keeper and the maker; workers are made when there is work."""
        from multiprocessing import get_context

        from taskrun.engine import fork_server
        from taskrun.engine.pooled import PooledWorker
        from taskrun.engine.surroundings import locate_context_vars

        method = chosen_method(settings.backend_options)
        self._context_vars = locate_context_vars(settings.context_vars)
        self._context = get_context(method)
        if method == "forkserver":
            fork_server.have_loaded("taskrun.engine.pool_worker", "taskrun.by_value")
        elif method == "fork":
            from taskrun import by_value  # noqa: F401 - the pools' threads would load it, perhaps while a child is forked
            from taskrun.engine.posix import load_libc

            load_libc()
            warn_of_threads('start_method="fork"', 'the default start_method="forkserver"')
        self._new_worker = PooledWorker
        self._crashed: WeakSet[Future[Any]] = WeakSet()  # of tasks that took a worker down: if they run again, on a fresh one
        self._broken = self._forced = False
        self._orders: SimpleQueue[PooledWorker | None] = SimpleQueue()
        self._making = False
        self._maker = OwnThread(f"{settings.name}-maker", self._make_workers)
        self._maker.start()
        try:
            super().start(scheduler, settings)
        except BaseException:
            self._orders.put(None)
            raise

    # -- coming to life --------------------------------------------------------------------------------------------------------

    def _start_worker(self) -> None:
        try:
            worker = self._new_worker(self._number)
        except OSError as error:  # no descriptor is left
            self._start_failed(error)
            return
        self._number += 1
        with self._scheduler.lock:
            self._processes[worker.number] = worker
        self._orders.put(worker)

    def _make_workers(self) -> None:
        """Make what is ordered. In the maker."""
        while (worker := self._orders.get()) is not None:
            self._making = True  # before it looks whether anybody waits for it: `join` relies on that
            self._make(worker)
            self._making = False
            del worker

    def _make(self, worker: PooledWorker) -> None:
        made, error = False, None
        if not worker.unwanted:
            try:
                worker.make(self._context, self._pid, partial(self._tell, self._lost, worker))
                made = True
            except BaseException as problem:  # the maker must not die
                error = problem
        with self._scheduler.lock:
            worker.made = made
            unwanted = worker.unwanted
        if unwanted:
            worker.destroy()
        else:
            self._tell(self._made, worker, error)

    def _made(self, worker: PooledWorker, error: BaseException | None) -> None:
        if error is not None:
            self._discard(worker)
            self._start_failed(error)
            return
        if worker.pidfd < 0:  # dead already
            self._died(worker)
            return
        self._watch(worker, worker.pidfd)
        self._watch(worker, worker.lifeline)
        if worker.stop is not None:
            worker.signal(signal.SIGKILL if worker.stop.killed else signal.SIGTERM)
            return
        tell = self._tell
        worker.begin(
            self._settings, self._context_vars, partial(tell, self._begun, worker), partial(tell, self._not_begun, worker)
        )

    def _begun(self, worker: PooledWorker, answer: Answer) -> None:
        from taskrun.engine.answer import READY
        from taskrun.exceptions import load_exception

        if worker.dead:
            return
        if answer.kind == READY:
            worker.ready = True
            worker.born = worker.moved = time.monotonic()
            if self._settings.initializer is not None:
                self._scheduler.initializer_ok()
            return
        self._broken = not self._initializer_failed(load_exception(answer.data))
        self._leave(worker)

    def _not_begun(self, worker: PooledWorker, error: BaseException) -> None:
        """What it has to know could not be sent: the initializer or its arguments do not pickle, or it is dead."""
        if not isinstance(error, SerializationError):
            self._lost(worker, error)
            return
        self._broken = True
        self._scheduler.break_down(f"workers cannot be started: {error}", error)
        self._leave(worker)

    def _lost(self, worker: PooledWorker, error: BaseException) -> None:
        """The line to a worker is broken, if the worker is not dead anyway: it is killed, and `_bury` sees to its task."""
        if not worker.dead:
            if not isinstance(error, OSError):
                worker.trouble = error
            worker.signal(signal.SIGKILL)

    def _somebody_works(self) -> bool:
        return any(worker.ready and not worker.dead for worker in self._processes.values())

    # -- the end of a worker ---------------------------------------------------------------------------------------------------

    def _heard(self, process: PooledWorker, fd: int) -> None:
        """It has ended, or has closed its end of the lifeline and with it all that it could answer by."""
        self._forget(fd)
        if fd == process.pidfd:
            self._died(process)
        else:
            process.silent_since = time.monotonic()

    def _died(self, worker: PooledWorker) -> None:
        """From here on `_due` follows it to its end: the pool has to reap it, and its threads to take what has arrived."""
        with self._scheduler.lock:
            worker.dead = True
        worker.dead_since = time.monotonic()
        if not worker.leaving:
            worker.end_group()  # what its task started ends with it

    def _bury(self, worker: PooledWorker, now: float) -> list[float]:
        """Settle what a dead worker had, step by step; return when to look again."""
        pool = worker.pool
        if not worker.given_up:
            worker.exit_status = pool.exit_status()
            if worker.exit_status is None and now < worker.dead_since + _REAPED_WITHIN:
                return [now + _LOOK_EVERY]
            worker.given_up = True
            pool.give_up()
        hopeless = self._forced and now > worker.dead_since + _REAPED_WITHIN  # the user's code hangs in one of its threads
        over = hopeless or pool.gone()  # looked at first: they may end at any moment, and what it had is settled before
        if not worker.blamed and (over or not pool.may_answer()):
            worker.blamed = True
            self._settle_dead(worker)
        if not over:
            return [now + _LOOK_EVERY]
        self._discard(worker)
        return [now]  # look again whether that was all

    def _settle_dead(self, worker: PooledWorker) -> None:
        """Report what became of the task that a worker had, if it had one and has not answered."""
        from taskrun.engine.crash import verdict

        self._reduce(worker)
        with self._scheduler.lock:
            task = None if worker.answering and not self._forced else worker.task
            worker.task = worker.batch = None
        if task is None:
            if not (worker.ready or worker.leaving or worker.stop):
                self._died_at_start(worker)
            return
        stopped = worker.stop is not None and worker.stop.error_for(task) is not None
        task.place = deaths = (task.place or 0) + 1  # of workers that had it in hand
        if not stopped and (lack := self._lack_of_memory(worker, task, deaths)) is not None:
            self._scheduler.fail(task, lack, "serialization")
            return
        if not (stopped or worker.has_taken_up() or deaths >= MOST_DEATHS):
            self._scheduler.give_back([task])  # without blame
            return
        oom = None if worker.stop is not None else self._memory.killed(worker.exit_status)
        error, cause = verdict(worker, task, oom)
        if cause == "crashed":
            self._crashed.add(task.future)
        self._scheduler.fail(task, error, cause)

    def _lack_of_memory(self, worker: PooledWorker, task: Task, deaths: int) -> SerializationError | None:
        """Return the error of *task* if its worker had to die since there was no memory, here or there, for what was sent."""
        from taskrun.engine.pool_line import NO_MEMORY

        begun, trouble = worker.has_taken_up(), worker.trouble
        if isinstance(trouble, MemoryError) and begun:
            return not_received(trouble, value="result", side="parent", task=task.name)
        if isinstance(trouble, MemoryError) and deaths >= MOST_DEATHS:  # for its pickle: it was tried again
            return not_sent(trouble, task)
        if worker.exit_status == NO_MEMORY and not begun:
            return not_received(MemoryError(), value="arguments", side="worker", task=task.name)
        return None

    @abstractmethod
    def _reduce(self, worker: PooledWorker) -> None:
        """Take back what of its batch a worker has not begun; what it has, and has not answered, is its task from then on."""

    def _died_at_start(self, worker: PooledWorker) -> None:
        from taskrun.engine.crash import how_it_ended

        stack = worker.stack()
        how = f"worker {worker.label} {how_it_ended(worker.exit_status)} while it started"
        error = RuntimeError(how + (f"\n{stack}" if stack else ""))
        if self._settings.initializer is not None:
            self._broken = not self._initializer_failed(error)
        else:
            self._start_failed(error)

    def _discard(self, worker: PooledWorker) -> None:
        self._forget(worker.pidfd)
        self._forget(worker.lifeline)
        with self._scheduler.lock:
            self._processes.pop(worker.number, None)
        worker.close()

    # -- ending ----------------------------------------------------------------------------------------------------------------

    def _abort(self, force: bool) -> None:
        super()._abort(force)
        if not force:
            return
        self._forced = True
        for worker in list(self._processes.values()):
            with self._scheduler.lock:
                worker.unwanted = not worker.made  # making it may take for ever: the maker sees it off
                if worker.unwanted:
                    del self._processes[worker.number]

    def _end(self) -> None:
        self._orders.put(None)

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the maker, too, unless it is at a process that nobody waits for any more."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if not super().join(timeout):
            return False
        if os.getpid() == self._pid and not (self._forced and self._making):
            self._maker.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return not self._maker.is_alive() or self._forced

    def workers(self) -> list[str]:
        with self._scheduler.lock:
            return [worker.label for worker in self._processes.values() if worker.ready and not worker.dead]
