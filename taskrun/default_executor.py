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
_executors: dict[tuple[object, ...], Executor] = {}


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


def _key(resolved: Resolved) -> tuple[object, ...]:
    return _comparable(resolved.settings), _comparable(resolved.backend_options)


def _comparable(value: object) -> object:
    """Return *value* as the part of a key: containers by what is in them, else by equality, or identity where there is none."""
    if type(value) is dict:
        return frozenset((name, _comparable(item)) for name, item in value.items())
    if type(value) in (list, tuple):
        return (type(value), *map(_comparable, value))  # type: ignore[call-overload]
    try:
        hash(value)
    except Exception:  # whatever a user's __hash__ raises
        return _Same(value)
    return type(value), value  # 1, 1.0 and True are not the same setting


class _Same:
    """An object that compares by identity, kept alive so that no other one takes its place in memory."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other._value is self._value

    def __hash__(self) -> int:
        return id(self._value)


def _after_fork_in_child() -> None:
    """The parent's executors stayed in the parent."""
    global _lock
    _lock = threading.Lock()
    _executors.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
