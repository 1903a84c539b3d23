"""A fork of a process that has other threads: what they held of Python's own does not come along locked.

A child has no thread but the one that forked. The lock of a module that another one was importing would stay locked there for
ever, and whatever the child then imports of it wait in vain (as in iloveitaly/celery-healthcheck#45). The module itself stays
half loaded: what a child surely needs is loaded before, by whoever forks. So would the file of a log that another thread was
writing to: no handler of `logging` is in use at that moment.

`concurrent.futures.thread` has hooks that acquire a lock before a fork and release it after. If another thread loaded it in the
middle of a fork, only the second of them would run, and release what somebody holds: it is loaded before there are forks.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - see above
import contextlib
import os
import re
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["careful_fork", "fork"]


_PATIENCE = 1.0  # seconds to wait for the handlers of `logging`; one may be stuck, at a full pipe, say


class _Here(threading.local):
    careful = False

    def __init__(self) -> None:
        self.held: list[Any] = []


_here = _Here()


def fork() -> int:
    """Fork as `os.fork` does, carefully. Raises what that raises."""
    with careful_fork(__name__):
        return os.fork()


@contextlib.contextmanager
def careful_fork(module: str) -> Iterator[None]:
    """A context in which this thread may fork by what calls `os.fork` in *module* (a full name).

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


def _before() -> None:
    """Have no other thread in a handler of `logging`, which renews its own locks in the child, and not those of its files."""
    if not _here.careful:
        return
    logging = sys.modules.get("logging")
    until = time.monotonic() + _PATIENCE
    handlers = [reference() for reference in list(getattr(logging, "_handlerList", ()))]
    # First its own lock, which it acquires for a fork as well: who holds that may wait for a handler's, to close it.
    for owner, name in ((logging, "_lock"), *((handler, "lock") for handler in handlers)):
        lock = getattr(owner, name, None)
        if lock is not None and lock.acquire(timeout=max(0.0, until - time.monotonic())):
            _here.held.append(lock)


def _in_parent() -> None:
    while _here.held:
        _here.held.pop().release()


def _in_child() -> None:
    """Forget the import locks that other threads held: they do not exist here, and nobody would release them."""
    if not _here.careful:
        return
    _here.careful = False  # that was this fork; those of a task are its own business
    _here.held = []  # these are new
    bootstrap = sys.modules.get("_frozen_importlib")
    for table in ("_module_locks", "_blocking_on"):
        with contextlib.suppress(Exception):
            getattr(bootstrap, table).clear()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)


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
