"""Runs each task in a child of its own, made by `os.fork`: arguments and closures are inherited, only the outcome is pickled.

One thread of ours, the *keeper*, makes the children, watches them and reaps them; others speak to it through a deque and a
descriptor. A child inherits everything as it is at the fork, the locks that other threads hold among it: those of `logging` are
seen to by Python, the import locks here; nobody can free the user's.

What the kernel is asked for is in `engine.posix`; how a child is stopped, and what its death is made into, the engine's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import threading
import time
import warnings
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from taskrun.backends.base import Backend, Capabilities
from taskrun.errors import UnsafeForkWarning
from taskrun.threads import OwnThread, call_soon, threads_of_others

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskrun.engine.forked import ForkedChild
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler
    from taskrun.task import Cause, Task

__all__ = ["ForkBackend"]

_log = logging.getLogger("taskrun")


class ForkBackend(Backend):
    """A child that dies fails only its own task; each is new, so that nothing has to be recycled."""

    name: ClassVar[str] = "fork"
    capabilities = Capabilities(
        crash_isolation=True,
        kill="yes",
        initializer="in each child",
        pickles="results",
        processes=True,
    )
    shares_context = True  # the context is inherited like everything else

    @classmethod
    def unavailable(cls) -> str | None:
        from taskrun.engine.posix import supported

        missing = supported()
        return None if missing is None else f'the fork backend needs {missing}; use backend="thread" here'

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        """Start the keeper."""
        from taskrun.engine.crash import OutOfMemoryWatch, get_ready
        from taskrun.engine.forked import ForkedChild  # and with it all that a child needs
        from taskrun.engine.posix import load_libc

        self._new_child = ForkedChild
        self._scheduler = scheduler
        self._settings = settings
        self._pid = os.getpid()
        self._children: dict[int, ForkedChild] = {}  # by number; the keeper's, and read by others under the scheduler's lock
        self._by_fd: dict[int, ForkedChild] = {}
        self._number = 0
        self._not_before = 0.0  # no child is made before, after a failure
        self._failures = 0
        self._closing = self._too_late = False
        self._wishes: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._asleep = False
        self._alarm = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._alarm, select.POLLIN)
        self._memory = OutOfMemoryWatch()
        get_ready()
        load_libc()
        _warn_of_threads()
        self._keeper = OwnThread(f"{settings.name}-keeper", self._keep)
        try:
            self._keeper.start()
        except BaseException:
            os.close(self._alarm)
            raise

    # -- getting workers to work -----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        if self._asleep:
            self._ring()

    def _ring(self) -> None:
        self._asleep = False
        with contextlib.suppress(OSError):  # all is over
            os.eventfd_write(self._alarm, 1)

    def _tell(self, wish: Callable[..., object], *args: Any) -> None:
        """Have the keeper call ``wish(*args)`` soon. Safe anywhere: it only appends and rings."""
        self._wishes.append((wish, args))
        self.wake()

    def _keep(self) -> None:
        while True:
            try:
                if not self._turn():
                    break
            except BaseException:
                # This thread must not die: every open future depends on it. What runs is stopped, and its end seen to.
                _log.exception("error in the keeper of %s", self._settings.name)
                self._abort(force=True)
        self._poll.unregister(self._alarm)
        os.close(self._alarm)

    def _turn(self) -> bool:
        """Do everything there is to do, then wait for news; False when all is over."""
        while self._wishes:
            wish, args = self._wishes.popleft()
            wish(*args)
            del wish, args
        self._feed()
        if self._closing and not self._children and not self._scheduler.queued:
            return False
        self._asleep = True
        timeout = 0 if self._wishes or self._room() else self._tick()
        for fd, _ in self._poll.poll(timeout):
            self._asleep = False
            self._handle(fd)
        self._asleep = False
        return True

    def _room(self) -> bool:
        queued, now = self._scheduler.queued, time.monotonic()
        return bool(queued) and len(self._children) < self._settings.max_workers and now >= self._not_before

    def _tick(self) -> float | None:
        """Do what is due; return the milliseconds until there is something to do again, None: whenever somebody rings."""
        now, times = time.monotonic(), []
        for child in list(self._children.values()):
            if child.stop is not None:
                when = child.stop.step(child, now, _signal)
                if when is not None:
                    times.append(when)
        if self._scheduler.queued and self._not_before > now:
            times.append(self._not_before)
        return max(0.0, min(times) - now) * 1000 + 1 if times else None

    def _feed(self) -> None:
        while self._room():
            task = self._scheduler.pull_one()
            if task is None:
                return
            if not self._start_child(task):
                self._scheduler.give_back([task])
                if self._too_late:
                    self._scheduler.close(cancel_futures=True)
                return

    def _start_child(self, task: Task) -> bool:
        """Fork a child for *task*; False: that cannot be done now."""
        try:
            child = self._new_child(self._number, task)
            child.start(self._settings)
        except Exception as error:  # whatever it is, the task must not be lost
            if isinstance(error, RuntimeError):  # Python 3.12.0 to 3.12.2, which fork no more at their exit
                self._too_late = True
                _log.warning("the tasks of %s that have not begun are cancelled: %s", self._settings.name, error)
            else:
                self._start_failed(error)
            return False
        self._number += 1
        self._failures = 0
        task.worker = child.label
        with self._scheduler.lock:
            self._children[child.number] = child
        if task.cancel_requested:  # meanwhile, when `notice_cancel` did not find it yet
            child.note_cancel()
        for fd in (child.pipe, child.pidfd):
            self._by_fd[fd] = child
            self._poll.register(fd, select.POLLIN)
        return True

    def _start_failed(self, error: Exception) -> None:
        self._failures += 1
        self._not_before = time.monotonic() + min(0.05 * 2**self._failures, 1.0)
        if not self._children and self._failures > 8:
            self._scheduler.break_down(f"no child can be forked, {self._failures} times in a row: {error}", error)

    # -- what children say -----------------------------------------------------------------------------------------------------

    def _handle(self, fd: int) -> None:
        if fd == self._alarm:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(fd)
            return
        child = self._by_fd.get(fd)
        if child is None:
            return
        self._read(child)
        if fd == child.pidfd:
            self._ended(child)

    def _read(self, child: ForkedChild) -> None:
        if child.pipe in self._by_fd and not child.read():
            self._forget(child.pipe)
        outcome = None if child.settled else child.outcome()
        if outcome is None:
            return
        child.settled = True
        if outcome[3] == "initializer":
            self._not_ready(child, outcome[2])
            return
        if self._settings.initializer is not None:
            self._scheduler.initializer_ok()
        self._scheduler.settle((outcome,))

    def _not_ready(self, child: ForkedChild, error: BaseException) -> None:
        """The initializer failed: the task has not run."""
        pause = self._scheduler.initializer_failed(error)
        if pause is not None:
            self._not_before = time.monotonic() + pause
        self._scheduler.give_back([child.task])

    def _ended(self, child: ForkedChild) -> None:
        """See a dead child off; without an answer its task has crashed, or was stopped."""
        from taskrun.engine.crash import verdict

        self._forget(child.pipe)
        self._forget(child.pidfd)
        child.reap()
        with self._scheduler.lock:
            del self._children[child.number]
        if not child.settled:
            oom = None if child.stop is not None else self._memory.killed(child.exit_status)
            error, cause = verdict(child, child.task, oom)
            self._scheduler.fail(child.task, error, cause)
        child.close()

    def _forget(self, fd: int) -> None:
        if self._by_fd.pop(fd, None) is not None:
            self._poll.unregister(fd)

    # -- stopping --------------------------------------------------------------------------------------------------------------

    def stop(self, task: Task, error: BaseException, cause: Literal["timeout", "killed"]) -> bool:
        self._tell(self._stop, task, error, cause)
        return True

    def _stop(self, task: Task, error: BaseException, cause: Cause) -> None:
        from taskrun.engine.stopping import STACK_PATIENCE, Stop

        child = next((child for child in self._children.values() if child.task is task), None)
        if child is None and cause == "killed" and not task.settled:
            # Its child could not be made, and it was given back: it is pending, and killing what is pending is cancelling it.
            call_soon(task.future.cancel)
        if child is not None and child.stop is None and not child.settled:
            child.stop = Stop(task, error, cause, time.monotonic(), STACK_PATIENCE)
            child.ask_for_stack()

    def notice_cancel(self, task: Task) -> None:
        with self._scheduler.lock:
            for child in self._children.values():
                if child.task is task:
                    child.note_cancel()

    # -- ending ----------------------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        self._closing = True
        self._tell(_nothing)

    def abort(self, *, force: bool) -> None:
        self._tell(self._abort, force)

    def _abort(self, force: bool) -> None:
        from taskrun.engine.stopping import Stop

        now = time.monotonic()
        for child in self._children.values():
            if child.stop is None:
                child.stop = Stop.of_everything(now)
                if not force:
                    child.signal(signal.SIGTERM)
            if force and not child.stop.killed:
                child.stop.kill(child, now, _signal)

    def join(self, timeout: float | None = None) -> bool:
        if os.getpid() != self._pid:
            return True  # in a forked child there is nobody to wait for
        if self._keeper is threading.current_thread():
            return False
        self._keeper.join(timeout)
        return not self._keeper.is_alive()

    def owns_current_thread(self) -> bool:
        return threading.current_thread() is self._keeper

    def workers(self) -> list[str]:
        with self._scheduler.lock:
            return [child.label for child in self._children.values()]


def _signal(child: ForkedChild, number: int) -> None:
    child.signal(number)


def _nothing() -> None:
    """Only to be woken."""


def _warn_of_threads() -> None:
    others = threads_of_others()
    if others:
        warnings.warn(
            f'backend="fork" with other threads running ({", ".join(others[:5])}): locks they hold when a task is forked stay '
            'locked in its process; use backend="process"',
            UnsafeForkWarning,
            stacklevel=5,
        )
