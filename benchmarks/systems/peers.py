"""Other people's pools of processes, each used as its documentation shows."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.systems.base import FuturesSystem, System
from benchmarks.systems.standard import PoolSystem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["Billiard", "Deadpool", "Joblib", "Loky", "Mpire", "Pebble"]


class Loky(FuturesSystem):
    """loky: joblib's executor."""

    needs = "loky"

    def make(self) -> Any:
        from loky import ProcessPoolExecutor

        return ProcessPoolExecutor(self.workers)


class Deadpool(FuturesSystem):
    """deadpool: an executor that survives what kills its workers; `submit` waits when 1,000 tasks are queued."""

    needs = "deadpool"
    can = FuturesSystem.can - {"queue"} | {"fresh"}

    def make(self) -> Any:
        from deadpool import Deadpool

        return Deadpool(max_workers=self.workers, max_tasks_per_child=self.tasks_per_worker)


class Pebble(System):
    """pebble: a pool with timeouts."""

    needs = "pebble"
    can = frozenset({"submit", "call", "map", "fresh", "queue"})

    def open(self) -> None:
        from pebble import ProcessPool

        self._pool = ProcessPool(self.workers, max_tasks=self.tasks_per_worker or 0)

    def close(self) -> None:
        self._pool.close()
        self._pool.join()

    def submit(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self._pool.schedule(fn, args=args)

    def gather(self, handles: Sequence[Any]) -> list[Any]:
        return [handle.result() for handle in handles]

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return list(self._pool.map(fn, items).result())


class Mpire(System):
    """mpire: a pool made for maps."""

    needs = "mpire"
    can = frozenset({"submit", "call", "map", "stream", "stream-unordered", "queue"})

    def open(self) -> None:
        from mpire import WorkerPool

        # One for each way of use: 2.10 calls the function with wrong arguments in the first map after an `apply_async`.
        self._pool = WorkerPool(n_jobs=self.workers, keep_alive=True)
        self._maps = WorkerPool(n_jobs=self.workers, keep_alive=True)

    def close(self) -> None:
        for pool in (self._pool, self._maps):
            pool.stop_and_join()
            pool.terminate()

    def submit(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self._pool.apply_async(fn, args)

    def gather(self, handles: Sequence[Any]) -> list[Any]:
        return [handle.get() for handle in handles]

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return list(self._maps.map(fn, items))

    def stream(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        results: Iterator[Any] = self._maps.imap(fn, items)
        return results

    def stream_unordered(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        results: Iterator[Any] = self._maps.imap_unordered(fn, items)
        return results


class Billiard(PoolSystem):
    """billiard: Celery's multiprocessing."""

    needs = "billiard"
    can = PoolSystem.can - {"stream", "stream-unordered"}  # its imap hangs at the end of an abandoned endless input

    def open(self) -> None:
        import billiard

        self._pool = billiard.Pool(self.workers, maxtasksperchild=self.tasks_per_worker)


class Joblib(System):
    """joblib: loops over `delayed` calls; it has no submit, so a single call is a loop of one."""

    needs = "joblib"
    can = frozenset({"call", "map", "stream"})

    def open(self) -> None:
        from joblib import Parallel, delayed

        self._parallel = Parallel(n_jobs=self.workers)
        self._lazy = partial(Parallel, n_jobs=self.workers, return_as="generator")
        self._delayed = delayed

    def close(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown()

    def call(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self._parallel([self._delayed(fn)(*args)])[0]

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        call = self._delayed(fn)
        return list(self._parallel(call(item) for item in items))

    def stream(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        call = self._delayed(fn)
        results: Iterator[Any] = self._lazy()(call(item) for item in items)
        return results
