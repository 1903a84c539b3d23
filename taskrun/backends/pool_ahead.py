"""What the pool backend sends a worker while it runs something else: a few tiny tasks, as long as they may be taken back.

The thread of its pool that takes its answers does it. A worker that has answered goes on with the first of them, which is known
here when the answer has been read. What waits behind a task that does not end is given back by the keeper; see `engine.ahead`.
Where workers are recycled nothing is sent ahead: it would be given to one that has to leave.
"""

from __future__ import annotations

import math
import threading
from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any

from taskrun.backends.pool_workers import PoolWorkers
from taskrun.runs import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskrun.engine.ahead import Bundle, SentAhead
    from taskrun.engine.pooled import PooledWorker
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler
    from taskrun.task import Cause, Task

__all__ = ["PoolAhead"]

_STUCK_AFTER = 0.01  # seconds that what was sent ahead waits for the end of one task


class PoolAhead(PoolWorkers):
    """The part of the backend that sends ahead and takes back."""

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        recycling = (settings.max_tasks_per_child, settings.max_memory_per_child, settings.max_age_per_child)
        self._sends_ahead = all(limit is None for limit in recycling)
        self._inside = threading.local()  # `ours`: a thread of one of our pools
        self._owed: list[Task] = []  # what was given back, until it is pulled again; under the lock
        super().start(scheduler, settings)

    # -- sending (in the pool's thread) ----------------------------------------------------------------------------------------

    def _send_ahead(self, worker: PooledWorker) -> None:
        """Send a worker that has a task some of what waits, if it is tiny."""
        ahead, running = worker.ahead, worker.task
        if not self._sends_ahead or running is None or type(running.fn) is Run:
            return
        count = min(ahead.room(), self._scheduler.queued // self._settings.max_workers)  # the others are to have some, too
        if count <= 0:
            return
        with self._scheduler.lock:
            if self._takes_nothing(worker):
                return
            tasks = self._scheduler.pull(count)
            ahead.unsent.extend(tasks)
        messages = self._packed_ahead(worker, tasks)
        if messages:
            try:
                worker.send(messages)
            except Exception as error:  # it is dead, or nobody knows what it has now
                self._tell(self._lost, worker, error.with_traceback(None))
        with self._scheduler.lock:
            left = [*ahead.unsent]  # they are what this worker, or another one, is given next
            ahead.unsent.clear()
            watched, worker.watched = worker.watched, worker.watched or bool(ahead.sent)
            look = worker.watched and not watched
        if left:
            ahead.pause()
            self._give_back(left)
        if look:
            self._have_it_look()

    @staticmethod
    def _takes_nothing(worker: PooledWorker) -> bool:
        return bool(worker.stop or worker.leaving or worker.dead)

    def _packed_ahead(self, worker: PooledWorker, tasks: list[Task]) -> list[bytes]:
        """Return *tasks* as messages, noted as sent, up to the first that is not to go ahead."""
        messages: list[bytes] = []
        bundle: Bundle | None = None
        for task in tasks:
            if bundle is not None:
                if worker.add_to(bundle, task):
                    continue
                messages += self._bundled(worker, bundle)
            may_go = type(task.fn) is not Run and (task.number == 1 or task.future not in self._crashed)
            bundle = worker.bundle(task, self._settings.seed is not None) if may_go else None
            if bundle is None:
                break
        return messages if bundle is None else messages + self._bundled(worker, bundle)

    def _bundled(self, worker: PooledWorker, bundle: Bundle) -> list[bytes]:
        """Return the message that a bundle makes, noted as sent; none if nothing of it is to run any more."""
        from taskrun.engine.ahead import SentAhead

        with self._scheduler.lock:
            if self._takes_nothing(worker):
                return []
            ours = {id(task) for task in worker.ahead.unsent if self._scheduler.wanted(task)}
            run = [task for task, _ in bundle.items if id(task) in ours]
            if not run:
                return []
            calls = [SentAhead(number, task) for number, task in enumerate(run, worker.last + 1)]
            worker.last += len(calls)
            worker.errands += 1
            worker.ahead.add(calls)
        for task in run:
            task.worker = worker.label
        return [
            worker.bundled(
                bundle,
                calls,
                partial(self._answered_ahead, worker, calls),
                partial(self._through, worker, bundle, calls),
                partial(self._tell, self._lost, worker),
            )
        ]

    @abstractmethod
    def _answered(self, worker: PooledWorker, task: Task, answer: Sequence[Any]) -> None:
        """Settle the task of a worker. In the pool's thread, as the next one."""

    @abstractmethod
    def _look_for_more(self, worker: PooledWorker) -> None:
        """Give a worker that has nothing what waits next."""

    # -- its answers (in the pool's thread) ------------------------------------------------------------------------------------

    def _answered_ahead(self, worker: PooledWorker, calls: list[SentAhead], place: int, answer: Sequence[Any]) -> None:
        self._inside.ours = True
        if self._has_come_to(worker, calls[place]):
            self._answered(worker, calls[place].task, answer)

    def _through(self, worker: PooledWorker, bundle: Bundle, calls: list[SentAhead], _: object) -> None:
        """The worker has run all of a bundle that it had tokens of. If everything was taken back it has nothing more to do."""
        self._inside.ours = True
        worker.ahead.note_read(bundle.size)
        with self._scheduler.lock:
            worker.errands -= 1
        if self._has_come_to(worker, calls[-1]):
            self._pass_over(worker)
        if worker.task is None or worker.answering:  # nothing was promoted since
            self._look_for_more(worker)

    def _has_come_to(self, worker: PooledWorker, call: SentAhead) -> bool:
        """See that the task of a worker is that of *call*; False: it was taken back, or has been answered.

        What it has passed over is given back: a task has read from the pipe of tokens.
        """
        while worker.sequence < call.number and any(each is call for each in worker.ahead.sent):
            self._pass_over(worker)
            self._promote(worker)
        return worker.sequence == call.number and worker.task is call.task and not worker.answering

    def _pass_over(self, worker: PooledWorker) -> None:
        with self._scheduler.lock:
            task, worker.task = worker.task, None
        if task is not None:
            self._scheduler.give_back((task,))

    def _promote(self, worker: PooledWorker) -> bool:
        """Note that a worker has gone on to what was sent ahead, if something was."""
        with self._scheduler.lock:
            if not worker.ahead.sent:
                return False
            number, task = worker.ahead.sent.popleft()
            worker.task, worker.sequence, worker.answering = task, number, False
            worker.note_given()
            stops, worker.stop_later = worker.stop_later, []
        self._scheduler.begin(task)
        for stop in stops:  # one that it has not come to yet waits there again
            self._tell(self._stop, *stop)
        return True

    # -- taking back -----------------------------------------------------------------------------------------------------------

    def _take_back_ahead(self, worker: PooledWorker) -> None:
        with self._scheduler.lock:
            back = worker.take_back()
        self._give_back(back)

    def _give_back(self, tasks: list[Task]) -> None:
        super()._give_back(tasks)
        if not tasks:
            return
        # Others may have overtaken them: see `_look_behind`. Remembered only now that they are not pulled any more.
        with self._scheduler.lock:
            self._owed = [*filter(_waits, (*self._owed, *tasks))]
        self._have_it_look()

    def _look_behind(self, worker: PooledWorker, now: float) -> list[float]:
        """See to a worker whose task does not end; return when to look again. In the keeper.

        What waits behind it is taken back. And if it has begun before its turn, it may wait for one that should have begun
        earlier: then there is one worker more if nothing else ends, as there would be with one task at a time sent to each.
        """
        if not (worker.ahead.sent or self._owed):
            worker.stuck_since = math.inf
            return []
        if worker.sequence != worker.stuck_at:
            worker.stuck_at, worker.stuck_since = worker.sequence, now
        elif now >= worker.stuck_since + _STUCK_AFTER:
            with self._scheduler.lock:
                back, task = worker.take_back(), worker.task
                self._owed = [*filter(_waits, self._owed)]
                overtook = task is not None and any(_turn(each) < _turn(task) for each in self._owed)
            if back:
                worker.ahead.note_stuck(now - worker.stuck_since)
                self._give_back(back)
            if overtook:
                self._scheduler.note_stuck(task)
            elif task is not None:
                self._scheduler.note_moving(task)
            worker.stuck_since = now
        return [now + _STUCK_AFTER]

    def refresh(self, task: Task) -> None:
        with self._scheduler.lock:
            worker, number = self._where(task)
            begun = worker is not None and worker.has_taken_up(number)
        if begun:
            self._scheduler.begin(task)

    def notice_cancel(self, task: Task) -> None:
        super().notice_cancel(task)
        with self._scheduler.lock:
            worker, number = self._where(task)
            if worker is not None:
                worker.note_cancel(number)

    def _where(self, task: Task) -> tuple[PooledWorker | None, int]:
        """Return which worker *task* was sent ahead to, and its number there. Under the lock."""
        for worker in self._processes.values():
            number = worker.ahead.number_of(task)
            if number is not None:
                return worker, number
        return None, -1

    # -- stopping (in the keeper) ----------------------------------------------------------------------------------------------

    def _stop(self, task: Task, error: BaseException, cause: Cause) -> None:
        with self._scheduler.lock:  # its worker must not go on to another task meanwhile
            worker = next((each for each in self._processes.values() if each.task is task), None) or self._where(task)[0]
            back = [] if worker is None else worker.take_back()
            answered = False
            if (
                worker is not None and worker.ahead.number_of(task) is not None
            ):  # it has begun with it, and answered the last one
                worker.stop_later.append((task, error, cause))
            elif not any(each is task for each in back):
                answered = worker is not None and (worker.answering or bool(worker.ahead.sent))
                if not answered:
                    super()._stop(task, error, cause)
        if back:
            self._scheduler.give_back(back)
        if answered and cause == "killed":  # a timeout waits for what was done in time to be read and unpickled, this does not
            self._scheduler.fail(task, error, cause)

    def _abort(self, force: bool) -> None:
        super()._abort(force)  # first: nothing is sent to a worker that is being stopped
        for worker in self._processes.values():
            self._take_back_ahead(worker)


def _waits(task: Task) -> bool:
    return not (task.pulled or task.settled)


def _turn(task: Task) -> tuple[float, int]:
    return task.queued, task.index
