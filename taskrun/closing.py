"""How the work of an executor ends: shutdown, Ctrl-C, a failed initializer, interpreter exit, a fork.

The lock plan is the scheduler's; see there.
"""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

from taskrun import lifetime
from taskrun.bell import Bell, wait_at
from taskrun.counting import Counting
from taskrun.errors import InitializerError
from taskrun.future_state import CANCELLED, FINISHED
from taskrun.room import Room

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskrun.backends.base import Backend
    from taskrun.options import WorkerSettings
    from taskrun.task import Task

__all__ = ["MAX_RESPAWNS", "Closing"]

MAX_RESPAWNS = 3
"""How often workers whose initializer failed are tried again, in a row, before the executor is declared broken."""
_FIRST_PAUSE = 0.05  # seconds before the first of them, doubled each time
_KILL_AFTER = 0.5  # seconds between asking and killing when Ctrl-C ends the work
_GONE_AFTER = 5.0  # seconds to wait for killed workers: they cannot refuse, but the machine may be loaded


class Closing(Counting):
    """The part of the scheduler that brings what is open to an end."""

    def __init__(self, backend: Backend, settings: WorkerSettings, max_pending: int | None) -> None:
        super().__init__(backend, settings, max_pending)
        self._ended = False  # a thread was in `_end`, and got through
        self._given_up = False  # it was interrupted and did not end: nobody waits for it any more
        self._torn = False  # ... since that was interrupted in turn: it ends by itself, and at exit is waited for after all
        self.stops_at_exit = False
        """At interpreter exit what is left to do is stopped, not waited for."""
        self._end_bell = Bell()  # rings when `_ended` is set
        self.dropped: object = None  # the executor's weak reference to itself, kept alive for its callback
        self._initializer_failures = 0

    # -- ending ----------------------------------------------------------------------------------------------------------------

    def close(self, *, cancel_futures: bool = False) -> None:
        """Accept nothing more; what was accepted runs to its end, or is cancelled if it has not started. Does not wait."""
        with self.lock:
            if self._closed is None:
                self._closed = "shutdown"
            self._discard = self._discard or cancel_futures
            refused = self._turn_away()
            feeders = [*self._feeders, *self._readers]
            self._room.notify()
            ending = self._progress()
        self._after_turning_away(refused, ending)
        for feeder in feeders:
            feeder.executor_closed(CancelledError() if cancel_futures else None)
        if cancel_futures and self._closed != "forked":
            self._backend.recall()

    def drop(self) -> None:
        """Do as `close`, now that nobody holds the executor any more; in the janitor's thread."""
        if self._inline and self._feeders:
            lifetime.keep(self)  # the rest of a map runs in the user's thread, as all tasks here: at exit
        else:
            self.close()

    def _turn_away(self) -> list[Task]:
        """Settle everything that waits, if the executor is broken or discards it. Under the lock."""
        if self._broken is None and not self._discard:
            return []
        refused = []
        # Out of the queue once they are settled, so that a Ctrl-C in between loses none of them.
        for task in [*self._queue.everything(), *self._backoff]:
            if task.future._task is not task:
                continue  # cancelled already
            refused.append(task)
            if self._broken is not None:
                self._resolve(task, FINISHED, None, self._broken_error())
            else:
                self._resolve(task, CANCELLED, None, None)
                if task.future._callbacks and task not in self._late:
                    self.callbacks.add(task.future._invoke_callbacks)
        self._backoff.clear()
        self._queue.clean()
        return refused

    def _after_turning_away(self, refused: list[Task], ending: bool) -> None:
        if refused:
            self._let_go(refused)
        if ending:
            self._end()

    def _end(self) -> None:
        """Nothing will come any more: end the workers and our threads, unless another thread does. Waits for nothing."""
        try:
            with self.lock:
                if self._ending:
                    return
                self._ending = True
            self._backend.shutdown()
            self.timer.stop()
            self._aside.close()
            self.callbacks.close()
            with self.lock:
                self._ended = True
                self._end_bell.ring()
        except BaseException:  # Ctrl-C: whoever looks next does it again
            self._ending = self._ended
            raise

    def wait_closed(self) -> None:
        """After `close`: wait until every task, worker and callback is through."""
        if self._given_up:
            return
        self._wait_ended(None)
        if self._closed != "forked":
            self._backend.join()
            self._aside.join()
            self.callbacks.join()
            self.timer.join()

    def refuse_waiting(self, what: str) -> None:
        """Raise RuntimeError where waiting for all tasks would wait for the caller itself."""
        if self.in_callback():
            raise RuntimeError(
                f"{what} in a done callback of the same executor would wait for this very callback to return; "
                "use shutdown(wait=False) here"
            )
        if self._backend.owns_current_thread():
            raise RuntimeError(
                f"{what} in a task of the same executor would wait for this very task to end; use shutdown(wait=False) here"
            )

    def interrupt(self, *, force: bool = False) -> None:
        """Cancel what waits, stop what runs (ask, kill after 0.5 s; *force*: kill at once), abandon what cannot be stopped."""
        if self._closed == "forked" or self._given_up:
            return
        told = quiet = False
        try:
            self.close(cancel_futures=True)
            for reader in list(self._readers):
                reader.unread = False  # who wants to leave at once knows that the rest is not read
            self._backend.abort(force=force)
            told = True
            quiet = self._wait_ended(_GONE_AFTER if force else _KILL_AFTER)
            if not (quiet and self._backend.join(_KILL_AFTER)):  # idle workers may not heed what they were asked either
                self._backend.abort(force=True)
                quiet = self._wait_ended(_GONE_AFTER)
            quiet = self._backend.join(_GONE_AFTER) and quiet
        except BaseException:  # Ctrl-C again: no more waiting, and no more asking
            self._torn = True
            self.close(cancel_futures=True)
            self._backend.abort(force=True)
            told = True
            raise
        finally:
            # Ctrl-C may have torn the caller out of the middle of anything, or strike again here: what has not ended now is not
            # waited for at exit. But if it struck before all were told, the next call tells them.
            self._given_up = told and not quiet

    def finish(self) -> None:
        """At interpreter exit: see to the end of everything; what nobody had the patience to wait for is killed."""
        if self._torn:
            self._torn = self._given_up = False
            self.interrupt(force=True)
        else:
            self.wait_closed()

    def _wait_ended(self, timeout: float | None) -> bool:
        """Wait until nothing is left to do and nothing will come; False when *timeout* (seconds) ran out first."""
        with self.lock:
            if self._ended:
                return True
            gate = self._end_bell.listen()
        return wait_at(gate, timeout)

    # -- a failed initializer --------------------------------------------------------------------------------------------------

    def initializer_ok(self) -> None:
        """Report that a worker's initializer went well."""
        self._initializer_failures = 0

    def initializer_failed(self, error: BaseException) -> float | None:
        """Report that a worker's initializer failed: seconds to wait before the next worker is tried, or None: do not.

        None means that the executor is broken: every future that has not started, and every later `submit`, gets an
        InitializerError.
        """
        with self.lock:
            self._initializer_failures += 1
            failures = self._initializer_failures
            if failures <= MAX_RESPAWNS and self._broken is None:
                return float(_FIRST_PAUSE * 2 ** (failures - 1))
        self.break_down(
            f"the initializer failed in {failures} workers in a row, the last time with {type(error).__name__}: {error}; "
            "no task can run on this executor: mend the initializer and make a new one",
            error,
        )
        return None

    def break_down(
        self, message: str, error: BaseException | None, kind: Callable[[str], BaseException] = InitializerError
    ) -> None:
        """Fail whatever waits, and everything submitted later, with *kind*: workers cannot be started."""
        with self.lock:
            if self._broken is None:
                self._broken = kind(message)
                self._broken.__cause__ = error
                self._closed = self._closed or "broken"
            refused = self._turn_away()
            feeders = [*self._feeders, *self._readers]
            self._room.notify()
            ending = self._progress()
        self._after_turning_away(refused, ending)
        for feeder in feeders:
            feeder.executor_closed(self._broken_error())

    # -- fork ------------------------------------------------------------------------------------------------------------------

    def close_forked_copy(self) -> None:
        """In a child made by os.fork: nothing here works, say so. Another thread may have held the lock at the fork."""
        self.lock = threading.RLock()
        self._room = Room(None, 1)
        self._closed = "forked"
        self._ended = self._ending = True
