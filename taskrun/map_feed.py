"""The submitting half of `map`: items in, futures out, as many under way as the window has room for.

::

    input ──► read ──► submit_all ──► open ──► take (ordered: the oldest; unordered: the first that is done)
                           ▲           │
                           └── room ◄──┴── a task ended (inputs with a length) or a result was taken

Whoever finds room becomes the *pump*, one thread at a time: it reads and submits, holding no lock, since the input is the
user's code, as is a task on `serial`. Others that come meanwhile note what they came for and leave: the pump looks once more
before it stops. Inputs with a length are read already, so any thread may be the pump; others are read only by the thread that
asks for results.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from concurrent.futures import CancelledError
from itertools import islice
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from taskrun.bell import Bell
from taskrun.map_taking import Taking
from taskrun.map_window import MAX_ITEMS, Window, weigh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from taskrun.future import Future
    from taskrun.options import TaskOptions
    from taskrun.progress import Reporter
    from taskrun.scheduler import Scheduler

__all__ = ["Feed"]

_READING = 0.001  # seconds of reading after which results that are there come first; an item that takes them is slow


_feeds: WeakSet[Feed] = WeakSet()


class Feed(Taking):
    """What one map has under way. `_lock` guards everything but the input, which is the pump's; nothing runs under it."""

    def __init__(
        self,
        scheduler: Scheduler,
        fn: Callable[..., Any],
        calls: Iterator[Any],
        options: TaskOptions,
        *,
        total: int | None,
        buffersize: int | None,
        ordered: bool,
        reporter: Reporter | None,
    ) -> None:
        super().__init__(scheduler, options, total=total, ordered=ordered)
        self.unread = True
        self._read_by_taker = total is None  # and by nobody else: when the executor is closed, nothing more is read
        self._fn = fn
        self._calls = calls
        self._context = scheduler.context_for_tasks()
        self._reporter = reporter
        serial = not scheduler.concurrent
        # The window moves when results are taken, not when tasks end. On `serial` the first item runs at the call.
        self._by_demand = buffersize is not None or serial or not self.sized
        self._window = Window(scheduler.settings.max_workers, 1 if serial and buffersize is None else buffersize)
        self._ended = 0  # items that were submitted and are done
        self._refused: Exception | None = None  # what reading has raised
        self._early: list[Future[Any]] = []  # done before `submit_all` returned, for the unordered queue
        self._unwanted = False  # results are not kept
        self._broken = False  # what is submitted fails
        _feeds.add(self)

    def open(self) -> None:
        """Submit the first window. Raises as `submit` does."""
        try:
            if self._read_by_taker:
                self.scheduler.watch(self)
            elif self._total != 0:
                self.scheduler.hold(self)
            self._pump(reading=True)
        except BaseException as error:  # Ctrl-C: nobody will have the results to close
            self._stop(error)
            raise

    # -- submitting ------------------------------------------------------------------------------------------------------------

    def advance(self, ended: Sequence[Future[Any]]) -> None:
        with self._lock:
            self._ended += len(ended)
            self._window.learn(ended)
            self._note_ended(ended)
            self._changed.ring()
            pump = not self._read_by_taker and self._lacking()
        if self._reporter is not None:
            self._reporter.ended(sum(not future.cancelled() for future in ended))
            self._report_the_end()
        if pump:
            self._pump(reading=False)

    def rest_given_back(self, begun: int) -> None:
        """Do nothing: items that are tasks of their own are given back by whoever runs them."""

    def _note_ended(self, ended: Sequence[Future[Any]]) -> None:
        """Hand out what is not handed out in order. Under the lock."""
        if not (self._ordered or self.closed or self._unwanted):
            for future in ended:
                (self._queue if future in self._open else self._early).append(future)

    def _pump(self, *, reading: bool, pending: Future[Any] | None = None) -> None:
        me = threading.get_ident()
        try:
            with self._lock:
                if self._pump_thread:
                    return  # it sees what changed before it stops
                self._pump_thread = me
            since = time.monotonic()
            while (room := self._room(since if reading else None, pending)) > 0:
                self._submit(room)
        except BaseException as error:  # from the input or, on `serial`, from a task: Ctrl-C, say
            expected = error is self._refused or self.scheduler.closed
            self._refused = None
            self._stop(error)
            with self._lock:
                if self._pump_thread == me:
                    self._pump_thread = 0
                self._changed.ring()
            # An Exception in its place comes after the results. Any other is a signal handler's, for whom it has interrupted.
            if not isinstance(error, Exception) or not (expected or threading.current_thread() is not threading.main_thread()):
                raise
        if self._exhausted:
            self._drop_input()

    def _drop_input(self) -> None:
        """Let the input go, a generator with an open file perhaps. Not under the lock: it may run the user's code."""
        self._calls = iter(())

    def _room(self, since: float | None, pending: Future[Any] | None) -> int:
        """Return how many items to submit now; at 0 the calling thread is the pump no longer."""
        with self._lock:
            size, enough = self._allowed()
            room = 0 if self._exhausted else size - self._taken()
            if room < enough:
                room = 0
            elif self._by_demand and not self.sized and self._open:
                late = self._slow or (since is not None and time.monotonic() - since > _READING)
                ready = self._ready() if pending is None else pending.done()
                if (late and ready) or self._window.heavy(self._taken(), self._bytes):
                    room = 0
            if room <= 0:
                self._pump_thread = 0
                self._changed.ring()
            return room

    def _lacking(self) -> bool:
        if self._exhausted or self._pump_thread:
            return False
        size, enough = self._allowed()
        return size - self._taken() >= enough

    def _allowed(self) -> tuple[int, int]:
        """Return how many items may be under way, and how many of these may be missing before more follow. Under the lock."""
        return self._window.size, self._window.enough

    def _taken(self) -> int:
        """Return how much of the window is filled. Under the lock."""
        return len(self._open) if self._by_demand else self._index - self._ended

    def _submit(self, room: int) -> None:
        """Submit up to *room* items. The pump only; not under the lock."""
        try:
            calls = self._read(room)
        except Exception as error:
            self._refused = error
            raise
        if calls:
            self._submit_items(calls, self._numbered(calls))
        if len(calls) < room and (self.sized or not calls):
            self._stop(None)

    def _numbered(self, calls: list[Any]) -> int:
        """Return the number of the first of *calls*, which were read last."""
        if self._read_by_taker:
            self.scheduler.check_open()
        first = self._index
        with self._lock:
            self._index = first + len(calls)  # before they can end
        return first

    def _submit_items(self, calls: list[Any], first: int) -> None:
        """Submit what was read, the first of which is item *first*."""
        futures = self.scheduler.submit_all(self._fn, calls, first, self.options, self, self._context)
        # With a length they are in memory already, whatever their size.
        self._opened(futures, 0 if self.sized else weigh(calls[0]))

    def _read(self, room: int) -> list[Any]:
        """Return the arguments of up to *room* calls: of one, if reading may wait, perhaps for what the call before does."""
        if self.sized:
            return list(islice(self._calls, room))
        began = time.monotonic()
        calls = list(islice(self._calls, 1))
        self._slow = time.monotonic() - began > _READING
        return calls

    def _opened(self, futures: list[Future[Any]], size: int) -> None:
        """Keep what was submitted, to be handed out in its turn."""
        with self._lock:
            closed = self.closed
            if not closed and not self._unwanted:
                if self._ordered:
                    self._queue += futures  # first: what is open and in no queue would be waited for in vain
                self._note_open(futures, size)
                self._changed.ring()
        if closed:
            for future in futures:
                future.cancel()

    def _note_open(self, futures: list[Future[Any]], size: int) -> None:
        """Under the lock."""
        self._open.update(dict.fromkeys(futures, size))
        self._bytes += size * len(futures)
        if not self._ordered:
            early, self._early = self._early, []
            for future in early:  # of another submitter's, perhaps, who has not come here yet
                (self._queue if future in self._open else self._early).append(future)

    def _stop(self, error: BaseException | None) -> None:
        """Submit nothing more, because of *error* or since there is nothing more."""
        with self._lock:
            self._error = self._error or error  # closed by one thread, while the input raises in another
            self._exhausted = True
            self._changed.ring()
        self._release()  # also when it was exhausted before: Ctrl-C may have come between
        self._report_the_end()

    def _release(self) -> None:
        """Let the executor end, as far as we are concerned."""
        self.scheduler.release(self)

    def taken(self, values: Sequence[Any]) -> None:
        """Take note that *values* are handed out."""
        if not self.sized:
            self._window.learn_results(values)

    # -- ending ----------------------------------------------------------------------------------------------------------------

    def executor_closed(self, error: BaseException | None) -> None:
        if self._read_by_taker:
            return  # the next item that is read is refused
        if error is None:
            self._run_to_the_end()
        elif self.sized and not isinstance(error, CancelledError):
            self._fail_when_asked()
        else:
            self._stop(error)

    def _fail_when_asked(self) -> None:
        """The workers cannot start: each item that is left fails with the reason, once there is room; nobody waits for that."""
        with self._lock:
            self._by_demand = self._broken = True
            self._changed.ring()
        self._release()

    def _run_to_the_end(self) -> None:
        with self._lock:
            self._by_demand = False
            self._window = Window(self.scheduler.settings.max_workers, MAX_ITEMS)
        self._pump(reading=False)

    def let_go(self) -> None:
        """Take note that nobody will ask for results: what was asked for is done all the same, and nothing is kept."""
        with self._lock:
            self._unwanted = True
            self._open, self._queue = {}, deque()
        # On `serial` the rest runs where the executor is shut down: in the user's thread, as everything on it.
        if self._by_demand and not (self._read_by_taker or self._broken) and self.scheduler.concurrent:
            self._run_to_the_end()

    def close(self) -> None:
        """Cancel what has not started and submit nothing more."""
        with self._lock:
            self.closed = True
            waiting, self._open, self._queue = list(self._open), {}, deque()
            pumping = self._pump_thread != 0
        self._stop(None)
        if not pumping:
            self._drop_input()
        for future in waiting:
            future.cancel()
        if self._reporter is not None:
            self._reporter.close()

    def become_forked_copy(self) -> None:
        """In a child made by os.fork: what is there can be had, nothing more comes. Another thread may have been inside."""
        self._lock = threading.RLock()
        self._changed = Bell()
        self._pump_thread = self._taken_apart = 0
        self._exhausted = True
        self._calls = iter(())
        self._open = dict.fromkeys(self._queue, 0)
        self._error = self._error or RuntimeError(
            f"this map was begun before the fork that made process {os.getpid()}: its tasks end in the parent"
        )

    def _report_the_end(self) -> None:
        if self._reporter is not None and self._exhausted and (self._ended == self._index or self._error is not None):
            self._reporter.close()


def _after_fork_in_child() -> None:
    for feed in list(_feeds):
        feed.become_forked_copy()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
