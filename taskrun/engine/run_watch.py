"""In a worker process: a run of items whose current one does not end gives the others back, for it may wait for one of them."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from taskrun import runs

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["RunWatch"]


class RunWatch:
    """Is told by `runs` when one begins and when it is over. *give_back* tells the parent how many of its items are begun.

    It is woken by SIGALRM, between two steps of the task's code, and does without where that is the task's own.
    """

    def __init__(self, give_back: Callable[[int], object]) -> None:
        self._give_back = give_back
        self._rest: runs.Rest | None = None

    def __call__(self, rest: runs.Rest | None) -> None:
        """Take note of what is left of a run that begins; None: it is over."""
        if rest is not None:
            if signal.getsignal(signal.SIGALRM) is signal.SIG_DFL:
                self._rest = rest
                signal.signal(signal.SIGALRM, self._overdue)
                signal.setitimer(signal.ITIMER_REAL, runs.OVERDUE)
        elif self._rest is not None:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            self._rest = None
            signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def _overdue(self, _: int, __: FrameType | None) -> None:
        rest = self._rest
        if rest is not None:
            had = rest.end
            if rest.take() < had:
                self._give_back(rest.end)
