"""Runs tasks in `multiprocessing.dummy` pools, the threads that look like `multiprocessing`.

A pool of one thread for each slot: a thread that is stuck, or has done its `max_tasks_per_child`, takes no other thread with it
when its pool is given up. One thread of ours, the *feeder*, owns the slots: it hands a task to one that is free, which then
takes what waits by itself until nothing does. Others speak to the feeder through a SimpleQueue, which is re-entrant. The
scheduler's lock guards `_slots`, `_leaving` and `_all_at_work`, since `stop` takes slots away from other threads.
"""

from __future__ import annotations

import logging
import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, ClassVar, Literal

from taskrun.backends.base import Capabilities
from taskrun.backends.calls import call
from taskrun.backends.thread_like import ThreadLikeBackend, finalize, initialize, note_stack
from taskrun.coroutines import CoroutineRunner
from taskrun.cpu_meter import CpuMeter
from taskrun.engine.start_failures import StartFailures
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
        self.ready = False  # and without a task
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
        self._leaving = 0  # slots no longer among those above whose pools are still to be ended
        self._prefix = settings.backend_options.get("thread_name_prefix") or settings.name
        self._number = 0
        self._closing = False
        self._failures = StartFailures("pools of a thread")
        self._waits_for_room = False  # there might be one more slot, if there were threads and descriptors
        self._inside = threading.local()
        self._news: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._asked = False
        self._all_at_work = False  # whoever finds no task says so to the feeder, which looks again before this changes
        self._feeder = OwnThread(f"{settings.name}-feeder", self._feed)
        self._feeder.start()

    # -- getting workers to work -----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        if not self._number:
            self._add_slot()  # here, where there are threads to be had: at interpreter exit there may be none
        if self._all_at_work and len(self._slots) >= self._target:
            return  # they look into the queue when they are through
        if not self._asked:  # else the feeder has yet to look
            self._asked = True
            self._news.put(None)

    def _feed(self) -> None:
        while True:
            try:
                news = self._news.get(timeout=self._until_next_try())
            except Empty:
                news = None
            try:
                if news is not None:
                    news()
                self._asked = False
                while self._hand_over():
                    pass
            except Exception:  # every open future depends on this thread
                _log.exception("error in the feeder of %s", self._settings.name)
            del news
            if self._closing and not self._scheduler.queued:
                for slot in [slot for slot in self._slots if slot.ready]:
                    self._leave(slot)
                with self._scheduler.lock:
                    over = not (self._slots or self._leaving)
                if over:
                    return

    def _until_next_try(self) -> float | None:
        """Return how long to wait for news, where tasks wait for a slot that could not be made; None: until there are some."""
        if not (self._waits_for_room and self._scheduler.queued):
            return None
        self._waits_for_room = False  # until it was tried again
        return max(0.0, self._failures.not_before - time.monotonic())

    def _hand_over(self) -> bool:
        """Give one task to a free slot, or make a slot; False: nothing more can be done now."""
        scheduler = self._scheduler
        with scheduler.lock:
            free = next((slot for slot in self._slots if slot.ready), None)
            coming = sum(not slot.ready and slot.task is None for slot in self._slots)
            self._all_at_work = free is None
        if free is not None and len(self._slots) > self._target:
            self._leave(free)
            return True
        if free is None:
            if scheduler.queued > coming and len(self._slots) < self._target:
                return self._add_slot()
            return False
        with scheduler.lock:
            free.task = scheduler.take_one()
            free.ready = free.task is None
        if free.ready:
            return False
        scheduler.arm_timer()
        free.pool.apply_async(self._work, (free,))
        return True

    def _add_slot(self) -> bool:
        """Make a slot; False: it cannot be had now."""
        if time.monotonic() < self._failures.not_before:
            self._waits_for_room = True
            return False
        with self._scheduler.lock:
            number = self._number
            self._number = number + 1
        try:
            slot = _Slot(number, f"{self._prefix}_{number}")
        except (RuntimeError, OSError) as error:  # no more threads, or descriptors: the others do the work, if there are any
            self._waits_for_room = True
            verdict = self._failures.add(error, somebody_works=bool(self._slots))
            if isinstance(error, RuntimeError) and not self._slots:
                verdict = f"no worker thread can be started: {error}"
            if verdict is not None:
                self._scheduler.break_down(verdict, error)
            return False
        self._failures.progress()
        with self._scheduler.lock:
            self._slots.append(slot)
        slot.pool.apply_async(self._initialize, (slot,))
        return True

    def _leave(self, slot: _Slot) -> None:
        """Have a free slot end in order. Waits for nothing: its finalizer is the user's."""
        with self._scheduler.lock:
            self._slots.remove(slot)
            self._leaving += 1
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

    def _initialize(self, slot: _Slot) -> None:
        slot.thread = threading.current_thread()
        slot.thread.name = slot.name
        slot.initialized = initialize(self._scheduler)
        slot.meter.reset()
        self._news.put(lambda: self._free(slot))

    def _work(self, slot: _Slot) -> None:
        """Run the task that *slot* was given, and whatever waits: to ask the feeder each time takes 20 times as long."""
        self._inside.slot = slot
        try:
            while self._run(slot) and self._next(slot):
                pass
        finally:
            del self._inside.slot
        self._news.put(lambda: self._free(slot))

    def _run(self, slot: _Slot) -> bool:
        """Run the task of *slot*; False: it was given up meanwhile."""
        task = slot.task
        if task is None:
            return False
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

    def _next(self, slot: _Slot) -> bool:
        """Give *slot* the next task; False: there is none, or it has done its part."""
        scheduler, limit = self._scheduler, self._settings.max_tasks_per_child
        with scheduler.lock:
            if len(self._slots) > self._target or (limit is not None and slot.done >= limit):
                return False
            slot.task = scheduler.take_one()
            if slot.task is None:
                return False
        scheduler.arm_timer()
        return True

    def _free(self, slot: _Slot) -> None:
        """Take note that *slot* can take a task, unless it was abandoned or has done its part. In the feeder."""
        limit = self._settings.max_tasks_per_child
        if slot.abandoned:
            return
        if limit is not None and slot.done >= limit:
            self._leave(slot)
        else:
            slot.ready = True

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
            self._slots.remove(slot)
            self._leaving += 1
        self._news.put(lambda: self._gone(slot))
        task.worker = slot.name
        note_stack(error, slot.thread)
        self.wake()
        return False

    # -- waiting ---------------------------------------------------------------------------------------------------------------

    def owns_current_thread(self) -> bool:
        return getattr(self._inside, "slot", None) is not None

    def _fewer_wanted(self) -> None:
        self.wake()

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
