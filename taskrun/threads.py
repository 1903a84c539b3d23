"""The threads taskrun starts for itself, and the one that does what finalizers must not do themselves."""

from __future__ import annotations

import logging
import os
import threading
import time
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "OwnThread",
    "become_main_thread",
    "call_soon",
    "dismiss_janitor",
    "ensure_janitor",
    "in_subinterpreter",
    "inside",
    "renew_after_fork",
    "take_politely",
    "threads_of_others",
    "when_gone",
]

_LOOKS = 20  # at a lock, before waiting for it

_log = logging.getLogger("taskrun")


def take_politely(lock: threading.RLock) -> None:
    """Acquire *lock*, giving way while another thread holds it; for threads of ours that take it often. Release it after.

    A thread that waits for a lock in the kernel is handed it while another has the interpreter; that one runs into the lock in
    turn and gives the interpreter up, and so on: two switches of threads for each tiny task (measured: a task in two worker
    threads cost 11 us, in one 5.5 us; with this 6 us in any number). Who only looks, and lets others run in between, comes back
    when the interpreter changes hands anyway.

    Not for the user's threads: a Ctrl-C may strike between this and the `try` that releases. Where it is done for each tiny
    task, look once before calling this: the call costs more than the lock.
    """
    for _ in range(_LOOKS):
        if lock.acquire(False):
            return
        time.sleep(0)
    lock.acquire()


def inside(lock: threading.RLock) -> bool:
    """Return whether the calling thread holds *lock*."""
    return bool(lock._is_owned())  # type: ignore[attr-defined]  # a condition asks it, so it is there


def renew_after_fork(namespace: dict[str, Any], name: str, make: Callable[[], object]) -> None:
    """Have forked children make anew what *namespace*, a module's, calls *name*: a lock, which another thread may have held."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: namespace.__setitem__(name, make()))


class OwnThread(threading.Thread):
    """A daemon thread of taskrun's. Whoever asks whether the caller may be blocked looks for this class.

    Daemons, because an abandoned one (its task timed out) must not hold up the interpreter; taskrun's own exit hook waits
    for the others (see `lifetime`). A sub-interpreter allows none: there the end waits for all of them.
    """

    def __init__(self, name: str, target: Callable[..., object], *args: Any) -> None:
        try:
            super().__init__(name=name, target=target, args=args, daemon=True)
        except RuntimeError:  # "daemon threads are disabled in this (sub)interpreter"
            super().__init__(name=name, target=target, args=args, daemon=False)


def in_subinterpreter() -> bool:
    """Return whether this is an isolated sub-interpreter, which allows neither daemon threads nor forks."""
    try:
        threading.Thread(daemon=True)
    except RuntimeError:
        return True
    return False


def become_main_thread() -> None:
    """In a forked child: be what the main thread of a program is, whose threads are not daemons and may be blocked."""
    current = threading.current_thread()
    if isinstance(current, OwnThread):
        thread: Any = current
        thread.__class__ = threading.Thread
        thread._daemonic = False
        thread._name = "MainThread"


def threads_of_others() -> list[str]:
    """Return the names of the threads that may hold locks of the user's when he forks: not ours, nor a standard pool's."""
    mine = (threading.main_thread(), threading.current_thread())
    return [thread.name for thread in threading.enumerate() if thread not in mine and not _harmless(thread)]


def _harmless(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    return isinstance(thread, OwnThread) or getattr(target, "__module__", None) == "multiprocessing.pool"


class _Janitor:
    """One thread for the process that runs what destructors and weak reference callbacks ask for.

    The garbage collector may run those in the middle of anything, holding any lock. `SimpleQueue.put` is documented to be
    re-entrant for this very use; everything else happens here.
    """

    def __init__(self) -> None:
        self._inbox: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._starting = threading.Lock()
        self._thread: OwnThread | None = None

    def ensure(self) -> None:
        with self._starting:
            if self._thread is None:
                thread = OwnThread("taskrun-janitor", self._run)
                thread.start()
                self._thread = thread

    def put(self, fn: Callable[[], object]) -> None:
        self._inbox.put(fn)

    def end(self) -> None:
        with self._starting:
            if self._thread is not None and not self._thread.daemon:
                self._inbox.put(None)

    def _run(self) -> None:
        while (fn := self._inbox.get()) is not None:
            try:
                fn()
            except BaseException:  # this thread serves every executor of the process: it must not die
                _log.exception("error while tidying up")
            del fn  # do not keep a scheduler alive while waiting


_janitor = _Janitor()
renew_after_fork(globals(), "_janitor", _Janitor)


def ensure_janitor() -> None:
    """Start the janitor's thread; called where an executor is made, since a finalizer cannot start threads safely."""
    try:
        _janitor.ensure()
    except RuntimeError:
        # The interpreter is shutting down and gives no more threads: nothing will be dropped before the end.
        _log.debug("no janitor thread: the interpreter is shutting down")


def when_gone(fn: Callable[[], object]) -> Callable[[object], object]:
    """Return a callback for a weak reference that has *fn* called soon in the janitor's thread.

    It is C from end to end: a Ctrl-C that strikes in a callback in Python is swallowed by the interpreter, and *fn* with it.
    """
    return partial(_janitor._inbox.put, fn)  # the reference comes as `block`, which a SimpleQueue ignores


def call_soon(fn: Callable[[], object]) -> None:
    """Have *fn* called soon in the janitor's thread; safe in destructors, weak reference callbacks and signal handlers."""
    janitor: _Janitor | None = _janitor
    if janitor is not None:  # else the interpreter is being taken apart
        janitor.put(fn)


def dismiss_janitor() -> None:
    """Have the janitor's thread end, if the interpreter would wait for it; it has done by then what it was asked for."""
    _janitor.end()
