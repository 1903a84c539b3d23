"""`map`, from the side of who asks for results; how items are submitted is `map_feed`'s."""

from __future__ import annotations

import time
import warnings
from collections import deque
from functools import partial
from itertools import chain, count, repeat
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from taskrun.errors import UnfinishedMapWarning
from taskrun.map_feed import Feed
from taskrun.map_pace import may_run_together
from taskrun.map_runs import FeedInRuns
from taskrun.map_taking import InputWaitsForItselfError
from taskrun.progress import Reporter
from taskrun.runs import Outcomes, not_a_run, split_outcomes
from taskrun.threads import call_soon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from taskrun.future import Future
    from taskrun.map_under_way import UnderWay
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
    inputs: dict[str, Any] = {"total": total, "buffersize": buffersize, "ordered": ordered, "reporter": reporter}
    if buffersize is None and may_run_together(scheduler, fn, options):
        feed: Feed = FeedInRuns(scheduler, fn, kept, options, **inputs)
    else:
        feed = Feed(scheduler, fn, zip(*kept, strict=False), options, **inputs)
    feed.open()
    return MapResults.of(feed, deadline)


def _collected(iterables: tuple[Iterable[Any], ...]) -> tuple[list[Iterable[Any]], int | None]:
    """Return the inputs, those with a length collected, and how many calls they make; None where only reading will tell."""
    # Now, as in the standard library: what the caller does to a list later changes nothing. A range cannot change.
    kept = [list(it) if hasattr(it, "__len__") and not isinstance(it, range) else it for it in iterables]
    lengths = [len(it) for it in kept if isinstance(it, (list, range))]
    # `repeat` and `count` run nobody's code: where they meet an input with a length, they have one as well.
    lengths += [length for it in kept if type(it) is repeat and (length := _times(it)) is not None]
    known = sum(isinstance(it, (list, range)) or type(it) in (repeat, count) for it in kept)
    if known < len(kept) or (kept and not lengths):
        return kept, None
    return kept, min(lengths, default=0)


def _times(repeated: repeat[Any]) -> int | None:
    try:
        return repeated.__length_hint__()  # `operator.length_hint` would make 0 of the error
    except TypeError:  # "len() of unsized object": it was given no number of times
        return None


class MapResults(chain[T]):
    """The results of a `map`, one at a time; `close` cancels what has not started.

    A chain: results of runs of tiny items are at hand before they are asked for, and it hands these out in C. What is not at
    hand its `_Taker` gets, the iterator whose turn it is whenever another one is exhausted.
    """

    _taker: _Taker | None = None

    @classmethod
    def of(cls, feed: Feed, deadline: float | None) -> MapResults[Any]:
        """Return the iterator over what *feed* has under way, until *deadline* (`time.monotonic`)."""
        taker = _Taker(feed, deadline)
        results: Any = cls.from_iterable(iter(partial(taker.at_hand.pop, _NEXT, taker), _END))
        results._taker = taker
        return results  # type: ignore[no-any-return]

    def close(self) -> None:
        """Cancel what has not started; what runs goes on."""
        if self._taker is not None:
            self._taker.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    def __del__(self) -> None:
        taker = self._taker
        if taker is None or (feed := taker.feed) is None:
            return
        if taker.asked:
            feed.unread = False  # by his own will: no warning if the executor is shut down before the janitor comes to it
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


_NEXT = 0
_END: Any = object()


class _Taker:
    """Gets the next result that is not at hand; or several, and then says that it has none itself, so that these come next.

    ::

        chain ── its turn ──► this ── StopIteration ──► at_hand[_NEXT]: results of a run ── exhausted ──► this ──► ... ──► _END

    The chain asks `at_hand` for what comes next whenever an iterator is exhausted; it has this there, where it finds nothing.
    Several threads may iterate over one map, and the chain takes the iterator that it has begun last for the one that was
    exhausted in any of them: it may drop what another thread has put there. So results of runs are in `feed.unpacked` as well,
    out of which this hands them out, one by one, before it takes more.
    """

    def __init__(self, feed: Feed, deadline: float | None) -> None:
        self.feed: Feed | None = feed
        """None: there is nothing more to take."""
        self.asked = False
        self.at_hand: dict[int, Any] = {}
        """What comes after this, under `_NEXT`, unless it is this again; `_END` after the last one."""
        self._deadline = deadline
        self._failed: BaseException | None = None  # what to raise after them

    def __iter__(self) -> _Taker:
        return self

    def __next__(self) -> Any:
        """Raises StopIteration also where results were put `at_hand`."""
        feed = self.feed
        if feed is None:
            self._end()
            raise StopIteration
        for value in feed.unpacked:
            return value
        self.asked = True
        future: Future[Any] | None = None
        error: BaseException | None = None
        try:
            if self._failed is None:
                future = feed.take(self._left())
            if future is None:
                for value in feed.unpacked:  # by another thread, since we looked: before it noted what comes after that
                    return value
                error, self._failed = self._failed, None
                if error is not None:
                    raise error
                self._end()
            elif (run := feed.run_of(future)) is None:
                value = _outcome(future, self._left(), as_value=feed.options.return_exceptions)
                feed.taken((value,))
                return value
            else:
                try:
                    self._unpack(feed, future, run)
                finally:
                    feed.is_apart()
        except InputWaitsForItselfError:  # raised in the input; it ends the map in its place, if the input lets it through
            raise
        except BaseException:
            self.close()  # first: an attempt that fails from here on is the last one
            if future is not None:
                feed.put_down(future)
                future.cancel()  # it was waited for in vain
            raise
        finally:
            del future  # an exception must not be kept alive by the frames in its own traceback
            error = None
        raise StopIteration

    def _unpack(self, feed: Feed, future: Future[Any], run: UnderWay) -> None:
        """Have the outcomes of a run come next, up to the first that is to be raised."""
        as_values = feed.options.return_exceptions
        outcomes = _outcome(future, self._left(), as_value=as_values)
        if isinstance(outcomes, BaseException):  # its worker died, say: so all of them failed
            lost = feed.failed_with(run)
            self.at_hand[_NEXT] = feed.hand_on([outcomes] * lost)
            if lost < run.size:
                feed.follow(run, self._left())
            return
        if not isinstance(outcomes, Outcomes):
            raise not_a_run(outcomes)
        values, failed = outcomes.unpacked(), None
        if values is None:
            values = []
            for value, error in split_outcomes(outcomes):
                if error is None:
                    values.append(value)
                elif as_values and isinstance(error, Exception):
                    values.append(error)
                else:
                    failed = _to_raise(error)
                    break
        feed.taken(values)
        self.at_hand[_NEXT] = feed.hand_on(values, plain=outcomes.small)
        if failed is not None:
            self._failed = failed
        elif outcomes.items < run.size:
            feed.follow(run, self._left())

    def _end(self) -> None:
        self.at_hand[_NEXT] = _END
        self.feed = None

    def _left(self) -> float | None:
        return None if self._deadline is None else self._deadline - time.monotonic()

    def close(self) -> None:
        feed = self.feed
        if feed is not None:
            feed.close()
            deque(feed.unpacked, maxlen=0)  # the chain may be in the middle of it
            self.feed = None  # afterwards: if Ctrl-C strikes, `__del__` closes it


def _outcome(future: Future[Any], timeout: float | None, *, as_value: bool) -> Any:
    try:
        return future.result(timeout)
    except StopIteration as error:
        if as_value:
            return error
        raise _to_raise(error) from error
    except BaseException as error:
        if as_value and future.done() and isinstance(error, Exception):
            return error
        raise
    finally:
        del future


def _to_raise(error: BaseException) -> BaseException:
    """Return what an iterator raises for the *error* of a task: StopIteration would end it."""
    if not isinstance(error, StopIteration):
        return error
    raised = RuntimeError("the task raised StopIteration")
    raised.__cause__ = error
    return raised
