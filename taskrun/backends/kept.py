"""What the backends share that make processes of their own: one thread, the *keeper*, makes, watches and stops them.

Others speak to the keeper through a deque and a descriptor that wakes it. It does not die, and runs none of the user's code but
what unpickling an answer of a `fork` child runs.
`_processes` is its own, and is read by others under the scheduler's lock.

What the kernel is asked for is in `engine.posix`; how a process is stopped, and what its death is made into, the engine's.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import signal
import threading
import time
from abc import abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from taskrun import lifetime
from taskrun.backends.base import Backend, refuse_waiting_in
from taskrun.threads import OwnThread, call_soon

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from taskrun.engine.kept import KeptProcess
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler
    from taskrun.task import Cause, Task

__all__ = ["MOST_DEATHS", "KeptBackend"]

P = TypeVar("P", bound="KeptProcess")

_log = logging.getLogger("taskrun")

_MOST_TROUBLE = 8  # errors in a row
_MOST_SECONDS = 3600.0  # that a poll is asked to wait: it takes no more than 24 days
MOST_DEATHS = 3
"""Of processes before they took up one and the same task; then it is held against the task."""


class KeptBackend(Backend, Generic[P]):
    """A subclass says how tasks are handed over (`_room`, `_feed`) and what the descriptors of a process tell (`_heard`)."""

    _keeps_workers: ClassVar[bool] = False
    """Its processes run one task after the other."""

    @classmethod
    def unavailable(cls) -> str | None:
        from taskrun.engine.posix import supported

        missing = supported()
        return None if missing is None else f'the {cls.name} backend needs {missing}; use backend="thread" here'

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        """Start the keeper."""
        from taskrun.engine.crash import OutOfMemoryWatch, get_ready
        from taskrun.engine.doorbell import Doorbell
        from taskrun.engine.start_failures import StartFailures

        self._scheduler = scheduler
        self._settings = settings
        self._pid = os.getpid()
        self._processes: dict[int, P] = {}  # by number
        self._by_fd: dict[int, P] = {}
        self._number = 0
        self._failures = StartFailures()
        self._closing = False
        self._wishes: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._asleep = False
        self._memory = OutOfMemoryWatch()
        get_ready()
        self._keeper = OwnThread(f"{settings.name}-keeper", self._keep)
        self._doorbell = Doorbell()
        try:
            self._poll = select.poll()
            self._poll.register(self._doorbell.fd, select.POLLIN)
            self._keeper.start()
        except BaseException:
            self._doorbell.close()
            raise

    # -- what a subclass says --------------------------------------------------------------------------------------------------

    @abstractmethod
    def _room(self) -> bool:
        """Return whether something could be done now for a task that waits."""

    @abstractmethod
    def _feed(self) -> None:
        """Hand over what can be handed over now, and make processes for the rest."""

    @abstractmethod
    def _heard(self, process: P, fd: int) -> None:
        """See what *fd*, which belongs to *process* and was given to `_watch`, has to tell."""

    def _due(self, now: float) -> list[float]:
        """Do what is due besides stopping processes; return when to look again (monotonic)."""
        return []

    def _is_over(self) -> bool:
        """Return whether everything was done, after `shutdown`."""
        return not self._processes and not self._scheduler.queued

    def _end(self) -> None:
        """Let go of what else there is, at the very end."""

    def _somebody_works(self) -> bool:
        """Return whether there is a process that can run tasks."""
        return bool(self._processes)

    def _still_runs(self, process: P) -> bool:
        """Return whether the outcome of the task of *process* is not known yet."""
        return process.task is not None

    def _tasks_of(self, process: P) -> list[Task]:
        """Return what *process* was given and has not answered."""
        return [] if process.task is None else [process.task]

    # -- getting workers to work -----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        self._ring()

    def _ring(self) -> None:
        # `_asleep` is the keeper's to change: Ctrl-C could strike between that and the ringing, and nobody would ring again.
        if self._asleep:
            self._doorbell.ring()

    def _tell(self, wish: Callable[..., object], *args: Any) -> None:
        """Have the keeper call ``wish(*args)`` soon. Safe anywhere: it only appends and rings."""
        self._wishes.append((wish, args))
        self._ring()

    def _have_it_look(self) -> None:
        """Have the keeper do what is due."""
        self._tell(_nothing)

    def _keep(self) -> None:
        trouble = 0
        while True:
            try:
                if not self._turn():
                    break
                trouble = 0
            except BaseException as error:
                # This thread must not die: every open future depends on it. What runs is stopped, and its end seen to.
                _log.exception("error in the keeper of %s", self._settings.name)
                trouble += 1
                if trouble > _MOST_TROUBLE:
                    self._give_up(error)
                    break
                self._abort(force=True)
                time.sleep(0.001 * 2**trouble)
        self._end()
        self._poll.unregister(self._doorbell.fd)
        self._doorbell.close()

    def _give_up(self, error: BaseException) -> None:
        """Fail everything: there is no getting on."""
        name = self._settings.name
        self._scheduler.break_down(f"the keeper of {name} failed {_MOST_TROUBLE} times in a row: {error!r}", error)
        for process in list(self._processes.values()):
            tasks = self._tasks_of(process)
            process.destroy()
            for task in tasks:
                self._scheduler.fail(task, RuntimeError(f"the keeper of {name} has failed: {error!r}"), "crashed")

    def _turn(self) -> bool:
        """Do everything there is to do, then wait for news; False when all is over."""
        while self._wishes:
            wish, args = self._wishes.popleft()
            wish(*args)
            del wish, args
        self._feed()
        if self._closing and self._is_over():
            return False
        self._asleep = True
        timeout = 0 if self._wishes or self._room() else self._tick()
        for fd, _ in self._poll.poll(timeout):
            self._asleep = False
            if fd == self._doorbell.fd:
                self._doorbell.heard()
            elif fd in self._by_fd:
                self._heard(self._by_fd[fd], fd)
        self._asleep = False
        return True

    def _tick(self) -> float | None:
        """Do what is due; return the milliseconds until there is something to do again, None: whenever somebody rings."""
        from taskrun.engine.crash import SILENT_FOR, line_closed

        now = time.monotonic()
        times = self._due(now)
        for process in list(self._processes.values()):
            if process.pidfd not in self._by_fd:
                continue
            if process.stop is not None:
                when = process.stop.step(process, now, _signal)
                if when is not None:
                    times.append(when)
            elif process.silent_since is not None and process.trouble is None:
                due = process.silent_since + SILENT_FOR
                if now < due:
                    times.append(due)
                else:
                    self._lose(process, line_closed())
        if now < self._failures.not_before < math.inf:
            times.append(self._failures.not_before)
        return min(max(0.0, min(times) - now), _MOST_SECONDS) * 1000 + 1 if times else None

    def _lose(self, process: P, trouble: BaseException) -> None:
        """Kill a process from which nothing can be read any more; its end is seen as any other's."""
        process.trouble = trouble
        process.signal(signal.SIGKILL)

    def _watch(self, process: P, fd: int) -> None:
        self._by_fd[fd] = process
        self._poll.register(fd, select.POLLIN)

    def _forget(self, fd: int) -> None:
        if self._by_fd.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def _start_failed(self, error: BaseException) -> None:
        """Wait a little before the next try; give up if there is no process and it failed too often in a row."""
        if isinstance(error, RuntimeError) and lifetime.exiting():  # Python 3.12.0 to 3.12.2: neither threads nor forks
            if self._keeps_workers and self._somebody_works():
                self._failures.pause(math.inf)  # those that are there do the rest
                return
            _log.warning("the tasks of %s that have not begun are cancelled: %s", self._settings.name, error)
            self._scheduler.close(cancel_futures=True)
            return
        verdict = self._failures.add(error, somebody_works=self._somebody_works())
        if verdict is not None:
            self._scheduler.break_down(verdict, error)

    def _initializer_failed(self, error: BaseException) -> bool:
        """Wait before the next try; False: there will be none."""
        pause = self._scheduler.initializer_failed(error)
        if pause is not None:
            self._failures.pause(pause)
        return pause is not None

    # -- stopping --------------------------------------------------------------------------------------------------------------

    def stop(self, task: Task, error: BaseException, cause: Literal["timeout", "killed"]) -> bool:
        self._tell(self._stop, task, error, cause)
        return True

    def _stop(self, task: Task, error: BaseException, cause: Cause) -> None:
        from taskrun.engine.stopping import STACK_PATIENCE, Stop

        process = next((each for each in self._processes.values() if each.task is task), None)
        if process is None:
            if cause == "killed" and not task.settled:
                # It was given back: it is pending, and killing what is pending is cancelling it.
                call_soon(task.future.cancel)
        elif process.stop is None and self._still_runs(process):
            process.stop = Stop(task, error, cause, time.monotonic(), STACK_PATIENCE)
            process.ask_for_stack()

    def notice_cancel(self, task: Task) -> None:
        with self._scheduler.lock:
            for process in self._processes.values():
                if process.task is task:
                    process.note_cancel()

    # -- waiting ---------------------------------------------------------------------------------------------------------------

    def owns_current_thread(self) -> bool:
        return threading.current_thread() is self._keeper

    def waiting(self) -> AbstractContextManager[None]:
        refuse_waiting_in(self._keeper)
        return contextlib.nullcontext()

    # -- ending ----------------------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        self._closing = True
        self._have_it_look()

    def abort(self, *, force: bool) -> None:
        self._tell(self._abort, force)

    def _abort(self, force: bool) -> None:
        from taskrun.engine.stopping import Stop

        now = time.monotonic()
        for process in self._processes.values():
            if process.pidfd >= 0 and process.pidfd not in self._by_fd:
                continue  # it has ended
            if process.stop is None:
                process.stop = Stop.of_everything(now)
                if not force:
                    process.signal(signal.SIGTERM)
            if force and not process.stop.killed:
                process.stop.kill(process, now, _signal)

    def join(self, timeout: float | None = None) -> bool:
        if os.getpid() != self._pid:
            return True  # in a forked child there is nobody to wait for
        if self._keeper is threading.current_thread():
            return False
        self._keeper.join(timeout)
        return not self._keeper.is_alive()

    def workers(self) -> list[str]:
        with self._scheduler.lock:
            return [process.label for process in self._processes.values() if process.label]


def _signal(process: KeptProcess, number: int) -> None:
    process.signal(number)


def _nothing() -> None:
    """Only to be woken."""
