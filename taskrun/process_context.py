"""What goes with backends whose tasks run in other processes: multiprocessing's own, made so that running workers can get it.

Locks and queues are those of a start method that pickles them: what a *fork* context makes has no name that a worker could find
it by, unless it was forked later. `Process` is multiprocessing's own and keeps its rules.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing import context as contexts
from typing import TYPE_CHECKING, Any

from taskrun.context_common import CommonContext
from taskrun.primitives import note_lock

if TYPE_CHECKING:
    from taskrun.engine.launch import StartMethod

__all__ = ["make_process_context"]

_PASSED_ON = (
    *("Semaphore", "BoundedSemaphore", "Event", "Barrier", "Queue", "JoinableQueue", "SimpleQueue", "Pipe"),
    *("RawValue", "RawArray"),
)


class _Common(CommonContext, contexts.BaseContext):
    """A context of multiprocessing's, for one backend."""

    def __init__(self, backend: str, method: StartMethod, chosen: StartMethod | None) -> None:
        self.backend_name = backend
        self.backend_options = {} if chosen is None else {"start_method": chosen}
        """What executors with workers of this kind are made with."""
        self._chosen = chosen
        if method == "fork":
            inner = multiprocessing.get_context("spawn")
            for name in _PASSED_ON:
                setattr(self, name, getattr(inner, name))
        else:
            inner = super()  # type: ignore[assignment]
        self._inner = inner

    def Lock(self) -> Any:  # noqa: N802 - multiprocessing's names, here and below
        """Return a lock; if a worker dies with it, `WorkerCrashedError.held_locks` says so."""
        return note_lock(self._inner.Lock())

    def RLock(self) -> Any:  # noqa: N802
        """Return a lock that its holder can acquire again, likewise."""
        return note_lock(self._inner.RLock())

    def Condition(self, lock: Any = None) -> Any:  # noqa: N802
        """Return a condition; its lock likewise."""
        condition = self._inner.Condition(lock)
        _note_if_owned(condition._lock)  # type: ignore[attr-defined]  # not in typeshed
        return condition

    def Value(self, typecode_or_type: Any, *args: Any, lock: Any = True) -> Any:  # noqa: N802
        """Return a ctypes object in memory that workers see; its lock, if it has one, likewise."""
        return _noted(self._inner.Value(typecode_or_type, *args, lock=lock), lock)

    def Array(  # noqa: N802
        self, typecode_or_type: Any, size_or_initializer: Any, *, lock: Any = True
    ) -> Any:
        """Return a ctypes array in memory that workers see; its lock, if it has one, likewise."""
        return _noted(self._inner.Array(typecode_or_type, size_or_initializer, lock=lock), lock)

    def Manager(self) -> Any:  # noqa: N802
        """Return a manager with a process of its own; it does not run `__main__` unless a type registered there needs it."""
        from multiprocessing.managers import SyncManager

        registered = SyncManager._registry  # type: ignore[attr-defined]
        if any(getattr(entry[0], "__module__", None) == "__main__" for entry in registered.values()):
            return super().Manager()
        from taskrun.engine.without_main import without_main

        manager = SyncManager(ctx=self)
        with without_main(self):
            manager.start()
        return manager

    @property
    def BaseManager(self) -> Any:  # noqa: N802
        """multiprocessing's class, to register types with."""
        from multiprocessing.managers import BaseManager

        return BaseManager

    def __reduce__(self) -> Any:
        return make_process_context, (self.backend_name, self._chosen)

    def __repr__(self) -> str:
        return f"<taskrun context of backend {self.backend_name!r}, start method {self.get_start_method()!r}>"


def _noted(shared: Any, lock: Any) -> Any:
    if lock is not False:
        _note_if_owned(shared.get_lock())
    return shared


def _note_if_owned(lock: Any) -> None:
    """Note a lock that may be a semaphore, which nobody owns, or anything of the user's."""
    from multiprocessing.synchronize import Lock, RLock  # refused where there are no semaphores

    if isinstance(lock, (Lock, RLock)):
        note_lock(lock)


class _Spawn(_Common, contexts.SpawnContext):
    pass


class _Fork(_Common, contexts.ForkContext):
    pass


class _ForkServer(_Common, contexts.ForkServerContext):
    pass


def make_process_context(backend: str, chosen: StartMethod | None) -> contexts.BaseContext:
    """Return the context of *backend*, for the start method that was chosen, or forks on one that has no choice."""
    method: StartMethod = chosen or "fork"
    kinds: dict[StartMethod, type[_Common]] = {"spawn": _Spawn, "fork": _Fork, "forkserver": _ForkServer}
    return kinds[method](backend, method, chosen)
