"""Threads that wait for futures: a worker that does is made up for, and a wait that could never end is refused.

The lock plan is the scheduler's; see there. Here nothing is held.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from taskrun.completing import Completing
from taskrun.cycles import own_task, waiting_for
from taskrun.future_state import inside_future
from taskrun.task import Entered, Task, entered
from taskrun.threads import call_soon, inside

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from taskrun.backends.base import Backend
    from taskrun.future import Future
    from taskrun.options import WorkerSettings

__all__ = ["Waits"]

_STUCK_AFTER = 0.3  # seconds
_AGAIN_AFTER = 3.0  # seconds, before a second one beside whole tasks that do not end: most of them are only slow
_MOST_EXTRA = 32  # workers


class Waits(Completing):
    """The part of the scheduler that futures ask where somebody waits for them."""

    def __init__(self, backend: Backend, settings: WorkerSettings, max_pending: int | None, seed: int | None) -> None:
        super().__init__(backend, settings, max_pending, seed)
        self._stuck: set[object] = set()  # runs of items, and tasks, that do not end
        self._watching = False  # the timer looks after them
        self._allowing = threading.RLock()  # guards `_allowed`; the backend is told under it, so that it hears in order
        self._allowed = 0
        # The standard library's waiters in our worker threads: for how many futures, and what makes up for the thread. The
        # janitor's, but that whoever begins to wait is the first to write (one step of a dict).
        self._waits: dict[object, tuple[int, ExitStack | None]] = {}

    def may_wait_a_moment(self) -> bool:
        """Return whether the calling thread, the main one and in no task, may wait shortly before it asks for `waiting`.

        Not where that would refuse, or have something done first: while it waits nothing else may get on.
        """
        return not (self._inline or self.in_callback() or inside(self.lock))

    def waiting(self, future: Future[Any] | None = None) -> AbstractContextManager[object]:
        """Return the context in which to wait, for *future* without a limit if it is given.

        Raises RuntimeError where the wait could never end.
        """
        self._refuse_endless_waiting()
        own = own_task()
        if own is None:
            return self._backend.one_more() if self._waits_for_a_task() else self._backend.waiting()
        scheduler = own.future._scheduler
        with ExitStack() as stack:
            if future is not None:
                stack.enter_context(waiting_for(own, (future,)))
            stack.enter_context(self._backend.waiting())
            if scheduler is not None and scheduler is not self:
                stack.enter_context(scheduler._backend.waiting_elsewhere())
            return stack.pop_all()

    def _waits_for_a_task(self) -> bool:
        """Return whether a task of ours has most likely sent this thread, none of our workers: `asyncio.to_thread`."""
        inside = entered.get()
        task = inside.task if isinstance(inside, Entered) else None
        return task is not None and task.future._scheduler is self and not (task.settled or self._backend.owns_current_thread())

    def awaiting(self) -> AbstractContextManager[None]:
        """Return the context in which a coroutine awaits a future: if it is a task of ours, it is made up for."""
        self._refuse_endless_waiting()
        return self._backend.one_more() if self._backend.owns_current_thread() else nullcontext()

    def _refuse_endless_waiting(self) -> None:
        if self._closed == "forked":
            self._refuse()
        if inside(self.lock) or inside_future():
            raise RuntimeError(
                "this wait would never end: it is in a signal handler or a destructor that has interrupted taskrun itself in "
                "this thread, and no task can end meanwhile; note there what to do, and do it outside"
            )
        if self.in_callback() and not self._inline:
            raise RuntimeError(
                "result() of an unfinished future in a done callback of the same executor: the callbacks of that future would "
                "wait for this one to return; submit a task that waits, or use the future's own add_done_callback"
            )

    def begin_waiting(self, waiter: object) -> None:
        """Note that the calling thread will wait with the standard library's *waiter*, for one future of ours or for many.

        The caller holds the conditions of the futures, so that no lock may be taken: the janitor does what there is to do.
        """
        if self._backend.owns_current_thread() or self._waits_for_a_task():
            self._waits.setdefault(waiter, (0, None))  # `end_waiting` may come before the janitor does
            call_soon(partial(self._begin_waiting, waiter))

    def end_waiting(self, waiter: object) -> None:
        """Note that it does so no more, for one of them."""
        if waiter in self._waits:
            self._stop_waiting(waiter)

    def await_elsewhere(self, future: Future[Any], waiter: object) -> None:
        """Note that the calling thread runs an event loop that will wait for *future*."""
        if self._backend.owns_current_thread() and not future.done():
            self.begin_waiting(waiter)
            future.add_done_callback(lambda _: self._stop_waiting(waiter))

    def _stop_waiting(self, waiter: object) -> None:
        call_soon(partial(self._end_waiting, waiter))

    def _begin_waiting(self, waiter: object) -> None:
        count, made_up = self._waits.get(waiter, (0, None))
        if made_up is None:
            made_up = ExitStack()
            with suppress(RuntimeError):  # it waits in vain, and the standard library's functions cannot be told
                made_up.enter_context(self._backend.one_more())
        self._waits[waiter] = (count + 1, made_up)

    def _end_waiting(self, waiter: object) -> None:
        count, made_up = self._waits.pop(waiter, (0, None))
        if made_up is None:
            return
        if count > 1:
            self._waits[waiter] = (count - 1, made_up)
        else:
            made_up.close()

    # -- what waits for what was taken back from behind it ---------------------------------------------------------------------

    def note_stuck(self, what: object) -> None:
        """Note that a run, or a task, does not end and what came after it was given back; others run that if nothing else ends.

        Not at once, as most are only slow, and a worker may cost much; and not for a single worker, whose user may count on its
        being alone: on it nobody could wait for a later item anyway.
        """
        with self.lock:
            self._stuck.add(what)
            begin = not self._watching and self.settings.max_workers > 1
            self._watching = self._watching or begin
        if begin:
            self._look_again(self._attempts_ended(), time.monotonic())

    def note_moving(self, what: object) -> None:
        """Note that it has ended, or that all of the rest has begun."""
        if what in self._stuck:
            with self.lock:
                self._stuck.discard(what)
            self._allow(0)

    def _look_again(self, ended: int, since: float) -> None:
        self.timer.call_at(time.monotonic() + _STUCK_AFTER, self._look_at_stuck, ended, since)

    def _attempts_ended(self) -> int:
        """Return how many attempts have ended; what is cancelled in the queue frees nobody."""
        return self.counts["succeeded"] + self.counts["failed"] + self.counts["retried"]

    def _look_at_stuck(self, before: int, since: float) -> None:
        """Let there be one more worker if nothing has ended *since* so many tasks and items had. In the timer's thread."""
        with self.lock:
            self._watching = bool(self._stuck)
            slowly = self._allowed and all(isinstance(each, Task) for each in self._stuck)
        if not self._watching:
            return
        now, ended = time.monotonic(), self._attempts_ended()
        more = ended == before and now - since >= (_AGAIN_AFTER if slowly else 0.0)
        self._allow(int(more))
        self._look_again(ended, since if ended == before and not more else now)

    def _allow(self, more: int) -> None:
        """Let there be so many *more* workers, and never more than runs are stuck."""
        with self._allowing:
            extra = min(self._allowed + more, len(self._stuck), _MOST_EXTRA)
            if extra != self._allowed:
                self._allowed = extra
                self._backend.allow(extra)
