"""`map`: a window of tasks in flight, results in the order of the inputs or as they come."""

from __future__ import annotations

import threading
import time
import warnings
from collections import deque
from concurrent.futures import CancelledError
from itertools import islice
from typing import TYPE_CHECKING, Any

from taskrun.errors import UnfinishedMapWarning
from taskrun.threads import call_soon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from taskrun.future import Future
    from taskrun.options import TaskOptions
    from taskrun.scheduler import Scheduler

__all__ = ["MapResults", "start_map"]

MAX_WINDOW = 20_000  # items in flight


def start_map(
    scheduler: Scheduler,
    fn: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    options: TaskOptions,
    *,
    timeout: float | None,
    buffersize: int | None,
    ordered: bool,
) -> MapResults:
    """Submit the first window and return the iterator over the results."""
    scheduler.check_open()
    sized = all(hasattr(iterable, "__len__") for iterable in iterables)
    # Collected now, as in the standard library: what the caller does to the list later changes nothing. A range cannot change.
    kept = tuple(it if isinstance(it, range) or not sized else list(it) for it in iterables)
    feed = _Feed(scheduler, fn, zip(*kept, strict=False), options, sized, buffersize, ordered)
    feed.open()
    return MapResults(feed, timeout)


class _Feed:
    """Submits the items of one map, as many at a time as the window has room for.

    `_lock` guards everything in it. With an input of known length any thread advances it (when a task is over); otherwise only
    the thread that asks for results, since reading the input runs the user's code.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        fn: Callable[..., Any],
        calls: Iterator[tuple[Any, ...]],
        options: TaskOptions,
        sized: bool,
        buffersize: int | None,
        ordered: bool,
    ) -> None:
        self.scheduler = scheduler
        self.options = options
        self.ordered = ordered
        self.sized = sized
        self.ready: deque[Future[Any]] = deque()  # submitted and not yet handed out, in the order of the inputs
        self.error: BaseException | None = None  # why nothing more is submitted
        self.exhausted = False
        self._fn = fn
        self._calls = calls
        self._context = scheduler.context_for_tasks()
        self._index = 0
        serial = not scheduler.concurrent
        # The window moves when results are taken, not when tasks end. On `serial` the first item runs at the call.
        self._by_demand = buffersize is not None or serial
        self._unfinished = 0
        self._advancing = False
        default = MAX_WINDOW if sized else max(2 * scheduler.settings.max_workers, 32)
        self._window = buffersize if buffersize is not None else 1 if serial else default
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)  # notified when a task ends or none will come; for unordered results

    def open(self) -> None:
        if self.sized:
            self.scheduler.hold(self)
        self.advance(reading=True)

    def advance(self, ended: int = 0, *, reading: bool = False) -> None:
        """Submit what the window has room for; *ended* tasks are over; *reading*: the caller asks for results."""
        with self._lock:
            self._unfinished -= ended
            self._changed.notify_all()
            if self._advancing:
                return  # on `serial` tasks end while they are submitted, below in this very thread
            self._advancing = True
            try:
                while not self.exhausted and (self.sized or reading) and (room := self._room()) > 0:
                    self._submit(room)
            finally:
                self._advancing = False

    def _room(self) -> int:
        taken = len(self.ready) if self._by_demand or not self.sized else self._unfinished
        return self._window - taken

    def _submit(self, room: int) -> None:
        try:
            calls = list(islice(self._calls, room))
            if calls and not self.sized:
                self.scheduler.check_open()
            first, self._index = self._index, self._index + len(calls)
            if calls:
                self._unfinished += len(calls)
                self.ready.extend(self.scheduler.submit_all(self._fn, calls, first, self.options, self, self._context))
        except BaseException as error:
            self._stop(error)
            if not self.sized:
                raise
            return
        if len(calls) < room:
            self._stop(None)

    def _stop(self, error: BaseException | None) -> None:
        self.exhausted = True
        self.error = error
        self._calls = iter(())
        self._changed.notify_all()
        self.scheduler.release(self)

    def executor_closed(self, *, cancelled: bool) -> None:
        """The executor takes nothing new: run to the end, all at once."""
        with self._lock:
            if cancelled:
                self._stop(CancelledError())
                return
            self._by_demand = False
            self._window = max(self._window, MAX_WINDOW)
        self.advance()

    def take(self, timeout: float | None) -> Future[Any] | None:
        """Return the next future to hand out, done; None at the end. Raises TimeoutError."""
        self.advance(reading=True)
        with self._lock:
            if not self.ready:
                if self.error is not None:
                    raise self.error
                return None
            if self.ordered:
                return self.ready.popleft()
        return self._take_any(timeout)

    def _take_any(self, timeout: float | None) -> Future[Any]:
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.scheduler.waiting(self.ready[0]), self._changed:
            while True:
                for position, future in enumerate(self.ready):
                    if future.done():
                        del self.ready[position]
                        return future
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError
                self._changed.wait(left)

    def close(self) -> None:
        """Cancel what has not started and submit nothing more."""
        with self._lock:
            if not self.exhausted:
                self._stop(None)
            waiting, self.ready = list(self.ready), deque()
        for future in waiting:
            future.cancel()


class MapResults:
    """The results of a `map`, one at a time; `close` cancels what has not started."""

    def __init__(self, feed: _Feed, timeout: float | None) -> None:
        self._feed: _Feed | None = feed
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._asked = False

    def __iter__(self) -> MapResults:
        return self

    def __next__(self) -> Any:
        feed = self._feed
        if feed is None:
            raise StopIteration
        self._asked = True
        try:
            left = None if self._deadline is None else self._deadline - time.monotonic()
            future = feed.take(left)
            if future is None:
                self._feed = None
            else:
                return _outcome(future, left, as_value=feed.options.return_exceptions)
        except BaseException:
            self.close()
            raise
        raise StopIteration

    def close(self) -> None:
        """Cancel what has not started; what runs goes on."""
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()

    def __del__(self) -> None:
        # Never asked for a value: it was called for its side effects and runs to its end.
        feed = getattr(self, "_feed", None)
        if feed is None:
            return
        if self._asked:
            call_soon(feed.close)
        elif not feed.sized and not feed.exhausted:
            warnings.warn(
                "a map over an input without a length was dropped before it was iterated: only its first items run",
                UnfinishedMapWarning,
                source=self,
                stacklevel=2,
            )
        else:
            call_soon(lambda: feed.executor_closed(cancelled=False))


def _outcome(future: Future[Any], timeout: float | None, *, as_value: bool) -> Any:
    try:
        return future.result(timeout)
    except StopIteration as error:
        if as_value:
            return error
        raise RuntimeError("the task raised StopIteration") from error
    except BaseException as error:
        if as_value and future.done() and isinstance(error, Exception):
            return error
        raise
    finally:
        del future
