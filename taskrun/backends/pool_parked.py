"""How a worker of the pool backend that has nothing to do gets something: whoever submits calls it.

What is called is the worker, not a task: the thread of its pool that pickles takes what waits then (`_Errand`). So nothing is
in the submitting thread's hands that a Ctrl-C could tear off, and a call that comes twice does no harm. The keeper gives tasks
to fresh workers, and wherever more is to be asked.

Who changes `busy`, under the scheduler's lock, owns the worker: who calls it, the keeper, or the thread that takes its answers.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from taskrun.backends.pool_batches import PoolBatches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskrun.engine.pooled import PooledWorker
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler
    from taskrun.task import Task

__all__ = ["PoolParked"]


class _Errand:
    """A call of a worker, from submitting to its answer."""

    def __init__(self, worker: PooledWorker) -> None:
        self.worker = worker
        self.task: Task | None = None
        self.void = False  # another one came first


class PoolParked(PoolBatches):
    """The part of the backend that parks workers and calls them."""

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        self._parked: list[PooledWorker] = []  # some of those that are free; the last one was busy last
        self._all_at_work = False  # then each looks into the queue before it is free: nobody has to be woken for a task
        super().start(scheduler, settings)

    # -- calling (any thread) --------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        waiting = self._scheduler.queued
        if waiting and self._parked:
            waiting = self._call_parked()
        if waiting > 0 and not self._all_at_work:
            self._ring()

    def _call_parked(self) -> int:
        """Have as many parked workers look into the queue as tasks wait there; return how many are left."""
        mine: list[PooledWorker] = []
        try:
            while True:
                with self._scheduler.lock:
                    waiting = self._scheduler.queued - self._called()
                    if waiting <= 0 or not self._parked or self._at_work() >= self._settings.max_workers:
                        return waiting
                    with suppress(IndexError):  # a destructor has submitted something just now
                        mine.extend(map(self._parked.pop, (-1,)))  # one call of C: Ctrl-C finds it here or there
                    if mine and not self._is_free(mine[0]):
                        mine.clear()
                    for worker in mine:
                        worker.called, worker.busy = _Errand(worker), True
                for worker in mine:
                    self._send_errand(worker)
                mine.clear()
        except BaseException:  # Ctrl-C, after which nobody else might call it
            for worker in mine:
                self._tell(self._call_again, worker)
            raise

    def _called(self) -> int:
        """Return how many workers are called and have not looked into the queue yet. Under the lock."""
        return sum(worker.called is not None and not worker.dead for worker in self._processes.values())

    @staticmethod
    def _is_free(worker: PooledWorker) -> bool:
        """Return whether nobody owns a worker that can run tasks. Under the lock."""
        return worker.ready and not (worker.busy or worker.leaving or worker.dead or worker.stop)

    def _send_errand(self, worker: PooledWorker) -> None:
        errand = worker.called
        if errand is None:
            return
        try:
            worker.give(
                partial(self._pack_what_waits, errand),
                partial(self._errand_done, errand),
                partial(self._errand_failed, errand),
                here=False,
            )
        except Exception:  # its pool is closed: it has died meanwhile
            self._tell(self._free, worker)

    def _call_again(self, worker: PooledWorker) -> None:
        """See whether a worker was called by halves. In the keeper."""
        with self._scheduler.lock:
            if worker.called is None or worker.number not in self._processes:
                return  # it was not, and is free; or the call has reached it
            worker.called = _Errand(worker)
        self._send_errand(worker)

    # -- what comes of it (the threads of its pool) ----------------------------------------------------------------------------

    def _pack_what_waits(self, errand: _Errand) -> tuple[Any, ...] | None:
        """Take what waits for the worker; None: nothing does, or another call came first."""
        worker = errand.worker
        with self._scheduler.lock:
            errand.void = worker.called is not errand
            if errand.void:
                return None
            worker.called = None
            errand.task, taken = self._take_for(worker)
        if errand.task is None:
            return None
        if not taken:
            self._scheduler.give_back((errand.task,))
            return None
        errand.task.worker = worker.label
        self._have_it_watched(worker, errand.task)
        return self._pack(worker, errand.task)

    def _errand_done(self, errand: _Errand, answer: Sequence[Any] | None) -> None:
        if errand.task is not None:
            self._answered(errand.worker, errand.task, answer)
        elif not errand.void:
            self._tell(self._free, errand.worker)

    def _errand_failed(self, errand: _Errand, error: BaseException) -> None:
        if errand.task is not None:
            self._not_sent(errand.worker, errand.task, error)
        elif not errand.void:
            self._tell(self._lost, errand.worker, error.with_traceback(None))

    def _park(self, worker: PooledWorker) -> bool:
        """Let a worker that has answered wait to be called; False: the keeper has to look at it, or something waits."""
        with self._scheduler.lock:
            if self._something_waits() or worker.stop or self._closing or self._too_many() or self._is_spent(worker):
                return False
            worker.task = None
            worker.busy = worker.packing = worker.answering = False
            worker.moved = time.monotonic()
            self._failures.progress()
            self._unpark(worker)
            self._parked.append(worker)
        if self._something_waits():  # a destructor has submitted it in between, and found nobody to call
            self._have_it_look()
        return True

    def _unpark(self, worker: PooledWorker) -> None:
        """Under the lock."""
        with suppress(ValueError):
            self._parked.remove(worker)

    def _discard(self, worker: PooledWorker) -> None:
        with self._scheduler.lock:
            self._unpark(worker)
        super()._discard(worker)

    # -- what the whole does ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def _take_for(self, worker: PooledWorker) -> tuple[Task | None, bool]:
        """Take what waits next and assign it to a worker: (the task, whether that could be done). Under the lock."""

    @abstractmethod
    def _have_it_watched(self, worker: PooledWorker, task: Task) -> None:
        """See that the keeper looks whether a worker takes up what it was given."""

    @abstractmethod
    def _pack(self, worker: PooledWorker, task: Task) -> tuple[Any, ...] | None:
        """Return *task* as it is sent, and begin it; None: it was taken back, killed or discarded meanwhile."""

    @abstractmethod
    def _answered(self, worker: PooledWorker, task: Task, answer: Sequence[Any] | None) -> None:
        """The worker has answered; None: it was not sent the task after all."""

    @abstractmethod
    def _not_sent(self, worker: PooledWorker, task: Task, error: BaseException) -> None:
        """The task could not be sent."""

    @abstractmethod
    def _is_spent(self, worker: PooledWorker) -> bool:
        """Return whether a worker has done its share."""
