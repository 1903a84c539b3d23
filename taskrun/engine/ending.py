"""The end of a process that runs tasks: its finalizer, and what the interpreter would do at its exit."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from types import CoroutineType
from typing import TYPE_CHECKING, NoReturn

from taskrun.threads import become_main_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskrun.coroutines import CoroutineRunner

__all__ = ["end_a_copy", "flush", "forget_exit_handlers", "renew_primitives", "run_exit_handlers"]


def forget_exit_handlers() -> None:
    """In a forked child: what the parent wants done at its exit, to its own children too, is no business of ours.

    And the thread that has forked is the main one here, whichever of ours it was there.
    """
    become_main_thread()
    getattr(atexit, "_clear", lambda: None)()
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        getattr(process, "_children", set()).clear()
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        getattr(util, "_finalizer_registry", {}).clear()
        atexit.register(util._exit_function)  # it flushes the queues that a task has used


def renew_primitives() -> None:
    """In a child of a plain `os.fork`, after `forget_exit_handlers`: do what multiprocessing does in children of its own.

    Without it what was inherited is taken for what the parent did with it: an RLock that a thread there held is never given
    back by whoever acquires it here, and a queue waits for a thread that does not exist to write what is put.
    """
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        getattr(util, "_run_after_forkers", lambda: None)()


def run_exit_handlers(finalizer: Callable[[], object] | None, runner: CoroutineRunner) -> int:
    """Run the finalizer and what was registered with `atexit`, wait for threads, flush; return the exit status."""
    status = 0
    try:
        if finalizer is not None:
            value = finalizer()
            if type(value) is CoroutineType:
                runner.run(value)
    except BaseException:  # nobody waits for it: show it as the interpreter shows errors at exit
        sys.excepthook(*sys.exc_info())
    try:
        runner.close()
        # Non-daemon threads are waited for; then exit handlers, among them those that flush multiprocessing's queues.
        getattr(threading, "_shutdown", lambda: None)()
        getattr(atexit, "_run_exitfuncs", lambda: None)()
    except BaseException:  # an exit handler's own trouble
        sys.excepthook(*sys.exc_info())
        status = 1
    flush()
    return status


def end_a_copy() -> NoReturn:
    """End this process, which came back from an `os.fork` in a task: it must not answer in the place of its parent."""
    flush()
    os._exit(0)


def flush() -> None:
    """Write what was printed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except BaseException:  # noqa: S112 - a replaced or broken stream of the user's
            continue
