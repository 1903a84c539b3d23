"""A `map` whose tiny items travel in runs, several as one task (see `runs`).

Which it is shows when the first ones have ended: they go one by one (`map_pace`). A run that stopped before its end is followed
by the rest of its items, which `advance` submits and a taker in order waits for (`follow`).
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError
from itertools import chain
from typing import TYPE_CHECKING, Any

from taskrun.bell import wait_at
from taskrun.future import Future
from taskrun.map_feed import Feed
from taskrun.map_pace import LOOK_AT, Pace
from taskrun.map_reading import Reader
from taskrun.map_under_way import LiveRuns, UnderWay
from taskrun.map_window import weigh
from taskrun.plain import are_plain
from taskrun.runs import RUN_SECONDS, Live, Outcomes, Run, pack_items
from taskrun.task import function_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from taskrun.options import TaskOptions
    from taskrun.scheduler import Scheduler

__all__ = ["FeedInRuns"]

_FASTEST = 50e-9  # seconds that an item takes at least: what is measured shorter is not believed


class FeedInRuns(Feed):
    """What such a map has under way."""

    def __init__(
        self, scheduler: Scheduler, fn: Callable[..., Any], iterables: list[Iterable[Any]], options: TaskOptions, **rest: Any
    ) -> None:
        spread = len(iterables) != 1
        # A million tuples of one item each are no small part of what a million tiny items cost.
        items = zip(*iterables, strict=False) if spread else iter(iterables[0])
        super().__init__(scheduler, fn, items, options, **rest)
        self._unweighed: list[tuple[list[Future[Any]], list[Any]]] = []  # what was submitted while the input was read
        self._reader = None if self.sized else Reader(items, self._hand_over, scheduler.timer.call_at)
        self._run = Run(fn, options.name or function_name(fn), spread=spread, packs=scheduler.pickles_arguments)
        self._pace = Pace(scheduler.tiny, scheduler.cold)
        self._options_of_runs = options._replace(chunksize=None)  # it counts items
        self._runs = 0  # under way
        self._run_of: dict[Future[Any], UnderWay] = {}  # the runs that were not handed out
        self._taken_runs: dict[Future[Any], UnderWay] = {}  # those that were, until they are taken apart
        self._more = 0  # items of both, but for the first of each, until somebody takes again
        self._handed = 0  # items of the latter, but for the first of each
        self._live = LiveRuns(self._lock, scheduler.timer.call_at)

    # -- submitting ------------------------------------------------------------------------------------------------------------

    def advance(self, ended: Sequence[Future[Any]]) -> None:
        with self._lock:
            self._pace.learn(ended)
        super().advance(ended)

    def _allowed(self) -> tuple[int, int]:
        size, enough = super()._allowed()
        if self._pace.seconds is None:  # not many before it is known whether they should travel together
            return min(size, 2 * LOOK_AT), min(enough, LOOK_AT // 2)
        return size, enough

    def _taken(self) -> int:
        return super()._taken() + (self._more if self._by_demand else 0)

    def _read(self, room: int) -> list[Any]:
        reader = self._reader
        if reader is None:
            return super()._read(room)
        items = reader.read(min(room, self._length(room)))
        self._slow = reader.slow
        while self._unweighed:  # what was handed over meanwhile: to weigh it may run the user's code
            futures, handed = self._unweighed.pop()
            self._weighed(futures, weigh(handed) // len(handed))
        return items

    def _weighed(self, futures: list[Future[Any]], size: int) -> None:
        with self._lock:
            for future in futures:
                if future in self._open:
                    self._open[future] = size
                    self._bytes += size

    def _hand_over(self, items: list[Any]) -> None:
        """Submit what was read, in any thread, while the pump goes on reading: nothing of the user's runs here."""
        try:
            submit = self._submit_together if not self._run.packs or are_plain(items) else self._submit_alone
            futures = submit(items, self._numbered(items))
            self._opened(futures, 0)
            self._unweighed.append((futures, items))
        except BaseException as error:  # the executor is closed, say
            self._stop(error)

    def _drop_input(self) -> None:
        super()._drop_input()
        self._reader = None

    def _stop(self, error: BaseException | None) -> None:
        reader = self._reader  # taken once: another thread may drop it
        if reader is not None:
            reader.close()
        super()._stop(error)

    def _submit_items(self, items: list[Any], first: int) -> None:
        futures = self._submit_together(items, first)
        self._opened(futures, 0 if self.sized else weigh(items) // len(futures))

    def _submit_together(self, items: list[Any], first: int, *, late: bool = False) -> list[Future[Any]]:
        """Submit *items* in runs or one by one, as it is known how long they take; return the futures in their order.

        *late*: they are the rest of a run: they have their turn before others, and come even when the executor is closed.
        """
        length = self._length(len(items))
        if length == 1:
            return self._submit_alone(items, first, late=late)
        parts: list[list[Future[Any]]] = []
        starts = range(0, len(items), length)
        try:
            for start in reversed(starts) if late else starts:  # each before the one that was submitted last
                part = items[start : start + length]
                packed = pack_items(part, self._run)
                if packed is None:
                    parts.append(self._submit_alone(part, first + start, late=late))
                else:
                    parts.append([self._submit_run(part, first + start, packed, late=late)])
        except BaseException:
            self._disown(chain.from_iterable(parts))
            raise
        return list(chain.from_iterable(reversed(parts) if late else parts))

    def _submit_alone(self, items: list[Any], first: int, *, late: bool = False) -> list[Future[Any]]:
        calls = items if self._run.spread else [(item,) for item in items]
        return self.scheduler.submit_all(self._fn, calls, first, self.options, self, self._context, first=late)

    def _length(self, waiting: int) -> int:
        """Return how many items make a run: a millisecond of them, and few enough that every worker has some runs."""
        each = self._pace.seconds
        if each is None or not self._pace.tiny:
            return 1
        left = self._window.size if self._total is None else waiting + self._total - self._index
        length = min(int(RUN_SECONDS / max(each, _FASTEST)), left // (4 * self.scheduler.settings.max_workers))
        return max(1, length if self.options.chunksize is None else min(length, self.options.chunksize))

    def _submit_run(self, items: list[Any], first: int, packed: tuple[list[Any] | bytes, bool], *, late: bool) -> Future[Any]:
        run = UnderWay(self, items, first)
        counted = False
        try:
            if not self.sized:  # else this map is held as a whole
                self.scheduler.hold(run, late=late)  # there may be a rest to submit
            with self._lock:  # no call in between, as in `hold`
                self._runs += 1
                run.parts = 1
            self.scheduler.count_items(len(items) - 1)
            counted = True
            if not self._run.packs:
                run.live = Live()
                self._live.add(run)
            call = (*packed, run.live) if run.live is not None else packed
            (future,) = self.scheduler.submit_all(
                self._run, (call,), first, self._options_of_runs, run, self._context, first=late
            )
        except BaseException:  # refused, or Ctrl-C, which may strike after any call
            self.scheduler.release(run)
            if counted:
                self.scheduler.count_items(1 - len(items))
            with self._lock:
                self._runs -= run.parts
                run.parts = 0
                self._live.discard(run)
            raise
        with self._lock:
            if not self._unwanted:
                self._run_of[future] = run
                self._more += run.size - 1
        return future

    def _disown(self, futures: Iterable[Future[Any]]) -> None:
        """Cancel what nobody will be handed, and with it all that follows it."""
        dropped: list[Future[Any]] = []
        with self._lock:
            left = list(futures)
            while left:
                future = left.pop()
                dropped.append(future)
                self._bytes -= self._open.pop(future, 0)
                run = self._run_of.pop(future, None)
                if run is not None:
                    run.dropped = True
                    left += [*(run.after_end or ()), *(run.after_gift or ())]
        for future in dropped:
            future.cancel()

    # -- what follows a run ----------------------------------------------------------------------------------------------------

    def run_ended(self, run: UnderWay, future: Future[Any]) -> None:
        """A run is over; if it stopped early, submit the rest."""
        with self._lock:
            run.over = True
            items = len(run.items)
        self.scheduler.note_moving(run)
        if future._exception is not None:
            run.stop()
        done = self._count(items, future)
        rest = self._submit_rest(run, run.items[done:], run.first + done)
        with self._lock:  # all of it at once: who waits for what follows takes it from here
            self._live.discard(run)
            run.after_end = rest
            if not run.dropped:
                self._note_ended((future,))
            self._keep(run, rest)
        self._part_over(run, rest)
        if self._reporter is not None:
            self._reporter.ended(0 if future.cancelled() else done)
            self._report_the_end()

    def take_rest_back(self, run: UnderWay, begun: int) -> None:
        """Of a run that does not end *begun* items are begun: submit the others, if there are any. In any thread."""
        with self._lock:
            if run.given_back or run.over:
                return
            run.given_back = True
            run.parts += 1
            self._taken_apart += 1  # what it has kept may be over, and handed out, before the rest is at hand
            left = run.items[begun:]
            del run.items[begun:]
        self.scheduler.count_items(-len(left))
        rest = self._submit_rest(run, left, run.first + begun)
        with self._lock:
            run.after_gift = rest
            self._taken_apart -= 1
            self._keep(run, rest)
            stuck = not run.over
        if stuck:
            self.scheduler.note_stuck(run)
            with self._lock:
                stuck = not run.over  # else its end has looked before that was noted
            if not stuck:
                self.scheduler.note_moving(run)
        self._part_over(run, rest)

    def _submit_rest(self, run: UnderWay, items: list[Any], first: int) -> list[Future[Any]]:
        """Submit the *items* of *run* that it has not called, the first of which is item *first* of the map."""
        if not items:
            return []
        error: BaseException = CancelledError()
        if not (self.closed or run.dropped):
            try:
                return self._submit_together(items, first, late=True)
            except BaseException as refused:  # the executor is broken, or discards what has not started
                error = refused
                self._stop(error)
        # Each in its place: what comes after them must not be taken for them.
        lost = [_lost(error) for _ in items]
        self.scheduler.count_items(0, **{"cancelled" if lost[0].cancelled() else "failed": len(lost)})
        with self._lock:
            self._ended += len(lost)
        return lost

    def _keep(self, run: UnderWay, rest: list[Future[Any]]) -> None:
        """Keep what follows *run* for whoever asks for results. Under the lock."""
        if not (self.closed or run.dropped or self._unwanted):
            self._note_open(rest, 0)
            self._note_ended([each for each in rest if each._scheduler is None])  # those that are lost
        self._changed.ring()

    def _part_over(self, run: UnderWay, rest: list[Future[Any]]) -> None:
        """The end of *run* was seen to, or what it gave back: go on, without it if that was all."""
        with self._lock:
            closed = self.closed or run.dropped
            run.parts -= 1
            gone = not run.parts
            self._runs -= gone
            over = (self._exhausted or self._broken) and not self._runs
            pump = not self._read_by_taker and self._lacking()
        if closed:
            self._disown(rest)
        if over:
            self._release()
        if gone:
            self.scheduler.release(run)
        if pump:
            self._pump(reading=False)

    def _count(self, items: int, future: Future[Any]) -> int:
        """Take note of what became of a run of so many *items*; return how many of them are over."""
        outcomes: Outcomes | None = None
        if future.cancelled() or future._exception is not None:
            done = items
            self.scheduler.count_items(1 - items, **{"cancelled" if future.cancelled() else "failed": items - 1})
        elif type(future._result) is not Outcomes:  # of a backend that is not to be trusted; the taker is told
            done = items
            self.scheduler.count_items(1 - items, succeeded=items - 1)
        else:
            outcomes = future._result
            done, failed = outcomes.items, len(outcomes.errors)
            self.scheduler.count_items(1 - items, succeeded=done - failed - 1, failed=failed)  # it counts as one itself
        with self._lock:
            self._ended += done
            if outcomes is not None and done:
                self._window.learn_run(done, outcomes.seconds)
                self._pace.learn_run(done, outcomes.seconds)
        return done

    def take(self, timeout: float | None) -> Future[Any] | None:
        with self._lock:  # what was handed out before is used up; of several takers the others' too, nearly
            self._more -= self._handed
            self._handed = 0
        reader = self._reader
        if reader is not None and self._pump_thread == threading.get_ident():  # the input asks its own map
            reader.hand_over()
        return super().take(timeout)

    def become_forked_copy(self) -> None:
        super().become_forked_copy()
        self._reader = None
        self._runs = 0
        self._live = LiveRuns(self._lock, self.scheduler.timer.call_at)

    def let_go(self) -> None:
        super().let_go()
        with self._lock:
            self._run_of = {}

    def _release(self) -> None:
        with self._lock:
            over = not (self.sized and self._runs)  # the last one may have to submit a rest
        if over:
            super()._release()

    # -- handing out -----------------------------------------------------------------------------------------------------------

    def _pop(self) -> Future[Any]:
        future = super()._pop()
        run = self._run_of.pop(future, None)
        if run is not None:
            self._taken_runs[future] = run
            self._handed += run.size - 1
            self._taken_apart += 1  # before another thread finds that there is nothing more
        return future

    def run_of(self, future: Future[Any]) -> UnderWay | None:
        return self._taken_runs.pop(future, None)

    def put_down(self, future: Future[Any]) -> None:
        if self._taken_runs.pop(future, None) is not None:
            self.is_apart()

    def failed_with(self, run: UnderWay) -> int:
        with self._lock:
            run.over = True
            return len(run.items)

    def _needed(self) -> Sequence[Future[Any]]:
        with self._lock:  # items that a run has not begun may be run elsewhere
            return super()._needed() if all(run.given_back for run in self._run_of.values()) else ()

    def follow(self, run: UnderWay, timeout: float | None) -> None:
        if not self._ordered:
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                rest = run.follows
                if rest is not None or self.closed:
                    self._queue.extendleft(reversed(rest or []))
                    return
                gate = self._changed.listen()
            if not wait_at(gate, None if deadline is None else deadline - time.monotonic()):
                raise TimeoutError


def _lost(error: BaseException) -> Future[Any]:
    """Return the future of an item that could not be submitted any more."""
    future: Future[Any] = Future()
    if isinstance(error, CancelledError):
        future.cancel()
        future.set_running_or_notify_cancel()
    else:
        future.set_exception(error)
    return future
