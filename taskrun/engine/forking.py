"""A fork of a process that has other threads: what they were in the middle of does not come along half done.

A child has no thread but the one that forked. A module that another one was importing would stay half loaded there, and its
lock locked for ever: what the child then imports waits in vain (as in iloveitaly/celery-healthcheck#45). So imports are waited
for, before.
"""

from __future__ import annotations

import _imp
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

__all__ = ["careful_fork"]

_WAIT = 2.0  # seconds for one module: longer takes one that waits for us itself, since it runs tasks when it is imported
_LOOK_EVERY = 0.001  # seconds


class _Here(threading.local):
    careful = False


_here = _Here()
_too_long: set[str] = set()  # modules whose import was waited for in vain


@contextlib.contextmanager
def careful_fork(module: str) -> Iterator[None]:
    """A context in which this thread forks by what calls `os.fork` in *module* (a full name).

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


def _importing() -> list[str]:
    """Return what other threads are importing, as long as the import lock is ours."""
    me = threading.get_ident()
    bootstrap = sys.modules.get("_frozen_importlib")
    names = []
    for name, reference in list(getattr(bootstrap, "_module_locks", {}).items()):
        owner = getattr(reference(), "owner", None)
        if owner not in (None, me):
            names.append(name)
    return names


def _before() -> None:
    if not _here.careful:
        return
    until, before = 0.0, None
    _imp.acquire_lock()  # nobody begins to import until we have forked
    while (names := _importing()) and not _too_long.issuperset(names):
        if names != before:
            until, before = time.monotonic() + _WAIT, names
        elif time.monotonic() > until:
            _too_long.update(names)
            return
        _imp.release_lock()
        time.sleep(_LOOK_EVERY)
        _imp.acquire_lock()


def _in_parent() -> None:
    if _here.careful:
        _imp.release_lock()


def _in_child() -> None:
    if not _here.careful:
        return
    inherit_half_loaded()
    _imp.release_lock()
    for table in ("_module_locks", "_blocking_on"):  # of threads that do not exist here: nobody would release them
        with contextlib.suppress(Exception):
            getattr(sys.modules.get("_frozen_importlib"), table).clear()


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
