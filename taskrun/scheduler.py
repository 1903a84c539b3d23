"""The scheduler: one queue, one place that completes outcomes, one place that owns time.

::

    submit ──► queue ──► pull (backend) ──► begin ──► succeed / fail ──► future, callbacks
                 ▲                                        │
                 └──────── timer, after the back-off ◄────┘ retry

Lock plan. `lock` guards the queue, the counters and the state of every task (`settled`, `begun`, `pulled`, `future._task`).
It is re-entrant because signal handlers and destructors may submit in the middle of anything. It is never held while user
code runs, while something is pickled, written or logged, or while a thread is started. Order: `lock`, then leaf locks (timer,
SimpleQueue). No future's condition is waited for under it, see `Counting._resolve`.

What is the user's (retry predicates, callbacks, destructors of arguments) runs after the lock is released: settled tasks are
emptied by `forget` outside of it.
"""

from __future__ import annotations

from concurrent.futures import CancelledError
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from taskrun import lifetime, sharing
from taskrun.completing import Outcome
from taskrun.errors import TaskKilledError
from taskrun.future import Future
from taskrun.future_state import FINISHED
from taskrun.pulling import Pulling
from taskrun.task import NO_KWARGS, Task
from taskrun.threads import call_soon

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent import futures as standard
    from contextvars import Context

    from taskrun.backends.base import Backend
    from taskrun.options import TaskOptions, WorkerSettings
    from taskrun.task import Feeder

__all__ = ["Outcome", "Scheduler"]


class Scheduler(Pulling):
    """What an executor and its backend share: `submit` and its siblings for the one, `pull` and its siblings for the other.

    How backends take tasks is in `Pulling`, its base; what a thread that waits is made up for in `Waits`, the base of that;
    what becomes of an attempt (result, retry, deadline) in `Completing`, the next one; how all this ends (shutdown, Ctrl-C, a
    failed initializer, interpreter exit, fork) in `Closing`, the base of all.
    """

    def __init__(
        self, backend: Backend, settings: WorkerSettings, *, max_pending: int | None = None, seed: int | None = None
    ) -> None:
        super().__init__(backend, settings, max_pending, seed)
        self._wants_context = backend.shares_context or bool(settings.context_vars)
        self._index = 0
        lifetime.register(self)

    # -- for the executor ------------------------------------------------------------------------------------------------------

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: TaskOptions,
        callback: Callable[[standard.Future[Any]], object] | None = None,
    ) -> Future[Any]:
        """Queue one call and return its future; raises RuntimeError after shutdown, InitializerError when broken.

        *callback* is a done callback that is there from the start: it never runs in the thread that submits, however soon the
        task is over (on `serial`, where everything does, it does).
        """
        future: Future[Any] = Future(self)
        if callback is not None:
            future._callbacks = [callback]
        context = copy_context() if self._wants_context else None
        if sharing.in_use and not self._backend.pickles_arguments:
            fn, args, kwargs = sharing.unwrapped(fn, args, kwargs)
        # No dict of its own for each task that has no keyword arguments: the queue may be long.
        task = Task(fn, args, kwargs or NO_KWARGS, future, 0, options, context, self._seed)
        room = self._room
        admitted = room.limit is None
        try:
            while True:
                with self.lock:
                    if admitted or not self._full():
                        if self._closed is not None or lifetime.exiting():
                            self._refuse()
                        # No call separates the reading from the writing of a counter: a signal handler that submits cannot
                        # come between.
                        task.index = index = self._index
                        self._index = index + 1
                        self._open += 1
                        future._task = task
                        self._queue.put(task)
                        break
                    gate = room.listen()
                admitted = self._backend.owns_current_thread() or room.wait(gate)  # else a task could wait for itself
            self._backend.wake()
        except BaseException as error:  # refused, or Ctrl-C, which may strike after any call
            self._withdraw((future,), error)
            raise
        try:
            return future
        finally:
            del future, task  # on `serial` the traceback of the task's error leads back to this frame

    def _withdraw(self, futures: Sequence[Future[Any]], error: BaseException) -> None:
        """Take back what the caller will not hear of: as if it had not been submitted, where nothing has taken it up."""
        tasks = [task for future in futures if (task := future._task) is not None]  # the others are not counted yet, or over
        if not tasks:
            return  # refused: nothing to look for in a queue that may be long
        over = []
        with self.lock:
            for task in tasks:
                future = task.future
                if future._task is not task:
                    continue
                if task.begun is None and not task.pulled and task not in self._backoff:
                    task.settled = True
                    future._task = None
                    self._open -= 1
                elif self._inline:  # it ran in the caller: nobody else would end it
                    task.settled = True
                    self._backoff.discard(task)
                    self._resolve(task, FINISHED, None, error)
                    over.append(task)
                else:
                    task.cancel_requested = True
            self._queue.clean()
            ending = self._progress()
        self._let_go(over)
        if ending:
            self._end()

    def submit_all(
        self,
        fn: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        first_index: int,
        options: TaskOptions,
        owner: Feeder,
        context: Context | None,
        *,
        first: bool = False,
    ) -> list[Future[Any]]:
        """Queue a call for each tuple of arguments; for maps, which may do it after `close` as well.

        *first*: before what waits. Where the executor is broken they fail at once. Raises RuntimeError in a forked copy,
        CancelledError once what has not started is cancelled.
        """
        tasks: list[Task] = []
        futures: list[Future[Any]] = []
        for index, args in enumerate(calls, first_index):
            future: Future[Any] = Future(self)
            if sharing.in_use and not self._backend.pickles_arguments:
                fn, args, _ = sharing.unwrapped(fn, args, {})
            task = Task(fn, args, NO_KWARGS, future, index, options, context, self._seed)
            task.owner = owner
            tasks.append(task)
            futures.append(future)
        try:
            with self.lock:
                if self._closed == "forked":
                    self._refuse()
                if self._discard:  # the map was told of the end of tasks before that of its executor
                    raise CancelledError
                for task in reversed(tasks) if first else tasks:
                    self._open += 1
                    task.future._task = task
                    if first:
                        self._queue.put_back((task,))
                    else:
                        self._queue.put(task)
                refused = self._turn_away()
                ending = self._progress() if refused else False
            if refused:  # the executor is broken
                self._after_turning_away(refused, ending)
            else:
                self._backend.wake()
        except BaseException as error:  # as in `submit`
            self._withdraw(futures, error)
            raise
        return futures

    @property
    def combines_items(self) -> bool:
        """Whether tiny items of a map may come several as one task."""
        return self._backend.combines_items

    @property
    def tiny(self) -> float:
        """Seconds; items of a map that take less may come several as one task."""
        return self._backend.tiny

    @property
    def cold(self) -> float:
        """Seconds that a tiny task takes longer than in a run."""
        return self._backend.cold

    @property
    def pickles_arguments(self) -> bool:
        """Whether arguments of tasks are pickled."""
        return self._backend.pickles_arguments

    def context_for_tasks(self) -> Context | None:
        """Return what `submit_all` wants as context: a copy of the caller's, where the backend uses it."""
        return copy_context() if self._wants_context else None

    def _full(self) -> bool:
        return self._closed is None and self._room.limit is not None and self._open >= self._room.limit

    # -- for futures -----------------------------------------------------------------------------------------------------------

    def cancel(self, future: Future[Any]) -> bool:
        """Do what `Future.cancel` says."""
        while True:
            task = future._task
            try:
                with self.lock:
                    task = future._task
                    if task is None or task.settled:
                        return future.cancelled() or self._is_being_cancelled(future)
                    if task.begun is None and not task.pulled:
                        self._cancel_waiting(task)
                        ending = self._progress()
                        break
                    begun = task.begun is not None
                taken = not begun and self._take_back(task)
            except BaseException:  # Ctrl-C, which may strike after any call: finish what was begun
                if task is not None:
                    call_soon(partial(self._cancel_plainly, task))  # it may strike again
                    self._cancel_plainly(task)
                raise
            if not taken:
                task.cancel_requested = True
                self._backend.notice_cancel(task)
                return False
        try:
            ending = self._finish_late((task,), with_callbacks=False) or ending
            if future._callbacks:
                self.callbacks.run_here(future._invoke_callbacks)
            self._let_go((task,))
        except BaseException:  # likewise; or a callback's own, after which there is nothing left to call
            self.callbacks.add(future._invoke_callbacks)
            self.callbacks.run()
            raise
        if ending:
            self._end()
        return True

    def _take_back(self, task: Task) -> bool:
        """Get a task back that a backend pulled ahead of its workers; False when a worker has it."""
        # Not under the lock: the backend may have to look into a channel.
        if self._backend.revoke(task):
            with self.lock:
                if not task.settled and task.pulled:
                    self._put_back([task])
            return True
        with self.lock:
            # It began or was given back or ended meanwhile, or the worker has it and has not said so yet.
            return task.settled or not task.pulled

    def _cancel_plainly(self, task: Task) -> None:
        """Cancel a task that has not begun as far as is known, wherever it is; it may be called in the middle of `cancel`."""
        with self.lock:
            if task.future._task is task and task.begun is None:
                self._cancel_waiting(task)  # if a worker has it after all, nothing is heard of it
            self._queue.clean()  # counts anew what was counted by halves
        if self._finish_late((task,)):
            self._end()

    def kill(self, future: Future[Any]) -> bool:
        """Do what `Future.kill` says."""
        while True:
            if future.done():
                return False
            if self.cancel(future):
                return True
            if self._backend.capabilities.kill == "no":
                return False
            with self.lock:
                task = future._task
                if task is None:
                    return False
                if task.begun is None and not task.pulled:
                    continue  # it was given back meanwhile
                error = self._killed.get(task)
                if error is not None:
                    return True
                message = f"task {task.name!r} was killed by Future.kill() in attempt {task.number}"
                error = TaskKilledError(message, task=task.name, attempt=task.number)
                # From here on nothing else comes of it: neither an outcome that is on its way, nor another attempt.
                self._killed[task] = error
                failed = task.settled
            if failed:
                self._decide_now(task)
            elif not self._backend.stop(task, error, "killed"):
                self.fail(task, error, "killed")
            return True

    def call_back(self, future: Future[Any], fn: Callable[[Any], object]) -> None:
        """Call *fn* of a future that is done already."""
        self.callbacks.run_at_once(partial(future._call, fn))
        if self._inline:
            self._backend.wake()  # what *fn* submitted there runs after it, not within

    def refresh(self, future: Future[Any]) -> None:
        """Have the backend say whether the task, sent ahead, has begun meanwhile."""
        task = future._task
        if task is not None and task.pulled and task.begun is None:
            self._backend.refresh(task)
