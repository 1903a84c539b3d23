"""One executor for each configuration, shared by all who ask: for libraries, which should not start workers of their own."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from taskrun.config import resolve
from taskrun.executor import Executor

if TYPE_CHECKING:
    from taskrun.config_layers import Resolved

__all__ = ["get_executor"]

_lock = threading.Lock()  # guards `_executors`; held while an executor is made, so that two callers do not make two
_executors: dict[tuple[str, ...], Executor] = {}


def get_executor() -> Executor:
    """Return the executor that the configuration asks for: made at the first call, the same one from then on.

    Within `taskrun.using(...)` it is the one for those settings. Nobody needs to shut it down: it ends with the program; one
    that was shut down is replaced. Raises what `Executor()` raises.
    """
    key = _key(resolve({}))
    with _lock:
        executor = _executors.get(key)
        if executor is None or executor.closed:
            executor = _executors[key] = Executor()
        return executor


def _key(resolved: Resolved) -> tuple[str, ...]:
    parts = [f"{name}={value!r}" for name, value in resolved.settings.items()]
    parts += [f"{name}={value!r}" for name, value in resolved.backend_options.items()]
    return tuple(parts)


def _after_fork_in_child() -> None:
    """The parent's executors stayed in the parent."""
    global _lock
    _lock = threading.Lock()
    _executors.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
