"""Runs tasks in `multiprocessing.dummy` pools, the threads that look like `multiprocessing`.

A pool of one thread for each slot: a thread that is stuck, or has done its `max_tasks_per_child`, takes no other thread with it
when its pool is given up. Who submits calls a slot that is parked, which takes what waits by itself until nothing does. One
thread of ours, the *feeder*, makes slots and sees them off; others speak to it through a SimpleQueue, which is re-entrant. The
scheduler's lock guards `_slots`, `_parked`, `_coming` and `_leaving`.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, ClassVar, Literal

from taskrun.backends.base import Capabilities
from taskrun.backends.calls import call
from taskrun.backends.thread_like import ThreadLikeBackend, finalize, initialize, note_stack
from taskrun.coroutines import CoroutineRunner
from taskrun.cpu_meter import CpuMeter
from taskrun.threads import OwnThread, in_subinterpreter

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.pool import ThreadPool

    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler
    from taskrun.task import Task

__all__ = ["DummyBackend"]

_log = logging.getLogger("taskrun")


class _Slot:
    """A pool of one thread."""

    def __init__(self, number: int, name: str) -> None:
        from multiprocessing.dummy import Pool

        self.pool: ThreadPool = Pool(1)
        self.number = number
        self.name = name
        self.task: Task | None = None  # handed over
        self.thread: threading.Thread | None = None  # once it has run something
        self.runner = CoroutineRunner()
        self.meter = CpuMeter()
        self.initialized = False
        self.coming = False  # made or called, and has not looked into the queue yet
        self.done = 0  # its thread's
        self.abandoned = False

    def close(self) -> None:
        """End the pool once its thread has done what it was given."""
        self.pool.close()
        self.pool.join()
        self.abandon()

    def abandon(self) -> None:
        """End the pool around its thread, which goes on."""
        self.pool.terminate()
        self._let_go()

    def _let_go(self) -> None:
        # A pipe of the pool's own, which would be there until the garbage collector finds the pool.
        notifier = getattr(self.pool, "_change_notifier", None)
        if notifier is not None:
            notifier.close()


class DummyBackend(ThreadLikeBackend):
    """The threads cannot be stopped: one whose task timed out is abandoned with its pool."""

    name: ClassVar[str] = "dummy"
    option_names: ClassVar = {"thread_name_prefix": "str: how the worker threads are named, before _0, _1, ..."}
    capabilities = Capabilities(kill="slot only", recycle_by_count=True)

    @classmethod
    def unavailable(cls) -> str | None:
        if in_subinterpreter():
            return (
                'multiprocessing.dummy needs daemon threads, which a sub-interpreter does not allow; use backend="thread" here'
            )
        return None

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        """Start the feeder; pools are made when there is work."""
        self._scheduler = scheduler
        self._settings = settings
        self._target = settings.max_workers  # grows while a worker waits for a task of its own executor
        self._slots: list[_Slot] = []
        self._parked: list[_Slot] = []  # of these: have found the queue empty, the last one last
        self._coming = 0  # how many of them are
        self._leaving = 0  # slots no longer among those above whose pools are still to be ended
        self._prefix = settings.backend_options.get("thread_name_prefix") or settings.name
        self._number = 0
        self._closing = False
        self._not_before = 0.0  # no pool is made before, after a failure
        self._inside = threading.local()
        self._news: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._asked = False
        self._feeder = OwnThread(f"{settings.name}-feeder", self._feed)
        self._feeder.start()

    # -- getting workers to work -----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Call parked slots, one for each task that nobody is coming for; the feeder makes more if there are too few."""
        # Without the lock: who parks has looked into the queue under it, after this task was put there or before we look.
        if not self._parked and len(self._slots) >= self._target:
            return
        try:
            if not self._number:
                self._add_slot()  # here, where there are threads to be had: at interpreter exit there may be none
            while (slot := self._released()) is not None:
                slot.pool.apply_async(self._work, (slot,))
        except BaseException:  # Ctrl-C, which may strike after any call
            self._news.put(self._call_again)
            raise
        if len(self._slots) < self._target and self._scheduler.queued > self._coming:
            self._ask()

    def _released(self) -> _Slot | None:
        """Return a parked slot that is to be called, the one that parked last; None: nobody has to be."""
        # A signal handler that submits, or Ctrl-C, may come after each call: a slot that it has called as well is called twice.
        parked = self._parked
        with self._scheduler.lock:
            if self._scheduler.queued <= self._coming:
                return None
            if not parked:
                return None
            slot = parked[-1]
            self._note_coming(slot)
            if parked and parked[-1] is slot:
                parked.pop()
            return slot

    def _call_again(self) -> None:
        """Call those that should be coming: whoever made or released them may not have got to that. In the feeder."""
        with self._scheduler.lock:
            slots = [slot for slot in self._slots if slot.coming or slot.thread is None]
            for slot in slots:
                self._note_coming(slot)
        for slot in slots:
            slot.pool.apply_async(self._begin if slot.thread is None else self._work, (slot,))

    def _note_coming(self, slot: _Slot) -> None:
        """Under the lock."""
        if not slot.coming:  # no call from here on: Ctrl-C finds both done or none
            slot.coming = True
            self._coming += 1

    def _arrived(self, slot: _Slot) -> None:
        """Take note that *slot* looks into the queue, or never will. Under the lock."""
        if slot.coming:
            slot.coming = False
            self._coming -= 1
            if slot in self._parked:  # see `_released`
                self._parked.remove(slot)

    def _ask(self) -> None:
        """Have the feeder look whether there is something for it to do."""
        if not self._asked:  # else it has yet to look
            self._asked = True
            self._news.put(None)

    def _feed(self) -> None:
        while True:
            news = self._news.get()
            try:
                if news is not None:
                    news()
                self._asked = False
                while self._add_if_needed() or self._drop_if_idle():
                    pass
            except Exception:  # every open future depends on this thread
                _log.exception("error in the feeder of %s", self._settings.name)
            del news
            if self._closing:
                with self._scheduler.lock:
                    over = not (self._slots or self._leaving or self._scheduler.queued)
                if over:
                    return

    def _add_if_needed(self) -> bool:
        """Make a slot if tasks wait that nobody is coming for; False: there is no need, or it cannot be done now."""
        missing = self._scheduler.queued > self._coming and len(self._slots) < self._target
        if missing and time.monotonic() >= self._not_before:
            self._add_slot()
            return True
        return False

    def _drop_if_idle(self) -> bool:
        """See off a slot that is parked, if there are too many or nothing more will come."""
        with self._scheduler.lock:
            idle = self._parked and (len(self._slots) > self._target or (self._closing and not self._scheduler.queued))
            slot = self._parked.pop() if idle else None
            if slot is not None:
                self._drop(slot)
        if slot is not None:
            self._leave(slot)
        return slot is not None

    def _add_slot(self) -> None:
        with self._scheduler.lock:
            number = self._number
            self._number = number + 1
        try:
            slot = _Slot(number, f"{self._prefix}_{number}")
        except RuntimeError as error:  # no more threads: the others do the work, if there are any
            self._not_before = time.monotonic() + 0.1
            if not self._slots:
                self._scheduler.break_down(f"no worker thread can be started: {error}", error)
            return
        with self._scheduler.lock:
            self._slots.append(slot)
            self._note_coming(slot)
        slot.pool.apply_async(self._begin, (slot,))

    def _drop(self, slot: _Slot) -> None:
        """Count a slot among those that leave. Under the lock; what ends it follows."""
        self._arrived(slot)
        self._slots.remove(slot)
        self._leaving += 1

    def _leave(self, slot: _Slot) -> None:
        """Have a slot that was dropped end in order. Waits for nothing: its finalizer is the user's."""
        slot.pool.apply_async(self._finalize, (slot,))

    def _gone(self, slot: _Slot) -> None:
        """End the pool of a slot that has nothing left to do, or was abandoned. In the feeder."""
        if slot.abandoned:
            slot.abandon()
        else:
            slot.close()
        with self._scheduler.lock:
            self._leaving -= 1

    # -- in a worker -----------------------------------------------------------------------------------------------------------

    def _begin(self, slot: _Slot) -> None:
        if slot.thread is None:  # else it was called twice, see `_call_again`
            slot.thread = threading.current_thread()
            slot.thread.name = slot.name
            slot.initialized = initialize(self._scheduler)
            slot.meter.reset()
        self._work(slot)

    def _work(self, slot: _Slot) -> None:
        """Run what waits, as *slot*, until nothing does."""
        with self._scheduler.lock:
            if not slot.coming:
                return  # as in `_begin`
            self._arrived(slot)
        self._inside.slot = slot
        try:
            while self._next(slot) and self._run(slot):
                pass
        finally:
            del self._inside.slot

    def _next(self, slot: _Slot) -> bool:
        """Give *slot* the next task; False: there is none, it is parked, or it has done its part."""
        scheduler, limit = self._scheduler, self._settings.max_tasks_per_child
        with scheduler.lock:
            leaves = len(self._slots) > self._target or (limit is not None and slot.done >= limit)
            if leaves:
                self._drop(slot)
            else:
                slot.task = scheduler.take_one()
                if slot.task is None:
                    self._parked.append(slot)
                    closing = self._closing
        if leaves:
            self._news.put(partial(self._leave, slot))
        elif slot.task is not None:
            scheduler.arm_timer()
            return True
        elif closing:
            self._news.put(None)
        return False

    def _run(self, slot: _Slot) -> bool:
        """Run the task of *slot*; False: the slot was given up meanwhile."""
        task = slot.task
        assert task is not None  # noqa: S101 - `_next` has given it one
        outcome = call(self._scheduler, task, slot.name, slot.runner, slot.meter)
        with self._scheduler.lock:
            slot.task = None
            given_up = slot.abandoned  # for good: `stop` looks for the task
        if given_up:
            slot.runner.close()
        slot.done += 1
        self._scheduler.settle_ours((outcome,))
        del task, outcome  # an idle worker keeps nothing alive, nor does the traceback that leads back to this frame
        return not given_up

    def _finalize(self, slot: _Slot) -> None:
        slot.runner.close()
        if slot.initialized:
            finalize(self._scheduler)
        self._news.put(lambda: self._gone(slot))

    # -- stopping --------------------------------------------------------------------------------------------------------------

    def stop(self, task: Task, error: BaseException, cause: Literal["timeout", "killed"]) -> bool:
        """Give the task's place to another pool; the thread itself cannot be stopped."""
        with self._scheduler.lock:
            slot = next((slot for slot in self._slots if slot.task is task), None)
            if slot is None:
                return False
            slot.abandoned = True
            self._drop(slot)
        self._news.put(lambda: self._gone(slot))
        task.worker = slot.name
        note_stack(error, slot.thread)
        self.wake()
        return False

    # -- waiting ---------------------------------------------------------------------------------------------------------------

    def owns_current_thread(self) -> bool:
        return getattr(self._inside, "slot", None) is not None

    def _fewer_wanted(self) -> None:
        self._ask()

    # -- ending ----------------------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        self._closing = True
        self._news.put(None)

    def abort(self, *, force: bool) -> None:
        """Abandon the threads whose tasks run: nobody can stop them."""
        with self._scheduler.lock:
            busy = [slot.task for slot in self._slots if slot.task is not None]
        self._give_up_all(busy, force=force)

    def join(self, timeout: float | None = None) -> bool:
        if self._feeder is threading.current_thread():
            return False
        self._feeder.join(timeout)
        return not self._feeder.is_alive()

    def workers(self) -> list[str]:
        with self._scheduler.lock:
            return sorted(slot.name for slot in self._slots)
