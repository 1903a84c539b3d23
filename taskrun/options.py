"""The settings of workers and of tasks, as plain frozen values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from taskrun.retry import Retry

__all__ = ["NO_OPTIONS", "TaskOptions", "WorkerSettings"]

_NONE: Mapping[str, Any] = {}  # no MappingProxyType: that does not pickle


class TaskOptions(NamedTuple):
    """What `Executor.options(...)` can say about a task; one value is shared by all tasks submitted with it."""

    name: str | None = None
    """Shown in errors, events and `current_task().name`; by default the function's qualified name."""
    timeout: float | None = None
    """Seconds an attempt may run, counted from when a worker takes it up."""
    soft_timeout: float | None = None
    """Seconds after which TaskTimeoutError is raised once inside the task."""
    retry: Retry | None = None
    priority: int = 0
    """Higher first; equal ones first in, first out."""
    return_exceptions: bool = False
    """`map` yields errors as values instead of raising the first."""
    chunksize: int | None = None
    progress: bool | Callable[[int, int | None], object] = False
    """`map` shows a progress bar on standard error, or calls this with (done, total or None)."""
    backend: Mapping[str, Any] = _NONE
    """The backend's own options, by name."""


NO_OPTIONS = TaskOptions()


class WorkerSettings(NamedTuple):
    """What a backend needs to know to make and recycle workers. Durations in seconds, sizes in bytes; None means no limit."""

    max_workers: int
    name: str
    """The executor's name, for thread and process names."""
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    finalizer: Callable[[], object] | None = None
    max_tasks_per_child: int | None = None
    max_memory_per_child: int | None = None
    max_age_per_child: float | None = None
    idle_timeout: float | None = None
    context_vars: tuple[Any, ...] = ()
    """ContextVar objects or "module:attribute" strings that process-like backends carry to the task."""
    env: Mapping[str, str] | None = None
    """Environment variables of the workers, on top of the parent's; process-like backends only."""
    cpu_affinity: tuple[int, ...] | None = None
    """CPU numbers; worker i is pinned to ``cpu_affinity[i % len(cpu_affinity)]``."""
    inner_max_num_threads: int | None = None
    """Threads that BLAS and OpenMP may use in each worker."""
    seed: int | None = None
    backend_options: Mapping[str, Any] = _NONE
