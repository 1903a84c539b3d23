"""The stream of a run: items are read and submitted by one thread, their outcomes handed out in another, within bounds.

::

    items ──► feeder thread ──► submit ──► workers ──► done callback ──► event queue ──► outcomes(), main thread
                  ▲                                                                             │
                  └───── room: at most WINDOW_ITEMS items and WINDOW_BYTES of input ◄── release() once written

A thread of its own for reading, so that a slow input (a pipe, say) does not hold back results that are ready. On a
backend that runs tasks in the caller (`serial`) there is none: items are read and run in turn, in the main thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from taskrun.cli.inputs import Item
from taskrun.cli.output import Outcome

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["Flow", "in_order"]

WINDOW_ITEMS: Final = 2000
"""Items read and not yet written: enough to keep any number of local workers busy with tasks of microseconds."""
WINDOW_BYTES: Final = 64 * 2**20

Submit = Callable[[Item], "Future[Any]"]


class _Window:
    """Room for items that were read and not written yet. An item larger than the whole window goes alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items = 0
        self._weight = 0
        self._closed = False

    def enter(self, item: Item) -> bool:
        """Wait for room and take it; False once the window is closed."""
        with self._changed:
            while not self._closed and self._items and not self._fits(item):
                self._changed.wait()
            self._items += 1
            self._weight += item.weight
            return not self._closed

    def _fits(self, item: Item) -> bool:
        return self._items < WINDOW_ITEMS and self._weight + item.weight <= WINDOW_BYTES

    def leave(self, item: Item) -> None:
        with self._changed:
            self._items -= 1
            self._weight -= item.weight
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()


class Flow:
    """One run of *items* through *submit*; `outcomes` is iterated once, in the main thread."""

    def __init__(
        self, items: Iterator[Item], submit: Submit, *, concurrent: bool, before_waiting: Callable[[], object] = lambda: None
    ) -> None:
        """*before_waiting* is called in `outcomes` when no further one is ready."""
        self._items = items
        self._submit = submit
        self._concurrent = concurrent
        self._before_waiting = before_waiting
        # A SimpleQueue may be put to from signal handlers and from whatever thread a callback runs in.
        self._events: SimpleQueue[Outcome | BaseException | None] = SimpleQueue()
        self._window = _Window()
        self._lock = threading.Lock()  # for the three below
        # By index: read, and the outcome not handed out yet; None: about to be submitted.
        self._open: dict[int, Future[Any] | None] = {}
        self._stopped = False
        self._read_all = False

    def outcomes(self) -> Generator[Outcome, None, None]:
        """Yield the outcome of each item as it comes; the receiver calls `release` once it has dealt with one.

        Ends when every item read has its outcome, and no more will be read. Errors of submitting are raised.
        """
        if not self._concurrent:
            yield from self._in_turn()
            return
        threading.Thread(target=self._feed, name="taskrun-reader", daemon=True).start()
        while not self._over():
            if self._events.empty():
                self._before_waiting()
            event = self._events.get()
            if isinstance(event, Outcome):
                with self._lock:
                    del self._open[event.item.index]
                yield event
            elif event is not None:
                raise event

    def release(self, outcome: Outcome) -> None:
        """Make room for another item."""
        if self._concurrent:
            self._window.leave(outcome.item)

    def stop(self) -> None:
        """Read and start nothing more; what runs is waited for. From any thread, but not from a signal handler."""
        with self._lock:
            self._stopped = True
            waiting = [future for future in self._open.values() if future is not None]
        self._window.close()
        for future in waiting:
            future.cancel()
        self._events.put(None)  # have `outcomes` look whether it is over: there may have been nothing to cancel

    def _over(self) -> bool:
        # After a stop nobody waits for the reader: it may hang in a pipe that nobody writes to.
        with self._lock:
            return not self._open and (self._stopped or self._read_all)

    def _feed(self) -> None:
        try:
            for item in self._items:
                if not self._window.enter(item) or not self._announce(item):
                    break
                self._start(item)
        except BaseException as error:  # whatever ends this thread has to end the run, not hang it
            self._events.put(error)
        finally:
            self._close_items()
        with self._lock:
            self._read_all = True
        self._events.put(None)

    def _announce(self, item: Item) -> bool:
        with self._lock:
            if not self._stopped:
                self._open[item.index] = None
            return not self._stopped

    def _start(self, item: Item) -> None:
        if item.problem is not None:
            self._events.put(Outcome(item))
            return
        future = self._submit(item)  # may wait for room in the executor's queue, so not under the lock
        with self._lock:
            self._open[item.index] = future
            late = self._stopped
        future.add_done_callback(lambda done: self._events.put(_outcome(item, done)))
        if late:
            future.cancel()

    def _in_turn(self) -> Generator[Outcome, None, None]:
        try:
            for item in self._items:
                yield Outcome(item) if item.problem is not None else _outcome(item, self._submit(item))
                if self._stopped:
                    return
                self._before_waiting()
        finally:
            self._close_items()

    def _close_items(self) -> None:
        """Close the input that is being read, rather than when the garbage collector comes to it."""
        close = getattr(self._items, "close", None)
        if close is not None:
            close()


def _outcome(item: Item, future: Future[Any]) -> Outcome:
    """Return what became of *item*; *future* is done."""
    if future.cancelled():
        return Outcome(item, not_run=True)
    attempts = getattr(future, "attempts", ())
    times = [attempt.duration for attempt in attempts if attempt.duration is not None]
    error = future.exception()
    value = None if error is not None else future.result()
    return Outcome(item, value, error, seconds=sum(times) if times else None, attempts=len(attempts))


def in_order(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """Hand out by index; what is early waits for its turn (the window bounds how much that is)."""
    early: dict[int, Outcome] = {}
    turn = 0
    for outcome in outcomes:
        early[outcome.item.index] = outcome
        while turn in early:
            yield early.pop(turn)
            turn += 1
    yield from (early[index] for index in sorted(early))
