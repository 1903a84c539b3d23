"""What waits at one worker while another could run it: it is taken back, and sent anew.

It waits behind a slow task, or at a worker that does not take it up: stopped, or without a CPU. Such a worker is shunned for a
while: whether it is well again it cannot tell, having nothing to answer.

Where nobody is free it goes back a little later, to be the next that is begun: what is slow may wait for it, and if each worker
has such a task, nobody would ever be free. Then there is one worker more until all of it is begun (`Waits.note_stuck`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from taskrun.engine import notes
from taskrun.runs import OVERDUE as RUN_OVERDUE
from taskrun.runs import Run

if TYPE_CHECKING:
    import threading

    from taskrun.engine.fleet import Fleet
    from taskrun.engine.handle import Handle
    from taskrun.scheduler import Scheduler
    from taskrun.task import Task

__all__ = ["OVERDUE", "Reclaimer"]

OVERDUE = 0.005
"""Seconds without an answer before the rest of a batch is taken back."""
_STUCK = 0.02  # seconds without an answer, where nobody is free


class Reclaimer:
    """Takes tasks back from the workers of one fleet. The I/O thread's; *lock* is that of the flights."""

    def __init__(self, fleet: Fleet, lock: threading.RLock, scheduler: Scheduler) -> None:
        self._fleet = fleet
        self._lock = lock
        self._scheduler = scheduler
        self._slow: list[tuple[Handle, Task, list[Task]]] = []  # by whom, what, and what was taken back while nobody was free

    def look(self, busy: list[Handle], now: float) -> float | None:
        """Take back what is overdue at *busy* workers, if another could run it; return when to look again, or None."""
        following: float | None = None
        somebody: bool | None = None
        for handle in busy:
            flight = handle.flight
            if not flight or (len(flight) == 1 and handle.seen in flight.values()):
                continue
            if somebody is None:
                somebody = self._anybody_free(len(busy))
            if not somebody:
                return self._look_at_slow(busy, now)
            due = handle.fed + OVERDUE
            if due > now:
                following = due if following is None else min(due, following)
                continue
            with self._lock:
                back = handle.take_back()
                handle.seen = next(iter(flight.values()), None)
                if handle.seen is None:  # nothing claimed, or nothing but what it has answered without our having read it
                    handle.shun(now)
            self._fleet.returned += back
        return following

    def _look_at_slow(self, busy: list[Handle], now: float) -> float | None:
        """Take back what waits behind tasks that do not end: nobody is free. Return when to look again, or None."""
        following = self._somebody_by()
        for handle in busy if self._fleet.limit > 1 else ():
            flight = handle.flight
            if len(flight) < 2:
                continue
            due = handle.moved + _STUCK
            if due <= now:
                with self._lock:
                    back = handle.take_back() if handle.unclaimed() < len(flight) else []
                    slow = next(iter(flight.values()), None)
                self._fleet.returned += back
                if back and slow is not None and type(slow.fn) is not Run:  # whose map looks after it itself
                    self._slow.append((handle, slow, back))
                    self._scheduler.note_stuck(slow)
                due = now + _STUCK
            following = due if following is None else min(due, following)
        return following

    def see_whether_they_move(self) -> None:
        """Note which of the tasks that were slow have ended, or have nothing behind them any more that has not begun."""
        if self._slow:
            self._slow, before = [], self._slow
            for handle, slow, back in before:
                runs = any(task is slow for task in handle.flight.values())
                if runs and any(not (task.pulled or task.settled) for task in back):
                    self._slow.append((handle, slow, back))
                else:
                    self._scheduler.note_moving(slow)

    def look_at_runs(self, busy: list[Handle], now: float) -> float | None:
        """Look whether *busy* workers have given items of a run back; return when to look again, or None."""
        following: float | None = None
        for handle in busy:
            task = next(iter(handle.flight.values()), None)
            if task is None or type(task.fn) is not Run or handle.notes < 0:
                continue
            if now >= handle.looked_at + RUN_OVERDUE:
                handle.looked_at = now
                number, begun = notes.given_back(handle.notes)
                run = None if number == handle.given_back else handle.flight.get(number)
                handle.given_back = number
                if run is not None and run.owner is not None:
                    self._scheduler.run_aside(partial(run.owner.rest_given_back, begun))  # not here: it pickles
            following = now + RUN_OVERDUE
        return following

    def _anybody_free(self, busy: int) -> bool:
        """Return whether there is, or could be, a worker that may run something beside the *busy* ones."""
        # A worker on its way out makes room for another, but that one may not run anything as long as it works.
        fleet = self._fleet
        return busy < fleet.limit and (fleet.anybody_free() or fleet.room_to_start() > 0)

    def _somebody_by(self) -> float | None:
        """Return when a worker that is shunned may be tried again, or None."""
        shunned = [handle.shunned_until for handle in self._fleet.workers.values() if handle.free and handle.unresponsive]
        return min(shunned, default=None)
