"""How the maps of a `Pool` submit their items: the feed of `Executor.map`, with what is otherwise in `multiprocessing.Pool`.

`Collecting` is for `map_async`: nobody iterates, so the results are gathered as the tasks end; `CollectingInRuns` is that with
tiny items several as one task. `OnDemand` is for `imap`: it
runs ahead of whoever iterates, as far as the window goes, also after `close`; an item's error does not end it. `ReadAhead` is
that with an input that may block or run the user's code: a thread of its own reads it, so that `next(timeout)` is on time and
results come while the input waits.
"""

from __future__ import annotations

import logging
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from taskrun.bell import Bell, wait_at
from taskrun.map_feed import Feed
from taskrun.map_pace import may_run_together
from taskrun.map_runs import FeedInRuns
from taskrun.runs import Outcomes, not_a_run, split_outcomes
from taskrun.threads import OwnThread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from taskrun.future import Future
    from taskrun.map_under_way import UnderWay
    from taskrun.options import TaskOptions
    from taskrun.scheduler import Scheduler

    OnEnd = Callable[[list[Any], BaseException | None], object]
    """Gets the results of a map, and the first error in the order of the input."""

__all__ = ["OnDemand", "collecting", "demanded", "error_of", "tell_of"]

_log = logging.getLogger("taskrun")

_IN_MEMORY = (list, tuple, range, str, bytes, bytearray, dict, set, frozenset)
"""Inputs of exactly these types are collected at the call: reading them runs nobody's code and waits for nothing."""


class _Collected(Feed):
    """What is gathered as it ends, and nobody iterates. *on_end* is told once: the results, and the first error, if any.

    One thread at a time gathers, holding no lock: to take a run of items apart may run the user's code.
    """

    def _begin(self, on_end: OnEnd) -> None:
        self._on_end: OnEnd | None = on_end
        self._values: list[Any] = []
        self._failure: BaseException | None = None  # the first in the order of the input
        self._gathering = False

    def open(self) -> None:
        super().open()
        if not self.scheduler.concurrent:  # all of it runs here and now
            self._run_to_the_end()

    def advance(self, ended: Sequence[Future[Any]]) -> None:
        super().advance(ended)
        self._collect()

    def executor_closed(self, error: BaseException | None) -> None:
        if error is None or isinstance(error, CancelledError):
            super().executor_closed(error)
        else:
            self._run_to_the_end()  # each item fails with the reason
        self._collect()

    def _pump(self, *, reading: bool, pending: Future[Any] | None = None) -> None:
        super()._pump(reading=reading, pending=pending)
        self._collect()

    def _collect(self) -> None:
        """Gather what has ended, in the order of the input; after the last one tell."""
        while True:
            with self._lock:
                if self._gathering:
                    return  # who does looks again before he stops
                over = [self._take_over() for _ in iter(self._ready, False)]
                self._gathering = bool(over)
                told = None
                if not over and self._exhausted and not (self._open or self._pump_thread):
                    told, self._on_end = self._on_end, None
            if not over:
                break
            try:
                for future, items in over:
                    self._gather(future, items)
            finally:
                self._gathering = False
                del over[:]  # the last reference to an error may run the user's code: not under the lock
        if told is not None:
            told(self._values, self._error if self._failure is None else self._failure)

    def _take_over(self) -> tuple[Future[Any], int]:
        """Take the future that is ready from the queue; and how many items it stands for, 0: it is one. Under the lock."""
        return self._pop(), 0

    def _gather(self, future: Future[Any], items: int) -> None:
        if future.cancelled() or future._exception is not None:
            self._failure = self._failure or error_of(future)
        elif self._failure is not None:
            return  # nobody will have the others
        elif not items:
            self._values.append(future._result)
        elif not isinstance(future._result, Outcomes):
            self._failure = not_a_run(future._result)
        elif (values := future._result.unpacked()) is not None:
            self._values += values
        else:
            outcomes = split_outcomes(future._result)
            self._values += [value for value, _ in outcomes]
            self._failure = next((error for _, error in outcomes if error is not None), None)


class Collecting(_Collected):
    """The items of a `map_async`, each a task."""

    def __init__(
        self, scheduler: Scheduler, fn: Callable[..., Any], items: list[Any], options: TaskOptions, on_end: OnEnd
    ) -> None:
        calls, total = zip(items, strict=True), len(items)
        super().__init__(scheduler, fn, calls, options, total=total, buffersize=None, ordered=True, reporter=None)
        self._begin(on_end)


class CollectingInRuns(_Collected, FeedInRuns):
    """The items of a `map_async` that may travel together."""

    def __init__(
        self, scheduler: Scheduler, fn: Callable[..., Any], items: list[Any], options: TaskOptions, on_end: OnEnd
    ) -> None:
        FeedInRuns.__init__(
            self, scheduler, fn, [items], options, total=len(items), buffersize=None, ordered=True, reporter=None
        )
        self._begin(on_end)

    def run_ended(self, run: UnderWay, future: Future[Any]) -> None:
        super().run_ended(run, future)
        self._collect()

    def take_rest_back(self, run: UnderWay, begun: int) -> None:
        super().take_rest_back(run, begun)
        self._collect()

    def _ready(self) -> bool:
        if not super()._ready():
            return False
        run = self._run_of.get(self._queue[0])
        return run is None or run.follows is not None

    def _take_over(self) -> tuple[Future[Any], int]:
        future = self._pop()
        run = self.run_of(future)
        if run is None:
            return future, 0
        self._queue.extendleft(reversed(run.follows or ()))
        self.is_apart()
        return future, run.size


def collecting(
    scheduler: Scheduler, fn: Callable[..., Any], items: list[Any], options: TaskOptions, on_end: OnEnd
) -> Collecting | CollectingInRuns:
    """Return the feed of a `map_async`, not open yet."""
    kind = CollectingInRuns if may_run_together(scheduler, fn, options) else Collecting
    return kind(scheduler, fn, items, options, on_end)


class OnDemand(Feed):
    """The items of an `imap` over an input in memory."""

    def __init__(
        self,
        scheduler: Scheduler,
        fn: Callable[..., Any],
        items: Iterable[Any],
        options: TaskOptions,
        *,
        total: int | None,
        ordered: bool,
    ) -> None:
        calls = zip(items, strict=True) if total is not None else _calls(items)
        super().__init__(scheduler, fn, calls, options, total=total, buffersize=None, ordered=ordered, reporter=None)
        self._by_demand = True
        self._read_by_taker = False

    @property
    def submitted(self) -> int:
        """How many items the input has given."""
        return self._index

    @property
    def reading(self) -> bool:
        """Whether there may be more in the input."""
        return not self._exhausted

    def _at_hand(self) -> bool:
        return self._ready()  # one that is not done stays: a `next` that timed out has lost nothing

    def take(self, timeout: float | None) -> Future[Any] | None:
        """Return the next future that is done, None at the end. Raises TimeoutError, or what ended the input (`ended_by`)."""
        return super().take(timeout if self.scheduler.concurrent else None)  # there to wait is to run: it is over at once

    def ended_by(self, error: BaseException) -> bool:
        """Return whether `take` raised *error* since nothing more will come."""
        return error is self._error

    def executor_closed(self, error: BaseException | None) -> None:
        if error is not None:
            super().executor_closed(error)

    def run_to_the_end(self) -> None:
        """Submit all that the input gives, whoever asks for results: the pool waits for its end. Results are kept."""
        if not self._exhausted:
            self._run_to_the_end()


class ReadAhead(OnDemand):
    """The items of an `imap` over any other input, which is read by a thread of its own: that one alone is the pump."""

    def __init__(
        self, scheduler: Scheduler, fn: Callable[..., Any], items: Iterable[Any], options: TaskOptions, *, ordered: bool
    ) -> None:
        super().__init__(scheduler, fn, items, options, total=None, ordered=ordered)
        self._wanted = Bell()  # rings when the reader has to look again
        self._reader = OwnThread(f"{scheduler.settings.name}-imap", self._read_on)

    def open(self) -> None:
        try:
            self.scheduler.hold(self)
            self._reader.start()
        except BaseException as error:  # no thread is to be had, or Ctrl-C
            self._stop(error)
            raise

    def _pump(self, *, reading: bool, pending: Future[Any] | None = None) -> None:
        with self._lock:
            self._wanted.ring()

    def _submitting(self) -> bool:
        return not self._exhausted

    def _read_on(self) -> None:
        while True:
            with self._lock:
                gate = None if self._exhausted else self._wanted.listen()
            if gate is None:
                self._drop_input()
                return
            with suppress(BaseException):  # SystemExit, say: whoever asks for the results is told
                super()._pump(reading=False)
            if not self._exhausted:
                wait_at(gate, None)

    def _read(self, room: int) -> list[tuple[Any, ...]]:
        calls = super()._read(room)
        self._slow = False  # results do not wait for the input: it is another thread's
        return calls

    def _stop(self, error: BaseException | None) -> None:
        super()._stop(error)
        with self._lock:
            self._wanted.ring()


def demanded(
    scheduler: Scheduler, fn: Callable[..., Any], items: Iterable[Any], options: TaskOptions, *, ordered: bool
) -> OnDemand:
    """Return the feed of an `imap`, not open yet."""
    if type(items) in _IN_MEMORY:
        kept = items if isinstance(items, range) else list(items)  # what the caller does to it later changes nothing
        return OnDemand(scheduler, fn, kept, options, total=len(kept), ordered=ordered)
    if scheduler.concurrent:
        return ReadAhead(scheduler, fn, items, options, ordered=ordered)
    return OnDemand(scheduler, fn, items, options, total=None, ordered=ordered)


def _calls(items: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    for item in items:  # here, not in the caller: also what is no iterable at all is the result's error
        yield (item,)


def error_of(future: Future[Any]) -> BaseException:
    """Return the error of a future that has failed or was cancelled."""
    return CancelledError() if future._exception is None else future._exception


def tell_of(feeds: Sequence[OnDemand]) -> None:
    """Say that `join` waits for these; where callbacks run, since logging may be the user's code."""
    waiting = [feed for feed in feeds if feed.reading]
    if waiting:
        numbers = ", ".join(str(feed.submitted) for feed in waiting)
        _log.warning(
            "Pool.join() waits for the input of %d imap(s), which has given %s items so far and is not at its end: iterate the "
            "results to the end before join(), or end the pool with terminate()",
            len(waiting),
            numbers,
        )
