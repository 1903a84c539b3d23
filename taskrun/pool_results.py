"""What the methods of a `Pool` return: `AsyncResult` and the iterators of `imap`, with the errors of `multiprocessing`.

The classes of these errors are imported when one is raised: `import taskrun` does not load `multiprocessing`.
"""

from __future__ import annotations

import logging
import pickle
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from taskrun.errors import SerializationError
from taskrun.pool_feed import error_of
from taskrun.threads import call_soon

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskrun.callbacks import CallbackRunner
    from taskrun.future import Future
    from taskrun.pool_feed import OnDemand

__all__ = ["AsyncResult", "IMapIterator", "settle_as", "settle_later"]

T = TypeVar("T")

_log = logging.getLogger("taskrun")


class AsyncResult(Generic[T]):
    """The result of `apply_async`, `map_async` or `starmap_async`, there once its callback has run."""

    def __init__(self, future: Future[Any]) -> None:
        self._future = future
        self._error: BaseException | None = None

    def ready(self) -> bool:
        """Return whether the call has completed."""
        return self._future.done()

    def successful(self) -> bool:
        """Return whether it completed without raising. Raises ValueError if it is not ready."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return not self._future.cancelled() and self._future._exception is None

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the result is there, at most *timeout* seconds.

        Raises RuntimeError where that could never be: in a callback of the same pool.
        """
        try:
            self._future._wait(timeout)
        except TimeoutError:
            return

    def get(self, timeout: float | None = None) -> T:
        """Return the result, or raise what the call raised; `multiprocessing.TimeoutError` if it is not there in time."""
        try:
            self.wait(timeout)
            if not self.ready():
                _raise_timeout()
            if not self.successful():
                if self._error is None:
                    self._error = pool_error(error_of(self._future))
                raise self._error
            value: Any = self._future._result
            return value  # type: ignore[no-any-return]  # it is a T
        finally:
            del self  # the error's traceback has this frame: it must not lead back to the error


class IMapIterator(Generic[T]):
    """The results of `imap` or `imap_unordered`. An item that failed raises its error, and the next one is there after it."""

    def __init__(self, feed: OnDemand) -> None:
        self._feed: OnDemand | None = feed

    def __iter__(self) -> IMapIterator[T]:
        return self

    def __next__(self) -> T:
        return self.next()

    def next(self, timeout: float | None = None) -> T:
        """Return the next result; `multiprocessing.TimeoutError` if it is not there within *timeout* seconds.

        Raises what the item raised, what the input raised (once, after the results of what it gave), and StopIteration.
        """
        feed = self._feed
        if feed is None:
            raise StopIteration
        try:
            future = feed.take(timeout)
        except BaseException as error:
            if feed.ended_by(error):
                self._feed = None
            elif isinstance(error, TimeoutError):
                _raise_timeout()
            raise
        if future is None:
            self._feed = None
            raise StopIteration
        try:
            if future.cancelled() or future._exception is not None:
                _raise_item(error_of(future))
            value: Any = future._result
            feed.taken((value,))
            return value  # type: ignore[no-any-return]  # it is a T
        finally:
            del future, feed, self  # as in `AsyncResult.get`

    def __del__(self) -> None:
        feed = getattr(self, "_feed", None)
        if feed is not None:
            call_soon(feed.let_go)  # as in the original, what was asked for is done, iterated or not


def settle_as(
    future: Future[Any],
    callback: Callable[[Any], object] | None,
    error_callback: Callable[[BaseException], object] | None,
    done: Future[Any],
) -> None:
    """Call back with the outcome of a task's *done* future, then have *future* be done with it."""
    failed = done.cancelled() or done._exception is not None
    _settle(future, callback, error_callback, done._result, error_of(done) if failed else None)


def settle_later(
    runner: CallbackRunner,
    future: Future[Any],
    callback: Callable[[Any], object] | None,
    error_callback: Callable[[BaseException], object] | None,
    value: Any,
    error: BaseException | None,
) -> None:
    """Do so with *value* or *error* where callbacks run; at once if there is none to run."""
    settle = partial(_settle, future, callback, error_callback, value, error)
    if callback is None and error_callback is None:
        settle()
    else:
        runner.add(settle)
        runner.run()


def _settle(
    future: Future[Any],
    callback: Callable[[Any], object] | None,
    error_callback: Callable[[BaseException], object] | None,
    value: Any,
    error: BaseException | None,
) -> None:
    """Call back first: who gets the result finds that the callback has run."""
    error = None if error is None else pool_error(error)
    called = callback if error is None else error_callback
    try:
        if called is not None:
            called(value if error is None else error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # the user's, SystemExit too: told, and nothing else is hurt
        _log.exception("exception calling callback %r of a Pool", called)
    finally:
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)


def pool_error(error: BaseException) -> BaseException:
    """Return what `multiprocessing.Pool` has in the place of *error*: of ours, only the errors of pickling differ.

    A result that does not pickle is a MaybeEncodingError; an argument that does not raises what its pickling raised, with our
    explanation as a note.
    """
    cause = error.__cause__
    if not isinstance(error, SerializationError) or error.direction != "pickling" or not isinstance(cause, Exception):
        return error
    if error.side == "worker":
        from multiprocessing import pool as original

        encoding: Exception = original.MaybeEncodingError(cause, _Named(error))  # type: ignore[attr-defined]  # not in typeshed
        encoding.__cause__ = error
        return encoding
    if isinstance(cause, pickle.PicklingError):
        return error  # which is one, too
    cause.add_note(str(error))
    return cause


class _Named:
    """Stands in for a result that stayed in its worker."""

    def __init__(self, error: SerializationError) -> None:
        self._text = f"<result of task {error.task!r} ({error.type_name})>"

    def __repr__(self) -> str:
        return self._text


def _raise_item(error: BaseException) -> NoReturn:
    try:
        if isinstance(error, StopIteration):  # would end the loop in silence
            raise RuntimeError("the task raised StopIteration") from error
        raise pool_error(error)
    finally:
        del error  # as in `AsyncResult.get`


def _raise_timeout() -> NoReturn:
    from multiprocessing import TimeoutError as PoolTimeoutError

    raise PoolTimeoutError from None
