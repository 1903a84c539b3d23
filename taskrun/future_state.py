"""What a future is made of: its state, who waits for it, and how it is done.

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
from concurrent import futures as standard
from typing import TYPE_CHECKING, Any, TypeVar

from taskrun.bell import lock_of, new_gate
from taskrun.threads import inside, renew_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Lock as Gate

    from taskrun.scheduler import Scheduler
    from taskrun.task import Task

__all__ = [
    "CANCELLED",
    "DONE",
    "FINISHED",
    "NO_RUN",
    "PENDING",
    "RECORD",
    "RUNNING",
    "FutureState",
    "hold_states",
    "inside_future",
    "log",
]

T = TypeVar("T")

PENDING = "PENDING"
RUNNING = "RUNNING"
CANCELLED = "CANCELLED_AND_NOTIFIED"
"""The standard library splits cancellation in two steps, for workers that notice it late; here one step does both."""
FINISHED = "FINISHED"
DONE = frozenset({"CANCELLED", CANCELLED, FINISHED})

RECORD = 8
"""How much of `_records` is one attempt's."""
NO_RUN = (None,) * 5
"""In the place of a `task.Run`."""

_A_MOMENT = 0.01  # seconds after which a thread inside `_STATE` is believed to have been interrupted

_STATE = threading.RLock()
renew_after_fork(globals(), "_STATE", threading.RLock)
# The standard library's logger and text: programs filter on them.
log = logging.getLogger("concurrent.futures")


def inside_future() -> bool:
    """Return whether the calling thread was interrupted in the middle of a future, so that others cannot end."""
    return inside(_STATE)


def hold_states() -> threading.RLock | None:
    """Acquire what guards the futures that nobody looks at but by `result`, and return it; None: another thread is inside.

    For who holds an executor's lock and wants to finish many of them; not in the main thread. Release it.
    """
    lock = _STATE
    return lock if lock.acquire(False) or lock.acquire(timeout=_A_MOMENT) else None


class FutureState(standard.Future[T]):
    """The part of `taskrun.Future` that nobody calls by name: it is done by executors, in any of their threads."""

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
        # Number, queued, the five of `task.Run`, error; then those of the next attempt. Made presentable when asked for.
        self._records: tuple[Any, ...] = ()

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

    # -- waiting ---------------------------------------------------------------------------------------------------------------

    def _listen(self) -> Gate | None:
        """Return a gate that opens when the future is done; None: it is."""
        with _STATE:
            if self._state in DONE:
                return None
            gate = new_gate()
            self._gates = (*self._gates, gate)
            return gate

    def _listen_no_more(self, gate: Gate) -> None:
        with _STATE:
            self._gates = tuple(other for other in self._gates if other is not gate)

    def _takes_callback(self, fn: Callable[[standard.Future[T]], object]) -> bool:
        """Have *fn* called when the future is done; False: it is done already."""
        with _STATE:
            if self._cond is None and self._state not in DONE:  # only `_STATE` guards us: see the head of the file
                if self._callbacks is None:
                    self._callbacks = []
                self._callbacks.append(fn)
                return True
        with lock_of(self._condition):
            if self._state not in DONE:
                self._done_callbacks.append(fn)
                return True
        return False

    @property
    def last_duration(self) -> float | None:
        """Seconds that the last attempt took; None: there was none, or nobody knows."""
        duration: float | None = self._records[-4] if self._records else None
        return duration

    # -- being done ------------------------------------------------------------------------------------------------------------

    def _finish(self, state: str, result: T | None, exception: BaseException | None) -> bool:
        """Move to a final *state* and wake everybody who waits; False if it is done already. Runs no user code."""
        with _STATE:
            if self._state in DONE:
                return False
            unwatched = self._finish_held(state, result, exception)
        if not unwatched:
            with lock_of(self._condition):
                if self._state in DONE:
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
        states = hold_states()
        if states is None:
            return False
        try:
            return self._finish_held(state, result, exception)
        finally:
            states.release()

    def _finish_held(self, state: str, result: T | None, exception: BaseException | None) -> bool:
        """Do as `_finish_unwatched`, for who has got `hold_states`."""
        if self._cond is not None or self._watchers:
            return False
        if self._state not in DONE:  # no call from here on: Ctrl-C finds all of it done or nothing
            self._result = result
            self._exception = exception
            self._state = state
        return True

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
            log.exception("exception calling callback for %r", self)

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
