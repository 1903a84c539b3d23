"""What users hold: the executor. Submitting is in `Submitting`, its base."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from taskrun import lifetime
from taskrun.choice import choose
from taskrun.config import resolve
from taskrun.errors import ConfigError, UnfinishedMapWarning
from taskrun.hints import warn_outside
from taskrun.settings import SETTINGS
from taskrun.submitting import Submitting
from taskrun.threads import ensure_janitor, when_gone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from concurrent import futures as standard

    from taskrun.backends.base import Backend, Capabilities
    from taskrun.choice import Choice
    from taskrun.scheduler import Scheduler

__all__ = ["Executor"]


class Executor(Submitting):
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
        self._backend = choice.backend
        self._options = choice.options
        self._max_workers = self._processes = choice.settings.max_workers
        ensure_janitor()
        try:
            self._backend.get_ready(choice.settings)
            # Not at the top of this file: what the backend gets ready, a process say, takes as long as to load this.
            from taskrun.mapping import start_map
            from taskrun.runs import Star

            self._start_map, self._star = start_map, Star
            self._scheduler = _start(choice)
        except BaseException as error:
            if isinstance(error, ConfigError):
                raise choice.located(error) from error.__cause__
            if isinstance(error, RuntimeError) and lifetime.exiting():
                # It is too late for modules and threads then, for the latter in Python 3.12.0 to 3.12.2 at least; the standard
                # library's words.
                raise RuntimeError("cannot schedule new futures after interpreter shutdown") from error
            raise
        self._context: Any = None
        self._failed = False  # the `with` block, by an error
        # Dropped without shutdown: what was submitted still runs, then the workers end. The callback may run anywhere.
        self._scheduler.dropped = weakref.ref(self, when_gone(self._scheduler.drop))

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

    @property
    def context(self) -> Any:
        """What `get_context` returns for this executor: locks, queues and so on that its tasks can have as arguments."""
        if self._context is None:
            from taskrun.context import context_of

            self._context = context_of(self._backend, self._scheduler.settings)
        return self._context

    def stats(self) -> dict[str, Any]:
        """Return the live workers and counts: tasks submitted, queued, unfinished, succeeded, failed, cancelled, retried.

        "blocked" counts the threads that wait in `submit` for room (`max_pending`).
        """
        return {"backend": self._backend.name, "max_workers": self._max_workers, **self._scheduler.stats()}

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more tasks; what was submitted runs to its end.

        *wait*: return when every task, worker and callback is through. *cancel_futures*: cancel what has not started. Raises
        RuntimeError where the wait would wait for the caller itself: in a callback or a task of this executor.
        """
        scheduler = self._scheduler
        if wait:
            scheduler.refuse_waiting("shutdown(wait=True)")
        try:
            scheduler.close(cancel_futures=cancel_futures)
            unread = scheduler.unread
            if wait:
                scheduler.wait_closed()
        except BaseException:  # KeyboardInterrupt, or what a signal handler raised: who waits for the end wants to leave now
            if wait:
                scheduler.interrupt()
            raise
        if unread and not self._failed:  # no warning in the place of an error
            _warn_of_unread(unread)

    def terminate_workers(self) -> None:
        """Cancel what waits and stop what runs: SIGTERM where there are processes, SIGKILL after half a second."""
        self._scheduler.interrupt()

    def kill_workers(self) -> None:
        """Cancel what waits and stop what runs at once."""
        self._scheduler.interrupt(force=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        try:
            if kind is None or issubclass(kind, Exception):
                self._failed = kind is not None
                self.shutdown(wait=True)
            else:  # Ctrl-C and its like: the user wants to leave now
                self._scheduler.interrupt()
        except KeyboardInterrupt:  # perhaps before `shutdown` or `interrupt` was ready for it; else this does nothing more
            self._scheduler.interrupt()
            raise

    def __repr__(self) -> str:
        name = self._scheduler.settings.name
        return f"<taskrun.Executor {self._backend.name!r} max_workers={self._max_workers} name={name!r} at {id(self):#x}>"


def _start(choice: Choice) -> Scheduler:
    """Return a scheduler on which the chosen backend has started."""
    from taskrun.scheduler import Scheduler  # as above

    scheduler = Scheduler(choice.backend, choice.settings, max_pending=choice.max_pending, seed=choice.seed)
    try:
        choice.backend.start(scheduler, choice.settings)
    except BaseException:
        lifetime.forget(scheduler)  # there is nothing to finish at exit
        raise
    return scheduler


def _warn_of_unread(maps: int) -> None:
    warn_outside(
        f"{maps} map(s) over an input without a length were not iterated to the end before the executor was shut down: the "
        "rest of the input is not read, and asking for its results raises RuntimeError; iterate inside the `with` block, "
        "or close() the map",
        UnfinishedMapWarning,
    )
