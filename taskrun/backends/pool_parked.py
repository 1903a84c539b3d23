"""How a worker of the pool backend that has nothing to do gets something: whoever submits calls it.

What is called is the worker, not a task: the thread of its pool that pickles takes what waits then (`_Called`). The call was
prepared when the worker was parked, and is made by one call of C under the scheduler's lock: neither Ctrl-C nor who has
interrupted that finds it done by halves. The keeper gives tasks to fresh workers, and wherever more is to be asked.

A worker is free that is neither `busy` nor called; under the lock the keeper, or a call, makes it its own.
"""

from __future__ import annotations

import operator
import time
from abc import abstractmethod
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from taskrun.backends.pool_batches import PoolBatches

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskrun.engine.pooled import PooledWorker
    from taskrun.engine.small_pool import Errand
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler
    from taskrun.task import Task

__all__ = ["PoolParked"]


_first = operator.itemgetter(0)


class _Called:
    """What became of a call."""

    def __init__(self, worker: PooledWorker) -> None:
        self.worker = worker
        self.task: Task | None = None


class PoolParked(PoolBatches):
    """The part of the backend that parks workers and calls them."""

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        # By which some of the free workers are called; the last was busy last. A dict, since each is looked for at a submit.
        self._parked: dict[Callable[[], None], None] = {}
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
        while True:
            with self._scheduler.lock:
                waiting = self._scheduler.queued - self._called()
                if waiting <= 0 or not self._parked or self._at_work() >= self._settings.max_workers:
                    return waiting
                with suppress(KeyError):  # a destructor has submitted something just now
                    any(map(operator.call, map(_first, map(dict.popitem, (self._parked,)))))

    def _called(self) -> int:
        """Return how many workers are called and have not looked into the queue yet. Under the lock."""
        return sum(self._is_called(worker) and not worker.dead for worker in self._processes.values())

    def _is_called(self, worker: PooledWorker) -> bool:
        call = worker.call  # looked at once: the keeper asks without the lock
        return call is not None and call.call not in self._parked

    def _is_at_work(self, worker: PooledWorker) -> bool:
        return worker.busy or self._is_called(worker)

    def _is_free(self, worker: PooledWorker) -> bool:
        """Return whether nobody owns a worker that can run tasks. Under the lock."""
        return worker.ready and not (self._is_at_work(worker) or worker.leaving or worker.dead or worker.stop)

    # -- what comes of it (the threads of its pool) ----------------------------------------------------------------------------

    def _pack_what_waits(self, called: _Called) -> tuple[Any, ...] | None:
        """Take what waits for the worker; None: nothing does."""
        worker = called.worker
        with self._scheduler.lock:
            worker.call, worker.busy = None, True
            if self._is_spent(worker):  # it has grown old meanwhile
                return None
            called.task, taken = self._take_for(worker)
        if called.task is None:
            return None
        if not taken:
            self._scheduler.give_back((called.task,))
            return None
        called.task.worker = worker.label
        self._have_it_watched(worker, called.task)
        return self._pack(worker, called.task)

    def _call_done(self, called: _Called, answer: Sequence[Any] | None) -> None:
        if called.task is not None:
            self._answered(called.worker, called.task, answer)
        else:
            self._tell(self._free, called.worker)

    def _call_failed(self, called: _Called, error: BaseException) -> None:
        if called.task is not None:
            self._not_sent(called.worker, called.task, error)
        else:
            self._tell(self._lost, called.worker, error.with_traceback(None))

    # -- parking ---------------------------------------------------------------------------------------------------------------

    def _park(self, worker: PooledWorker) -> bool:
        """Let a worker that has answered wait to be called; False: the keeper has to look at it, or something waits."""
        call = self._call_for(worker)
        with self._scheduler.lock:
            parks = not (
                self._something_waits()
                or worker.stop
                or worker.dead
                or self._closing
                or self._too_many()
                or self._is_spent(worker)
            )
            if parks:
                worker.task = None
                worker.busy = worker.packing = worker.answering = False
                worker.moved = time.monotonic()
                self._failures.progress()
                worker.call = call
                self._parked[call.call] = None
        if not parks:
            call.drop()
        elif self._something_waits() or self._closing or not worker.watched:
            # A destructor has submitted something in between, and found nobody to call; another thread has closed; or nobody
            # would see how long it is idle.
            self._have_it_look()
        return parks

    def _call_for(self, worker: PooledWorker) -> Errand:
        called = _Called(worker)
        return worker.prepare(
            partial(self._pack_what_waits, called), partial(self._call_done, called), partial(self._call_failed, called)
        )

    def _park_free(self, worker: PooledWorker) -> None:
        """Let a worker wait to be called that the keeper has found free. In the keeper."""
        call = self._call_for(worker)
        with self._scheduler.lock:
            parks = self._is_free(worker) and worker.call is None
            if parks:
                worker.call = call
                self._parked[call.call] = None
        if not parks:
            call.drop()

    def _unpark(self, worker: PooledWorker) -> None:
        """Have nobody call it any more. Under the lock."""
        call, worker.call = worker.call, None
        if call is not None and call.call in self._parked:
            del self._parked[call.call]
            call.drop()

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
