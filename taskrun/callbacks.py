"""Where done callbacks run: beside the engine, so that one that blocks delays other callbacks only."""

from __future__ import annotations

import logging
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from taskrun.threads import OwnThread

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CallbackRunner"]

_log = logging.getLogger("concurrent.futures")

_DEEPEST = 20  # callbacks that run within one another, in one thread


class CallbackRunner:
    """Runs what it is given (the callbacks of a finished future, mostly) one after the other, in one thread of its own.

    `add` only puts into a SimpleQueue (no lock of ours, re-entrant). The thread is started when there is something to run.
    `_starting` guards `_thread` and `_over`; nothing runs under it. It is re-entrant since signal handlers may come here.
    """

    def __init__(self, name: str, *, inline: bool = False) -> None:
        self._name = name
        self._inline = inline  # no thread: what was added runs where `run` is called
        self._inbox: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._starting = threading.RLock()
        self._thread: OwnThread | None = None
        self._closed = False
        self._over = False  # the thread has looked for the last time
        # Of the threads that run one of our callbacks now: how many, one within the other. Each enters its own item only.
        self._inside: dict[int, int] = {}

    def add(self, fn: Callable[[], object]) -> None:
        """Queue *fn*. Follow with `run`, once no lock is held."""
        self._inbox.put(fn)

    def run(self) -> None:
        """See to it that what was added gets run."""
        if self._inbox.empty() or (self._thread is not None and not self._closed):
            return
        if self._inline or not self._served():
            while (fn := self._added()) is not None:
                self.run_here(fn)

    def _served(self) -> bool:
        """Return whether the thread will run what was added; False: better here than never."""
        with self._starting:
            if self._thread is None and not self._over:
                self._thread = OwnThread(self._name, self._loop)
                try:
                    self._thread.start()
                except BaseException as error:  # no thread is to be had, or Ctrl-C: if it did start after all, it leaves
                    self._thread = None
                    if not isinstance(error, RuntimeError):
                        raise
                    return False
            return not self._over

    def run_here(self, fn: Callable[[], object]) -> None:
        """Run *fn* in the calling thread."""
        me = threading.get_ident()
        depth = self._inside.get(me, 0)
        try:
            self._inside[me] = depth + 1
            fn()
        finally:
            if depth:
                self._inside[me] = depth
            else:
                self._inside.pop(me, None)

    def run_at_once(self, fn: Callable[[], object]) -> None:
        """Run *fn* here, where the future is done already; within many others that came so it has its turn later."""
        if self._inside.get(threading.get_ident(), 0) < _DEEPEST:
            self.run_here(fn)
        else:
            self.add(fn)
            if not self._inline:  # there what is below us on the stack runs it
                self.run()

    def inside(self) -> bool:
        """Return True in code that one of our callbacks runs."""
        return threading.get_ident() in self._inside

    def close(self) -> None:
        """End the thread once it has run what was added; does not wait. What is added later runs where it is added."""
        self.run()
        self._closed = True
        with self._starting:
            self._over = self._thread is None
        if not self._over:
            self._inbox.put(None)

    def join(self) -> None:
        """Wait until every callback has run, after `close`."""
        if self._thread is not None and not self.inside():
            self._thread.join()

    def _added(self) -> Callable[[], object] | None:
        try:
            return self._inbox.get_nowait()
        except Empty:
            return None

    def _loop(self) -> None:
        with self._starting:
            if self._thread is not threading.current_thread():
                return
        while (fn := self._inbox.get()) is not None:
            self._run_guarded(fn)
            del fn  # do not keep a result alive while waiting
        while not self._finished():
            fn = self._added()
            if fn is not None:
                self._run_guarded(fn)

    def _finished(self) -> bool:
        with self._starting:
            self._over = self._inbox.empty()
            return self._over

    def _run_guarded(self, fn: Callable[[], object]) -> None:
        try:
            self.run_here(fn)
        except BaseException:  # a callback's SystemExit is no reason to lose the others
            _log.exception("exception calling callback %r", fn)
