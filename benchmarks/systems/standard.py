"""What the standard library has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.systems.base import FuturesSystem, System

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["Dummy", "Pool", "PoolSystem", "ProcessPool", "ThreadPool"]


class ThreadPool(FuturesSystem):
    """`concurrent.futures.ThreadPoolExecutor`."""

    kind = "thread"
    modules = ("concurrent.futures",)

    def make(self) -> Any:
        from concurrent.futures import ThreadPoolExecutor

        return ThreadPoolExecutor(self.workers)


class ProcessPool(FuturesSystem):
    """`concurrent.futures.ProcessPoolExecutor`; a subclass says which start method."""

    modules = ("concurrent.futures", "multiprocessing")
    method = "fork"

    def make(self) -> Any:
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        # It refuses to renew workers that are forked.
        renewed: dict[str, Any] = {} if self.tasks_per_worker is None else {"max_tasks_per_child": self.tasks_per_worker}
        return ProcessPoolExecutor(self.workers, mp_context=multiprocessing.get_context(self.method), **renewed)


class PoolSystem(System):
    """A system with the interface of `multiprocessing.Pool`."""

    can = frozenset({"submit", "call", "map", "stream", "stream-unordered", "fresh", "queue"})

    def __init__(self, workers: int, tasks_per_worker: int | None = None) -> None:
        super().__init__(workers, tasks_per_worker)
        self._pool: Any = None

    def close(self) -> None:
        self._pool.close()
        self._pool.join()

    def submit(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self._pool.apply_async(fn, args)

    def gather(self, handles: Sequence[Any]) -> list[Any]:
        return [handle.get() for handle in handles]

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return list(self._pool.map(fn, items))

    def stream(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        results: Iterator[Any] = self._pool.imap(fn, items)
        return results

    def stream_unordered(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        results: Iterator[Any] = self._pool.imap_unordered(fn, items)
        return results


class Pool(PoolSystem):
    """`multiprocessing.Pool`."""

    modules = ("multiprocessing",)

    def open(self) -> None:
        import multiprocessing

        self._pool = multiprocessing.get_context("fork").Pool(self.workers, maxtasksperchild=self.tasks_per_worker)


class Dummy(PoolSystem):
    """`multiprocessing.dummy.Pool`."""

    modules = ("multiprocessing.dummy",)
    kind = "thread"
    can = PoolSystem.can - {"fresh"}

    def open(self) -> None:
        import multiprocessing.dummy

        self._pool = multiprocessing.dummy.Pool(self.workers)
