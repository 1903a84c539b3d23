"""What type checkers are told of `Executor.map`: the items have to fit the function's parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast, overload

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from taskrun.mapping import MapResults

__all__ = ["Mapping", "typed_as_map"]

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


class Mapping(Protocol):
    """The signatures of `map`: as many iterables as *fn* takes arguments, checked up to three; what a coroutine returns."""

    @overload
    def __call__(
        self,
        fn: Callable[[A], Coroutine[Any, Any, T]],
        first: Iterable[A],
        /,
        *,
        timeout: float | None = ...,
        chunksize: int | None = ...,
        buffersize: int | None = ...,
    ) -> MapResults[T]: ...
    @overload
    def __call__(
        self,
        fn: Callable[[A], T],
        first: Iterable[A],
        /,
        *,
        timeout: float | None = ...,
        chunksize: int | None = ...,
        buffersize: int | None = ...,
    ) -> MapResults[T]: ...
    @overload
    def __call__(
        self,
        fn: Callable[[A, B], Coroutine[Any, Any, T]],
        first: Iterable[A],
        second: Iterable[B],
        /,
        *,
        timeout: float | None = ...,
        chunksize: int | None = ...,
        buffersize: int | None = ...,
    ) -> MapResults[T]: ...
    @overload
    def __call__(
        self,
        fn: Callable[[A, B], T],
        first: Iterable[A],
        second: Iterable[B],
        /,
        *,
        timeout: float | None = ...,
        chunksize: int | None = ...,
        buffersize: int | None = ...,
    ) -> MapResults[T]: ...
    @overload
    def __call__(
        self,
        fn: Callable[[A, B, C], Coroutine[Any, Any, T]],
        first: Iterable[A],
        second: Iterable[B],
        third: Iterable[C],
        /,
        *,
        timeout: float | None = ...,
        chunksize: int | None = ...,
        buffersize: int | None = ...,
    ) -> MapResults[T]: ...
    @overload
    def __call__(
        self,
        fn: Callable[[A, B, C], T],
        first: Iterable[A],
        second: Iterable[B],
        third: Iterable[C],
        /,
        *,
        timeout: float | None = ...,
        chunksize: int | None = ...,
        buffersize: int | None = ...,
    ) -> MapResults[T]: ...
    @overload
    def __call__(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        first: Iterable[Any],
        second: Iterable[Any],
        third: Iterable[Any],
        fourth: Iterable[Any],
        /,
        *more: Iterable[Any],
        timeout: float | None = ...,
        chunksize: int | None = ...,
        buffersize: int | None = ...,
    ) -> MapResults[T]: ...
    @overload
    def __call__(
        self,
        fn: Callable[..., T],
        first: Iterable[Any],
        second: Iterable[Any],
        third: Iterable[Any],
        fourth: Iterable[Any],
        /,
        *more: Iterable[Any],
        timeout: float | None = ...,
        chunksize: int | None = ...,
        buffersize: int | None = ...,
    ) -> MapResults[T]: ...


def typed_as_map(method: Callable[..., MapResults[Any]]) -> Mapping:
    """Return *method*, seen by type checkers as `Mapping`."""
    return cast("Mapping", method)
