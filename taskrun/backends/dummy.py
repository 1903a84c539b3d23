"""Runs tasks in `multiprocessing.dummy` pools, the threads that look like `multiprocessing`.

A pool of one thread for each slot: a thread that is stuck, or has done its `max_tasks_per_child`, takes no other thread with it
when its pool is given up. A slot takes what waits by itself until nothing does, and is *parked* then: whoever submits calls it,
by one call of C under the scheduler's lock, so that neither Ctrl-C nor who has interrupted that finds it done by halves.
One thread of ours, the *feeder*, makes slots and sees them off; others speak to it through a SimpleQueue, which is re-entrant.
The scheduler's lock guards `_slots`, `_parked`, `_leaving` and what slots are at.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from functools import partial
from operator import methodcaller
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
        self.calls: SimpleQueue[bool] = SimpleQueue()  # True: look into the queue; False: end
        self.waiting = False  # for a call, or it has one and has not looked into the queue yet
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


_call = methodcaller("put", True)


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
        self._parked: list[SimpleQueue[bool]] = []  # by which those can be called that wait for it; the last one was busy last
        self._leaving = 0  # slots no longer among those above whose pools are still to be ended
        self._prefix = settings.backend_options.get("thread_name_prefix") or settings.name
        self._number = 0
        self._closing = False
        self._failures = StartFailures("pools of a thread")
        self._waits_for_room = False  # there might be one more slot, if there were threads and descriptors
        self._inside = threading.local()
        self._news: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._asked = False
        self._feeder = OwnThread(f"{settings.name}-feeder", self._feed)
        self._feeder.start()

    # -- getting workers to work -----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        if not self._number:
            self._add_slot()  # here, where there are threads to be had: at interpreter exit there may be none
        waiting = self._scheduler.queued
        if waiting and self._parked:
            waiting = self._call_parked()
        if waiting and len(self._slots) != self._target:  # else they look into the queue when they are through
            self._ask_feeder()

    def _call_parked(self) -> int:
        """Have as many parked slots look into the queue as tasks wait there; return how many are left."""
        while True:
            with self._scheduler.lock:
                called = sum(slot.waiting for slot in self._slots) - len(self._parked)
                waiting = self._scheduler.queued - called
                if waiting <= 0 or not self._parked or len(self._slots) > self._target:
                    return waiting
                with suppress(IndexError):  # a destructor has submitted something just now
                    any(map(_call, map(self._parked.pop, (-1,))))

    def _ask_feeder(self) -> None:
        if not self._asked:  # else it has yet to look
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
                while self._end_parked():
                    pass
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
        """Call slots that are parked, end one that is too many, or make one; False: nothing more can be done now."""
        if len(self._slots) > self._target and self._end_parked():
            return True
        if self._call_parked() <= 0 or len(self._slots) >= self._target:
            return False
        with self._scheduler.lock:
            coming = sum(slot.task is None for slot in self._slots)
        return self._scheduler.queued > coming and self._add_slot()

    def _end_parked(self) -> bool:
        """End one of the parked slots; False: there is none."""
        with self._scheduler.lock:
            slot = next((slot for slot in self._slots if slot.calls in self._parked), None)
            if slot is None:
                return False
            self._parked.remove(slot.calls)
            self._take_out(slot)
        slot.calls.put(False)
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
        slot.pool.apply_async(self._work, (slot,))
        return True

    def _take_out(self, slot: _Slot) -> None:
        """Under the lock."""
        self._slots.remove(slot)
        self._leaving += 1

    def _gone(self, slot: _Slot) -> None:
        """End the pool of a slot that has nothing left to do, or was abandoned. In the feeder."""
        if slot.abandoned:
            slot.abandon()
        else:
            slot.close()
        with self._scheduler.lock:
            self._leaving -= 1

    # -- in a worker -----------------------------------------------------------------------------------------------------------

    def _work(self, slot: _Slot) -> None:
        """What runs in the slot's pool, from beginning to end."""
        slot.thread = threading.current_thread()
        slot.thread.name = slot.name
        slot.initialized = initialize(self._scheduler)
        slot.meter.reset()
        self._inside.slot = slot
        try:
            while self._run_what_waits(slot) and slot.calls.get():
                pass
        finally:
            del self._inside.slot
        if slot.abandoned:
            return
        slot.runner.close()
        if slot.initialized:
            finalize(self._scheduler)
        self._news.put(partial(self._gone, slot))

    def _run_what_waits(self, slot: _Slot) -> bool:
        """Run tasks until none waits; True: the slot is parked, False: it ends."""
        while (task := self._next(slot)) is not None:
            if not self._run(slot, task):
                return False
            del task  # nor does the frame that waits for the next one
        return slot.waiting

    def _run(self, slot: _Slot, task: Task) -> bool:
        """Run the task of *slot*; False: it was given up meanwhile."""
        outcome = call(self._scheduler, task, slot.name, slot.runner, slot.meter)
        with self._scheduler.lock:
            slot.task = None
            given_up = slot.abandoned  # for good: `stop` looks for the task
        if given_up:
            slot.runner.close()
        slot.done += 1
        self._scheduler.settle_ours((outcome,))
        del outcome  # an idle worker keeps nothing alive, nor does the traceback that leads back to this frame
        return not given_up

    def _next(self, slot: _Slot) -> Task | None:
        """Give *slot* the next task; None: there is none, and it is parked, or it has done its part."""
        scheduler, limit = self._scheduler, self._settings.max_tasks_per_child
        with scheduler.lock:
            slot.waiting = False
            ends = len(self._slots) > self._target or (limit is not None and slot.done >= limit)
            task = slot.task = None if ends else scheduler.take_one()
            if task is None and (ends or self._closing):
                self._take_out(slot)
            elif task is None:
                slot.waiting = True
                self._parked.append(slot.calls)
        if task is not None:
            scheduler.arm_timer()
        elif not slot.waiting or scheduler.queued or self._closing:  # as it ends; or in between a destructor has submitted
            self._ask_feeder()  # something and found nobody to call, or another thread has closed
        return task

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
        self._news.put(partial(self._gone, slot))
        task.worker = slot.name
        note_stack(error, slot.thread)
        self._ask_feeder()
        return False

    # -- waiting ---------------------------------------------------------------------------------------------------------------

    def owns_current_thread(self) -> bool:
        return getattr(self._inside, "slot", None) is not None

    def _fewer_wanted(self) -> None:
        self._ask_feeder()

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
