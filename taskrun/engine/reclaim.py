"""What waits at one worker while another could run it: it is taken back, and sent anew.

It waits behind a slow task, or at a worker that does not take it up: stopped, or without a CPU. Such a worker is shunned for a
while: whether it is well again it cannot tell, having nothing to answer.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from taskrun.engine import notes
from taskrun.runs import OVERDUE as RUN_OVERDUE
from taskrun.runs import Run

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from taskrun.engine.fleet import Fleet
    from taskrun.engine.handle import Handle

__all__ = ["OVERDUE", "Reclaimer"]

OVERDUE = 0.005
"""Seconds without an answer before the rest of a batch is taken back."""


class Reclaimer:
    """Takes tasks back from the workers of one fleet. The I/O thread's; *lock* is that of the flights."""

    def __init__(self, fleet: Fleet, lock: threading.RLock, run_aside: Callable[[Callable[[], object]], object]) -> None:
        self._fleet = fleet
        self._lock = lock
        self._run_aside = run_aside

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
                return self._somebody_by()
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
                    self._run_aside(partial(run.owner.rest_given_back, begun))  # not here: it pickles
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
