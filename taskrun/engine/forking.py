"""A fork of a process that has other threads: what they were in the middle of does not come along half done.

A child has no thread but the one that forked. A module that another one was importing would stay half loaded there, and its
lock locked for ever: what the child then imports waits in vain (as in iloveitaly/celery-healthcheck#45). So imports are waited
for, before.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any

from taskrun.importable import inherit_half_loaded

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["careful_fork", "fork", "wait_for_imports"]

_WAIT = 2.0  # seconds for one module: longer takes one that waits for us itself, since it runs tasks when it is imported
_LOOK_EVERY = 0.001  # seconds


class _Here(threading.local):
    careful = False


_here = _Here()
_bootstrap = sys.modules.get("_frozen_importlib")
_too_long: set[str] = set()  # modules whose import was waited for in vain


def fork() -> int:
    """Fork as `os.fork` does. Raises what that raises."""
    with careful_fork(__name__):
        wait_for_imports()
        return os.fork()


@contextlib.contextmanager
def careful_fork(module: str) -> Iterator[None]:
    """A context in which this thread may fork by what calls `os.fork` in *module* (a full name), after `wait_for_imports`.

    It was asked for by name, and UnsafeForkWarning has said what it means: Python's own warning of it (3.12) is not repeated.
    What has been printed is written, by whom it concerns: the child would write what is buffered as well.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    _here.careful = True
    try:
        with _warning_ignored(module):
            yield
    finally:
        _here.careful = False


def wait_for_imports() -> None:
    """Wait until no other thread imports anything; call it just before the fork.

    Not in a hook of the fork: what is imported meanwhile may register hooks itself, which would run from the middle on. And not
    with the import lock held until then, though that would be sure: another thread's fork waits for it with locks of its hooks.
    """
    until, before = 0.0, None
    while names := _importing():
        if names != before:
            until, before = time.monotonic() + _WAIT, names
        elif time.monotonic() > until:
            _too_long.update(names)
        time.sleep(_LOOK_EVERY)


def _importing() -> set[str]:
    """Return what other threads are importing, without what was waited for in vain."""
    me = threading.get_ident()
    names = set()
    for name, reference in list(getattr(_bootstrap, "_module_locks", {}).items()):
        if getattr(reference(), "owner", None) not in (None, me):
            names.add(name)
    return names - _too_long


def _in_child() -> None:
    if not _here.careful:
        return
    _here.careful = False  # that was this fork; those of a task are its own business
    if _importing():  # begun since we looked: this one is no good, and its parent makes another
        os._exit(os.EX_TEMPFAIL)
    inherit_half_loaded()
    for table in ("_module_locks", "_blocking_on"):  # of threads that do not exist here: nobody would release them
        with contextlib.suppress(Exception):
            getattr(_bootstrap, table).clear()


os.register_at_fork(after_in_child=_in_child)


@contextlib.contextmanager
def _warning_ignored(module: str) -> Iterator[None]:
    # Not `warnings.catch_warnings`: it replaces the list of filters, and would undo what another thread does to it meanwhile.
    ignore = ("ignore", None, DeprecationWarning, re.compile(re.escape(module)), 0)
    filters: list[Any] = warnings.filters  # type: ignore[assignment]
    filters.insert(0, ignore)
    try:
        yield
    finally:
        now: list[Any] = warnings.filters  # type: ignore[assignment]
        for each in (filters,) if now is filters else (filters, now):
            with contextlib.suppress(ValueError):
                each.remove(ignore)
