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
import sys
import threading
import time
import traceback
from collections import deque
from contextlib import contextmanager, nullcontext, suppress
from contextvars import copy_context
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from taskrun.backends.base import Backend, Capabilities
from taskrun.backends.calls import call
from taskrun.backends.soft_timeout import SoftTimeout
from taskrun.coroutines import Interruptible
from taskrun.errors import TaskKilledError, TaskTimeoutError
from taskrun.task import CurrentTask, entered
from taskrun.threads import OwnThread

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from contextlib import AbstractContextManager

    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Outcome, Scheduler
    from taskrun.task import Task

__all__ = ["AsyncioBackend"]

_PATIENCE = 1.0  # seconds for cancelled coroutines to wind up at the end


class _Worker(OwnThread):
    """A thread for plain functions."""

    def __init__(self, backend: AsyncioBackend, number: int, prefix: str) -> None:
        super().__init__(f"{prefix}_{number}", backend._work, self)
        self.runner = _OnTheLoop(backend)
        self.abandoned = False  # its task timed out or was killed; another thread has its place


class AsyncioBackend(Backend):
    """Coroutines are really stopped by a timeout or `kill`; a thread is abandoned and replaced."""

    name: ClassVar[str] = "asyncio"
    shares_context = True
    option_names: ClassVar = {"thread_name_prefix": "str: how the threads for plain functions are named, before _0, _1, ..."}
    capabilities = Capabilities(kill="coroutines")

    @classmethod
    def default_max_workers(cls, cpus: int) -> int:
        """More than CPUs, as in the standard library: tasks here mostly wait."""
        return min(32, cpus + 4)

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
            self.tell(self._feed)

    def tell(self, wish: Callable[[], object]) -> None:
        """Have *wish* called on the loop soon. Safe anywhere: it only appends and wakes."""
        self._wishes.append(wish)
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits for anything any more
                loop.call_soon_threadsafe(self._grant)

    def _grant(self) -> None:
        while self._wishes:
            self._wishes.popleft()()

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
            pause = self._initialize()
            self._ready = pause == 0.0
            if pause is None:
                self._not_before = float("inf")
            elif pause:
                self._not_before = time.monotonic() + pause
                asyncio.get_running_loop().call_later(pause, self._feed)
        return self._ready

    def _initialize(self) -> float | None:
        """Run the initializer; return 0.0, or after a failure the seconds to wait before the next try, None: no more."""
        initializer = self._settings.initializer
        try:
            if initializer is not None:
                initializer(*self._settings.initargs)
        except BaseException as error:  # the user's initializer may raise anything; every future says so
            return self._scheduler.initializer_failed(error)
        self._scheduler.initializer_ok()
        return 0.0

    # -- in a worker -----------------------------------------------------------------------------------------------------------

    async def _await(self, task: Task) -> None:
        """Run a coroutine function's task and report it."""
        runner = _Awaited()
        outcome = await _call_async(self._scheduler, task, self.thread.name, runner)
        if self._aborting and isinstance(outcome[2], asyncio.CancelledError):
            error = TaskKilledError(f"task {task.name!r} was stopped with its executor", task=task.name, attempt=task.number)
            outcome = (task, False, error, "killed", outcome[4])
        with self._scheduler.lock:
            self._busy.pop(task, None)
        self._scheduler.settle((outcome,))
        del task, outcome
        self._feed()

    def _work(self, worker: _Worker) -> None:
        scheduler = self._scheduler
        while (pause := self._initialize()) is not None and pause:
            time.sleep(pause)
        if pause is None:
            with scheduler.lock:
                self._workers.discard(worker)
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
            self._finalize()
        with scheduler.lock:
            self._workers.discard(worker)
        self.wake()

    def _run(self, worker: _Worker, task: Task) -> None:
        scheduler = self._scheduler
        with scheduler.lock:
            if task not in self._held:
                return  # given back meanwhile
            del self._held[task]
            self._busy[task] = worker
        if scheduler.begin(task):
            scheduler.settle((call(scheduler, task, worker.name, worker.runner),))
        with scheduler.lock:
            if self._busy.get(task) is worker:  # else it was stopped, and this thread with it
                del self._busy[task]

    def _finalize(self) -> None:
        if self._settings.finalizer is not None:
            try:
                self._settings.finalizer()
            except BaseException:
                traceback.print_exc()  # nobody waits for its outcome

    # -- taking back and stopping ----------------------------------------------------------------------------------------------

    def revoke(self, task: Task) -> bool:
        with self._scheduler.lock:
            held = task in self._held
            if held:
                del self._held[task]
        return held

    def recall(self) -> None:
        with self._scheduler.lock:
            held = list(self._held)
            self._held.clear()
        self._scheduler.give_back(held)

    def stop(self, task: Task, error: BaseException, cause: Literal["timeout", "killed"]) -> bool:
        """Cancel a coroutine, abandon a thread; its place is free for another task in either case."""
        with self._scheduler.lock:
            runs = self._busy.pop(task, None)
            if isinstance(runs, _Worker):
                runs.abandoned = True
                self._workers.discard(runs)
        if isinstance(runs, _Worker):
            task.worker = runs.name
            frame = sys._current_frames().get(runs.ident or 0)
            if frame is not None and isinstance(error, TaskTimeoutError):
                error.stack = "".join(traceback.format_stack(frame))
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
        return self.one_more() if self.owns_current_thread() else nullcontext()

    @contextmanager
    def one_more(self) -> Iterator[None]:
        with self._scheduler.lock:
            self._target += 1
        self.wake()
        try:
            yield
        finally:
            with self._scheduler.lock:
                self._target -= 1
            self._let_go()

    def _let_go(self) -> None:
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
        for task, runs in busy:
            task.cancel_requested = True
            if force:
                error = TaskKilledError(f"task {task.name!r} was abandoned when its executor was stopped", task=task.name)
                self.stop(task, error, "killed")
                self._scheduler.fail(task, error, "killed")
            elif not isinstance(runs, _Worker):
                self.tell(runs.cancel)

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the loop and for the threads that are not abandoned."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._scheduler.lock:
            threads: list[OwnThread] = [self.thread, *self._workers]
        for thread in threads:
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() and not getattr(thread, "abandoned", False) for thread in threads)

    def workers(self) -> list[str]:
        with self._scheduler.lock:
            return sorted([self.thread.name, *(worker.name for worker in self._workers)])

    def _end_if_idle(self) -> None:
        """After `shutdown`: end the loop, and the threads, once nothing is left to do. On the loop."""
        idle = not (self._busy or self._held or self._scheduler.queued)
        if self._closing and idle and not self._over:
            self._over = True  # what winds the loop up runs on it
            asyncio.get_running_loop().stop()

    def _run_loop(self) -> None:
        loop = asyncio.new_event_loop()
        try:
            loop.call_soon(self._grant)  # what was wished for before there was a loop
            self._loop = loop
            loop.run_forever()
            self._let_go()
            if self._ready:
                self._finalize()
            loop.run_until_complete(_wind_up(loop))
        finally:
            loop.set_exception_handler(lambda *_: None)  # of coroutines that did not heed their cancellation
            loop.close()


class _Awaited:
    """What a soft timeout interrupts: a coroutine on the loop."""

    def __init__(self) -> None:
        self._running: Interruptible | None = None

    def wrap(self, coroutine: Coroutine[Any, Any, Any]) -> Interruptible:
        self._running = Interruptible(coroutine)
        return self._running

    def interrupt(self, error: BaseException, otherwise: Callable[[], object]) -> bool:
        running = self._running
        if running is not None:
            running.interrupt(error)
        return True  # never in the thread: other tasks run in it


class _OnTheLoop:
    """Awaits on the loop, for a thread, the coroutine that a plain function gave."""

    def __init__(self, backend: AsyncioBackend) -> None:
        self._backend = backend
        self._running: Interruptible | None = None
        self._future: Any = None
        self._lock = threading.RLock()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        loop = self._backend._loop
        assert loop is not None  # noqa: S101 - it has given us the task
        with self._lock:
            running = self._running = Interruptible(coroutine)
            self._future = asyncio.run_coroutine_threadsafe(running.main(), loop)
        try:
            return self._future.result()
        finally:
            with self._lock:
                self._running = self._future = None

    def interrupt(self, error: BaseException, otherwise: Callable[[], object]) -> bool:
        with self._lock:
            if self._running is None:
                otherwise()
                return False
            self._running.interrupt(error)
            return True

    def cancel(self) -> None:
        with self._lock:
            if self._future is not None:
                self._future.cancel()


async def _call_async(scheduler: Scheduler, task: Task, worker: str, runner: _Awaited) -> Outcome:
    """Do as `calls.call` does, for a coroutine function. Raises nothing."""
    fn, args, kwargs, options = task.fn, task.args, task.kwargs, task.options
    begun, soft = task.begun, options.soft_timeout
    deadline = None if options.timeout is None or begun is None else begun + options.timeout
    workers = scheduler.settings.max_workers
    current = CurrentTask(options.name or fn, task.index, task.number, deadline, task.seed_root, task, workers)
    entered.set(current)  # the context is this task's own
    alarm, error, value = None, None, None
    started = time.monotonic()
    try:
        if soft is not None:
            alarm = SoftTimeout(scheduler.timer, runner, soft, current.name, task.number)
        try:
            value = await runner.wrap(fn(*args, **kwargs)).main()
        finally:
            if alarm is not None:
                alarm.disarm()
    except BaseException as raised:  # an outcome like any other: SystemExit of a task must not end the loop
        error = raised.with_traceback(raised.__traceback__ and raised.__traceback__.tb_next)
    run = (worker, started, time.monotonic() - started, None, None)
    try:
        if error is None:
            return task, True, value, None, run
        timed_out = alarm.public(error) if alarm is not None else None
        if timed_out is not None:
            return task, False, timed_out, "timeout", run
        return task, False, error, "raised", run
    finally:
        del task, fn, args, kwargs, current, error, value, alarm


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
