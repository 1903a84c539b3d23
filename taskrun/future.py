"""The handle on a task: a `concurrent.futures.Future` that costs little until somebody waits for it."""

from __future__ import annotations

import threading
import time
from concurrent import futures as standard
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, CancelledError
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from taskrun.bell import lock_of, wait_at
from taskrun.future_state import CANCELLED, DONE, FINISHED, PENDING, RECORD, RUNNING, FutureState, inside_future, log
from taskrun.task import Attempt, entered
from taskrun.threads import renew_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from threading import Lock as Gate

__all__ = ["ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION", "Future"]

T = TypeVar("T")

_main_ident = threading.main_thread().ident
renew_after_fork(globals(), "_main_ident", threading.get_ident)  # whichever has forked

_LOOK_AGAIN = 1.0  # seconds
_A_MOMENT = 0.01  # seconds: longer than what is one of many lasts, so that who takes their results wakes up once for each


class Future(FutureState[T]):
    """A `concurrent.futures.Future` that can also be killed, awaited and asked for its attempts.

    Executors make futures; one made by hand (``Future()``) behaves like the standard class.
    """

    __slots__ = ()

    # -- asking ----------------------------------------------------------------------------------------------------------------

    def cancelled(self) -> bool:
        """Return True if the future was cancelled before it ran."""
        return self._state in (CANCELLED, "CANCELLED")

    def running(self) -> bool:
        """Return True if an attempt runs now; between attempts the future is pending again."""
        if self._state == PENDING and self._scheduler is not None:
            self._scheduler.refresh(self)
        return self._state == RUNNING

    def done(self) -> bool:
        """Return True if the future was cancelled or has its result."""
        return self._state in DONE

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The record of each attempt that ended, the first one first."""
        records = self._records
        return tuple(_attempt(*records[at : at + RECORD]) for at in range(0, len(records), RECORD))

    def result(self, timeout: float | None = None) -> T:
        """Return the task's value, waiting at most *timeout* seconds.

        Raises CancelledError, TimeoutError, the task's own exception, or RuntimeError when waiting could never end, because
        a callback of the same executor asks, or a task that the one waited for waits for.
        """
        try:
            self._wait(timeout)
            if self._state != FINISHED:
                raise CancelledError
            if self._exception is not None:
                raise self._exception
            return self._result  # type: ignore[return-value]  # FINISHED without an exception: it is a T
        finally:
            # Break the cycle exception -> traceback -> this frame -> future -> exception, as the standard class does.
            del self

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the task's exception or None, waiting at most *timeout* seconds; raises CancelledError and TimeoutError."""
        self._wait(timeout)
        if self._state != FINISHED:
            raise CancelledError
        return self._exception

    def _wait(self, timeout: float | None) -> None:
        """Return once the future is done; raise TimeoutError when it is not by then."""
        if self._state in DONE:
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        gate = None
        try:
            if (timeout is None or timeout > _A_MOMENT) and self._may_wait_a_moment():
                # The hot path of a round trip: what is to be seen to before a long wait would keep the interpreter from the
                # thread that `submit` has just woken.
                gate = self._listen()
                if gate is None or gate.acquire(timeout=_A_MOMENT):
                    return
            with self._wait_context(endless=timeout is None):
                gate = gate or self._listen()
                if gate is not None:
                    self._wait_at(gate, deadline)
        except BaseException:
            if gate is not None:
                self._listen_no_more(gate)
            raise

    def _may_wait_a_moment(self) -> bool:
        """Return whether this thread is surely none of ours and runs nothing of ours: nothing is refused or made up for."""
        if threading.get_ident() != _main_ident or entered.get() is not None or inside_future():
            return False
        return self._scheduler is None or self._scheduler.may_wait_a_moment()

    def _wait_at(self, gate: Gate, deadline: float | None) -> None:
        # In slices: a client that reaches into `_state` and `_condition` knows nothing of gates.
        while not wait_at(gate, _LOOK_AGAIN if deadline is None else min(_LOOK_AGAIN, deadline - time.monotonic())):
            if self._state in DONE:
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError

    def _wait_context(self, *, endless: bool) -> AbstractContextManager[object]:
        """Return the context in which to wait; raises RuntimeError where the wait could never end."""
        return nullcontext() if self._scheduler is None else self._scheduler.waiting(self if endless else None)

    def _await_context(self) -> AbstractContextManager[object]:
        """Return the context in which to await, which does not block the thread."""
        return nullcontext() if self._scheduler is None else self._scheduler.awaiting()

    def __await__(self) -> Generator[Any, None, T]:
        """Wait in a coroutine; cancelling the coroutine's task arrives as `cancel`."""
        from taskrun.awaiting import awaited

        return awaited(self)

    def _remove_done_callback(self, fn: Callable[[standard.Future[T]], object]) -> None:
        if self._state not in DONE:
            with lock_of(self._condition):  # the state cannot change: nobody goes through the callbacks
                if self._state not in DONE:
                    self._callbacks = [other for other in self._callbacks or () if other is not fn]

    # -- changing --------------------------------------------------------------------------------------------------------------

    def cancel(self) -> bool:
        """Cancel the task if no worker has taken it up; True if the future is cancelled.

        For a running task it returns False, changes nothing and sets `current_task().cancelled` for the task to see.
        """
        if self._scheduler is not None:
            return self._scheduler.cancel(self)
        with lock_of(self._condition):
            if self._state in (RUNNING, FINISHED):
                return False
            if self._state == PENDING:
                self._state = "CANCELLED"  # two steps for hand-made futures: set_running_or_notify_cancel is the second
                self._condition.notify_all()
        self._open_gates()
        self._invoke_callbacks()
        return True

    def kill(self) -> bool:
        """Stop the task even if it runs: the future fails with TaskKilledError. False where the backend cannot, or if done.

        A task that no worker has taken up is cancelled instead. After True it ends in one of the two, also if the task comes to
        its end at this very moment.
        """
        if self._scheduler is not None:
            return self._scheduler.kill(self)
        return self.cancel()

    def add_done_callback(self, fn: Callable[[standard.Future[T]], object]) -> None:
        """Call *fn* with the future once it is done, in a thread of this process; at once if it is.

        An exception that *fn* raises is logged and swallowed.
        """
        if self._scheduler is not None and getattr(fn, "__module__", None) == "asyncio.futures":
            self._scheduler.await_elsewhere(self, fn)  # `asyncio.wrap_future`, and `run_in_executor` with it
        if self._takes_callback(fn):
            return
        if self._scheduler is None:
            self._call(fn)
        else:
            self._scheduler.call_back(self, fn)

    def set_running_or_notify_cancel(self) -> bool:
        """Mark a hand-made future as running, or tell its waiters that it is cancelled; for executor implementations."""
        with lock_of(self._condition):
            if self._state == "CANCELLED":
                self._state = CANCELLED
                for watcher in self._waiters:
                    watcher.add_cancelled(self)
                return False
            if self._state == PENDING:
                self._state = RUNNING
                return True
            log.critical("Future %s in unexpected state: %s", id(self), self._state)
            raise RuntimeError("Future in unexpected state")

    def set_result(self, result: T) -> None:
        """Finish a hand-made future with a value; raises InvalidStateError if it is done."""
        if not self._finish(FINISHED, result, None):
            raise standard.InvalidStateError(f"{self._state}: {self!r}")
        self._invoke_callbacks()

    def set_exception(self, exception: BaseException | None) -> None:
        """Finish a hand-made future with an exception; raises InvalidStateError if it is done."""
        if not self._finish(FINISHED, None, exception):
            raise standard.InvalidStateError(f"{self._state}: {self!r}")
        self._invoke_callbacks()

    def __reduce__(self) -> Any:
        raise TypeError(f"{type(self).__name__} objects cannot be pickled: send the task's result, not its future")


def _attempt(number: int, queued: float, worker: str | None, *rest: Any) -> Attempt:
    return Attempt(number, worker, queued, *rest)
