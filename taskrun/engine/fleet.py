"""The workers of one executor: made on demand, buried when dead, replaced when old, stopped when told.

Used by the I/O thread only, but for what says otherwise. What it finds out it adds to `outcomes` and `returned`, which the
supervisor hands to the scheduler.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from taskrun.cpus import cpu_count
from taskrun.engine import channel, crash, posix, surroundings
from taskrun.engine.handle import Handle, Stop
from taskrun.engine.launch import Event, Launcher, make_launcher
from taskrun.errors import TaskKilledError, TaskrunError
from taskrun.exceptions import load_exception

if TYPE_CHECKING:
    from taskrun.engine.handle import Guard
    from taskrun.engine.launch import StartMethod
    from taskrun.future import Future
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Outcome, Scheduler
    from taskrun.task import Cause, Task

__all__ = ["Fleet"]

_STACK_PATIENCE = 0.05  # seconds for a worker to write its stack before it is asked to end
_KILL_AFTER = 0.3  # seconds between SIGTERM and SIGKILL
_TICK = 0.005
_EARLY_DEATHS = 5  # workers in a row that die before they have done anything; then the executor is broken


class Fleet:
    """The table of workers. `lock` guards the flights and token pipes of all of them."""

    def __init__(
        self,
        scheduler: Scheduler,
        settings: WorkerSettings,
        method: StartMethod,
        context_vars: list[tuple[str, Any]],
        lock: Guard,
    ) -> None:
        self.workers: dict[int, Handle] = {}
        self.outcomes: list[Outcome] = []
        self.returned: list[Task] = []
        """Tasks taken back unstarted, for `scheduler.give_back`."""
        self.crashed: WeakSet[Future[Any]] = WeakSet()
        """Futures whose task took a worker down: if it runs again, then alone on a fresh worker."""
        self.broken = False
        self._scheduler = scheduler
        self._settings = settings
        self._method: StartMethod = method
        self._context_vars = context_vars
        self._lock = lock
        self._launcher: Launcher | None = None
        self._next_number = 0
        self._not_before = 0.0  # no worker is started before, after a failure
        self._early_deaths = 0
        self._memory: crash.OutOfMemoryWatch | None = None
        self._template_died: set[int] = set()  # workers that died with the template

    # -- counting -------------------------------------------------------------------------------------------------------------

    def free(self) -> list[Handle]:
        """Return the workers that can be given a task at once."""
        return [handle for handle in self.workers.values() if handle.free]

    def room_to_start(self) -> int:
        """Return how many more workers may be started now. Those that are on their way out do not count."""
        if self.broken or time.monotonic() < self._not_before:
            return 0
        current = sum(not (h.leaving or h.dead or h.stop is not None) for h in self.workers.values())
        return max(0, self._settings.max_workers - current)

    def starting(self) -> int:
        """Return how many workers are being made."""
        return sum(not (h.ready or h.dead or h.stop is not None) for h in self.workers.values())

    # -- starting -------------------------------------------------------------------------------------------------------------

    def start_worker(self) -> bool:
        """Begin to make one worker; False when that cannot work now."""
        number = self._next_number
        self._next_number += 1
        handle = None
        try:
            setup = surroundings.describe(self._settings, number, cpu_count(), self._context_vars)
            if self._launcher is None:
                self._launcher = make_launcher(self._method)
                self._memory = crash.OutOfMemoryWatch()
                self.on_launcher(self._launcher)
            handle = Handle(number)
            self.workers[number] = handle
            self.on_worker(handle)
            self.send_state(handle, {"setup": setup})
            for event in self._launcher.launch(handle):
                self.take_event(event)
        except TaskrunError as error:  # the initializer or its arguments do not pickle: no second try will help
            self.broken = True
            self._scheduler.break_down(f"workers cannot be started: {error}", error)
            return False
        except OSError as error:
            if handle is not None:
                self._discard(handle)
            self._start_failed(error)
            return False
        return True

    def on_launcher(self, launcher: Launcher) -> None:
        """Called when there is a new launcher to listen to."""

    def on_worker(self, handle: Handle) -> None:
        """Called when there is a new channel to listen to."""

    def off_worker(self, handle: Handle) -> None:
        """Called when the descriptors of a worker are about to be closed."""

    def on_pidfd(self, handle: Handle) -> None:
        """Called when the end of a worker has to be seen by its pidfd."""

    def send_state(self, handle: Handle, state: dict[str, Any]) -> None:
        """Tell a worker what holds from here on."""
        import pickle

        data = pickle.dumps(state, 5)
        handle.send([channel.TASK_HEADER.pack(len(data), channel.STATE, 0, 0, 0, 0, 0.0, 0.0), data])

    def _start_failed(self, error: BaseException) -> None:
        """Wait a little before the next try; give up if there is no worker and it failed too often in a row."""
        self._early_deaths += 1
        self._not_before = time.monotonic() + min(0.05 * 2**self._early_deaths, 1.0)
        if self._early_deaths > _EARLY_DEATHS and not any(handle.ready for handle in self.workers.values()):
            self.broken = True
            self._scheduler.break_down(f"{self._early_deaths} worker processes in a row did not start: {error}", error)

    def ready(self, handle: Handle, rss: int) -> None:
        """A worker has started and its initializer went well."""
        handle.ready = True
        handle.rss = rss
        handle.moved = time.monotonic()
        if self._settings.initializer is not None:
            self._scheduler.initializer_ok()

    def not_ready(self, handle: Handle, data: bytes) -> None:
        """The initializer failed in a worker, which ends by itself."""
        handle.leaving = True
        self._initializer_failed(load_exception(data))

    def _initializer_failed(self, error: BaseException) -> None:
        pause = self._scheduler.initializer_failed(error)
        if pause is None:
            self.broken = True
        else:
            self._not_before = max(self._not_before, time.monotonic() + pause)

    # -- what the launcher says -----------------------------------------------------------------------------------------------

    def launcher_ready(self) -> None:
        """Take the events of the launcher; if it is dead, see its workers off and make another one when needed."""
        if self._launcher is None:
            return
        try:
            for event in self._launcher.receive():
                self.take_event(event)
        except EOFError:
            self._launcher.close()
            self._launcher = None
            for handle in list(self.workers.values()):
                if handle.pidfd < 0:  # never came to life: it has no task
                    self._discard(handle)
                elif not handle.dead:
                    # Killed by the kernel as their template ended; what they have sent until then still counts.
                    self._template_died.add(handle.number)
                    self.on_pidfd(handle)

    def take_event(self, event: Event) -> None:
        """Act on news of one worker."""
        handle = self.workers.get(event.number)
        if handle is None:
            if event.pidfd >= 0:
                os.close(event.pidfd)
            return
        if event.kind == "started":
            handle.pid, handle.pidfd = event.value, event.pidfd
            handle.label = f"pid {event.value}"
            if self._launcher is not None and self._launcher.fileno() < 0:
                self.on_pidfd(handle)
        elif event.kind == "ended":
            handle.exit_status = event.value
            handle.dead = True
        else:
            self._discard(handle)
            self._start_failed(OSError(event.value, os.strerror(event.value or 0)))

    def ended(self, handle: Handle) -> None:
        """The pidfd of a worker says that it has ended."""
        if handle.dead:
            return
        if handle.number not in self._template_died and self._launcher is not None:
            self.take_event(self._launcher.reap(handle))
        handle.dead = True

    @property
    def launcher_fd(self) -> int:
        """The descriptor of the launcher, or -1."""
        return -1 if self._launcher is None else self._launcher.fileno()

    @property
    def launcher_blocked(self) -> bool:
        """Whether requests to the launcher wait for room."""
        return self._launcher is not None and self._launcher.blocked

    # -- death ----------------------------------------------------------------------------------------------------------------

    def bury(self, handle: Handle) -> None:
        """Settle what a dead worker had: its answers were read already; the rest of its flight fails or goes back."""
        with self._lock:
            back = handle.take_back()
            claimed = list(handle.flight.values())
            handle.flight.clear()
        self.returned += back
        stop = handle.stop
        if claimed:
            self._blame(handle, claimed, stop)
        elif not handle.ready and stop is None and not handle.leaving and handle.number not in self._template_died:
            self._died_at_start(handle)
        elif back and handle.answered < 0 and stop is None:
            self._start_failed(RuntimeError(f"worker {handle.label} {crash.how_it_ended(handle.exit_status)}"))
        self._template_died.discard(handle.number)
        self._discard(handle)

    def _blame(self, handle: Handle, claimed: list[Task], stop: Stop | None) -> None:
        oom = None if self._memory is None or stop is not None else self._memory.killed(handle.exit_status)
        for task in claimed:
            if stop is not None and stop.task is task:
                stack = handle.stack()
                if stack and getattr(stop.error, "stack", "") is None:
                    stop.error.stack = stack  # type: ignore[attr-defined]
                self.outcomes.append((task, False, stop.error, stop.cause, None))
                continue
            self.crashed.add(task.future)
            error = crash.crash_error(handle, task, oom, handle.number in self._template_died)
            self.outcomes.append((task, False, error, "crashed", None))

    def _died_at_start(self, handle: Handle) -> None:
        how = f"worker {handle.label} {crash.how_it_ended(handle.exit_status)} while it started"
        stack = handle.stack()
        error = RuntimeError(how + (f"\n{stack}" if stack else ""))
        if self._settings.initializer is not None:
            self._initializer_failed(error)
        else:
            self._start_failed(error)

    def _discard(self, handle: Handle) -> None:
        self.workers.pop(handle.number, None)
        self.off_worker(handle)
        with self._lock:  # `revoke` in another thread may be about to look into its pipe
            handle.dead = True
            self.returned += handle.flight.values()
            handle.flight.clear()
            handle.close()

    # -- stopping -------------------------------------------------------------------------------------------------------------

    def stop(self, task: Task, error: BaseException, cause: Cause) -> None:
        """Stop one task that has begun: the worker writes its stack, is asked to end, and is killed if it does not."""
        handle = task.place
        if not isinstance(handle, Handle) or handle.dead:
            return
        now = time.monotonic()
        with self._lock:
            if all(each is not task for each in handle.flight.values()):
                return  # its outcome has come meanwhile
            unclaimed = handle.take_back()
        self.returned += (each for each in unclaimed if each is not task)
        if any(each is task for each in unclaimed):
            # The worker never took it up, whatever it is that holds it: the task's time is up all the same.
            self.outcomes.append((task, False, error, cause, None))
            if cause == "timeout" and handle.stop is None:
                handle.stop = Stop(None, error, cause, now, 0.0)
            return
        if handle.stop is None or handle.stop.task is not task:
            handle.stop = Stop(task, error, cause, now, _STACK_PATIENCE)
            if handle.pidfd >= 0:
                self._ask_for_stack(handle)

    def _ask_for_stack(self, handle: Handle) -> None:
        with contextlib.suppress(OSError):  # it is dead, or belongs to another user by now: no stack
            signal.pidfd_send_signal(handle.pidfd, posix.STACK_SIGNAL)

    def answered(self, handle: Handle, task: Task) -> None:
        """A task was answered: if it was about to be stopped and nothing has been done to the worker, nothing will."""
        stop = handle.stop
        if stop is not None and stop.task is task:
            if stop.asked_at is None:
                handle.stop = None
            else:
                stop.task = None

    def abort(self, *, force: bool) -> None:
        """Stop every worker now."""
        now = time.monotonic()
        for handle in self.workers.values():
            with self._lock:
                self.returned += handle.take_back()
                claimed = next(iter(handle.flight.values()), None)
            if handle.stop is None:
                name = claimed.name if claimed is not None else None
                error = TaskKilledError(
                    f"task {name!r} was running when its executor was told to stop all workers",
                    task=name,
                    attempt=claimed.number if claimed is not None else None,
                )
                handle.stop = Stop(claimed, error, "killed", now, 0.0)
                handle.stop.asked_at = float("inf")  # nobody but a second call escalates
                if not force:
                    self._signal(handle, signal.SIGTERM)
            if force and not handle.stop.killed:
                handle.stop.killed = True
                self._signal(handle, signal.SIGKILL)

    def _signal(self, handle: Handle, number: int) -> None:
        if self._launcher is not None and not handle.dead:
            self._launcher.signal(handle, number)

    def tick(self, now: float) -> float | None:
        """Do what is due; return when to be called next (monotonic), or None."""
        following: list[float] = []
        for handle in self.workers.values():
            stop = handle.stop
            if stop is not None and not handle.dead:
                if stop.asked_at is None:
                    if now >= stop.terminate_at:
                        stop.asked_at = now
                        self._signal(handle, signal.SIGTERM)
                    else:
                        if handle.has_stack():
                            stop.terminate_at = min(stop.terminate_at, now + _TICK)
                        following.append(min(stop.terminate_at, now + _TICK))
                if stop.asked_at is not None and not stop.killed:
                    if now >= stop.asked_at + _KILL_AFTER:
                        stop.killed = True
                        self._signal(handle, signal.SIGKILL)
                    else:
                        following.append(stop.asked_at + _KILL_AFTER)
            else:
                following += self._recycle(handle, now)
        if self._not_before > now:
            following.append(self._not_before)
        return min(following, default=None)

    # -- recycling ------------------------------------------------------------------------------------------------------------

    def _recycle(self, handle: Handle, now: float) -> list[float]:
        """Have a worker leave that is too old or idle for too long; return when to look again."""
        times: list[float] = []
        if not handle.free:
            return times
        settings = self._settings
        if settings.max_age_per_child is not None:
            times.append(handle.born + settings.max_age_per_child)
        if settings.idle_timeout is not None:
            times.append(handle.moved + settings.idle_timeout)
        if any(when <= now for when in times):
            self.retire(handle)
            return []
        return times

    def check_size(self, handle: Handle, rss: int) -> None:
        """Have a worker leave that has grown too large, after the task it runs."""
        handle.rss = rss
        limit = self._settings.max_memory_per_child
        if limit is not None and rss > limit and not handle.leaving:
            self.retire(handle)

    def retire(self, handle: Handle) -> None:
        """Have a worker end in order after the task it runs; what it has not begun goes back."""
        with self._lock:
            self.returned += handle.take_back()
            handle.leave()

    def close(self) -> None:
        """Close everything."""
        for handle in list(self.workers.values()):
            self._discard(handle)
        if self._launcher is not None:
            self._launcher.close()
            self._launcher = None
