"""`get_context`: for each backend the locks, queues, shared values and processes that go with it.

Which kind these are follows from the capabilities of the backend: multiprocessing's where tasks run in other processes, and
threading's where they run in this one (`process_context`, `thread_context`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from taskrun.backends.start_methods import chosen_method
from taskrun.choice import choose
from taskrun.config import resolve
from taskrun.context_common import CommonContext

if TYPE_CHECKING:
    from concurrent import futures as standard

    from taskrun.backends.base import Backend
    from taskrun.options import WorkerSettings

__all__ = ["context_of", "get_context"]

NAMES = (
    *("Process", "Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event", "Barrier", "Queue", "JoinableQueue"),
    *("SimpleQueue", "Pipe", "Value", "Array", "RawValue", "RawArray", "Manager", "BaseManager"),
)
"""What a context has besides `Pool`, `cpu_count`, `current_process` and `active_children`."""


def get_context(backend: str | Backend | standard.Executor | None = None, *, profile: str | None = None, **options: Any) -> Any:
    """Return what goes with *backend* in the place of multiprocessing: `Process`, `Lock`, `Queue`, `Value`, `Pool`, ...

    *backend* as in `Executor`, None for the configured one; *options* are the backend's own, as ``start_method="spawn"``. What
    the context makes can be passed to tasks of executors with that backend. Where a backend cannot have something, making it
    raises NotImplementedError. Raises ConfigError, UnknownBackendError or BackendUnavailableError as `Executor` does.
    """
    choice = choose(resolve({"backend": backend, **options}, profile=profile))
    return context_of(choice.backend, choice.settings)


def context_of(backend: Backend, settings: WorkerSettings) -> Any:
    """Return the context of an executor with that backend."""
    kind = backend.capabilities.primitives
    if kind == "yes" and not backend.capabilities.processes:
        from taskrun.thread_context import ThreadContext

        return ThreadContext(backend.name)
    if kind == "yes":
        from taskrun.process_context import make_process_context

        # A backend that does not let the user choose has inherited everything.
        chosen = chosen_method(settings.backend_options) if "start_method" in backend.option_names else None
        return make_process_context(backend.name, chosen)
    return _Poor(backend.name, ["Queue"] if kind == "Queue" else [])


class _Poor(CommonContext):
    """The context of a backend that has few of these, or none."""

    def __init__(self, backend: str, has: list[str]) -> None:
        self.backend_name = backend
        self._has = has

    def Queue(self, maxsize: int = 0) -> Any:  # noqa: N802 - multiprocessing's name
        """Return a queue between interpreters, for objects that can be pickled."""
        if "Queue" not in self._has:
            self._refuse("Queue")
        from concurrent import interpreters  # type: ignore[attr-defined, unused-ignore]  # Python 3.14 and later

        return interpreters.create_queue(maxsize)

    def __getattr__(self, name: str) -> Any:
        if name not in NAMES:
            raise AttributeError(f"a context of backend {self.backend_name!r} has no {name!r}")
        self._refuse(name)

    def _refuse(self, name: str) -> NoReturn:
        has = f"only {', '.join(self._has)}" if self._has else "none of these"
        raise NotImplementedError(
            f"{name} cannot be had on backend {self.backend_name!r}, whose tasks could not use it (it has {has}): take "
            'taskrun.get_context("thread") or get_context("process") and an executor of that kind, or pass values and results'
        )
