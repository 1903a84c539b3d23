"""Runs tasks in threads of this process.

Locks. The scheduler's lock guards the list of parked workers and the counters. A worker parks under it after looking at the
queue once more, then sleeps on a lock of its own: whoever queues a task and finds it in the list lets it go. No wake-up is
lost, nothing polls.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, ClassVar, Literal

from taskrun.backends.base import Capabilities
from taskrun.backends.calls import call
from taskrun.backends.thread_like import ThreadLikeBackend, finalize, initialize, note_stack
from taskrun.coroutines import CoroutineRunner
from taskrun.cpu_meter import CpuMeter
from taskrun.threads import OwnThread, take_politely

if TYPE_CHECKING:
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler
    from taskrun.task import Task

__all__ = ["ThreadBackend", "ThreadWorker"]


class ThreadWorker(OwnThread):
    """A thread with its own gate to sleep at."""

    def __init__(self, backend: ThreadBackend, number: int, prefix: str) -> None:
        super().__init__(f"{prefix}_{number}", backend._work, self)
        self.backend = backend
        self.gate = threading.Lock()
        self.gate.acquire()
        self.maker = threading.get_ident()
        self.task: Task | None = None
        self.runner = CoroutineRunner()
        self.coming = True  # let go or started, and has not looked into the queue yet
        self.abandoned = False  # its task timed out or was killed; another thread has its place


class ThreadBackend(ThreadLikeBackend):
    """Daemon threads that pull one task at a time; started on demand, kept until shutdown or `max_tasks_per_child`."""

    name: ClassVar[str] = "thread"
    option_names: ClassVar = {"thread_name_prefix": "str: how the worker threads are named, before _0, _1, ..."}
    capabilities = Capabilities(kill="slot only", recycle_by_count=True)

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        """Remember whom to serve; threads start when there is work."""
        self._scheduler = scheduler
        self._settings = settings
        self._prefix = settings.backend_options.get("thread_name_prefix") or settings.name
        self._target = settings.max_workers  # grows while a worker waits for a task of its own executor
        self._parked: list[ThreadWorker] = []
        self._workers: set[ThreadWorker] = set()
        self._leaving: list[ThreadWorker] = []  # no workers any more, and perhaps not ended yet
        self._coming = 0  # how many of them are
        self._number = 0
        self._closing = False

    # -- getting workers to work -----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Let parked workers go or start new ones, one for each task that nobody is coming for."""
        scheduler = self._scheduler
        # Without the lock: who parks has looked into the queue under it, after this task was put there or before we look.
        if not self._parked and len(self._workers) >= self._target:
            return
        try:
            while True:
                with scheduler.lock:
                    while scheduler.queued > self._coming:  # looked at each time: a handler may have come and released one
                        if not self._parked:
                            worker = self._new_worker()
                            break
                        self._release()
                    else:
                        return
                if worker is None or not self._start(worker):
                    return
        except BaseException:  # Ctrl-C, which may strike after any call
            self._drop_unstarted()
            raise

    def _release(self) -> None:
        """Let the worker go that parked last. Under the lock."""
        # A signal handler that submits, or Ctrl-C, may come after each call, and before the first line here.
        parked = self._parked
        if not parked:
            return
        worker = parked[-1]
        if not worker.coming:  # else Ctrl-C came before it was taken out below
            worker.coming = True
            self._coming += 1
            worker.gate.release()
        if parked and parked[-1] is worker:
            parked.pop()

    def _arrived(self, worker: ThreadWorker) -> None:
        """Note that *worker* looks into the queue, or never will. Under the lock."""
        if worker.coming:
            worker.coming = False
            self._coming -= 1
            if worker in self._parked:  # see `_release`
                self._parked.remove(worker)

    def _new_worker(self) -> ThreadWorker | None:
        """Register one more worker, if there may be one. Under the lock; start it outside."""
        if len(self._workers) >= self._target:
            return None
        number = self._number
        self._number = number + 1  # before the first call, after which a signal handler may make one as well
        worker = ThreadWorker(self, number, self._prefix)
        self._coming += 1  # before the next call, after which Ctrl-C may come and have it dropped
        self._workers.add(worker)
        if len(self._workers) > self._target:  # it did
            self._coming -= 1
            self._workers.discard(worker)
            return None
        return worker

    def _start(self, worker: ThreadWorker) -> bool:
        try:
            worker.start()
        except RuntimeError as error:
            # No more threads: the others do the work. With none at all, say so on every future.
            self._drop_unstarted()
            with self._scheduler.lock:
                alone = not self._workers
            if alone:
                self._scheduler.break_down(f"no worker thread can be started: {error}", error)
            return False
        return True

    def _drop_unstarted(self) -> None:
        """Forget the workers that this thread has made and could not start."""
        me = threading.get_ident()
        with self._scheduler.lock:
            for worker in [each for each in self._workers if each.maker == me and each.ident is None]:
                worker.abandoned = True  # if it did start after all, it leaves
                self._arrived(worker)
                self._workers.discard(worker)

    def _wake_all(self) -> None:
        with self._scheduler.lock:
            while self._parked:
                self._release()

    # -- in a worker -----------------------------------------------------------------------------------------------------------

    def _work(self, worker: ThreadWorker) -> None:
        scheduler = self._scheduler
        done = 0
        limit = self._settings.max_tasks_per_child
        meter = CpuMeter()
        if not initialize(scheduler):
            self._leave(worker)
            return
        meter.reset()
        name = worker.name
        while self._next(worker):
            task = worker.task
            if task is None:
                continue
            outcome = call(scheduler, task, name, worker.runner, meter)
            worker.task = None
            scheduler.settle_ours((outcome,))
            del task, outcome  # an idle worker keeps nothing alive
            done += 1
            if worker.abandoned or done == limit:
                break
        if not worker.abandoned:
            finalize(scheduler)
        worker.runner.close()
        self._leave(worker)

    def _next(self, worker: ThreadWorker) -> bool:
        """Give *worker* a task, sleeping until there is one; False: leave."""
        scheduler = self._scheduler
        lock = scheduler.lock
        while True:
            if not lock.acquire(False):
                take_politely(lock)
            try:
                if worker.coming:
                    self._arrived(worker)
                if worker.abandoned or len(self._workers) > self._target:
                    return False
                task = worker.task = scheduler.take_one()
                if task is None:
                    if self._closing:
                        return False
                    self._parked.append(worker)
            finally:
                lock.release()
            if task is not None:
                if task.options.timeout is not None:
                    scheduler.arm_timer()
                return True
            if not self._sleep(worker):
                return False

    def _sleep(self, worker: ThreadWorker) -> bool:
        """Sleep until *worker*, which is parked, is let go; False: it leaves instead, and is parked no more."""
        worker.gate.acquire()
        return True

    def _leave(self, worker: ThreadWorker) -> None:
        with self._scheduler.lock:
            self._arrived(worker)
            self._workers.discard(worker)
            self._leaving = [*(each for each in self._leaving if each.is_alive()), worker]
        self.wake()  # work may be left: for whoever takes this place

    # -- stopping --------------------------------------------------------------------------------------------------------------

    def stop(self, task: Task, error: BaseException, cause: Literal["timeout", "killed"]) -> bool:
        """Give the task's place to another thread; the thread itself cannot be stopped."""
        with self._scheduler.lock:
            worker = self._worker_of(task)
            if worker is None:
                return False
            worker.abandoned = True
            self._workers.discard(worker)
        task.worker = worker.name
        self._note_stack(error, worker)
        self.wake()
        return False

    def _worker_of(self, task: Task) -> ThreadWorker | None:
        """Return who runs *task*. Under the lock."""
        return next((worker for worker in self._workers if worker.task is task), None)

    def _note_stack(self, error: BaseException, worker: ThreadWorker) -> None:
        note_stack(error, worker)

    # -- waiting ---------------------------------------------------------------------------------------------------------------

    def owns_current_thread(self) -> bool:
        """Return True in one of the worker threads."""
        current = threading.current_thread()
        return isinstance(current, ThreadWorker) and current.backend is self

    def _fewer_wanted(self) -> None:
        self._wake_all()

    # -- ending ----------------------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Let idle workers leave."""
        with self._scheduler.lock:
            self._closing = True
        self._wake_all()

    def abort(self, *, force: bool) -> None:
        """Abandon the threads whose tasks run: nobody can stop them."""
        with self._scheduler.lock:
            busy = [worker.task for worker in self._workers if worker.task is not None]
        self._give_up_all(busy, force=force)

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the workers that are not abandoned."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._scheduler.lock:
            workers = [each for each in (*self._workers, *self._leaving) if each is not threading.current_thread()]
        for worker in workers:
            if worker.ident is not None:
                worker.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return not any(worker.is_alive() and not worker.abandoned for worker in workers)

    def workers(self) -> list[str]:
        """Return the names of the threads."""
        with self._scheduler.lock:
            return sorted(worker.name for worker in self._workers)
