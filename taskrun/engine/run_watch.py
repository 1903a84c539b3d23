"""In a worker process: a run of items whose current one does not end gives the others back, for it may wait for one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskrun import runs
from taskrun.engine.own_timer import OwnTimer

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RunWatch"]


class RunWatch:
    """Is told by `runs` when one begins and when it is over. *give_back* tells the parent how many of its items are begun.

    It is woken by a signal, between two steps of the task's code, and does without where there is no timer for that.
    """

    def __init__(self, give_back: Callable[[int], object]) -> None:
        self._give_back = give_back
        self._rest: runs.Rest | None = None
        self._timer: OwnTimer | None = None  # made for the first run
        self._tried = False

    def __call__(self, rest: runs.Rest | None) -> None:
        """Take note of what is left of a run that begins; None: it is over."""
        self._rest = rest
        if not self._tried:
            self._tried = True
            try:
                self._timer = OwnTimer(self._overdue)
            except OSError:
                return
        if self._timer is None:
            return
        if rest is None:
            self._timer.clear()
        else:
            self._timer.set(runs.OVERDUE)

    def _overdue(self) -> None:
        rest = self._rest
        if rest is not None:
            self._give_back(rest.take())  # also where there is nothing left: it is stuck
