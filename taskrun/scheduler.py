"""The scheduler: one queue, one place that completes outcomes, one place that owns time.

::

    submit ──► queue ──► pull (backend) ──► begin ──► succeed / fail ──► future, callbacks
                 ▲                                        │
                 └──────── timer, after the back-off ◄────┘ retry

Lock plan. `lock` guards the queue, the counters and the state of every task (`settled`, `begun`, `pulled`, `future._task`).
It is re-entrant because signal handlers and destructors may submit in the middle of anything. It is never held while user
code runs, while something is pickled, written or logged, or while a thread is started. Order: `lock`, then a future's
condition, then leaf locks (timer, SimpleQueue).

What is the user's (retry predicates, callbacks, destructors of arguments) runs after the lock is released: settled tasks are
emptied by `forget` outside of it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from taskrun import lifetime
from taskrun.callbacks import CallbackRunner
from taskrun.errors import InitializerError, TaskKilledError, TaskTimeoutError
from taskrun.future import CANCELLED, FINISHED, Future
from taskrun.options import TaskOptions, WorkerSettings
from taskrun.room import Room
from taskrun.task import Cause, Run, Task, function_name
from taskrun.task_queue import CallerQueue, TaskQueue
from taskrun.timer import Timer

if TYPE_CHECKING:
    from taskrun.backends.base import Backend
    from taskrun.task import Feeder

__all__ = ["Outcome", "Scheduler"]

Outcome = tuple[Task, bool, Any, Cause | None, Run | tuple[Any, ...] | None]
"""(task, succeeded, value or error, cause of the error, what it cost): one attempt's end, as backends report it."""

MAX_RESPAWNS = 3
"""How often a worker whose initializer failed is tried again before the executor is declared broken."""
_KILL_AFTER = 0.5  # seconds between asking and killing when Ctrl-C ends a `with` block
_GONE_AFTER = 5.0  # seconds to wait for killed workers; they cannot refuse, but the machine may be loaded

_log = logging.getLogger("taskrun")


class Scheduler:
    """What an executor and its backend share: `submit` and its siblings for the one, `pull` and its siblings for the other."""

    def __init__(
        self, backend: Backend, settings: WorkerSettings, *, max_pending: int | None = None, seed: int | None = None
    ) -> None:
        self.lock = threading.RLock()
        self.settings = settings
        self.timer = Timer(settings.name)
        self.callbacks = CallbackRunner(settings.name)
        self.counts = {"submitted": 0, "succeeded": 0, "failed": 0, "cancelled": 0, "retried": 0}
        self._backend = backend
        self._inline = not backend.capabilities.concurrent
        self._wants_context = backend.shares_context or bool(settings.context_vars)
        self._queue: TaskQueue = CallerQueue() if self._inline else TaskQueue()
        self._seed = int.from_bytes(os.urandom(8), "big") if seed is None else seed
        self._index = 0
        # Tasks submitted and not settled, plus one for each map that has items left to submit: 0 means nothing will come.
        self._open = 0
        self._room = Room(self.lock, None if max_pending is None else max_pending + settings.max_workers, max_pending)
        self._quiet = threading.Condition(self.lock)  # notified when `_open` falls to 0 and when `_ended` is set
        self._backoff: set[Task] = set()
        self._deadlines: dict[Task, float] = {}
        self._armed: float | None = None  # when the timer will look at the deadlines next
        self._feeders: set[Feeder] = set()
        self._closed: str | None = None  # why nothing can be submitted any more
        self._ended = False  # the backend was told that no task will come
        self._initializer_failures = 0
        self._broken: BaseException | None = None
        lifetime.register(self)

    # -- for the executor: tasks ------------------------------------------------------------------------------------------

    def submit(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], options: TaskOptions
    ) -> Future[Any]:
        """Queue one call and return its future; raises RuntimeError after shutdown, InitializerError when broken."""
        future: Future[Any] = Future(self)
        context = copy_context() if self._wants_context else None
        room = self._room
        with self.lock:
            if room.limit is not None and self._open >= room.limit:
                room.wait(self)
            if self._closed is not None or lifetime.exiting():
                self._refuse()
            # No call separates the reading from the writing of a counter: a signal handler that submits cannot come between.
            index = self._index
            self._index = index + 1
            self._open += 1
            future._task = task = Task(fn, args, kwargs, future, index, options, context, self._seed)
            self._queue.put(task)
        self._backend.wake()
        return future

    def submit_all(
        self,
        fn: Callable[..., Any],
        calls: Iterable[tuple[Any, ...]],
        first_index: int,
        options: TaskOptions,
        owner: Feeder,
        context: Any,
    ) -> list[Future[Any]]:
        """Queue a call for each tuple of arguments, which must be a plain list of tuples; for maps, also after `close`."""
        futures: list[Future[Any]] = []
        with self.lock:
            if self._broken is not None or self._closed == "forked":
                self._refuse()
            put = self._queue.put
            index = first_index
            for args in calls:
                future: Future[Any] = Future(self)
                future._task = task = Task(fn, args, {}, future, index, options, context, self._seed)
                task.owner = owner
                put(task)
                futures.append(future)
                index += 1
            self._open += len(futures)
        self._backend.wake()
        return futures

    def hold(self, feeder: Feeder) -> None:
        """Note that *feeder* has items left: shutdown waits for it. Raises as `submit` does."""
        with self.lock:
            if self._closed is not None or lifetime.exiting():
                self._refuse()
            if feeder not in self._feeders:
                self._feeders.add(feeder)
                self._open += 1

    def release(self, feeder: Feeder) -> None:
        """Note that *feeder* has submitted its last item, or will submit none."""
        with self.lock:
            if feeder not in self._feeders:
                return
            self._feeders.discard(feeder)
            self._open -= 1
            ending = self._progress()
        if ending:
            self._end()

    def check_open(self) -> None:
        """Raise what `submit` would raise now."""
        with self.lock:
            if self._closed is not None or lifetime.exiting():
                self._refuse()

    def _refuse(self) -> None:
        if self._broken is not None:
            raise InitializerError(str(self._broken)) from self._broken.__cause__
        if self._closed == "forked":
            raise RuntimeError(
                f"this executor belongs to the parent of process {os.getpid()}: its workers and threads are not here after a "
                "fork; make a new taskrun.Executor in the child"
            )
        if lifetime.exiting():
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        raise RuntimeError("cannot schedule new futures after shutdown")

    # -- for futures ------------------------------------------------------------------------------------------------------

    def cancel(self, future: Future[Any]) -> bool:
        """Do what `Future.cancel` says."""
        while True:
            with self.lock:
                task = future._task
                if task is None or task.settled:
                    return future.cancelled()
                if task.begun is None and not task.pulled:
                    self._cancel_waiting(task)
                    ending = self._progress()
                    break
                if task.begun is not None:
                    task.cancel_requested = True
            if task.begun is not None:
                self._backend.notice_cancel(task)
                return False
            # A backend pulled it ahead of its workers. Not under the lock: it may have to look into a channel.
            if self._backend.revoke(task):
                with self.lock:
                    if not task.settled:
                        task.pulled = False
                        self._queue.put_back([task])  # the next round of this loop cancels it there
            elif task.pulled and task.begun is None and not task.settled:
                # The worker has it, though begin() was not reported yet.
                task.cancel_requested = True
                self._backend.notice_cancel(task)
                return False
        if ending:
            self._end()
        if future._callbacks:
            self.callbacks.run_here(future)
        self._after_settling((task,))
        return True

    def _cancel_waiting(self, task: Task) -> None:
        """Cancel a task that waits in the queue or in back-off. Under the lock."""
        task.settled = True
        if task in self._backoff:
            self._backoff.discard(task)
        else:
            self._queue.skip(task)
        task.future._task = None
        task.future._finish(CANCELLED, None, None)
        self._open -= 1
        self.counts["cancelled"] += 1

    def kill(self, future: Future[Any]) -> bool:
        """Do what `Future.kill` says."""
        if self.cancel(future):
            return not future._killed_before
        return False

    def refresh(self, future: Future[Any]) -> None:
        """Have the backend say whether the task, sent ahead, has begun meanwhile."""
        task = future._task
        if task is not None and task.pulled and task.begun is None:
            self._backend.refresh(task)
