"""What ends with the process: executors still open at interpreter exit are finished, forked copies are closed."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskrun.scheduler import Scheduler

__all__ = ["exiting", "register"]

_schedulers: weakref.WeakSet[Scheduler] = weakref.WeakSet()
_guard = threading.Lock()
_exiting = False


def exiting() -> bool:
    """Return True once the interpreter shuts down: nothing new can be submitted."""
    return _exiting


def register(scheduler: Scheduler) -> None:
    """Have *scheduler* finished at interpreter exit and closed in a forked child."""
    with _guard:
        _schedulers.add(scheduler)


def _snapshot() -> list[Scheduler]:
    with _guard:
        return list(_schedulers)


def _at_exit() -> None:
    """Run everything submitted to its end, as the standard executors do; Ctrl-C meanwhile stops it."""
    global _exiting
    _exiting = True
    schedulers = _snapshot()
    for scheduler in schedulers:
        scheduler.close()
    for scheduler in schedulers:
        scheduler.wait_closed()


def _after_fork_in_child() -> None:
    global _guard
    _guard = threading.Lock()
    for scheduler in list(_schedulers):
        scheduler.close_forked_copy()
    _schedulers.clear()


# `threading._shutdown` joins non-daemon threads before `atexit` runs; tasks may depend on what those threads own. The hook the
# standard executors use is private, so it is asked for with care.
_register = getattr(threading, "_register_atexit", None)
if _register is None:
    import atexit

    _register = atexit.register
_register(_at_exit)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
