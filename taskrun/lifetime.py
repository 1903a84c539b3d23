"""What ends with the process: executors still open at interpreter exit are finished, forked copies are closed."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

from taskrun.threads import dismiss_janitor

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskrun.closing import Closing
    from taskrun.scheduler import Scheduler

__all__ = ["exiting", "finish_before", "forget", "keep", "register"]

_schedulers: weakref.WeakSet[Scheduler] = weakref.WeakSet()
_kept: set[Closing] = set()
_guard = threading.Lock()
_exiting = False


def exiting() -> bool:
    """Return True once the interpreter shuts down: nothing new can be submitted."""
    return _exiting


def register(scheduler: Scheduler) -> None:
    """Have *scheduler* finished at interpreter exit and closed in a forked child."""
    with _guard:
        _schedulers.add(scheduler)


def forget(scheduler: Scheduler) -> None:
    """Undo `register`: its backend could not be started."""
    with _guard:
        _schedulers.discard(scheduler)


def keep(scheduler: Closing) -> None:
    """Have *scheduler* live until interpreter exit, to be finished there."""
    with _guard:
        _kept.add(scheduler)


def _snapshot() -> list[Scheduler]:
    with _guard:
        return list(_schedulers)


def _dies_of_ctrl_c() -> bool:
    """Return whether the program ends because nobody caught a Ctrl-C; in an interactive session it was only the last error."""
    kind = getattr(sys, "last_type", None)
    return isinstance(kind, type) and issubclass(kind, KeyboardInterrupt) and not hasattr(sys, "ps1")


def _at_exit() -> None:
    """Run everything submitted to its end, as the standard executors do; a Ctrl-C, meanwhile or just before, stops it.

    Not what a `Pool` has left to do: as in the standard library, that is stopped.
    """
    global _exiting
    schedulers: list[Scheduler] = []
    try:
        _exiting = True
        schedulers = _snapshot()
        dying = _dies_of_ctrl_c()  # perhaps out of a `with` block whose `__exit__` a second one tore at its entry
        for scheduler in schedulers:
            if dying or scheduler.stops_at_exit:
                scheduler.interrupt()
            else:
                scheduler.close()
        for scheduler in schedulers:
            scheduler.finish()
    except BaseException:
        for scheduler in schedulers:
            scheduler.interrupt()
        raise
    finally:
        dismiss_janitor()


def _after_fork_in_child() -> None:
    global _guard
    _guard = threading.Lock()
    for scheduler in list(_schedulers):
        scheduler.close_forked_copy()
    _schedulers.clear()
    _kept.clear()


# `threading._shutdown` joins non-daemon threads before `atexit` runs; tasks may depend on what those threads own. The hook the
# standard executors use is private, so it is asked for with care.
_register: Callable[[Callable[[], None]], object] = getattr(threading, "_register_atexit", atexit.register)
try:
    _register(_at_exit)
except RuntimeError:  # first used by a thread that outlives the main one, or in an atexit function: too late to submit
    _exiting = True


_finished_before: set[str] = set()


def finish_before(module: str) -> None:
    """Have our executors finished before the exit hook that *module*, imported already, may have registered.

    An adapted executor has to outlive the tasks on it. Hooks run in reverse order; that ours runs twice does no harm.
    """
    if module not in _finished_before:
        _finished_before.add(module)
        with suppress(RuntimeError):  # at the end already
            _register(_at_exit)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
