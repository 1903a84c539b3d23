"""Runs tasks in workers of `multiprocessing.Pool`.

A pool of one process for each worker: death, kill, timeout and a result that breaks off concern one pool, which is given up
and replaced; see `engine.small_pool`. The keeper hands a task to a worker that has none. Starting a process may take its time
(a fork server that has to start first, or was stopped), so that a second thread of ours, the *maker*, does it; and it lives as
long as the processes, which the kernel kills with the thread that made them.

A task is pickled in a thread of the pool that it was given to, and begins when that is done: until then it can be taken back.
Its answer is unpickled in another one.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from contextlib import nullcontext
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakSet

from taskrun.backends.base import Capabilities, refuse_waiting_in
from taskrun.backends.kept import KeptBackend
from taskrun.backends.start_methods import MP_CONTEXT, chosen_method, warn_of_threads
from taskrun.errors import SerializationError
from taskrun.serialization import not_sent
from taskrun.threads import OwnThread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from taskrun.engine.pool_worker import Answer, Call
    from taskrun.engine.pooled import PooledWorker
    from taskrun.future import Future
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler
    from taskrun.task import Task

__all__ = ["PoolBackend"]

_LOOK_EVERY = 0.002  # seconds, while a pool ends
_REAPED_WITHIN = 0.5  # seconds; else somebody else did it, and the exit status is unknown
_TAKEN_UP_WITHIN = 0.05  # seconds; then it is looked why not
_MOST_DEATHS = 3  # of workers before they took up one and the same task


class PoolBackend(KeptBackend["PooledWorker"]):
    """A dying worker fails only the task it ran."""

    name: ClassVar[str] = "pool"
    capabilities = Capabilities(
        crash_isolation=True,
        kill="yes",
        recycle_by_count=True,
        recycle_by_state=True,
        pickles="yes",
        processes=True,
    )
    option_names: ClassVar[Mapping[str, str]] = {
        "start_method": 'how workers are made: "forkserver" (default: from multiprocessing\'s fork server), "spawn" or "fork"',
        **MP_CONTEXT,
    }

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        """Start the keeper and the maker; workers are made when there is work."""
        from multiprocessing import get_context

        from taskrun.engine.pooled import PooledWorker
        from taskrun.engine.surroundings import locate_context_vars

        method = chosen_method(settings)
        self._context_vars = locate_context_vars(settings.context_vars)
        self._context = get_context(method)
        if method == "fork":
            from taskrun.engine.posix import load_libc

            load_libc()
            warn_of_threads('start_method="fork"', 'the default start_method="forkserver"')
        self._new_worker = PooledWorker
        self._suspects: deque[Task] = deque()  # took a worker down, and run again: each on a fresh one
        self._crashed: WeakSet[Future[Any]] = WeakSet()
        self._broken = False
        self._inside = threading.local()
        self._orders: SimpleQueue[PooledWorker | None] = SimpleQueue()
        self._maker = OwnThread(f"{settings.name}-maker", self._make_workers)
        self._maker.start()
        try:
            super().start(scheduler, settings)
        except BaseException:
            self._orders.put(None)
            raise

    # -- getting workers to work -----------------------------------------------------------------------------------------------

    def _room(self) -> bool:
        return self._step() is not None

    def _feed(self) -> None:
        while (step := self._step()) is not None:
            step()

    def _step(self) -> Callable[[], object] | None:
        """Return what to do next for the tasks that wait, or None."""
        queued, suspects = self._scheduler.queued, self._suspects
        if not (queued or suspects):
            return None
        if self._broken:
            return self.recall if suspects else None
        fresh, used = self._free_workers()
        current = [worker for worker in self._processes.values() if not (worker.leaving or worker.dead or worker.stop)]
        room = len(current) < self._settings.max_workers
        if suspects:
            if fresh is not None:
                return partial(self._give_suspect, fresh)
            if used is not None and not room and all(worker.done for worker in current):
                return used.leave  # it makes room for a fresh one
        worker = used or (None if suspects else fresh)
        if queued and worker is not None:
            return partial(self._give_next, worker)
        coming = sum(not worker.ready for worker in current)
        if room and coming < queued + len(suspects) and time.monotonic() >= self._failures.not_before:
            return self._start_worker
        return None

    def _free_workers(self) -> tuple[PooledWorker | None, PooledWorker | None]:
        """Return a free worker that was given nothing yet; and the other one that worked last: its caches are warm."""
        free = [
            worker
            for worker in self._processes.values()
            if worker.ready and not (worker.busy or worker.leaving or worker.dead or worker.stop)
        ]
        fresh = next((worker for worker in free if not worker.done), None)
        return fresh, max((worker for worker in free if worker.done), key=lambda worker: worker.moved, default=None)

    def _give_next(self, worker: PooledWorker) -> None:
        for task in self._scheduler.pull(1):
            if task.number > 1 and task.future in self._crashed:
                with self._scheduler.lock:
                    self._suspects.append(task)
            else:
                self._hand_over(worker, task)

    def _give_suspect(self, worker: PooledWorker) -> None:
        with self._scheduler.lock:
            task = self._suspects.popleft() if self._suspects else None
        if task is not None:
            self._hand_over(worker, task)

    def _hand_over(self, worker: PooledWorker, task: Task) -> None:
        with self._scheduler.lock:
            worker.task, worker.packing, worker.busy = task, True, True
            worker.seen = False
            worker.sequence += 1
            worker.done += 1
        worker.moved = time.monotonic()
        task.worker = worker.label
        worker.give(
            partial(self._pack, worker, task), partial(self._answered, worker, task), partial(self._not_sent, worker, task)
        )

    # -- making workers --------------------------------------------------------------------------------------------------------

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
            error: BaseException | None = None
            try:
                worker.make(self._context, self._pid)
            except BaseException as problem:  # the maker must not die
                error = problem
            with self._scheduler.lock:
                worker.made = error is None
                unwanted = worker.unwanted
            if unwanted:
                worker.destroy()
            else:
                self._tell(self._made, worker, error)
            del worker, error

    def _made(self, worker: PooledWorker, error: BaseException | None) -> None:
        if error is not None:
            self._discard(worker)
            self._start_failed(error)
            return
        if worker.pidfd < 0:  # dead already
            self._died(worker)
            return
        self._watch(worker, worker.pidfd)
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

        if answer.kind == READY:
            worker.ready = True
            worker.born = worker.moved = time.monotonic()
            if self._settings.initializer is not None:
                self._scheduler.initializer_ok()
            return
        self._broken = not self._initializer_failed(load_exception(answer.data))
        worker.leave()

    def _not_begun(self, worker: PooledWorker, error: BaseException) -> None:
        """What it has to know could not be sent: the initializer or its arguments do not pickle, or it is dead."""
        if isinstance(error, OSError):
            return
        self._broken = True
        self._scheduler.break_down(f"workers cannot be started: {error}", error)
        worker.leave()

    # -- in the threads of the pools -------------------------------------------------------------------------------------------

    def _pack(self, worker: PooledWorker, task: Task) -> Call | None:
        """Return *task* as it is sent, and begin it; None: it was taken back meanwhile."""
        self._inside.ours = True
        try:
            call = worker.call_for(task, self._context_vars, self._settings.seed is not None)
        except SerializationError:
            raise
        except BaseException as error:  # else the pool's thread would end, or take it for the worker's death
            raise not_sent(error, task) from error
        with self._scheduler.lock:
            if worker.task is not task:
                return None
            worker.packing = False
        return call if self._scheduler.begin(task) else None

    def _not_sent(self, worker: PooledWorker, task: Task, error: BaseException) -> None:
        if isinstance(error, OSError):
            return  # the worker died while it was sent to it: the keeper sees that
        self._inside.ours = True
        self._scheduler.fail(task, error if isinstance(error, SerializationError) else not_sent(error, task), "serialization")
        self._tell(self._free, worker, 0)

    def _answered(self, worker: PooledWorker, task: Task, answer: Answer | None) -> None:
        self._inside.ours = True
        if answer is not None:
            worker.answering = True
            self._scheduler.settle((worker.outcome(task, answer),))
        self._tell(self._free, worker, 0 if answer is None else answer.rss)

    # -- what the keeper hears of workers --------------------------------------------------------------------------------------

    def _free(self, worker: PooledWorker, rss: int) -> None:
        """A worker has done what it was given."""
        if worker.number not in self._processes:
            return  # buried meanwhile
        self._failures.progress()
        stop, task = worker.stop, worker.task
        with self._scheduler.lock:
            worker.task = None
            worker.busy = worker.packing = worker.answering = False
        worker.moved = time.monotonic()
        if stop is not None and stop.task is not None and stop.task is task:
            if stop.asked_at is None:  # nothing has been done to it
                worker.stop = None
                worker.forget_stack()
            else:
                stop.task = None
        settings = self._settings
        count, size, age = settings.max_tasks_per_child, settings.max_memory_per_child, settings.max_age_per_child
        if worker.leaving or worker.dead:
            return
        if (
            (count is not None and worker.done >= count)
            or (size is not None and rss > size)
            or (age is not None and worker.moved > worker.born + age)
        ):
            worker.leave()

    def _heard(self, process: PooledWorker, fd: int) -> None:
        """It has ended."""
        self._forget(fd)
        self._died(process)

    def _died(self, worker: PooledWorker) -> None:
        """From here on `_due` follows it to its end: the pool has to reap it, and its threads to take what has arrived."""
        with self._scheduler.lock:
            worker.dead = True
        worker.dead_since = time.monotonic()

    def _due(self, now: float) -> list[float]:
        times: list[float] = []
        for worker in list(self._processes.values()):
            if worker.dead:
                times += self._bury(worker, now)
            elif worker.busy:
                times += self._look_after(worker, now)
            elif worker.ready and not (worker.leaving or worker.stop):
                times += self._recycle(worker, now)
        return times

    def _look_after(self, worker: PooledWorker, now: float) -> list[float]:
        """Kill a worker that does not take up its task because somebody has stopped it; it runs elsewhere then, unharmed."""
        if worker.seen or worker.has_taken_up():
            worker.seen = True
            return []
        if now > worker.moved + _TAKEN_UP_WITHIN and not worker.packing and worker.is_stopped():
            worker.signal(signal.SIGKILL)
            return []
        return [max(now, worker.moved) + _TAKEN_UP_WITHIN]

    def _recycle(self, worker: PooledWorker, now: float) -> list[float]:
        """Have a free worker leave that is too old, idle for too long or not needed any more; return when to look again."""
        settings = self._settings
        times = []
        if settings.max_age_per_child is not None:
            times.append(worker.born + settings.max_age_per_child)
        if settings.idle_timeout is not None:
            times.append(worker.moved + settings.idle_timeout)
        if (self._closing and not self._scheduler.queued) or any(when <= now for when in times):
            worker.leave()
            return []
        return times

    # -- the end of a worker ---------------------------------------------------------------------------------------------------

    def _bury(self, worker: PooledWorker, now: float) -> list[float]:
        """Settle what a dead worker had, step by step; return when to look again."""
        pool = worker.pool
        if not worker.given_up:
            worker.exit_status = pool.exit_status()
            if worker.exit_status is None and now < worker.dead_since + _REAPED_WITHIN:
                return [now + _LOOK_EVERY]
            if worker.stop is not None or worker.exit_status != 0:
                worker.signal(signal.SIGKILL)  # what its task started ends with it
            worker.given_up = True
            pool.give_up()
        if not worker.blamed and not pool.may_answer():
            worker.blamed = True
            self._settle_dead(worker)
        if not pool.gone():
            return [now + _LOOK_EVERY]
        self._discard(worker)
        return [now]  # look again whether that was all

    def _settle_dead(self, worker: PooledWorker) -> None:
        """Report what became of the task that a worker had, if it had one and has not answered."""
        from taskrun.engine.crash import verdict

        with self._scheduler.lock:
            task = None if worker.answering else worker.task
            worker.task = None
        if task is None:
            if not (worker.ready or worker.leaving or worker.stop):
                self._died_at_start(worker)
            return
        stopped = worker.stop is not None and worker.stop.error_for(task) is not None
        task.place = deaths = (task.place or 0) + 1
        if not (stopped or worker.has_taken_up() or deaths >= _MOST_DEATHS):
            self._scheduler.give_back([task])  # without blame
            return
        oom = None if worker.stop is not None else self._memory.killed(worker.exit_status)
        error, cause = verdict(worker, task, oom)
        if cause == "crashed":
            self._crashed.add(task.future)
        self._scheduler.fail(task, error, cause)

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
        with self._scheduler.lock:
            self._processes.pop(worker.number, None)
        worker.close()

    # -- taking back -----------------------------------------------------------------------------------------------------------

    def revoke(self, task: Task) -> bool:
        with self._scheduler.lock:
            return task in self._take_back(task)

    def recall(self) -> None:
        with self._scheduler.lock:
            tasks = self._take_back()
        self._scheduler.give_back(tasks)

    def _take_back(self, only: Task | None = None) -> list[Task]:
        """Take tasks that have not begun: all of them, or *only* that one. Under the lock."""
        back = [task for task in self._suspects if only is None or task is only]
        for task in back:
            self._suspects.remove(task)
        for worker in self._processes.values():
            task_or_none = worker.task
            if worker.packing and task_or_none is not None and (only is None or task_or_none is only):
                worker.task, worker.packing = None, False
                back.append(task_or_none)
        return back

    def _somebody_works(self) -> bool:
        return any(worker.ready and not worker.dead for worker in self._processes.values())

    # -- stopping --------------------------------------------------------------------------------------------------------------

    def _still_runs(self, process: PooledWorker) -> bool:
        return process.task is not None and not (process.answering or process.dead)

    # -- waiting ---------------------------------------------------------------------------------------------------------------

    def owns_current_thread(self) -> bool:
        current = threading.current_thread()
        return getattr(self._inside, "ours", False) or current is self._keeper or current is self._maker

    def waiting(self) -> AbstractContextManager[None]:
        refuse_waiting_in(threading.current_thread() if self.owns_current_thread() else None)
        return nullcontext()

    # -- ending ----------------------------------------------------------------------------------------------------------------

    def _abort(self, force: bool) -> None:
        super()._abort(force)
        if not force:
            return
        for worker in list(self._processes.values()):
            with self._scheduler.lock:
                worker.unwanted = not worker.made  # making it may take for ever: the maker sees it off
                if worker.unwanted:
                    del self._processes[worker.number]

    def _is_over(self) -> bool:
        return super()._is_over() and not self._suspects

    def _end(self) -> None:
        self._orders.put(None)

    def workers(self) -> list[str]:
        with self._scheduler.lock:
            return [worker.label for worker in self._processes.values() if worker.ready and not worker.dead]
