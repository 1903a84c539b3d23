"""Has multiprocessing start processes that do not run the user's `__main__` again, wherever we are.

It runs `__main__` in each process, so that a program needs a guard; workers do not, since what is defined there travels by
value. There is no switch for it: its function that says what a new process does first is wrapped, once; for other threads the
wrapper changes nothing. And it refuses to start a process in one of its daemons, whose children nobody would end; ours are
ended by the kernel.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
from multiprocessing import process, spawn
from typing import TYPE_CHECKING, Any

from taskrun.engine import fork_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.context import BaseContext

__all__ = ["without_main"]

_starting = threading.local()
_patch = threading.Lock()


@contextlib.contextmanager
def without_main(context: BaseContext) -> Iterator[None]:
    """A context in which this thread starts processes of *context* so."""
    with _patch:
        if not hasattr(spawn.get_preparation_data, "taskrun"):
            spawn.get_preparation_data = _wrapped(spawn.get_preparation_data)
    fork_server.take_over()
    _starting.now = True
    _no_daemon(1)
    try:
        if context.get_start_method() == "forkserver":
            fork_server.start()
        yield
    finally:
        _no_daemon(-1)
        _starting.now = False


_without: list[Any] = [0, None]  # how many threads start processes now; what the flag was before


def _no_daemon(change: int) -> None:
    config = process.current_process()._config  # type: ignore[attr-defined]
    with _patch:
        if not _without[0]:
            _without[1] = config.get("daemon")
        _without[0] += change
        config["daemon"] = False if _without[0] else _without[1]


def _wrapped(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    @functools.wraps(original)
    def get_preparation_data(*args: Any, **kwargs: Any) -> dict[str, Any]:
        ours = getattr(_starting, "now", False)
        try:
            data = original(*args, **kwargs)
        except FileNotFoundError:  # the working directory was removed; workers are told of it by `surroundings`
            if not ours:
                raise
            data = {"authkey": process.current_process().authkey, "sys_path": sys.path.copy(), "sys_argv": sys.argv}
        if ours:
            for key in ("init_main_from_name", "init_main_from_path", "main_path"):
                data.pop(key, None)
        return data

    get_preparation_data.taskrun = True  # type: ignore[attr-defined]
    return get_preparation_data


def _in_forked_child() -> None:
    """Other threads start no processes here; the lock may have been held by one."""
    global _patch
    held, _patch = _patch.locked(), threading.Lock()
    if _without[0] or held:
        config = process.current_process()._config  # type: ignore[attr-defined]
        _without[0] = int(getattr(_starting, "now", False))  # this thread may be in the middle of it
        if not _without[0]:
            config["daemon"] = _without[1]


os.register_at_fork(after_in_child=_in_forked_child)
