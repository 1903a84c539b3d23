"""What an executor has open: tasks, and maps with items left. Who may submit more, and what happens when one of them is over.

The lock plan is the scheduler's; see there.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from taskrun import lifetime
from taskrun.callbacks import CallbackRunner
from taskrun.future import Future
from taskrun.future_state import FINISHED
from taskrun.room import Room
from taskrun.task_queue import CallerQueue, TaskQueue
from taskrun.threads import call_soon
from taskrun.timer import Timer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from taskrun.backends.base import Backend
    from taskrun.options import WorkerSettings
    from taskrun.task import Feeder, Task

__all__ = ["NOBODY", "Counting"]

NOBODY: Future[Any] = Future()
"""In the place of the future of a task that is over."""


class Counting(ABC):
    """The part of the scheduler that counts what is open; "nothing is left" is what every ending waits for."""

    def __init__(self, backend: Backend, settings: WorkerSettings, max_pending: int | None) -> None:
        self.lock = threading.RLock()
        self.settings = settings
        self.timer = Timer(settings.name)
        self.counts = {"succeeded": 0, "failed": 0, "cancelled": 0, "retried": 0}
        self._backend = backend
        self._inline = not backend.capabilities.concurrent
        self.callbacks = CallbackRunner(f"{settings.name}-callbacks", inline=self._inline)
        self._aside = CallbackRunner(f"{settings.name}-aside", inline=self._inline)  # see `run_aside`
        self._queue: TaskQueue = CallerQueue() if self._inline else TaskQueue()
        self._room = Room(max_pending, settings.max_workers)
        # Tasks submitted and not settled, plus one for each map that has items left to submit: at 0 nothing will come.
        self._open = 0
        self._items = 0  # under way in runs (`map_under_way`), besides one for each run
        self._backoff: set[Task] = set()  # failed tasks that wait for their next attempt
        self._late: dict[Task, tuple[str, Any, BaseException | None]] = {}  # see `_resolve`
        self._discard = False  # what has not started is cancelled, what fails is not retried
        self._late_told = False  # the janitor will finish them, whoever else does
        self._finishing = 0  # tasks that are settled and counted, and open until their futures are done
        self._killed: dict[Task, BaseException] = {}  # tasks that `kill` was promised the end of, whatever they still say
        self._feeders: dict[Feeder, None] = {}  # maps that have items left to submit, and will whatever happens
        self._readers: WeakSet[Feeder] = WeakSet()  # maps that may have items left, but only for who asks for results
        self._closed: str | None = None  # why nothing can be submitted: "shutdown", "broken", "forked"
        self._broken: BaseException | None = None  # as told to whoever submits; every future gets one of its own
        self._ending = False  # a thread is in `_end`

    @abstractmethod
    def _end(self) -> None:
        """Nothing will come any more: end the workers and our threads, unless another thread does."""

    @property
    def concurrent(self) -> bool:
        """False when tasks run in the caller, at `submit`."""
        return not self._inline

    def stats(self) -> dict[str, Any]:
        """Return the counters and the names of the live workers."""
        with self.lock:
            counts = dict(self.counts)
            unfinished = self._open - self._finishing - len(self._feeders) + self._items
            queued = len(self._queue) + len(self._backoff) + self._backend.held_back()
            blocked = len(self._room.waiting)
        ended = counts["succeeded"] + counts["failed"] + counts["cancelled"]
        totals = {"submitted": ended + unfinished, "queued": queued, "unfinished": unfinished, "blocked": blocked}
        return {**totals, **counts, "workers": self._backend.workers()}

    def count_items(self, more: int, **ended: int) -> None:
        """Count *more* items under way beside the tasks that they are part of, and those that ended by what became of them."""
        with self.lock:
            self._items += more
            for state, items in ended.items():
                self.counts[state] += items

    # -- who may still submit --------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether `submit` would refuse."""
        return self._closed is not None or lifetime.exiting()

    def check_open(self) -> None:
        """Raise what `submit` would raise now."""
        with self.lock:
            if self._closed is not None or lifetime.exiting():
                self._refuse()

    def _refuse(self) -> None:
        if self._broken is not None:
            raise self._broken_error()
        if self._closed == "forked":
            raise RuntimeError(
                "this executor was made before the fork that made process "
                f"{os.getpid()}: its workers and threads stayed in the parent; make a new taskrun.Executor here"
            )
        if lifetime.exiting():
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        raise RuntimeError("cannot schedule new futures after shutdown")

    def _broken_error(self) -> BaseException:
        """Return a fresh error for each future: tracebacks and notes are added to the one that is raised."""
        assert self._broken is not None  # noqa: S101 - the callers have looked
        error = type(self._broken)(str(self._broken))
        error.__cause__ = self._broken.__cause__
        return error

    def hold(self, feeder: Feeder, *, late: bool = False) -> None:
        """Note that *feeder* has items left: shutdown waits for it.

        Raises as `submit` does, unless the items are *late*: part of what was submitted, and is not over yet.
        """
        with self.lock:
            if not late and (self._closed is not None or lifetime.exiting()):
                self._refuse()
            # No call in between: Ctrl-C, which may strike after any call, finds both done or neither.
            self._feeders[feeder] = None
            self._open += 1

    def watch(self, feeder: Feeder) -> None:
        """Note that *feeder* submits more when it is asked: shutdown tells it and does not wait. Raises as `submit` does."""
        with self.lock:
            if self._closed is not None or lifetime.exiting():
                self._refuse()
            self._readers.add(feeder)

    @property
    def unread(self) -> int:
        """How many feeders have more to submit that nobody will ask for."""
        with self.lock:
            return sum(feeder.unread for feeder in self._readers)

    def release(self, feeder: Feeder) -> None:
        """Note that *feeder* will submit nothing more."""
        with self.lock:
            self._readers.discard(feeder)
            if feeder not in self._feeders:
                return
            del self._feeders[feeder]
            self._open -= 1
            ending = self._progress()
        if ending:
            self._end()

    # -- counting --------------------------------------------------------------------------------------------------------------

    def _resolve(self, task: Task, state: str, value: Any, error: BaseException | None) -> None:
        """Settle the future of *task* for good. Under the lock; follow with `_progress`, then `_let_go` outside of it.

        A future that somebody looks at is done only in `_let_go`, and its task open until then: whoever looks may wait for this
        lock, in a signal handler or a destructor that has interrupted him.
        """
        future = task.future
        in_main = threading.current_thread() is threading.main_thread()
        counted_as = "cancelled" if state != FINISHED else "succeeded" if error is None else "failed"
        # No call in between: Ctrl-C, which may strike after any call, finds all of this done or nothing.
        task.settled = True  # from here on whoever finds it in the queue drops it
        future._task = None
        self.counts[counted_as] += 1
        if in_main and self._inline:  # it runs in this very thread, and nobody looks at it yet
            self._open -= 1
            try:
                future._finish(state, value, error)
                if future._callbacks and state == FINISHED:
                    self.callbacks.add(future._invoke_callbacks)
            except BaseException:  # Ctrl-C: both can be done twice
                future._finish(state, value, error)
                future._open_gates()
                self.callbacks.add(future._invoke_callbacks)
                raise
        elif in_main:
            try:
                self._late[task] = state, value, error
                self._finishing += 1
                self._have_late_finished()
            except BaseException:  # Ctrl-C: it may tear this thread out of its way to `_let_go`
                self._have_late_finished()
                raise
        elif future._finish_unwatched(state, value, error):
            self._open -= 1
            if future._callbacks and state == FINISHED:
                self.callbacks.add(future._invoke_callbacks)
        else:
            self._late[task] = state, value, error
            self._finishing += 1
        if self._killed:
            self._killed.pop(task, None)

    def _have_late_finished(self) -> None:
        """See to it that all in `_late` is finished soon, whatever becomes of this thread. Under the lock."""
        if not self._late_told:
            call_soon(self._finish_all_late)
            self._late_told = True

    def _finish_all_late(self) -> None:
        with self.lock:
            self._late_told = False
            tasks = list(self._late)
            if self._discard:  # Ctrl-C may have come before that was done: the end is told once, to whom finds nothing queued
                self._queue.clean()
        ending = self._finish_late(tasks)
        self.callbacks.run()
        if ending:
            self._end()

    def _is_being_cancelled(self, future: Future[Any]) -> bool:
        """Return whether *future*, which is not done, is about to be, and cancelled. Under the lock."""
        return any(task.future is future and found[0] != FINISHED for task, found in list(self._late.items()))

    def _finish_late(self, tasks: Iterable[Task], *, with_callbacks: bool = True) -> bool:
        """Finish the futures that `_resolve` has left. Not under the lock; True: the caller must call `_end`."""
        late = [(task, found) for task in tasks if (found := self._late.get(task)) is not None]
        if not late:
            return False
        for task, (state, value, error) in late:
            task.future._finish(state, value, error)
        with self.lock:
            for task, _ in late:
                if with_callbacks and task.future._callbacks:
                    self.callbacks.add(task.future._invoke_callbacks)  # Ctrl-C after this: it can be done twice
                if task in self._late:  # else another thread came first; and no call in between, as in `_resolve`
                    del self._late[task]
                    self._open -= 1
                    self._finishing -= 1
            return self._progress()

    def _progress(self) -> bool:
        """Wake whoever waits for tasks to end. Under the lock; True: the caller must call `_end` outside of it."""
        if self._room.limit is not None:
            self._room.notify()
        return not self._open and self._closed is not None and not self._ending

    def _let_go(self, tasks: Sequence[Task]) -> None:
        """Wake who waits for settled tasks, let these go, run callbacks and have maps go on. Not under the lock."""
        ending = bool(self._late) and self._finish_late(tasks)
        owners: dict[Feeder, list[Future[Any]]] = {}
        for task in tasks:
            if task.future._gates:
                task.future._open_gates()
            if task.owner is not None:
                owners.setdefault(task.owner, []).append(task.future)
            task.forget(NOBODY)
        self.callbacks.run()
        for owner, ended in owners.items():
            owner.advance(ended)
        if ending:
            self._end()

    # -- the user's code -------------------------------------------------------------------------------------------------------

    def run_aside(self, fn: Callable[[], object]) -> None:
        """Have *fn* run soon where the user's code delays neither the engine nor callbacks: retry predicates, pickling."""
        self._aside.add(fn)
        self._aside.run()

    def in_callback(self) -> bool:
        """Return True in a done callback of ours, or what else runs in threads of that kind."""
        return self.callbacks.inside() or self._aside.inside()
