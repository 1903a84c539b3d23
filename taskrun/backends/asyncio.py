"""Runs coroutine functions on an event loop in a thread of its own, and plain functions in threads beside it.

The loop's thread pulls tasks, as many as `max_workers`, coroutines and plain ones together. A coroutine costs no thread. A
plain function goes to a thread, and if it gives a coroutine (a partial or a lambda does), that is awaited on the loop.

Locks. The scheduler's lock guards `_busy`, `_held` and the lists of threads. Who wants something of the loop appends to a deque
and wakes it, so `wake` may be called from signal handlers. A plain task is *held* between being pulled and being taken up by a
thread, and can be given back until then.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections import deque
from contextlib import suppress
from contextvars import copy_context
from queue import SimpleQueue
from typing import TYPE_CHECKING, ClassVar, Literal

from taskrun.backends.base import Capabilities
from taskrun.backends.calls import call
from taskrun.backends.on_a_loop import OnTheLoop, call_coroutine
from taskrun.backends.thread_like import ThreadLikeBackend, finalize, initialize, note_stack, try_initializer
from taskrun.coroutines import new_loop
from taskrun.engine.start_failures import StartFailures, look_for_descriptors
from taskrun.errors import TaskKilledError
from taskrun.threads import OwnThread

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler
    from taskrun.task import Task

__all__ = ["AsyncioBackend"]

_log = logging.getLogger("taskrun")

_FOR_A_LOOP = 3  # descriptors: a selector, and the two ends by which it is woken
_PATIENCE = 1.0  # seconds for cancelled coroutines to wind up at the end


class _Worker(OwnThread):
    """A thread for plain functions."""

    def __init__(self, backend: AsyncioBackend, number: int, prefix: str) -> None:
        super().__init__(f"{prefix}_{number}", backend._work, self)
        self.runner = OnTheLoop(lambda: backend._loop)
        self.abandoned = False  # its task timed out or was killed; another thread has its place


class AsyncioBackend(ThreadLikeBackend):
    """Coroutines are really stopped by a timeout or `kill`; a thread is abandoned and replaced."""

    name: ClassVar[str] = "asyncio"
    option_names: ClassVar = {"thread_name_prefix": "str: how the threads for plain functions are named, before _0, _1, ..."}
    capabilities = Capabilities(kill="coroutines")

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        """Start the loop's thread; others start when there is work for them."""
        self._scheduler = scheduler
        self._settings = settings
        self._prefix = settings.backend_options.get("thread_name_prefix") or settings.name
        self._target = settings.max_workers  # grows while a task waits for another one of its own executor
        self._busy: dict[Task, asyncio.Task[None] | _Worker] = {}
        self._held: dict[Task, None] = {}
        self._handed: SimpleQueue[Task | None] = SimpleQueue()  # to the threads; None: look whether you are wanted
        self._workers: set[_Worker] = set()
        self._leaving: list[_Worker] = []  # no workers any more, and perhaps not ended yet
        self._number = 0
        self._ready = False  # the loop's thread is; the others see to themselves
        self._not_before = 0.0  # the initializer is not tried again before
        self._closing = self._aborting = False
        self._over = False
        self._asked = False
        self._wishes: deque[Callable[[], object]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.thread = OwnThread(f"{settings.name}-loop", self._run_loop)
        self.thread.start()

    # -- getting workers to work -----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        if not self._number:
            self._staff(1)  # here, where there are threads to be had: at interpreter exit there may be none
        if not self._asked:  # else the loop has yet to look
            self._asked = True
            try:
                self.tell(self._feed)
            except BaseException:  # Ctrl-C: the loop may know nothing of it, and the next one has to tell it
                self._asked = False
                raise

    def tell(self, wish: Callable[[], object]) -> None:
        """Have *wish* called on the loop soon. Safe anywhere: it only appends and wakes."""
        self._wishes.append(wish)
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits for anything any more
                loop.call_soon_threadsafe(self._grant)

    def _grant(self) -> None:
        while self._wishes:
            try:
                self._wishes.popleft()()
            except Exception:  # every open future depends on the others
                _log.exception("error on the loop of %s", self._settings.name)

    def _feed(self) -> None:
        """Pull while there is room. On the loop."""
        self._asked = False
        scheduler = self._scheduler
        if not self._ready and time.monotonic() < self._not_before:
            return
        while len(self._busy) + len(self._held) < self._target and (tasks := scheduler.pull(1)):
            if not inspect.iscoroutinefunction(tasks[0].fn):
                self._hand_over(tasks[0])
            elif self._initialized():
                self._start_coroutine(tasks[0])
            else:
                scheduler.give_back(tasks)
                break
        self._staff()
        self._end_if_idle()

    def _start_coroutine(self, task: Task) -> None:
        scheduler = self._scheduler
        if scheduler.begin(task):
            context = copy_context() if task.context is None else task.context.copy()
            with scheduler.lock:
                self._busy[task] = asyncio.get_running_loop().create_task(self._await(task), context=context)

    def _hand_over(self, task: Task) -> None:
        with self._scheduler.lock:
            self._held[task] = None
        self._handed.put(task)

    def _staff(self, least: int = 0) -> None:
        """Start threads for the tasks that are held, if those that are idle do not suffice; *least*: so many at any rate."""
        while True:
            with self._scheduler.lock:
                if self._over:
                    return  # nothing is left to do, and nobody would tell this one
                busy = sum(type(each) is _Worker for each in self._busy.values())
                if len(self._workers) - busy >= max(least, len(self._held)):
                    return
                worker = self._new_worker()
            try:
                worker.start()
            except RuntimeError as error:  # no more threads: the others do the work, if there are any
                with self._scheduler.lock:
                    self._workers.discard(worker)
                    alone = not self._workers
                if alone:
                    self.recall()
                    self._scheduler.break_down(f"no worker thread can be started: {error}", error)
                return

    def _new_worker(self) -> _Worker:
        """Register one more thread. Under the lock; start it outside."""
        worker = _Worker(self, self._number, self._prefix)
        self._number += 1
        self._workers.add(worker)
        return worker

    def _initialized(self) -> bool:
        """Run the initializer in the loop's thread, before its first coroutine; False: it failed, look again later."""
        if not self._ready and time.monotonic() >= self._not_before:
            pause = try_initializer(self._scheduler)
            self._ready = pause == 0.0
            if pause is None:
                self._not_before = float("inf")
            elif pause:
                self._not_before = time.monotonic() + pause
                asyncio.get_running_loop().call_later(pause, self._feed)
        return self._ready

    # -- in a worker -----------------------------------------------------------------------------------------------------------

    async def _await(self, task: Task) -> None:
        """Run a coroutine function's task and report it."""
        outcome = await call_coroutine(self._scheduler, task, self.thread.name)
        if self._aborting and isinstance(outcome[2], asyncio.CancelledError):
            error = TaskKilledError(f"task {task.name!r} was stopped with its executor", task=task.name, attempt=task.number)
            outcome = (task, False, error, "killed", outcome[4])
        with self._scheduler.lock:
            ours = self._busy.pop(task, None) is not None  # else it was stopped: who did that says so, not the cancelled code
        if ours:
            self._scheduler.settle((outcome,))
        del task, outcome
        self._feed()

    def _work(self, worker: _Worker) -> None:
        scheduler = self._scheduler
        if not initialize(scheduler):
            self._let_go(worker)
            self.recall()
            self.wake()
            return
        while not worker.abandoned:
            task = self._handed.get()
            if task is not None:
                self._run(worker, task)
            del task  # an idle worker keeps nothing alive
            with scheduler.lock:
                if self._over or len(self._workers) > self._target:
                    break
            self.wake()
        if not worker.abandoned:
            finalize(scheduler)
        self._let_go(worker)
        self.wake()

    def _let_go(self, worker: _Worker) -> None:
        with self._scheduler.lock:
            self._workers.discard(worker)
            self._leaving = [*(each for each in self._leaving if each.is_alive()), worker]

    def _run(self, worker: _Worker, task: Task) -> None:
        scheduler = self._scheduler
        with scheduler.lock:
            if task not in self._held:
                return  # given back meanwhile
            del self._held[task]
            self._busy[task] = worker
        outcome = call(scheduler, task, worker.name, worker.runner) if scheduler.begin(task) else None
        with scheduler.lock:
            ours = self._busy.pop(task, None) is not None  # else it was stopped, and this thread with it; as in `_await`
        if ours and outcome is not None:
            scheduler.settle((outcome,))
        del task, outcome  # the frames of an error's traceback lead back to this one: it must not lead to the error

    # -- taking back -----------------------------------------------------------------------------------------------------------

    def revoke(self, task: Task) -> bool:
        with self._scheduler.lock:
            held = task in self._held
            if held:
                del self._held[task]
        return held

    def recall(self) -> None:
        held: list[Task] = []
        try:
            with self._scheduler.lock:
                held += self._held
                self._held.clear()
            self._scheduler.give_back(held)
        except BaseException:  # Ctrl-C: nobody else knows of them
            self._scheduler.give_back(held)
            raise

    # -- stopping --------------------------------------------------------------------------------------------------------------

    def stop(self, task: Task, error: BaseException, cause: Literal["timeout", "killed"]) -> bool:
        """Cancel a coroutine, abandon a thread; its place is free for another task in either case."""
        with self._scheduler.lock:
            runs = self._busy.pop(task, None)
            if isinstance(runs, _Worker):
                runs.abandoned = True
                self._workers.discard(runs)
        if isinstance(runs, _Worker):
            task.worker = runs.name
            note_stack(error, runs)
            runs.runner.cancel()
        elif runs is not None:
            task.worker = self.thread.name
            self.tell(runs.cancel)
        self.wake()
        return False

    # -- waiting ---------------------------------------------------------------------------------------------------------------

    def owns_current_thread(self) -> bool:
        current = threading.current_thread()
        return current is self.thread or current in self._workers

    def waiting(self) -> AbstractContextManager[None]:
        if threading.current_thread() is self.thread:
            raise RuntimeError(
                "waiting for a task of the same executor in a coroutine would stop the event loop that has to run it; "
                "await the future"
            )
        return super().waiting()

    def _fewer_wanted(self) -> None:
        """Have every thread look whether it is still wanted."""
        with self._scheduler.lock:
            workers = len(self._workers)
        for _ in range(workers):
            self._handed.put(None)

    # -- ending ----------------------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        self._closing = True
        self.tell(self._end_if_idle)

    def abort(self, *, force: bool) -> None:
        """Cancel the coroutines; abandon the threads that run something: nobody can stop them."""
        self._aborting = True
        self.recall()
        with self._scheduler.lock:
            busy = list(self._busy.items())
        for _, runs in busy:
            if not (force or isinstance(runs, _Worker)):
                self.tell(runs.cancel)
        self._give_up_all([task for task, _ in busy], force=force)

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the loop and for the threads that are not abandoned."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._scheduler.lock:
            threads: list[OwnThread] = [self.thread, *self._workers, *self._leaving]
        for thread in threads:
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() and not getattr(thread, "abandoned", False) for thread in threads)

    def workers(self) -> list[str]:
        loop = [self.thread.name] if self.thread.is_alive() else []
        with self._scheduler.lock:
            return sorted([*loop, *(worker.name for worker in self._workers)])

    def _end_if_idle(self) -> None:
        """After `shutdown`: end the loop, and the threads, once nothing is left to do. On the loop."""
        idle = not (self._busy or self._held or self._scheduler.queued)
        if self._closing and idle and not self._over:
            self._over = True  # what winds the loop up runs on it
            asyncio.get_running_loop().stop()

    def _run_loop(self) -> None:
        loop = self._new_loop()
        if loop is None:
            self._over = True
            self._fewer_wanted()
            return
        try:
            loop.call_soon(self._grant)  # what was wished for before there was a loop
            self._loop = loop
            loop.run_forever()
            self._fewer_wanted()
            if self._ready:
                finalize(self._scheduler)
            loop.run_until_complete(_wind_up(loop))
        finally:
            loop.set_exception_handler(lambda *_: None)  # of coroutines that did not heed their cancellation
            loop.close()

    def _new_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return a loop, when there are descriptors for it; None: there were none for long, or it is not wanted any more."""
        failures = StartFailures("event loops")
        while True:
            try:
                look_for_descriptors(_FOR_A_LOOP)  # what is made by halves may take what others wait for
                return new_loop()
            except OSError as error:
                verdict = failures.add(error, somebody_works=False)
                if verdict is not None:
                    self._scheduler.break_down(verdict, error)
                    return None
            if self._aborting or (self._closing and not self._scheduler.queued):
                return None
            time.sleep(max(0.0, failures.not_before - time.monotonic()))


async def _wind_up(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what is left on the loop and give it a moment; end what belongs to the loop."""
    left = [task for task in asyncio.all_tasks(loop) if task is not asyncio.current_task()]
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=_PATIENCE)
    await loop.shutdown_asyncgens()
    with suppress(TimeoutError):
        await asyncio.wait_for(loop.shutdown_default_executor(), _PATIENCE)
