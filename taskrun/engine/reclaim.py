"""What waits at one worker while another could run it: it is taken back, and sent anew.

It waits behind a slow task, or at a worker that does not take it up: without a CPU, or stopped by somebody. That one is killed,
the former shunned for a while: whether it is well again it cannot tell, having nothing to answer.

Where nobody is free it goes back a little later, to be the next that is begun: what is slow may wait for it, and if each worker
has such a task, nobody would ever be free. Then there is one worker more for each that began before its turn, until what should
have begun earlier has (`Waits.note_stuck`): with one task at a time sent to each worker, that one would not run yet.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from taskrun.engine import notes
from taskrun.engine.functions import seconds_of
from taskrun.engine.stopping import TAKEN_UP_WITHIN
from taskrun.runs import OVERDUE as RUN_OVERDUE
from taskrun.runs import Run

if TYPE_CHECKING:
    import threading

    from taskrun.engine.dispatch import Dispatcher
    from taskrun.engine.fleet import Fleet
    from taskrun.engine.handle import Handle
    from taskrun.scheduler import Scheduler
    from taskrun.task import Task

__all__ = ["OVERDUE", "Reclaimer"]

OVERDUE = 0.005
"""Seconds without an answer before the rest of a batch is taken back."""
_TOO_MUCH, _FEW = 0.1, 4  # seconds of work in hand, where it was to be a few milliseconds; in so many tasks
_STUCK = 0.02  # seconds without an answer, where nobody is free


class Reclaimer:
    """Takes tasks back from the workers of one fleet. The I/O thread's; *lock* is that of the flights."""

    def __init__(self, fleet: Fleet, dispatcher: Dispatcher, lock: threading.RLock, scheduler: Scheduler) -> None:
        self._fleet = fleet
        self._dispatcher = dispatcher
        self._lock = lock
        self._scheduler = scheduler
        self._owed: list[Task] = []  # what was taken back, until it is pulled again
        self._slow: dict[Task, Handle] = {}  # what does not end, has begun before its turn, and where

    def look(self, busy: list[Handle], now: float) -> float | None:
        """Take back what is overdue at *busy* workers, if another could run it; return when to look again, or None."""
        following: float | None = None
        somebody: bool | None = None
        for handle in busy:
            flight = handle.flight
            if not flight or (len(flight) == 1 and handle.watch.seen in flight.values()):
                continue
            if somebody is None:
                somebody = self._anybody_free(len(busy))
            if not somebody:
                break
            due = handle.fed + OVERDUE
            if due > now:
                following = due if following is None else min(due, following)
                continue
            with self._lock:
                back = handle.take_back()
                handle.watch.seen = handle.head
                if handle.watch.seen is None:  # nothing claimed, or nothing but what it has answered without our having read it
                    handle.watch.shun(now)
            self._fleet.returned += back
        if somebody is None and self._owed:
            somebody = self._anybody_free(len(busy))
        return self._look_at_slow(busy, now) if somebody is False else following

    def _look_at_slow(self, busy: list[Handle], now: float) -> float | None:
        """Take back what waits behind tasks that do not end: nobody is free. Return when to look again, or None."""
        times = [self.somebody_by()]
        for handle in busy if self._fleet.limit > 1 else ():
            with self._lock:
                head, alone = handle.head, len(handle.flight) < 2
            if head is None or head in self._slow or (alone and not self._owed):
                continue
            due = handle.moved + _STUCK
            if due <= now:
                due = now + _STUCK
                with self._lock:
                    begun = handle.unclaimed() < len(handle.flight)
                    back = handle.take_back() if begun else []
                if back:
                    self._fleet.returned += back
                    slot = self._dispatcher.pace_slot(head.fn)
                    if slot is not None:  # those that come next travel alone
                        slot.seconds = max(slot.seconds or 0.0, now - handle.moved)
                if begun and type(head.fn) is not Run and self._is_before_its_turn(head):  # a run's map looks after it
                    self._slow[head] = handle
                    self._scheduler.note_stuck(head)
            times.append(due)
        return min((when for when in times if when is not None), default=None)

    def look_for_too_much(self, busy: list[Handle]) -> None:
        """Take back what was sent to *busy* workers when its function was believed to be far quicker than it is.

        What has a higher priority would wait for all of it.
        """
        for handle in busy:
            with self._lock:
                count, head = len(handle.flight), handle.head
            if head is None or count < _FEW or head.options.chunksize is not None:
                continue
            if count * seconds_of(self._dispatcher.pace_slot(head.fn)) > _TOO_MUCH:
                with self._lock:
                    self._fleet.returned += handle.take_back()

    def look_for_stopped(self, busy: list[Handle], now: float) -> float | None:
        """Do without *busy* workers that were stopped before they took up what they were sent; return when to look again.

        Not where `look` has given that to another already: such a worker lives until it is needed.
        """
        following: float | None = None
        for handle in busy:
            if handle.watch.taken_up == handle.fed:
                continue
            due = max(handle.fed, handle.watch.late_at) + TAKEN_UP_WITHIN
            if due <= now:
                with self._lock:
                    waits = bool(handle.flight) and handle.unclaimed() == len(handle.flight)
                if not waits:
                    handle.watch.taken_up = handle.fed
                    continue
                if self._fleet.is_stopped(handle):
                    self._fleet.do_without(handle, now)
                    continue
                handle.watch.late_at = now
                due = now + TAKEN_UP_WITHIN
            following = due if following is None else min(due, following)
        return following

    def give_back(self, returned: list[Task]) -> None:
        """Give back what was taken back, so that all of that kind waits in the order of submission, and remember it."""
        self._forget_what_is_taken()
        again = self._dispatcher.pull_to_give_back(len(self._owed)) if self._owed else []  # they are the first of the queue
        self._dispatcher.give_back(sorted(returned + again, key=_turn))
        self._owed += returned

    def _forget_what_is_taken(self) -> None:
        if self._owed:
            self._owed = [task for task in self._owed if not (task.pulled or task.settled)]

    def _is_before_its_turn(self, task: Task) -> bool:
        """Return whether one that was submitted earlier has not begun: with a task at a time *task* would not run yet."""
        turn = _turn(task)
        return any(_turn(each) < turn for each in self._owed)

    def see_whether_they_move(self) -> None:
        """Note which of the tasks that were slow have ended, or run in their turn since what came before them was pulled."""
        self._forget_what_is_taken()
        for slow, handle in list(self._slow.items()):
            with self._lock:
                over = all(task is not slow for task in handle.flight.values())
            if over or not self._is_before_its_turn(slow):
                del self._slow[slow]
                self._scheduler.note_moving(slow)

    def have_them_travel_alone(self) -> None:
        """All workers stood still: what they are at waits for others, it seems."""
        for task in self._slow:
            slot = self._dispatcher.pace_slot(task.fn)
            if slot is not None:
                slot.seconds, slot.waits = 1.0, True

    def look_at_runs(self, busy: list[Handle], now: float) -> float | None:
        """Look whether *busy* workers have given items of a run back; return when to look again, or None."""
        following: float | None = None
        for handle in busy:
            with self._lock:
                task = handle.head
            if task is None or type(task.fn) is not Run or handle.notes < 0:
                continue
            if now >= handle.watch.looked_at + RUN_OVERDUE:
                handle.watch.looked_at = now
                number, begun = notes.given_back(handle.notes)
                run = None if number == handle.watch.given_back else handle.flight.get(number)
                handle.watch.given_back = number
                if run is not None and run.owner is not None:
                    self._scheduler.run_aside(partial(run.owner.rest_given_back, begun))  # not here: it pickles
            following = now + RUN_OVERDUE
        return following

    def _anybody_free(self, busy: int) -> bool:
        """Return whether there is, or could be, a worker that may run something beside the *busy* ones."""
        # A worker on its way out makes room for another, but that one may not run anything as long as it works.
        fleet = self._fleet
        return busy < fleet.limit and (fleet.anybody_free() or fleet.room_to_start() > 0)

    def somebody_by(self) -> float | None:
        """Return when a worker that is shunned may be tried again, or None."""
        shunned = [
            handle.watch.shunned_until for handle in self._fleet.workers.values() if handle.free and handle.watch.unresponsive
        ]
        return min(shunned, default=None)


def _turn(task: Task) -> tuple[float, int]:
    return task.queued, task.index
