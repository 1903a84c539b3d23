"""Schedulers made for many machines, here with all of their processes on this one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.systems.base import System

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Dask", "Ray"]


class Dask(System):
    """dask.distributed: a local cluster of worker processes."""

    needs = "distributed"
    can = frozenset({"submit", "call", "map"})

    def open(self) -> None:
        from distributed import Client

        self._client = Client(
            n_workers=self.workers, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
        )

    def close(self) -> None:
        self._client.shutdown()

    def submit(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self._client.submit(fn, *args, pure=False)

    def gather(self, handles: Sequence[Any]) -> list[Any]:
        return list(self._client.gather(handles))

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return self.gather(self._client.map(fn, items, pure=False))


class Ray(System):
    """Ray: a local cluster."""

    needs = "ray"
    can = frozenset({"submit", "call", "map"})

    def open(self) -> None:
        import ray

        self._ray = ray
        self._remote: dict[Any, Any] = {}
        ray.init("local", num_cpus=self.workers, include_dashboard=False, logging_level="ERROR", log_to_driver=False)

    def close(self) -> None:
        self._ray.shutdown()

    def submit(self, fn: Callable[..., Any], *args: Any) -> Any:
        remote = self._remote.get(fn)
        if remote is None:
            remote = self._remote[fn] = self._ray.remote(fn)
        return remote.remote(*args)

    def gather(self, handles: Sequence[Any]) -> list[Any]:
        return list(self._ray.get(list(handles)))

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return self.gather([self.submit(fn, item) for item in items])
