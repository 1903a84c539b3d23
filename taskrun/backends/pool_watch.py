"""What is due at the workers of the pool backend while they live: at one that does not do what it was told, or has grown old.

The keeper looks at them, in its turns and when something is due.
"""

from __future__ import annotations

import signal
import time
from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING

from taskrun.backends.kept import KeptBackend
from taskrun.engine.stopping import LOOK_AGAIN, TAKEN_UP_WITHIN
from taskrun.runs import OVERDUE, Run

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

    from taskrun.engine.pooled import PooledWorker

__all__ = ["BATCH_TICK", "PoolWatch"]

BATCH_TICK = 0.005
"""Seconds between two looks at a batch."""

_MADE_WITHIN = 2.0  # seconds, however busy the machine is; then it is looked whether somebody has stopped the fork server
_AHEAD = 0.05  # seconds before a worker has done its share that its replacement is made: what that takes, and some more


class PoolWatch(KeptBackend["PooledWorker"]):
    """The part of the backend that counts workers and looks after them."""

    _keeps_workers = True
    _context: BaseContext
    _extra = 0
    """Workers that there may be beside `max_workers`, as many are stuck. The keeper's."""

    # -- counting --------------------------------------------------------------------------------------------------------------

    @property
    def _limit(self) -> int:
        return self._settings.max_workers + self._extra

    def _current(self) -> list[PooledWorker]:
        """Return the workers that are not on their way out."""
        return [worker for worker in self._processes.values() if not (worker.leaving or worker.dead or worker.stop)]

    def _staying(self) -> list[PooledWorker]:
        """Return those that do not end soon: there are `max_workers` of them, replacements of the others included."""
        return [worker for worker in self._current() if not worker.ends_soon]

    def _at_work(self) -> int:
        """Return how many workers run something, those included that are being stopped and should not be gone yet."""
        now = time.monotonic()
        return sum(
            self._is_at_work(worker) and not worker.dead and (worker.stop is None or now < worker.stop.gone_by)
            for worker in self._processes.values()
        )

    def _too_many(self) -> bool:
        """Return whether a worker has to leave that has not done its share. In the pools' threads, too."""
        if len(self._processes) <= self._limit:  # without the lock: the keeper looks again when it has made more
            return False
        with self._scheduler.lock:
            return len(self._staying()) > self._limit

    def allow(self, extra: int) -> None:
        self._tell(self._allow, extra)

    def _allow(self, extra: int) -> None:
        self._extra = extra

    # -- looking after them ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def _something_waits(self) -> bool:
        """Return whether a task waits for a worker."""

    @abstractmethod
    def _bury(self, worker: PooledWorker, now: float) -> list[float]:
        """Take the next step of a dead worker's burial; return when to look again."""

    @abstractmethod
    def _is_at_work(self, worker: PooledWorker) -> bool:
        """Return whether a worker runs something, or is about to. Under the lock."""

    @abstractmethod
    def _unpark(self, worker: PooledWorker) -> None:
        """Have nobody call it any more. Under the lock."""

    @abstractmethod
    def _look_at_batch(self, worker: PooledWorker, now: float) -> list[float]:
        """See how far a worker has come with its batch; return when to look again: never, if what it runs is its `task`."""

    @abstractmethod
    def _look_at_turns(self, now: float) -> list[float]:
        """See what runs in the place of what was submitted earlier; return when to look again."""

    def _due(self, now: float) -> list[float]:
        times = self._look_at_turns(now)
        for worker in list(self._processes.values()):
            if worker.dead:
                times += self._bury(worker, now)
            elif worker.busy:
                times += self._look_after(worker, now) + self._note_age(worker, now)
            elif worker.leaving and not worker.stop:
                times += self._see_off(worker, now)
            elif worker.ready and not (worker.leaving or worker.stop):
                times += self._recycle(worker, now) + self._go_on_watching(worker, now)
            elif not worker.made:
                times += self._see_it_made(worker, now)
        return times

    def _look_after(self, worker: PooledWorker, now: float) -> list[float]:
        """Kill a worker that does not take up its task because somebody has stopped it; it runs elsewhere then, unharmed."""
        of_batch = self._look_at_batch(worker, now)
        if of_batch:
            if now > worker.moved + TAKEN_UP_WITHIN and worker.is_stopped() and not self._has_begun(worker):
                worker.signal(signal.SIGKILL)
            return of_batch
        sequence = worker.sequence
        if worker.has_taken_up():
            worker.seen = sequence
            return self._look_at_run(worker, now) or self._go_on_watching(worker, now)
        late = now > worker.moved + TAKEN_UP_WITHIN and not worker.packing
        if late and worker.is_stopped() and not worker.has_taken_up():  # asked again: it may have gone on just now
            worker.signal(signal.SIGKILL)
            return []
        return [max(now, worker.moved) + TAKEN_UP_WITHIN]

    def _go_on_watching(self, worker: PooledWorker, now: float) -> list[float]:
        """Look again at a worker that was given something since the last look; else whoever gives it something tells us."""
        with self._scheduler.lock:
            if worker.batch is not None:  # it was given that just now
                return [now + BATCH_TICK]
            if worker.sequence == worker.looked:
                worker.watched = 0
                return []
            worker.looked = worker.sequence
            worker.watched = min(worker.watched, 1)
        return [now + TAKEN_UP_WITHIN]

    def _has_begun(self, worker: PooledWorker) -> bool:
        """Return whether a worker has begun with what it was given."""
        with self._scheduler.lock:
            batch = worker.batch
            return worker.has_taken_up() if batch is None else not batch.sent or batch.begun() > 0

    def _look_at_run(self, worker: PooledWorker, now: float) -> list[float]:
        """See whether a worker has given items of a run back; return when to look again."""
        task = worker.task
        if task is None or type(task.fn) is not Run:
            return []
        begun = worker.items_begun()
        if begun is not None and task.owner is not None:
            self._scheduler.run_aside(partial(task.owner.rest_given_back, begun))  # not here: it pickles
        return [now + OVERDUE]

    def _see_off(self, worker: PooledWorker, now: float) -> list[float]:
        """See that a worker that has nothing more to do ends, though somebody has stopped it; return when to look again."""
        if worker.leaving_look.is_due(now, LOOK_AGAIN) and worker.is_stopped():
            worker.signal(signal.SIGKILL)
        return [worker.leaving_look.next]

    def _see_it_made(self, worker: PooledWorker, now: float) -> list[float]:
        """See that the fork server makes a worker, or another one in its place that nobody has stopped."""
        if worker.making_look.is_due(now, _MADE_WITHIN) and self._context.get_start_method() == "forkserver":
            from taskrun.engine import fork_server

            fork_server.kill_if_stopped()
        return [worker.making_look.next]

    # -- growing old -----------------------------------------------------------------------------------------------------------

    def _recycle(self, worker: PooledWorker, now: float) -> list[float]:
        """Have a free worker leave that is too old, idle for too long or not needed any more; return when to look again."""
        settings = self._settings
        times = []
        if not worker.done and self._something_waits():  # it waits for the end of the one that it replaces: it is not idle
            worker.moved = now
        else:
            if settings.max_age_per_child is not None:
                times.append(worker.born + settings.max_age_per_child)
            if settings.idle_timeout is not None:
                times.append(worker.moved + settings.idle_timeout)
        over = (self._extra == 0 and self._too_many()) or (self._closing and not self._scheduler.queued)
        if (over or any(when <= now for when in times)) and self._leave(worker):
            return self._see_off(worker, now)
        return times

    def _leave(self, worker: PooledWorker) -> bool:
        """Have a worker end in order that nobody owns; False: somebody does, or it ends anyway."""
        with self._scheduler.lock:
            if self._is_at_work(worker) or worker.leaving or worker.dead:
                return False
            worker.leaving = True
            self._unpark(worker)
        worker.leave()
        return True

    def _note_whether_it_ends_soon(self, worker: PooledWorker) -> None:
        """Under the scheduler's lock."""
        settings, before = self._settings, worker.ends_soon
        worker.ends_soon = worker.has_left(settings.max_tasks_per_child, settings.max_age_per_child) < _AHEAD
        if worker.ends_soon != before:
            self._have_it_look()  # for its replacement

    def _note_age(self, worker: PooledWorker, now: float) -> list[float]:
        """Note if a busy worker grows too old; return when to look again."""
        age = self._settings.max_age_per_child
        if age is None or worker.ends_soon:
            return []
        with self._scheduler.lock:
            self._note_whether_it_ends_soon(worker)
        return [max(now, worker.born + age - _AHEAD)]
