"""The handing out half of `map`: what was submitted, in the order in which it is taken, and how the end is found."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from contextlib import nullcontext
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from taskrun.bell import Bell, wait_at
from taskrun.cycles import wait_for_any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from taskrun.future import Future
    from taskrun.map_under_way import UnderWay
    from taskrun.options import TaskOptions
    from taskrun.scheduler import Scheduler

__all__ = ["InputWaitsForItselfError", "Taking"]


_NOTHING = object()


class InputWaitsForItselfError(RuntimeError):
    """The input asked for a result that would have to come from what it has not given yet."""


class Taking(ABC):
    """What one map has under way, for who asks for results; submitting is `map_feed`'s. `_lock` guards all of it."""

    def __init__(self, scheduler: Scheduler, options: TaskOptions, *, total: int | None, ordered: bool) -> None:
        self.scheduler = scheduler
        self.options = options
        self.sized = total is not None
        self._total = total
        self._ordered = ordered
        self._lock = threading.RLock()
        self._changed = Bell()
        self._index = 0  # items submitted
        self._open: dict[Future[Any], int] = {}  # submitted and not handed out: their size in bytes
        self._queue: deque[Future[Any]] = deque()  # of those: all in the order of the input, or the done ones as they ended
        self._bytes = 0  # of the open ones
        self._error: BaseException | None = None  # why nothing more is submitted
        self._exhausted = False
        self._pump_thread = 0  # identifier of the thread that submits, 0 when there is none
        self._slow = False  # the input took its time the last time
        self.closed = False
        self.unpacked: Iterator[Any] = iter(())
        """Results of runs that were taken and not handed out, for any thread to take the next one of: each step of it is one of
        C, in which nobody's code runs. Replaced under the lock, by `hand_on`."""
        self._taken_apart = 0  # runs of items that somebody was handed and has not got to the end of, or that are given back

    # -- what submits ----------------------------------------------------------------------------------------------------------

    @abstractmethod
    def _pump(self, *, reading: bool, pending: Future[Any] | None = None) -> None:
        """Read and submit while there is room, unless another thread does; *reading*: for a caller that wants a result.

        *pending* is the one that he takes next; what comes behind is no reason for haste before that is done.
        """

    @abstractmethod
    def _lacking(self) -> bool:
        """Return whether more may be submitted, and is not yet. Under the lock."""

    # -- handing out -----------------------------------------------------------------------------------------------------------

    def _ready(self) -> bool:
        """Return whether a result can be handed out. Under the lock."""
        return bool(self._queue) and self._queue[0].done()

    def _submitting(self) -> bool:
        """Return whether somebody submits more without being asked. Under the lock."""
        return self._pump_thread != 0

    def _at_hand(self) -> bool:
        """Return whether there is a future to hand out. Under the lock."""
        return bool(self._queue)

    def take(self, timeout: float | None) -> Future[Any] | None:
        """Return the next future to hand out, if ordered not always done; None at the end. Raises TimeoutError."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                future = self._pop() if self._at_hand() else None
                lacking = self._lacking()
            if lacking and not self.scheduler.concurrent and self._index != self._total and _past(deadline):
                # To submit is to wait there: the time is up for what comes next, as it is when one waits for a worker.
                if future is None:
                    raise TimeoutError
                lacking = False
            # The room that this one leaves is filled before the caller works on it; but a result that is there does not wait
            # for an input known as slow.
            if lacking and not (future is not None and self._slow and future.done()):
                try:
                    self._pump(reading=True, pending=future)
                except BaseException:  # the input's, or Ctrl-C in it
                    if future is not None:
                        self.put_down(future)
                    raise
            if future is not None:
                return future
            with self._lock:
                if self._at_hand():
                    continue
                running = next(iter(self._open), None)
                if running is None and self._over():
                    return None
            # Not under the lock: on threads a worker that waits is made up for by starting another.
            with self.scheduler.waiting() if running is not None or self._submitting() else nullcontext():
                self._wait(deadline)

    def _more_unpacks(self) -> bool:
        """Return whether somebody takes a run apart of which others may have results, if it is not closed. Under the lock."""
        return self._taken_apart > 0 and not self.closed

    def _pop(self) -> Future[Any]:
        future = self._queue.popleft()
        self._bytes -= self._open.pop(future, 0)
        return future

    def _over(self) -> bool:
        """Return True at the end, raise the error that brought it about. Under the lock, with nothing to hand out."""
        if self._pump_thread == threading.get_ident():
            raise InputWaitsForItselfError("the input of a map asks for the next result of the same map, and none is under way")
        if self._pump_thread or not self._exhausted or self._more_unpacks():
            return False
        if self._error is not None:
            raise self._error
        return True

    def _wait(self, deadline: float | None) -> None:
        """Wait until something is done, or nothing will be."""
        with self._lock:
            if self._at_hand() or not (self._open or self._submitting() or self._more_unpacks()):
                return
            gate = self._changed.listen()
        if deadline is None:
            wait_for_any(gate, self._needed)
        elif not wait_at(gate, deadline - time.monotonic()) and not self._at_hand():
            raise TimeoutError

    def _needed(self) -> Sequence[Future[Any]]:
        """Return what a taker waits for, any one of which has him go on; nothing if something else may."""
        with self._lock:
            return () if self._at_hand() or self._submitting() or self._taken_apart else tuple(self._open)

    def run_of(self, future: Future[Any]) -> UnderWay | None:
        """Return the run of items that *future*, which was taken, stands for; None: it is one item.

        From `take` to `is_apart`, or `put_down`, a run counts as one that others may still have results of.
        """
        return None

    def put_down(self, future: Future[Any]) -> None:
        """Take note that *future* was taken in vain; nothing else is to be done with it."""
        return

    def is_apart(self) -> None:
        """Take note that a run was taken apart, and what follows it is at hand: before, the map is not at its end."""
        with self._lock:
            self._taken_apart -= 1
            self._changed.ring()

    def hand_on(self, values: Sequence[Any], *, plain: bool = False) -> Iterator[Any]:
        """Return what comes next: *values* of a run, after what another thread has unpacked and not handed out.

        *plain*: they are small, and no code runs where they are dropped, so that they may be kept until all are handed out.
        """
        new = iter(values) if plain else _emptying(values)
        with self._lock:
            first = next(self.unpacked, _NOTHING)
            self.unpacked = new if first is _NOTHING else chain(_emptying((first,)), self.unpacked, new)
            return self.unpacked

    def failed_with(self, run: UnderWay) -> int:
        """Return how many items have failed with *run*: those that were its own to the end, and not given back."""
        return run.size

    def follow(self, run: UnderWay, timeout: float | None) -> None:
        """Wait until the rest of the items of *run*, which was cut short, comes next. Raises TimeoutError."""
        return


def _emptying(values: Sequence[Any]) -> Iterator[Any]:
    """Return an iterator over *values* that keeps nothing it has handed out.

    Destructors of results run where the user drops them, then, and never inside of the iterators in C, which take it amiss if
    somebody goes on with them meanwhile.
    """
    left = deque(values)
    return map(deque.popleft, repeat(left, len(left)))


def _past(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline
