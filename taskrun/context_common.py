"""What every context has, whatever kind its locks and queues are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["CommonContext"]


class CommonContext:
    """The base of all contexts."""

    backend_name: str
    """Where its `Pool` runs tasks."""

    def Pool(  # noqa: N802 - multiprocessing's name
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
    ) -> Any:
        """Return a `taskrun.Pool` on this backend."""
        from taskrun.pool import Pool

        return Pool(processes, initializer, initargs, maxtasksperchild, context=self)

    def cpu_count(self) -> int:
        """Return how many CPUs the machine has."""
        from multiprocessing import cpu_count

        return cpu_count()
