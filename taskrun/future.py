"""The handle on a task: a `concurrent.futures.Future` that costs little until somebody waits for it.

Locks. The standard class makes a condition for every future; most futures are never waited for, so here it is made when
somebody first asks for it. Until then the state is guarded by one lock for all futures (`_STATE`); from then on by the
condition. `_STATE` is held while a condition is made, so a state change sees either no condition and no waiter, or the
condition and every waiter. Order: condition, then `_STATE`. No user code runs under any of them by our will; but a signal
handler or a destructor may run inside, and want an executor's lock. So who holds that waits for neither (`_finish_unwatched`).
`result` waits at a raw lock (`_gates`, always under `_STATE`), not at the condition: see `bell`.

`_STATE` is re-entrant, as the standard condition is: a signal handler or a destructor may look at a future while the same
thread is inside.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent import futures as standard
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, CancelledError
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from taskrun.bell import lock_of, new_gate, wait_at
from taskrun.task import Attempt
from taskrun.threads import inside, renew_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from threading import Lock as Gate

    from taskrun.scheduler import Scheduler
    from taskrun.task import Task

__all__ = [
    "ALL_COMPLETED",
    "CANCELLED",
    "FINISHED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "PENDING",
    "RUNNING",
    "Future",
    "inside_future",
]

T = TypeVar("T")

PENDING = "PENDING"
RUNNING = "RUNNING"
CANCELLED = "CANCELLED_AND_NOTIFIED"
"""The standard library splits cancellation in two steps, for workers that notice it late; here one step does both."""
FINISHED = "FINISHED"
_DONE = frozenset({"CANCELLED", CANCELLED, FINISHED})

_LOOK_AGAIN = 1.0  # seconds
_A_MOMENT = 0.01  # seconds after which a thread inside `_STATE` is believed to have been interrupted

_STATE = threading.RLock()
renew_after_fork(globals(), "_STATE", threading.RLock)
# The standard library's logger and text: programs filter on them.
_log = logging.getLogger("concurrent.futures")


def inside_future() -> bool:
    """Return whether the calling thread was interrupted in the middle of a future, so that others cannot end."""
    return inside(_STATE)


class Future(standard.Future[T]):
    """A `concurrent.futures.Future` that can also be killed, awaited and asked for its attempts.

    Executors make futures; one made by hand (``Future()``) behaves like the standard class.
    """

    # Slots, and lists made on demand: the garbage collector walks every queued future. The standard names `_condition`,
    # `_waiters` and `_done_callbacks` are properties over them, since clients in the wild read and set them.
    __slots__ = (
        "_callbacks",
        "_cond",
        "_exception",
        "_gates",
        "_records",
        "_result",
        "_scheduler",
        "_state",
        "_task",
        "_watchers",
    )

    _state: str
    _result: T | None
    _exception: BaseException | None

    def __init__(self, scheduler: Scheduler | None = None) -> None:
        # super().__init__ would make the condition and the lists.
        self._state = PENDING
        self._result = None
        self._exception = None
        self._cond: threading.Condition | None = None
        self._gates: tuple[Gate, ...] = ()  # where `result` waits; guarded by `_STATE`
        self._watchers: list[Any] | None = None
        self._callbacks: list[Callable[[standard.Future[T]], object]] | None = None
        self._scheduler = scheduler
        self._task: Task | None = None
        self._records: tuple[tuple[Any, ...], ...] = ()  # (number, queued, run, error): made presentable when asked for

    # -- what clients of the standard class reach into -------------------------------------------------------------------------

    @property
    def _condition(self) -> threading.Condition:
        cond = self._cond
        if cond is None:
            with _STATE:
                cond = self._cond
                if cond is None:
                    cond = self._cond = threading.Condition()
        return cond

    @_condition.setter
    def _condition(self, value: threading.Condition) -> None:
        with _STATE:
            self._cond = value

    @property
    def _waiters(self) -> list[Any]:
        if self._watchers is None:
            with _STATE:
                if self._watchers is None:
                    self._watchers = [] if self._scheduler is None else _Watchers(self._scheduler)
        return self._watchers

    @_waiters.setter
    def _waiters(self, value: list[Any]) -> None:
        self._watchers = value

    @property
    def _done_callbacks(self) -> list[Callable[[standard.Future[T]], object]]:
        if self._callbacks is None:
            with _STATE:
                if self._callbacks is None:
                    self._callbacks = []
        return self._callbacks

    @_done_callbacks.setter
    def _done_callbacks(self, value: list[Callable[[standard.Future[T]], object]]) -> None:
        self._callbacks = value

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
        return self._state in _DONE

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The record of each attempt that ended, the first one first."""
        return tuple(_attempt(*record) for record in self._records)

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
        if self._state in _DONE:
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._wait_context(endless=timeout is None):
            with _STATE:
                if self._state in _DONE:
                    return
                gate = new_gate()
                self._gates = (*self._gates, gate)
            # In slices: a client that reaches into `_state` and `_condition` knows nothing of gates.
            while not wait_at(gate, _LOOK_AGAIN if deadline is None else min(_LOOK_AGAIN, deadline - time.monotonic())):
                if self._state in _DONE:
                    return
                if deadline is not None and time.monotonic() >= deadline:
                    with _STATE:
                        self._gates = tuple(other for other in self._gates if other is not gate)
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
        if self._state not in _DONE:
            with lock_of(self._condition):  # the state cannot change: nobody goes through the callbacks
                if self._state not in _DONE:
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
        with _STATE:
            if self._cond is None and self._state not in _DONE:  # only _STATE guards us: see the head of the file
                if self._callbacks is None:
                    self._callbacks = []
                self._callbacks.append(fn)
                return
        with lock_of(self._condition):
            if self._state not in _DONE:
                self._done_callbacks.append(fn)
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
            _log.critical("Future %s in unexpected state: %s", id(self), self._state)
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

    def _finish(self, state: str, result: T | None, exception: BaseException | None) -> bool:
        """Move to a final *state* and wake everybody who waits; False if it is done already. Runs no user code."""
        with _STATE:
            if self._state in _DONE:
                return False
            unwatched = self._cond is None and not self._watchers  # as in `_finish_unwatched`, which is not for the main thread
            if unwatched:
                self._result = result
                self._exception = exception
                self._state = state
        if not unwatched:
            with lock_of(self._condition):
                if self._state in _DONE:
                    return False
                self._result = result
                self._exception = exception
                self._state = state
                for watcher in self._watchers or ():
                    if state != FINISHED:
                        watcher.add_cancelled(self)
                    elif exception is not None:
                        watcher.add_exception(self)
                    else:
                        watcher.add_result(self)
                self._condition.notify_all()
        self._open_gates()
        return True

    def _finish_unwatched(self, state: str, result: T | None, exception: BaseException | None) -> bool:
        """Do as `_finish` if nobody looks at the future but by `result`; False: somebody does, or may, and nothing was done.

        For who holds a lock: it is not waited for. `_open_gates` is left to do once that is given back: to wake a thread may
        cost this one its processor. Not in the main thread: a Ctrl-C may strike before the `try`.
        """
        if not _STATE.acquire(False) and not _STATE.acquire(timeout=_A_MOMENT):
            return False
        try:
            if self._cond is not None or self._watchers:
                return False
            if self._state not in _DONE:
                self._result = result
                self._exception = exception
                self._state = state
            return True
        finally:
            _STATE.release()

    def _open_gates(self) -> None:
        """Let those go that wait in `result`; the state is final."""
        with _STATE:
            gates, self._gates = self._gates, ()
        for gate in gates:
            gate.release()

    def _call(self, fn: Callable[[standard.Future[T]], object]) -> None:
        try:
            fn(self)
        except Exception:  # the standard rule: a callback's error is logged and swallowed
            _log.exception("exception calling callback for %r", self)

    def _invoke_callbacks(self) -> None:
        callbacks, self._callbacks = self._callbacks, None  # no call between this and the `try`, where Ctrl-C may strike
        begun = 0
        try:
            for fn in callbacks or ():
                begun += 1
                self._call(fn)
        except BaseException:  # goes to whoever ended the future; the other callbacks are called all the same
            if callbacks is not None and begun < len(callbacks):
                self._callbacks = callbacks[begun:]
                self._invoke_callbacks()
            raise

    def __reduce__(self) -> Any:
        raise TypeError(f"{type(self).__name__} objects cannot be pickled: send the task's result, not its future")


class _Watchers(list[Any]):
    """The waiters of a future, into which the standard `wait` and `as_completed` put theirs, in the thread that will wait."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self._scheduler = scheduler

    def append(self, waiter: Any) -> None:
        self._scheduler.begin_waiting(waiter)
        super().append(waiter)

    def remove(self, waiter: Any) -> None:
        super().remove(waiter)
        self._scheduler.end_waiting(waiter)


def _attempt(number: int, queued: float, run: tuple[Any, ...] | None, error: BaseException | None) -> Attempt:
    worker, started, duration, cpu_seconds, worker_rss = run or (None,) * 5
    return Attempt(number, worker, queued, started, duration, cpu_seconds, worker_rss, error)
