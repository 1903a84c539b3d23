"""What users hold: the executor, and views on it that carry options for tasks."""

from __future__ import annotations

import weakref
from concurrent import futures as standard
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

from taskrun.choice import choose, merged_options
from taskrun.config import resolve
from taskrun.mapping import MapResults, start_map
from taskrun.scheduler import Scheduler
from taskrun.settings import SETTINGS
from taskrun.threads import call_soon, ensure_janitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from taskrun.backends.base import Backend, Capabilities
    from taskrun.choice import Choice
    from taskrun.future import Future
    from taskrun.options import TaskOptions

__all__ = ["Executor", "OptionsView"]

P = ParamSpec("P")
T = TypeVar("T")


class _Submitting(standard.Executor):
    """What an executor and its views share."""

    _scheduler: Scheduler
    _options: TaskOptions

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run ``fn(*args, **kwargs)`` on a worker and return its future.

        Raises RuntimeError after shutdown and InitializerError when the workers cannot be initialized.
        """
        return self._scheduler.submit(fn, args, kwargs, self._options)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Return an iterator over ``fn(*items)`` in the order of the inputs; it can be closed.

        *timeout* is in seconds from this call; *buffersize* bounds how many items are in flight. Raises what the first failing
        task raised, TimeoutError, or RuntimeError after shutdown.
        """
        return self._map(fn, iterables, timeout, chunksize, buffersize, ordered=True)

    def map_unordered(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Do as `map` does, with the results as they come."""
        return self._map(fn, iterables, timeout, chunksize, buffersize, ordered=False)

    def starmap(
        self,
        fn: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        *,
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Do as `map` does, with each item of *iterable* holding all the arguments of one call."""
        return self._map(_Star(fn), (iterable,), timeout, chunksize, buffersize, ordered=True)

    def _map(
        self,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        timeout: float | None,
        chunksize: int | None,
        buffersize: int | None,
        *,
        ordered: bool,
    ) -> MapResults:
        if chunksize is not None and chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        return start_map(self._scheduler, fn, iterables, self._options, timeout=timeout, buffersize=buffersize, ordered=ordered)

    def options(self, **options: Any) -> OptionsView:
        """Return a view on this executor whose tasks have *options*; views can be chained.

        Options: name, timeout, soft_timeout, retry, priority, return_exceptions, chunksize, progress, and the backend's own.
        Raises UnsupportedOptionError for an unknown one and ConfigError for a wrong value.
        """
        return OptionsView(self._scheduler, self._backend, merged_options(self._options, options, self._backend))

    _backend: Backend

    def __reduce__(self) -> NoReturn:
        raise TypeError("an executor cannot be pickled: make one where it is needed (taskrun.get_executor() shares one)")


class OptionsView(_Submitting):
    """An executor on the same workers whose tasks carry options; made by `Executor.options`."""

    def __init__(self, scheduler: Scheduler, backend: Backend, options: TaskOptions) -> None:
        self._scheduler = scheduler
        self._backend = backend
        self._options = options

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> NoReturn:
        """Raise RuntimeError: a view does not own the workers."""
        raise RuntimeError("this is a view made by Executor.options(); shut down the executor itself")

    def __enter__(self) -> NoReturn:
        raise RuntimeError("this is a view made by Executor.options(); use `with` on the executor itself")


class Executor(_Submitting):
    """Runs calls on a backend chosen by name; a `concurrent.futures.Executor`.

    What is not given comes from `taskrun.using`, the environment and the configuration files (see `taskrun config`).
    *backend* may also be a Backend instance, or any `concurrent.futures.Executor` instance, which is used and left open.
    Durations are in seconds (or "30s"), sizes in bytes (or "512MB"). Raises ConfigError for a wrong value, UnknownBackendError
    and BackendUnavailableError for a backend that is not known or lacks something here, UnsupportedOptionError for a required
    capability or, under ``strict=True``, an option that the backend cannot honour.
    """

    def __init__(
        self,
        backend: str | Backend | standard.Executor | None = None,
        *,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        finalizer: Callable[[], object] | None = None,
        max_tasks_per_child: int | None = None,
        max_memory_per_child: int | str | None = None,
        max_age_per_child: float | str | None = None,
        idle_timeout: float | str | None = None,
        retry: Any = None,
        timeout: float | str | None = None,
        soft_timeout: float | str | None = None,
        max_pending: int | None = None,
        seed: int | None = None,
        context_vars: tuple[Any, ...] = (),
        env: Mapping[str, str] | None = None,
        cpu_affinity: Iterable[int] | None = None,
        inner_max_num_threads: int | None = None,
        require: Iterable[str] = (),
        strict: bool = False,
        name: str | None = None,
        profile: str | None = None,
        **backend_options: Any,
    ) -> None:
        given = {name: value for name, value in locals().items() if name in SETTINGS}
        choice = choose(resolve({**given, **backend_options}, profile=profile))
        self._assemble(choice)

    def _assemble(self, choice: Choice) -> None:
        settings = choice.settings
        self._backend = choice.backend
        self._options = choice.options
        self._max_workers = self._processes = settings.max_workers
        ensure_janitor()
        self._scheduler = Scheduler(self._backend, settings, max_pending=choice.max_pending, seed=choice.seed)
        self._backend.start(self._scheduler, settings)
        # Dropped without shutdown: what was submitted still runs, then the workers end. The callback may run anywhere.
        close = self._scheduler.close
        self._scheduler.dropped = weakref.ref(self, lambda _: call_soon(close))

    @property
    def backend_name(self) -> str:
        """The name of the backend this executor runs on."""
        return self._backend.name

    @property
    def closed(self) -> bool:
        """Whether nothing can be submitted any more."""
        return self._scheduler.closed

    @property
    def capabilities(self) -> Capabilities:
        """What the backend of this executor can do."""
        return self._backend.capabilities

    def stats(self) -> dict[str, Any]:
        """Return the live workers and counts of tasks: submitted, queued, unfinished, succeeded, failed, cancelled, retried."""
        return {"backend": self._backend.name, "max_workers": self._max_workers, **self._scheduler.stats()}

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more tasks; what was submitted runs to its end.

        *wait*: return when every task, worker and callback is through. *cancel_futures*: cancel what has not started. Raises
        RuntimeError where the wait would wait for the caller itself: in a callback or a task of this executor.
        """
        if wait:
            self._scheduler.refuse_waiting("shutdown(wait=True)")
        self._scheduler.close(cancel_futures=cancel_futures)
        if wait:
            self._scheduler.wait_closed()

    def terminate_workers(self) -> None:
        """Cancel what waits and stop what runs: SIGTERM where there are processes, SIGKILL after half a second."""
        self._scheduler.interrupt()

    def kill_workers(self) -> None:
        """Cancel what waits and stop what runs at once."""
        self._scheduler.interrupt(force=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        if kind is None or issubclass(kind, Exception):
            self.shutdown(wait=True)
        else:  # Ctrl-C and its like: the user wants to leave now
            self._scheduler.interrupt()

    def __repr__(self) -> str:
        return f"<taskrun.Executor {self._backend.name!r} max_workers={self._max_workers} at {id(self):#x}>"


class _Star:
    """Spreads one item over the arguments of a function; a class, so that it pickles."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self.__qualname__ = getattr(fn, "__qualname__", type(fn).__qualname__)

    def __call__(self, item: Iterable[Any]) -> Any:
        return self.fn(*item)
