"""multiprocessing's fork server, a process that pools and contexts take theirs from: there is one for the whole program."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import Any

from taskrun.engine import posix
from taskrun.importable import loaded

__all__ = ["have_loaded", "kill_if_stopped", "start", "take_over"]

_patching = threading.Lock()
_original: Any = None  # what is replaced while a thread holds the lock


def have_loaded(*modules: str) -> None:
    """Have it load *modules*, besides what the program asked for, before it forks; one that runs already cannot be told.

    A process that loads them itself takes a tenth of a second of CPU to start.
    """
    from multiprocessing import forkserver

    server: Any = forkserver._forkserver
    known = list(getattr(server, "_preload_modules", ()))
    server.set_forkserver_preload(known + [name for name in modules if name not in known])


def start() -> None:
    """Start it if it does not run, without the current directory in its path: there may be another `taskrun` in it."""
    from multiprocessing import forkserver, util

    global _original
    flags: Any = util
    me = threading.get_ident()
    with _patching:
        _original = original = flags._args_from_interpreter_flags
        flags._args_from_interpreter_flags = lambda: original() + (["-P"] if threading.get_ident() == me else [])
        try:
            forkserver.ensure_running()
        finally:
            flags._args_from_interpreter_flags = original
            _original = None


def kill_if_stopped() -> None:
    """Kill it if somebody has stopped it: who waits for a process of it would wait for ever. Another one is started then."""
    pid = getattr(_known(), "_forkserver_pid", None)
    if pid is not None and posix.is_stopped(pid):
        with contextlib.suppress(OSError):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:  # a child of ours, so it is that
                os.kill(pid, signal.SIGKILL)


def take_over() -> None:
    """Have a new one started if that which multiprocessing knows is our parent's, which it cannot tell itself."""
    pid = getattr(_known(), "_forkserver_pid", None)
    if pid is not None:
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            _forget()


def _forget() -> None:
    """It is the parent's, and multiprocessing would stop it at our exit."""
    server = _known()
    if server is None:
        return
    server._lock = threading.Lock()  # another thread may have held it when we were forked
    alive, server._forkserver_alive_fd = server._forkserver_alive_fd, None
    server._forkserver_pid = server._forkserver_address = None
    if alive is not None:
        with contextlib.suppress(OSError):
            os.close(alive)


def _known() -> Any:
    """Return what multiprocessing knows of it; None if nobody has asked for one."""
    return loaded("multiprocessing.forkserver", "_forkserver")


def _in_forked_child() -> None:
    """Whatever another thread was in the middle of when we were forked: here nobody goes on with it."""
    global _original, _patching
    _patching = threading.Lock()
    if _original is not None:
        util: Any = sys.modules["multiprocessing.util"]
        util._args_from_interpreter_flags, _original = _original, None
    tracker = loaded("multiprocessing.resource_tracker", "_resource_tracker")
    if tracker is not None:
        tracker._lock = threading.RLock()  # held while it is started, with the server or before
    _forget()


os.register_at_fork(after_in_child=_in_forked_child)
