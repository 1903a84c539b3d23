"""`Pool`: the interface of `multiprocessing.Pool` over an executor, on any backend."""

from __future__ import annotations

import operator
import time
import warnings
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from taskrun.executor import Executor
from taskrun.future import Future
from taskrun.pool_feed import collecting, demanded, tell_of
from taskrun.pool_results import AsyncResult, IMapIterator, settle_as, settle_later
from taskrun.pool_types import as_apply, as_apply_async, as_imap, as_map, as_map_async, as_starmap, as_starmap_async
from taskrun.runs import Star

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from concurrent import futures as standard
    from typing import Self

    from taskrun.backends.base import Backend
    from taskrun.options import TaskOptions
    from taskrun.pool_feed import OnDemand

__all__ = ["Pool"]

INIT, RUN, CLOSE, TERMINATE = "INIT", "RUN", "CLOSE", "TERMINATE"  # the original's words, which its clients read

_TELL_AFTER = 10.0  # seconds that `join` waits for inputs before it says so


class Pool:
    """A `multiprocessing.Pool` on any backend (None: the configured one).

    *processes* is the number of workers. *context* is a context of taskrun's, whose backend is taken if *backend* is not given,
    or one of `multiprocessing`'s, whose start method the workers are made by. Timeouts and retries are those of the
    configuration, for each item of a map. Raises what the original raises for wrong arguments, and what `Executor` raises.
    """

    _state = INIT  # for `__del__`, if `__init__` is refused its arguments

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        *,
        backend: str | Backend | standard.Executor | None = None,
    ) -> None:
        if processes is not None and (processes := operator.index(processes)) < 1:
            raise ValueError("Number of processes must be at least 1")
        tasks: object = maxtasksperchild  # whatever the type checker was told
        if tasks is not None and (not isinstance(tasks, int) or tasks <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        options: dict[str, Any] = {}
        if hasattr(context, "backend_name"):
            if backend is None or backend == context.backend_name:
                backend, options = context.backend_name, dict(getattr(context, "backend_options", {}))
        elif context is not None:
            options["mp_context"] = context
        self._executor = Executor(
            backend,
            max_workers=processes,
            initializer=initializer,
            initargs=tuple(initargs),
            max_tasks_per_child=maxtasksperchild,
            **options,
        )
        self._processes = self._executor._max_workers
        self._scheduler = self._executor._scheduler
        self._scheduler.stops_at_exit = True
        self._feeds: weakref.WeakSet[OnDemand] = weakref.WeakSet()  # of `imap`, which may have more to read
        self._state = RUN

    # -- one call --------------------------------------------------------------------------------------------------------------

    @as_apply
    def apply(self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}) -> Any:
        """Return ``func(*args, **kwds)``, run by a worker."""
        return self.apply_async(func, args, kwds).get()

    @as_apply_async
    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[Any]:
        """Have a worker run ``func(*args, **kwds)``.

        *callback* gets the value, *error_callback* the error. Callbacks run in a thread of this process, one at a time, in the
        order in which tasks end; `get` returns after them.
        """
        self._check_running()
        call = _call_of(func, args, kwds)
        if callback is None and error_callback is None:
            return AsyncResult(self._scheduler.submit(*call, self._executor._options))
        future: Future[Any] = Future(self._scheduler)
        tell = partial(settle_as, future, callback, error_callback)
        self._scheduler.submit(*call, self._executor._options, tell)
        return AsyncResult(future)

    # -- maps that return a list -----------------------------------------------------------------------------------------------

    @as_map
    def map(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None) -> list[Any]:
        """Return the results of *func* for each item, in order; raise the first error once all items are through.

        *chunksize* is how many items travel to a worker together, by default about six milliseconds of work.
        """
        return self.map_async(func, iterable, chunksize).get()

    @as_map_async
    def map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[list[Any]]:
        """Do as `map` does, without waiting; *callback* gets the list of results, *error_callback* the first error."""
        return self._collected(func, iterable, chunksize, callback, error_callback)

    @as_starmap
    def starmap(self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None) -> list[Any]:
        """Do as `map` does, with each item holding all the arguments of a call."""
        return self.starmap_async(func, iterable, chunksize).get()

    @as_starmap_async
    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[list[Any]]:
        """Do as `map_async` does, with each item holding all the arguments of a call."""
        return self._collected(Star(func), iterable, chunksize, callback, error_callback)

    def _collected(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> AsyncResult[Any]:
        self._check_running()
        items = list(iterable)
        options = self._options(chunksize if items else None)  # code that divides a length by workers has 0 for no items
        future: Future[Any] = Future(self._scheduler)
        on_end = partial(settle_later, self._scheduler.callbacks, future, callback, error_callback)
        collecting(self._scheduler, func, items, options, on_end).open()
        return AsyncResult(future)

    # -- maps that are iterated ------------------------------------------------------------------------------------------------

    @as_imap
    def imap(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int = 1) -> IMapIterator[Any]:
        """Return an iterator over the results, in order, which has ``next(timeout)``.

        It runs ahead of whoever iterates, by what keeps the workers busy for 0.1 s, and no further before `join` is called.
        """
        return self._iterated(func, iterable, chunksize, ordered=True)

    @as_imap
    def imap_unordered(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int = 1) -> IMapIterator[Any]:
        """Do as `imap` does, with the results as they come."""
        return self._iterated(func, iterable, chunksize, ordered=False)

    def _iterated(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int, *, ordered: bool
    ) -> IMapIterator[Any]:
        self._check_running()
        options = self._options(None if chunksize == 1 else chunksize)  # the default asks for nothing
        feed = demanded(self._scheduler, func, iterable, options, ordered=ordered)
        self._feeds.add(feed)  # before there is anything that a `join` in another thread could overlook
        feed.open()
        return IMapIterator(feed)

    def _options(self, chunksize: int | None) -> TaskOptions:
        """Return the options of a map's tasks. Raises ValueError in the original's words."""
        if chunksize is not None and operator.index(chunksize) < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize}")
        return self._executor._options._replace(chunksize=chunksize)

    # -- ending ----------------------------------------------------------------------------------------------------------------

    def _check_running(self) -> None:
        if self._state != RUN:
            raise ValueError("Pool not running")

    def close(self) -> None:
        """Take nothing more; what was asked for is done."""
        if self._state == RUN:
            self._state = CLOSE
            self._executor.shutdown(wait=False)

    def terminate(self) -> None:
        """Stop at once: what has not ended fails with `concurrent.futures.CancelledError`, and callbacks are told."""
        self._state = TERMINATE
        self._executor.terminate_workers()

    def join(self) -> None:
        """Wait until everything is done and the workers are gone, after `close` or `terminate`.

        The input of an `imap` is read to its end, whoever iterates the results, which stay readable. A log record tells of an
        input that takes long. Raises ValueError while the pool runs, and RuntimeError in a callback or a task of this pool.
        """
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._state not in (CLOSE, TERMINATE):
            raise ValueError("In unknown state")
        self._scheduler.refuse_waiting("join()")
        unread = [feed for feed in self._feeds if feed.reading]
        if unread and self._scheduler.concurrent:
            self._scheduler.timer.call_at(time.monotonic() + _TELL_AFTER, self._tell_of, unread)
        for feed in unread:
            feed.run_to_the_end()
        self._executor.shutdown(wait=True)

    def _tell_of(self, unread: list[OnDemand]) -> None:
        self._scheduler.callbacks.add(partial(tell_of, unread))
        self._scheduler.callbacks.run()

    def __enter__(self) -> Self:
        self._check_running()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        try:
            self.terminate()
        except KeyboardInterrupt:  # perhaps before the workers were told; else this does nothing more
            self.terminate()
            raise

    def __del__(self, _warn: Callable[..., None] = warnings.warn, _run: str = RUN) -> None:  # globals may be gone by then
        if self._state == _run:
            _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self)

    def __reduce__(self) -> NoReturn:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __repr__(self) -> str:
        cls, name = type(self), self._executor.backend_name
        return f"<{cls.__module__}.{cls.__qualname__} state={self._state} pool_size={self._processes} backend={name!r}>"


def _call_of(func: Any, args: Any, kwds: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Return what a worker is to call; what cannot be unpacked is the task's error, as in the original."""
    if type(args) is list:
        args = tuple(args)
    if isinstance(args, tuple) and isinstance(kwds, dict):
        return func, args, kwds
    return _call, (func, args, kwds), {}


def _call(func: Callable[..., Any], args: Iterable[Any], kwds: Mapping[str, Any]) -> Any:
    return func(*args, **kwds)
