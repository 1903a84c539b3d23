"""Runs of items that a `map` has submitted and that have not ended; what those that do not end have not begun is taken back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from taskrun.runs import OVERDUE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from taskrun.future import Future
    from taskrun.map_runs import FeedInRuns
    from taskrun.runs import Live, Rest

__all__ = ["LiveRuns", "UnderWay"]


class UnderWay:
    """A run that was submitted: its items, and what follows it if it does not call them all. Guarded by the map's lock.

    Two things may cut it short: it stops early, or it gives back what it has not begun. What was cut off is submitted anew.
    """

    __slots__ = (
        "__weakref__",
        "after_end",
        "after_gift",
        "dropped",
        "feed",
        "first",
        "given_back",
        "items",
        "live",
        "over",
        "parts",
        "size",
        "unread",
    )

    def __init__(self, feed: FeedInRuns, items: list[Any], first: int) -> None:
        self.feed = feed
        self.items = items
        """Those that are its own; the others were given back."""
        self.size = len(items)
        """How many it had at first."""
        self.first = first
        self.parts = 0
        """What it is counted for: 1 until its end was seen to, 1 while what it gave back is submitted."""
        self.unread = False
        self.live: Live | None = None
        """What is left of it, where it runs in this process."""
        self.over = False
        """It is known to have ended: nothing can be given back any more."""
        self.given_back = False
        self.after_end: list[Future[Any]] | None = None
        """What follows since it stopped early, mostly nothing; None: not known yet."""
        self.after_gift: list[Future[Any]] | None = None
        """What follows of that which it gave back; None: not submitted yet."""
        self.dropped = False
        """Nobody will ask for its results, nor for what follows."""

    @property
    def follows(self) -> list[Future[Any]] | None:
        """What comes after it in its place; None: not known yet."""
        if self.after_end is None or (self.given_back and self.after_gift is None):
            return None
        return [*self.after_end, *(self.after_gift or ())]

    @property
    def closed(self) -> bool:
        return self.dropped or self.feed.closed

    def advance(self, ended: Sequence[Future[Any]]) -> None:
        for future in ended:
            self.feed.run_ended(self, future)

    def executor_closed(self, error: BaseException | None) -> None:
        """Do nothing: the feed is told."""

    def overdue(self, now: float) -> Rest | None:
        """Return what is left of it if it runs in this process and should have ended long ago."""
        rest = None if self.live is None or self.given_back else self.live.rest
        return rest if rest is not None and now > rest.since + OVERDUE else None

    def rest_given_back(self, begun: int) -> None:
        self.feed.take_rest_back(self, begun)

    def stop(self) -> None:
        """Have it begin no more items, where it runs in this process in a thread that was given up."""
        if self.live is not None and self.live.rest is not None:
            self.live.rest.take()


class LiveRuns:
    """Runs that are called in this process: nobody but the timer looks whether their items end.

    *lock* is the map's and guards them.
    """

    def __init__(self, lock: AbstractContextManager[object], call_at: Callable[[float, Callable[[], object]], object]) -> None:
        self._lock = lock
        self._call_at = call_at
        self._runs: set[UnderWay] = set()
        self._looking = False  # the timer will look

    def add(self, run: UnderWay) -> None:
        """Look after *run*. Not under the lock: the timer's thread may have to be started."""
        with self._lock:
            self._runs.add(run)
            if self._looking:
                return
            self._looking = True
        self._call_at(time.monotonic() + OVERDUE, self._look)

    def discard(self, run: UnderWay) -> None:
        """Forget *run*, if it is there. Under the lock."""
        self._runs.discard(run)

    def _look(self) -> None:
        """Take back what is left of runs that do not end. In the timer's thread."""
        now = time.monotonic()
        with self._lock:
            overdue = [(run, rest) for run in self._runs if (rest := run.overdue(now)) is not None]
            self._looking = bool(self._runs)
        if self._looking:
            self._call_at(now + OVERDUE, self._look)
        for run, rest in overdue:
            run.feed.take_rest_back(run, rest.take())
