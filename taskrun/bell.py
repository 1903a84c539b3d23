"""Waiting that Ctrl-C can end at any moment: raw locks in the place of conditions.

A `threading.Condition` waits in several steps of Python code. A KeyboardInterrupt between two of them leaves its lock held for
ever, or turns into "cannot release un-acquired lock". A raw lock is waited for in one call of C. And since a signal that
arrives just before that call does not end it (the interpreter looks for signals before, and the call sleeps through), the
main thread looks up once in a while.

For the same reason locks are taken by ``with lock`` and not by ``lock.acquire()`` before a ``try``: the interpreter looks for
signals after the call, and not after entering a `with` on an object made in C (bugs.python.org/issue29988).
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from threading import Lock as Gate

__all__ = ["Bell", "lock_of", "new_gate", "wait_at"]

_LOOK_UP = 1.0  # seconds


def new_gate() -> Gate:
    """Return a closed gate: a lock that is held. `release` opens it, once."""
    gate = threading.Lock()
    gate.acquire()
    return gate


def wait_at(gate: Gate, timeout: float | None) -> bool:
    """Wait until *gate* is open, at most *timeout* seconds; False when it stays closed."""
    if timeout is not None and timeout <= 0:
        return gate.acquire(blocking=False)
    slice_ = _LOOK_UP if threading.current_thread() is threading.main_thread() else threading.TIMEOUT_MAX
    if timeout is None:
        while not gate.acquire(timeout=slice_):
            pass
        return True
    end = time.monotonic() + timeout
    while not gate.acquire(timeout=min(max(end - time.monotonic(), 0.0), slice_)):
        if time.monotonic() >= end:
            return False
    return True


def lock_of(condition: threading.Condition) -> AbstractContextManager[bool]:
    """Return the lock of *condition*, for ``with``: entering the condition itself is Python code, which Ctrl-C can tear."""
    lock: AbstractContextManager[bool] = getattr(condition, "_lock", condition)
    return lock


class Bell:
    """Wakes all who listen. Guarded by its owner's lock, under which `listen` and `ring` are called, `wait_at` is not."""

    __slots__ = ("_gates",)

    def __init__(self) -> None:
        self._gates: list[Gate] = []

    def listen(self) -> Gate:
        """Return a gate that the next `ring` opens."""
        gate = new_gate()
        self._gates.append(gate)
        return gate

    def ring(self) -> None:
        """Open the gates of all who listen."""
        gates, self._gates = self._gates, []
        for gate in gates:
            gate.release()
