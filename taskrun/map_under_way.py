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
    """The items of a run that was submitted; whom its end is told."""

    __slots__ = ("__weakref__", "cut", "feed", "first", "future", "given_back", "items", "live", "rest", "under_way", "unread")

    def __init__(self, feed: FeedInRuns, items: list[Any], first: int) -> None:
        self.feed = feed
        self.items = items
        self.first = first
        self.under_way = False
        self.unread = False
        self.live: Live | None = None
        """What is left of it, where it runs in this process."""
        self.cut = False
        """It has not called all its items."""
        self.given_back = False
        """It does not end, and what it has not begun is no longer its own."""
        self.rest: list[Future[Any]] | None = None
        """The futures of what follows it, once they are submitted."""
        self.future: Future[Any] | None = None
        """Once it has ended."""

    def advance(self, ended: Sequence[Future[Any]]) -> None:
        for future in ended:
            self.feed.run_ended(self, future)

    def executor_closed(self, error: BaseException | None) -> None:
        """Do nothing: the feed is told."""

    def overdue(self, now: float) -> Rest | None:
        """Return what is left of it if it runs in this process and should have ended long ago. Under the map's lock."""
        rest = None if self.live is None or self.given_back else self.live.rest
        return rest if rest is not None and now > rest.since + OVERDUE else None

    def rest_given_back(self, future: Future[Any], begun: int) -> None:
        self.feed.take_rest_back(self, begun, future)


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
            had = rest.end
            begun = rest.take()
            if begun < had:
                run.feed.take_rest_back(run, begun)
