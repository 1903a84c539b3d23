"""What type checkers are told of the methods of `Pool`: items have to fit the function, and coroutine functions are awaited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast, overload

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from taskrun.pool_results import AsyncResult, IMapIterator

__all__ = ["as_apply", "as_apply_async", "as_imap", "as_map", "as_map_async", "as_starmap", "as_starmap_async"]

S = TypeVar("S")
T = TypeVar("T")


class Apply(Protocol):
    """The signatures of `apply`."""

    @overload
    def __call__(
        self,
        func: Callable[..., Coroutine[Any, Any, T]],
        args: Iterable[Any] = ...,
        kwds: Mapping[str, Any] = ...,
    ) -> T: ...
    @overload
    def __call__(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = ...,
        kwds: Mapping[str, Any] = ...,
    ) -> T: ...


class ApplyAsync(Protocol):
    """The signatures of `apply_async`."""

    @overload
    def __call__(
        self,
        func: Callable[..., Coroutine[Any, Any, T]],
        args: Iterable[Any] = ...,
        kwds: Mapping[str, Any] = ...,
        callback: Callable[[T], object] | None = ...,
        error_callback: Callable[[BaseException], object] | None = ...,
    ) -> AsyncResult[T]: ...
    @overload
    def __call__(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = ...,
        kwds: Mapping[str, Any] = ...,
        callback: Callable[[T], object] | None = ...,
        error_callback: Callable[[BaseException], object] | None = ...,
    ) -> AsyncResult[T]: ...


class Map(Protocol):
    """The signatures of `map`."""

    @overload
    def __call__(
        self,
        func: Callable[[S], Coroutine[Any, Any, T]],
        iterable: Iterable[S],
        chunksize: int | None = ...,
    ) -> list[T]: ...
    @overload
    def __call__(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = ...,
    ) -> list[T]: ...


class MapAsync(Protocol):
    """The signatures of `map_async`."""

    @overload
    def __call__(
        self,
        func: Callable[[S], Coroutine[Any, Any, T]],
        iterable: Iterable[S],
        chunksize: int | None = ...,
        callback: Callable[[list[T]], object] | None = ...,
        error_callback: Callable[[BaseException], object] | None = ...,
    ) -> AsyncResult[list[T]]: ...
    @overload
    def __call__(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = ...,
        callback: Callable[[list[T]], object] | None = ...,
        error_callback: Callable[[BaseException], object] | None = ...,
    ) -> AsyncResult[list[T]]: ...


class Starmap(Protocol):
    """The signatures of `starmap`."""

    @overload
    def __call__(
        self,
        func: Callable[..., Coroutine[Any, Any, T]],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = ...,
    ) -> list[T]: ...
    @overload
    def __call__(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = ...,
    ) -> list[T]: ...


class StarmapAsync(Protocol):
    """The signatures of `starmap_async`."""

    @overload
    def __call__(
        self,
        func: Callable[..., Coroutine[Any, Any, T]],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = ...,
        callback: Callable[[list[T]], object] | None = ...,
        error_callback: Callable[[BaseException], object] | None = ...,
    ) -> AsyncResult[list[T]]: ...
    @overload
    def __call__(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = ...,
        callback: Callable[[list[T]], object] | None = ...,
        error_callback: Callable[[BaseException], object] | None = ...,
    ) -> AsyncResult[list[T]]: ...


class Imap(Protocol):
    """The signatures of `imap` and `imap_unordered`."""

    @overload
    def __call__(
        self,
        func: Callable[[S], Coroutine[Any, Any, T]],
        iterable: Iterable[S],
        chunksize: int = ...,
    ) -> IMapIterator[T]: ...
    @overload
    def __call__(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int = ...,
    ) -> IMapIterator[T]: ...


def as_apply(method: Callable[..., Any]) -> Apply:
    """Return *method*, seen by type checkers as `Apply`."""
    return cast("Apply", method)


def as_apply_async(method: Callable[..., Any]) -> ApplyAsync:
    """Return *method*, seen by type checkers as `ApplyAsync`."""
    return cast("ApplyAsync", method)


def as_map(method: Callable[..., Any]) -> Map:
    """Return *method*, seen by type checkers as `Map`."""
    return cast("Map", method)


def as_map_async(method: Callable[..., Any]) -> MapAsync:
    """Return *method*, seen by type checkers as `MapAsync`."""
    return cast("MapAsync", method)


def as_starmap(method: Callable[..., Any]) -> Starmap:
    """Return *method*, seen by type checkers as `Starmap`."""
    return cast("Starmap", method)


def as_starmap_async(method: Callable[..., Any]) -> StarmapAsync:
    """Return *method*, seen by type checkers as `StarmapAsync`."""
    return cast("StarmapAsync", method)


def as_imap(method: Callable[..., Any]) -> Imap:
    """Return *method*, seen by type checkers as `Imap`."""
    return cast("Imap", method)
