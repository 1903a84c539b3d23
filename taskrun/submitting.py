"""Submitting, as executors and their views with options share it; the types tell a wrong argument before it is sent."""

from __future__ import annotations

import operator
from concurrent import futures as standard
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar, TypeVarTuple, overload

from taskrun.choice import merged_options
from taskrun.map_types import typed_as_map

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from taskrun.backends.base import Backend
    from taskrun.future import Future
    from taskrun.mapping import MapResults
    from taskrun.options import TaskOptions
    from taskrun.runs import Star
    from taskrun.scheduler import Scheduler

__all__ = ["OptionsView", "Submitting"]

P = ParamSpec("P")
T = TypeVar("T")
Items = TypeVarTuple("Items")


class Submitting(standard.Executor):
    """What an executor and its views share."""

    _scheduler: Scheduler
    _backend: Backend
    _options: TaskOptions
    # Loaded with the first executor, and kept here: at the end of the interpreter nothing can be imported any more.
    _start_map: Callable[..., MapResults[Any]]
    _star: type[Star]

    @overload
    def submit(self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]: ...
    @overload
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``fn(*args, **kwargs)`` on a worker and return its future.

        Raises RuntimeError after shutdown and InitializerError when the workers cannot be initialized.
        """
        return self._scheduler.submit(fn, args, kwargs, self._options)

    @typed_as_map
    def map(  # type: ignore[override]  # narrower than the standard signature, on purpose
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> MapResults[Any]:
        """Return an iterator over ``fn(*items)`` in the order of the inputs; it can be closed.

        *timeout* is in seconds from this call. *buffersize* bounds how many items are submitted ahead of the results taken; by
        default what keeps every worker busy for 0.1 s. *chunksize* is how many items travel to a worker process together, by
        default about six milliseconds of work; it changes no outcome. Raises what the first failing task raised,
        TimeoutError, or RuntimeError after shutdown.
        """
        return self._map(fn, iterables, timeout, chunksize, buffersize, ordered=True)

    @typed_as_map
    def map_unordered(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> MapResults[Any]:
        """Do as `map` does, with the results as they come."""
        return self._map(fn, iterables, timeout, chunksize, buffersize, ordered=False)

    @overload
    def starmap(
        self,
        fn: Callable[[*Items], Coroutine[Any, Any, T]],
        iterable: Iterable[tuple[*Items]],
        *,
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> MapResults[T]: ...
    @overload
    def starmap(
        self,
        fn: Callable[[*Items], T],
        iterable: Iterable[tuple[*Items]],
        *,
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> MapResults[T]: ...
    def starmap(
        self,
        fn: Callable[..., Any],
        iterable: Iterable[tuple[Any, ...]],
        *,
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> MapResults[Any]:
        """Do as `map` does, with each item of *iterable* holding all the arguments of one call."""
        return self._map(self._star(fn), (iterable,), timeout, chunksize, buffersize, ordered=True)

    def _map(
        self,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        timeout: float | None,
        chunksize: int | None,
        buffersize: int | None,
        *,
        ordered: bool,
    ) -> MapResults[Any]:
        if chunksize is not None:
            try:
                chunksize = operator.index(chunksize)  # takes NumPy's integers too
            except TypeError:
                raise TypeError("chunksize must be an integer or None") from None
            if chunksize < 1:  # the standard library's texts, here and below
                raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        options = self._options if chunksize is None else self._options._replace(chunksize=chunksize)
        return self._start_map(self._scheduler, fn, iterables, options, timeout=timeout, buffersize=buffersize, ordered=ordered)

    def options(self, **options: Any) -> OptionsView:
        """Return a view on this executor whose tasks have *options*; views can be chained.

        Options: name, timeout, soft_timeout, retry, priority, return_exceptions, chunksize, progress, and the backend's own.
        Raises UnsupportedOptionError for an unknown one and ConfigError for a wrong value.
        """
        return OptionsView(self, merged_options(self._options, options, self._backend))

    def __reduce__(self) -> NoReturn:
        raise TypeError("an executor cannot be pickled: make one where it is needed (taskrun.get_executor() shares one)")


class OptionsView(Submitting):
    """An executor on the same workers whose tasks carry options; made by `Executor.options`."""

    def __init__(self, on: Submitting, options: TaskOptions) -> None:
        self._on = on  # an executor that nobody holds any more ends
        self._scheduler = on._scheduler
        self._backend = on._backend
        self._options = options
        self._start_map, self._star = on._start_map, on._star

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> NoReturn:
        """Raise RuntimeError: a view does not own the workers."""
        raise RuntimeError("this is a view made by Executor.options(); shut down the executor itself")

    def __enter__(self) -> NoReturn:
        raise RuntimeError("this is a view made by Executor.options(); use `with` on the executor itself")
