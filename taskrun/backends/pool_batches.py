"""What the pool backend sends as one message: tiny tasks of one function, each begun, answered and had back by itself.

The thread of its pool that takes a worker's answers makes a batch of what waits, when the worker has answered and knows the
function. Until the worker comes to the end of that nothing else is sent to it; what one of the tasks keeps waiting the keeper
takes back, which looks every few milliseconds. See `engine.batch`.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any

from taskrun.backends.pool_owed import PoolOwed
from taskrun.backends.pool_watch import BATCH_TICK
from taskrun.engine.batch import LARGEST, MOST, Batch
from taskrun.engine.sent import pack_native
from taskrun.runs import Run
from taskrun.threads import inside

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskrun.engine.outbox import Answer
    from taskrun.engine.pooled import PooledWorker
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler
    from taskrun.task import Cause, Task

__all__ = ["PoolBatches"]

_SECONDS = 0.002  # of work in a batch
_EACH = 15e-6  # seconds that a task costs there besides its own
_SHORTEST = 0.1  # seconds; what has a shorter time limit goes alone: that it has begun is known 10 ms late at worst
_APART = 64  # calls that travel alone when one of them was not for others to wait behind
_OVERDUE = 0.01  # seconds that one task of it may take before the rest is taken back; or all of them, if much is left:
_MOST_LEFT = 0.005  # seconds, at the pace so far


class PoolBatches(PoolOwed):
    """The part of the backend that makes batches and takes them apart again."""

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        # A worker that must not grow too large leaves after the task with which it has.
        self._batching = settings.max_memory_per_child is None
        self._inside = threading.local()  # `ours`: a thread of one of our pools
        self._seeded = settings.seed is not None
        super().start(scheduler, settings)

    # -- making one (the thread that takes the worker's answers) ---------------------------------------------------------------

    def _send_with_others(self, worker: PooledWorker, task: Task) -> bool:
        """Send *task*, which the worker was assigned, and those like it that wait; False: it has to go alone."""
        room = self._room_for_more(worker, task)
        slot = worker.knows(task) if room > 0 else None
        arguments = None if slot is None else pack_native(task)
        if slot is None or arguments is None or len(arguments) > LARGEST:
            if room > 0:
                self._keep_apart(worker, task)
            return False
        batch = self._batch_of(worker, task, room)
        if batch is None:
            return False
        calls = self._pack_all(worker, batch, arguments)
        with self._scheduler.lock:
            waiting = batch.tasks
            ready = [each for each in waiting if id(each) in calls and self._scheduler.wanted(each)]
            chosen = set(map(id, ready))
            rest = [each for each in waiting if id(each) not in chosen]
            worker.note_taken_back(1)  # it was counted as one that goes alone
            if ready and not (worker.dead or worker.stop):
                batch.send(worker.note_given(len(ready)), ready)
                self._note_whether_it_ends_soon(worker)
                for each in ready:
                    each.worker = worker.label
                self._scheduler.note_begun(ready[0])
            else:
                rest = batch.take_back()
                worker.batch = None
            unwanted = self._owe(rest)
        self._see_to(unwanted, rest)
        if not batch.sent:
            self._tell(self._free, worker)
            return True
        self._scheduler.arm_timer()
        try:
            worker.give_batch(
                batch.first,
                slot,
                [calls[id(each)] for each in ready],
                self._seeded,
                partial(self._over, worker, batch),
                lambda error: self._tell(self._lost, worker, error.with_traceback(None)),
            )
        except Exception as error:  # it is dead, or nobody knows what it has now
            self._tell(self._lost, worker, error.with_traceback(None))
        return True

    def _room_for_more(self, worker: PooledWorker, task: Task) -> int:
        """Return how many tasks may go with this one. Runs no code of the user's."""
        settings, options = self._settings, task.options
        if self._have_stood_still or not (self._batching and worker.takes_batches and self._suits(task)):
            return 0
        slot = worker.sent.slot(task.fn)
        if slot is None or slot.seconds is None:
            return 0
        if slot.apart:
            slot.apart -= 1
            return 0
        share = -(-(self._scheduler.queued + 1) // settings.max_workers)
        most = min(MOST, share, int(_SECONDS / (slot.seconds + _EACH)))
        if options.chunksize is not None:
            most = min(most, options.chunksize)
        if settings.max_tasks_per_child is not None:
            most = min(most, settings.max_tasks_per_child - worker.done + 1)
        return most - 1

    def _suits(self, task: Task) -> bool:
        """Return whether *task* may be in a batch, for all that is known without packing it."""
        options = task.options
        limits = options.timeout, options.soft_timeout
        return (
            all(limit is None or limit >= _SHORTEST for limit in limits)
            and task.context is None
            and type(task.fn) is not Run
            and not (task.number > 1 and task.future in self._crashed)
        )

    def _batch_of(self, worker: PooledWorker, task: Task, room: int) -> Batch | None:
        """Return a batch of *task* and up to *room* others that come next; None: there are none, or it was asked back."""
        fn = task.fn
        with self._scheduler.lock:
            if worker.task is not task:
                return None
            others = self._scheduler.pull_while(room, lambda each: each.fn is fn and self._suits(each))
            if not others:
                return None
            worker.batch = Batch(worker.claims, [task, *others])
            worker.task, worker.packing = None, False
            return worker.batch

    def _pack_all(self, worker: PooledWorker, batch: Batch, arguments: bytes) -> dict[int, tuple[Any, ...]]:
        """Return the calls of the first tasks of *batch*, by the task's `id`, as far as no code of the user's has to run.

        *arguments* are those of the first.
        """
        calls: dict[int, tuple[Any, ...]] = {}
        size = -len(arguments)
        for task in batch.tasks:
            data = pack_native(task) if calls else arguments
            if data is None or size + len(data) > LARGEST:
                self._keep_apart(worker, task)
                break
            size += len(data)
            options = task.options
            limits = options.timeout, options.soft_timeout
            calls[id(task)] = (task.name, task.index, task.number, *limits, task.seed_root, data)
        return calls

    @staticmethod
    def _keep_apart(worker: PooledWorker, task: Task) -> None:
        slot = worker.sent.slot(task.fn)
        if slot is not None:
            slot.apart = _APART

    @abstractmethod
    def _take_answer(self, worker: PooledWorker, task: Task, answer: Sequence[Any]) -> None:
        """Settle the task that the worker has answered; it may run the user's code."""

    @abstractmethod
    def _look_for_more(self, worker: PooledWorker) -> None:
        """Give a worker that has done what it had something else, or tell the keeper."""

    @abstractmethod
    def _free(self, worker: PooledWorker) -> None:
        """A worker has done what it was given."""

    # -- what comes of it (likewise) -------------------------------------------------------------------------------------------

    def _over(self, worker: PooledWorker, batch: Batch, reply: tuple[int, Sequence[Any] | None]) -> None:
        """The worker has come to its end."""
        self._inside.ours = True
        begun, answer = reply
        with self._scheduler.lock:
            if worker.batch is not batch:
                return  # it was taken for dead, and all of this is settled
            worker.takes_batches = begun > 0 or not batch.held  # else it finds no claims though there are some
            answers = worker.answers_of(batch, batch.last)
            last = batch.flight.pop(batch.first + begun - 1, None) if answer is not None else None
            rest = batch.take_back(begun)
            unwanted = self._owe(rest)
            worker.note_taken_back(batch.size - begun)
            worker.batch = None
            if last is not None:
                worker.task, worker.sequence = last, batch.first + begun - 1
                self._scheduler.note_begun(last)
            worker.answering = True
        self._see_to(unwanted, rest)
        self._settle(worker, answers)
        if last is not None and answer is not None:
            self._keep_apart(worker, last)
            self._take_answer(worker, last, answer)
        self._look_for_more(worker)

    def _settle(self, worker: PooledWorker, answers: list[Answer]) -> None:
        if not answers:
            return
        for task, *_, run, _ in answers:
            if task is not None:
                worker.note_pace(task, run[2])
        self._scheduler.settle_ours(worker.outcomes(answers))

    # -- looking after it (the keeper) -----------------------------------------------------------------------------------------

    def _look_at_batch(self, worker: PooledWorker, now: float) -> list[float]:
        with self._scheduler.lock:
            batch = worker.batch
            if batch is None or worker.task is not None:
                return []
            begun = batch.begun()
            if worker.batch_seen != (batch.first, begun):
                worker.batch_seen, worker.batch_moved = (batch.first, begun), now
            answers = self._answered_unheard(worker, batch)
            taken = now - worker.moved
            # One of them takes its time; or all do, and so would those that are left.
            overdue = batch.sent and (
                now >= worker.batch_moved + _OVERDUE
                or (taken >= _OVERDUE and (batch.held - begun) * taken > _MOST_LEFT * max(begun, 1))
            )
        if answers:
            self._scheduler.settle_ours(worker.outcomes(answers))
        if overdue:
            self._reduce(worker)
        return [now + BATCH_TICK]

    @staticmethod
    def _answered_unheard(worker: PooledWorker, batch: Batch) -> list[Answer]:
        """Return what the worker must have answered, since it has begun the next one; or since it is dead. Under the lock."""
        begun = batch.begun()
        last = batch.last if worker.dead else batch.first + begun - 2
        return worker.answers_of(batch, last) if begun and last >= batch.first else []

    def _reduce(self, worker: PooledWorker) -> None:
        """Take back what of its batch a worker has not begun: what runs is its task from then on, as if it had gone alone."""
        with self._scheduler.lock:
            batch = worker.batch
            if batch is None or not batch.sent or worker.answering:
                return
            moved = worker.batch_moved if worker.batch_seen == (batch.first, batch.begun()) else None
            rest = batch.take_back()
            answers = self._answered_unheard(worker, batch)
            # It runs, or is about to answer. None but the first: what a task has read out of the pipe counts as begun, too.
            running = min(batch.flight, default=-1)
            head = batch.flight.get(running)
            if head is not None:
                worker.task, worker.sequence, worker.seen = head, running, running
                self._scheduler.note_begun(head, moved)
            if worker.dead:
                rest += [task for task in batch.flight.values() if task is not head]
            unwanted = self._owe(rest)
        self._scheduler.arm_timer()
        if answers:  # known of its function is what the thread of its pool has learnt
            self._scheduler.settle_ours(worker.outcomes(answers))
        self._see_to(unwanted, rest)

    def _tasks_of(self, process: PooledWorker) -> list[Task]:
        with self._scheduler.lock:
            return super()._tasks_of(process) + ([] if process.batch is None else list(process.batch.flight.values()))

    # -- having tasks back -----------------------------------------------------------------------------------------------------

    def _holder_of(self, task: Task) -> PooledWorker | None:
        """Return the worker that has *task* in its batch. Under the lock."""
        for worker in self._processes.values():
            if worker.batch is not None and worker.batch.place_of(task) >= 0:
                return worker
        return None

    def _ask_back(self, task: Task) -> bool:
        """Return True if *task* is owed, or in a batch and will not begin: it is the caller's. Under the lock."""
        if self._forgive(task):
            return True
        worker = self._holder_of(task)
        if worker is None or worker.batch is None:
            return False
        had = worker.batch.ask_back(task)
        if had:
            self._scheduler.unbegin(task)
        if worker.batch.sent:
            self._tell(self._reduce, worker)  # the others, which go elsewhere
        return had

    def _all_not_begun(self) -> list[Task]:
        """Return what is owed, and what of the batches has not begun. Under the lock."""
        back = self._all_owed()
        for worker in self._processes.values():
            if worker.batch is not None:
                back += worker.batch.take_back()
        return back

    def refresh(self, task: Task) -> None:
        if self._struck():
            return
        with self._scheduler.lock:
            worker = self._holder_of(task)
            batch = None if worker is None else worker.batch
            if batch is not None and batch.place_of(task) < batch.begun():
                self._scheduler.note_begun(task)
        self._scheduler.arm_timer()

    def notice_cancel(self, task: Task) -> None:
        super().notice_cancel(task)
        with self._scheduler.lock:
            worker = self._holder_of(task)
            batch = None if worker is None else worker.batch
            if worker is not None and batch is not None and batch.place_of(task) == batch.begun() - 1:  # the others are over
                worker.note_cancel(batch.first + batch.begun() - 1)

    def _struck(self) -> bool:
        """Return True in a destructor or signal handler that has struck this thread in the middle of what the lock guards."""
        return inside(self._scheduler.lock)

    def _stop(self, task: Task, error: BaseException, cause: Cause) -> None:
        with self._scheduler.lock:
            worker = self._holder_of(task)
        if worker is not None:
            self._reduce(worker)
        with self._scheduler.lock:  # its worker must not go on to another task meanwhile
            super()._stop(task, error, cause)
        if cause == "killed" and any(worker.task is task and worker.answering for worker in self._processes.values()):
            # It has answered in time, and is slow to unpickle here: a timeout waits for that, who kills it does not.
            self._scheduler.fail(task, error, cause)
