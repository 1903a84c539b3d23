"""`map`, from the side of who asks for results; how items are submitted is `map_feed`'s."""

from __future__ import annotations

import time
import warnings
from itertools import count, repeat
from operator import length_hint
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from taskrun.errors import UnfinishedMapWarning
from taskrun.map_feed import Feed, InputWaitsForItselfError
from taskrun.progress import Reporter
from taskrun.threads import call_soon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from taskrun.future import Future
    from taskrun.options import TaskOptions
    from taskrun.scheduler import Scheduler

__all__ = ["MapResults", "start_map"]

T = TypeVar("T")


def start_map(
    scheduler: Scheduler,
    fn: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    options: TaskOptions,
    *,
    timeout: float | None,
    buffersize: int | None,
    ordered: bool,
) -> MapResults[Any]:
    """Submit the first window and return the iterator over the results."""
    deadline = None if timeout is None else time.monotonic() + timeout
    kept, total = _collected(iterables)
    if total != 0:  # nothing can be done after shutdown, too
        scheduler.check_open()
    reporter = Reporter(options.progress, total, scheduler.callbacks) if options.progress else None
    calls = zip(*kept, strict=False)
    feed = Feed(scheduler, fn, calls, options, total=total, buffersize=buffersize, ordered=ordered, reporter=reporter)
    feed.open()
    return MapResults(feed, deadline)


def _collected(iterables: tuple[Iterable[Any], ...]) -> tuple[list[Iterable[Any]], int | None]:
    """Return the inputs, those with a length collected, and how many calls they make; None where only reading will tell."""
    # Now, as in the standard library: what the caller does to a list later changes nothing. A range cannot change.
    kept = [list(it) if hasattr(it, "__len__") and not isinstance(it, range) else it for it in iterables]
    lengths = [len(it) for it in kept if isinstance(it, (list, range))]
    # `repeat` and `count` run nobody's code: where they meet an input with a length, they have one as well.
    lengths += [length_hint(it) for it in kept if type(it) is repeat and hasattr(it, "__length_hint__") and _ends(it)]
    known = sum(isinstance(it, (list, range)) or type(it) in (repeat, count) for it in kept)
    if known < len(kept) or (kept and not lengths):
        return kept, None
    return kept, min(lengths, default=0)


def _ends(repeated: repeat[Any]) -> bool:
    try:
        length_hint(repeated)
    except TypeError:  # "len() of unsized object": it was given no number of times
        return False
    return True


class MapResults(Generic[T]):
    """The results of a `map`, one at a time; `close` cancels what has not started."""

    def __init__(self, feed: Feed, deadline: float | None) -> None:
        self._feed: Feed | None = feed
        self._deadline = deadline
        self._asked = False

    def __iter__(self) -> MapResults[T]:
        return self

    def __next__(self) -> T:
        feed = self._feed
        if feed is None:
            raise StopIteration
        self._asked = True
        future: Future[Any] | None = None
        try:
            future = feed.take(self._left())
            if future is None:
                self._feed = None
            else:
                value: T = _outcome(future, self._left(), as_value=feed.options.return_exceptions)
                feed.taken(value)
                return value
        except InputWaitsForItselfError:  # raised in the input; it ends the map in its place, if the input lets it through
            raise
        except BaseException:
            if future is not None:
                future.cancel()  # it was waited for in vain
            self.close()
            raise
        finally:
            del future  # an exception must not be kept alive by the frames in its own traceback
        raise StopIteration

    def _left(self) -> float | None:
        return None if self._deadline is None else self._deadline - time.monotonic()

    def close(self) -> None:
        """Cancel what has not started; what runs goes on."""
        feed = self._feed
        if feed is not None:
            feed.close()
            self._feed = None  # afterwards: if Ctrl-C strikes, `__del__` closes it

    def __del__(self) -> None:
        feed = getattr(self, "_feed", None)
        if feed is None:
            return
        if self._asked:
            call_soon(feed.close)
            return
        # Never asked for a value: it was called for its side effects and runs to its end.
        call_soon(feed.let_go)
        if not feed.sized and feed.unread:
            feed.unread = False
            warnings.warn(
                "a map over an input without a length was dropped before it was iterated: only its first items run",
                UnfinishedMapWarning,
                source=self,
                stacklevel=2,
            )


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
