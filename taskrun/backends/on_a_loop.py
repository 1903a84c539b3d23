"""Awaiting tasks on the loop of the asyncio backend: a coroutine function's from the loop, any other's from a thread."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from taskrun.backends.calls import outcome_of
from taskrun.backends.soft_timeout import SoftTimeout
from taskrun.coroutines import Interruptible, Interrupts
from taskrun.exception_text import without_first_frame
from taskrun.task import Entered, entered

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable, Coroutine

    from taskrun.scheduler import Outcome, Scheduler
    from taskrun.task import Task

__all__ = ["OnTheLoop", "call_coroutine"]


class OnTheLoop(Interrupts):
    """Awaits on the loop, for a thread, the coroutine that a plain function gave; in the place of a `CoroutineRunner`."""

    def __init__(self, loop: Callable[[], asyncio.AbstractEventLoop | None]) -> None:
        super().__init__()
        self._loop = loop
        self._future: concurrent.futures.Future[Any] | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Return what *coroutine* returns."""
        loop = self._loop()
        assert loop is not None  # noqa: S101 - it has given us the task
        with self._lock:
            running = self._running = Interruptible(coroutine)
            future = self._future = asyncio.run_coroutine_threadsafe(running.main(), loop)
        try:
            return future.result()
        finally:
            with self._lock:
                self._running = self._future = None

    def cancel(self) -> None:
        """Cancel what is awaited: the thread that waits is abandoned."""
        with self._lock:
            if self._future is not None:
                self._future.cancel()


async def call_coroutine(scheduler: Scheduler, task: Task, worker: str) -> Outcome:
    """Do as `calls.call` does, for a coroutine function on its loop. Raises nothing."""
    fn, args, kwargs, options = task.fn, task.args, task.kwargs, task.options  # a deadline may settle the task, and empty it
    current = Entered((task, fn, scheduler.settings.max_workers))
    entered.set(current)  # the context is this task's own
    alarm, error, value, running = None, None, None, None
    started = time.monotonic()
    try:
        running = Interruptible(fn(*args, **kwargs))
        if options.soft_timeout is not None:
            alarm = SoftTimeout(scheduler.timer, Interrupts(running), options.soft_timeout, current.current().name, task.number)
        try:
            value = await running.main()
        finally:
            if alarm is not None:
                alarm.disarm()
    except BaseException as raised:  # an outcome like any other: SystemExit of a task must not end the loop
        error = without_first_frame(raised)
    run = (worker, started, time.monotonic() - started, None, None)
    try:
        return outcome_of(task, value, error, alarm, run)
    finally:
        del task, fn, args, kwargs, current, error, value, alarm, running  # as in `call`
