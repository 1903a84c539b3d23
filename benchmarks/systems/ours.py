"""taskrun's own backends, with default options unless the name says otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.systems.base import FuturesSystem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["ProcessLike", "Taskrun", "ThreadLike", "WithAllOptions"]


class Taskrun(FuturesSystem):
    """`taskrun.Executor(backend)`."""

    modules = ("taskrun",)
    backend: str
    settings: dict[str, Any] = {}  # noqa: RUF012 - a constant of each class
    lazy = True

    def make(self) -> Any:
        import taskrun

        return taskrun.Executor(
            self.backend, max_workers=self.workers, max_tasks_per_child=self.tasks_per_worker, **self.settings
        )

    def stream_unordered(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        results: Iterator[Any] = self._executor.map_unordered(fn, items)
        return results

    def shared(self, value: Any) -> Any:
        import taskrun

        return taskrun.shared(value)


class ProcessLike(Taskrun):
    """A backend whose workers are processes."""

    can = Taskrun.can | {"stream-unordered", "fresh", "shared"}


class ThreadLike(Taskrun):
    """A backend whose workers are threads."""

    kind = "thread"
    can = Taskrun.can | {"stream-unordered"}


class WithAllOptions(Taskrun):
    """Retry and timeout on, and the statistics asked for: what each task carries when a user is careful."""

    can = frozenset({"submit", "queue"})

    def make(self) -> Any:
        import taskrun

        return taskrun.Executor(self.backend, max_workers=self.workers, retry=taskrun.Retry(max_attempts=3), timeout=60)

    def gather(self, handles: Any) -> list[Any]:
        values = super().gather(handles)
        assert self._executor.stats()["failed"] == 0
        return values
