"""Where done callbacks run: beside the engine, so that one that blocks delays other callbacks only."""

from __future__ import annotations

import logging
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from taskrun.threads import OwnThread

if TYPE_CHECKING:
    from taskrun.future import Future

__all__ = ["CallbackRunner"]

_log = logging.getLogger("concurrent.futures")


class CallbackRunner:
    """Runs the callbacks of finished futures, in the order in which the futures finished, in one thread of its own.

    `add` only puts into a SimpleQueue (no lock of ours, re-entrant). The thread is started when there is something to run.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._inbox: SimpleQueue[Future[Any] | None] = SimpleQueue()
        self._starting = threading.Lock()
        self._thread: OwnThread | None = None
        self._inside: set[int] = set()  # identifiers of the threads that run one of our callbacks now

    def add(self, future: Future[Any]) -> None:
        """Queue the callbacks of *future*, which is done. Follow with `run`, once no lock is held."""
        self._inbox.put(future)

    def run(self, *, here: bool = False) -> None:
        """See to it that what was added gets run; *here*: in this thread, before returning."""
        if self._thread is not None or self._inbox.empty():
            return
        if here:
            while (future := self._added()) is not None:
                self.run_here(future)
            return
        with self._starting:
            if self._thread is None:
                thread = OwnThread(f"{self._name}-callbacks", self._loop)
                try:
                    thread.start()
                except RuntimeError:
                    here = True  # the interpreter is shutting down and gives no thread: better here than never
                else:
                    self._thread = thread
        if here:
            self.run(here=True)

    def run_here(self, future: Future[Any]) -> None:
        """Run the callbacks of *future* in the calling thread."""
        me = threading.get_ident()
        nested = me in self._inside
        self._inside.add(me)
        try:
            future._invoke_callbacks()
        finally:
            if not nested:
                self._inside.discard(me)

    def inside(self) -> bool:
        """Return True in code that one of our callbacks runs."""
        return threading.get_ident() in self._inside

    def close(self) -> None:
        """End the thread once it has run what was added; does not wait. Nothing may be added later."""
        self.run()
        self._inbox.put(None)

    def join(self) -> None:
        """Wait until every callback has run, after `close`."""
        if self._thread is not None and not self.inside():
            self._thread.join()

    def _added(self) -> Future[Any] | None:
        try:
            return self._inbox.get_nowait()
        except Empty:
            return None

    def _loop(self) -> None:
        while (future := self._inbox.get()) is not None:
            try:
                self.run_here(future)
            except BaseException:  # a callback's SystemExit is no reason to lose the others
                _log.exception("exception calling callback for %r", future)
            del future  # do not keep a result alive while waiting
