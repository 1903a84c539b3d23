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
from taskrun.engine.handle import Handle
from taskrun.engine.launch import Event, Launcher, make_launcher
from taskrun.engine.poller import LAUNCHER
from taskrun.engine.stopping import STACK_PATIENCE, Stop
from taskrun.errors import TaskrunError
from taskrun.exceptions import load_exception
from taskrun.threads import call_soon

if TYPE_CHECKING:
    from taskrun.engine.handle import Guard
    from taskrun.engine.launch import StartMethod
    from taskrun.engine.poller import Poller
    from taskrun.future import Future
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Outcome, Scheduler
    from taskrun.task import Cause, Task

__all__ = ["Fleet"]

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
        poller: Poller,
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
        self._poller = poller
        self._launcher: Launcher | None = None
        self._next_number = 0
        self._not_before = 0.0  # no worker is started before, after a failure
        self._early_deaths = 0.0
        self._memory: crash.OutOfMemoryWatch | None = None
        self._template_died: set[int] = set()  # workers that died with the template

    # -- counting --------------------------------------------------------------------------------------------------------------

    def free(self) -> list[Handle]:
        """Return the workers that can be given a task at once, and can be expected to take it up."""
        return [handle for handle in self.workers.values() if handle.free and not handle.unresponsive]

    def room_to_start(self) -> int:
        """Return how many more workers may be started now. Those that are on their way out do not count."""
        if self.broken or time.monotonic() < self._not_before:
            return 0
        current = sum(not (h.leaving or h.dead or h.stop is not None) for h in self.workers.values())
        return max(0, self._settings.max_workers - current)

    def starting(self) -> int:
        """Return how many workers are being made."""
        return sum(not (h.ready or h.dead or h.stop is not None) for h in self.workers.values())

    # -- starting --------------------------------------------------------------------------------------------------------------

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
                if self._launcher.fileno() >= 0:
                    self._poller.add(self._launcher.fileno(), LAUNCHER)
            handle = Handle(number)
            self.workers[number] = handle
            self._poller.add(handle.fd, number)
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

    def send_state(self, handle: Handle, state: dict[str, Any]) -> None:
        """Tell a worker what holds from here on."""
        import pickle

        data = pickle.dumps(state, 5)
        self.send(handle, [channel.TASK_HEADER.pack(len(data), channel.STATE, 0, 0, 0, 0, 0.0, 0.0), data])

    def send(self, handle: Handle, parts: list[bytes]) -> None:
        """Send frames to a worker; what its socket does not take now follows when it has room."""
        handle.send(parts)
        if handle.writer.blocked:
            self._poller.want_room(handle.fd, True)

    def _start_failed(self, error: BaseException, weight: float = 1.0) -> None:
        """Wait a little before the next try; give up if there is no worker and it failed too often in a row."""
        now = time.monotonic()
        if now < self._not_before:
            return  # of several that were tried at the same time: one failure
        self._early_deaths += weight
        self._not_before = now + min(0.05 * (2**self._early_deaths - 1), 1.0)
        if self._early_deaths > _EARLY_DEATHS and not any(handle.ready for handle in self.workers.values()):
            self.broken = True
            self._scheduler.break_down(
                f"worker processes could not be started {self._early_deaths:g} times in a row, the last time: {error}; "
                "look at the limits on processes, descriptors and memory (ulimit -a), then make a new executor",
                error,
            )

    def progress(self) -> None:
        """A worker has taken a task up: workers can be started here."""
        self._early_deaths = 0

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

    # -- what the launcher says ------------------------------------------------------------------------------------------------

    def launcher_ready(self) -> None:
        """Take the events of the launcher; if it is dead, see its workers off and make another one when needed."""
        if self._launcher is None:
            return
        try:
            for event in self._launcher.receive():
                self.take_event(event)
        except EOFError:
            self._launcher_died()

    def _launcher_died(self) -> None:
        self._close_launcher()
        unborn = False
        for handle in list(self.workers.values()):
            if handle.pidfd < 0:  # never came to life: it has no task
                self._discard(handle)
                unborn = True
            elif not handle.dead:
                # Killed by the kernel as their template ended (by us, where a Python has no ctypes to ask for that); what
                # they have sent until then still counts.
                self._template_died.add(handle.number)
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(handle.pidfd, signal.SIGKILL)
                self._watch_end(handle)
        if unborn:
            self._start_failed(RuntimeError("the template process, which workers are forked from, ended at once"))

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
                self._watch_end(handle)
        elif event.kind == "ended":
            handle.exit_status = event.value
            handle.dead = True
        else:
            self._discard(handle)
            self._start_failed(OSError(event.value, os.strerror(event.value or 0)))

    def _watch_end(self, handle: Handle) -> None:
        self._poller.add(handle.pidfd, handle.number, pidfd=True)

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

    # -- death -----------------------------------------------------------------------------------------------------------------

    def bury(self, handle: Handle) -> None:
        """Settle what a dead worker had: its answers were read already; the rest of its flight fails or goes back."""
        with self._lock:
            back = handle.take_back()
            claimed = list(handle.flight.values())
            handle.flight.clear()
        self.returned += back
        stop = handle.stop
        if claimed:
            self.progress()
            self._blame(handle, claimed, stop)
        elif not handle.ready and stop is None and not handle.leaving and handle.number not in self._template_died:
            self._died_at_start(handle)
        elif back and handle.answered < 0 and stop is None:
            # It did start; that somebody kills one just before its first task is likelier than that all die there.
            error = RuntimeError(f"worker {handle.label} {crash.how_it_ended(handle.exit_status)} before its first task")
            self._start_failed(error, 0.25)
        self._template_died.discard(handle.number)
        self._discard(handle)

    def _blame(self, handle: Handle, claimed: list[Task], stop: Stop | None) -> None:
        oom = None if self._memory is None or stop is not None else self._memory.killed(handle.exit_status)
        template_died = handle.number in self._template_died
        for task in claimed:
            error = None if stop is None else stop.error_for(task)
            if stop is not None and error is not None:
                stack = handle.stack()
                if stack and getattr(error, "stack", "") is None:
                    error.stack = stack  # type: ignore[attr-defined]
                self.outcomes.append((task, False, error, stop.cause, None))
                continue
            if not template_died:
                self.crashed.add(task.future)
            self.outcomes.append((task, False, crash.crash_error(handle, task, oom, template_died), "crashed", None))

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
        self._poller.remove(handle.fd)
        self._poller.remove(handle.pidfd)
        with self._lock:  # `revoke` in another thread may be about to look into its pipe
            handle.dead = True
            self.returned += handle.flight.values()
            handle.flight.clear()
            handle.close()

    # -- stopping --------------------------------------------------------------------------------------------------------------

    def stop(self, task: Task, error: BaseException, cause: Cause) -> None:
        """Stop one task that has begun: the worker writes its stack, is asked to end, and is killed if it does not."""
        handle = task.place
        if not isinstance(handle, Handle) or handle.dead:
            if handle is None and cause == "killed" and not task.settled:
                # It was taken to run and given back meanwhile: it is pending, and killing what is pending is cancelling it.
                call_soon(task.future.cancel)
            return
        now = time.monotonic()
        limit = task.options.timeout
        if cause == "timeout" and limit is not None and (task.begun is None or now < task.begun + limit):
            return  # given back and sent again since its time seemed up
        with self._lock:
            if all(each is not task for each in handle.flight.values()):
                return  # its outcome has come meanwhile
            unclaimed = handle.take_back()
        self.returned += (each for each in unclaimed if each is not task)
        if any(each is task for each in unclaimed):
            # The worker never took it up, whatever it is that holds it: the task's time is up all the same.
            self.outcomes.append((task, False, error, cause, None))
            if cause == "timeout" and handle.stop is None:
                handle.stop = Stop(None, error, cause, now)
            return
        if handle.stop is None or handle.stop.task is not task:
            handle.stop = Stop(task, error, cause, now, STACK_PATIENCE)
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
                handle.forget_stack()
            else:
                stop.task = None

    def abort(self, *, force: bool) -> None:
        """Stop every worker now."""
        now = time.monotonic()
        for handle in self.workers.values():
            with self._lock:
                self.returned += handle.take_back()
            if handle.stop is None:
                handle.stop = Stop.of_everything(now)
                if not force:
                    self.signal(handle, signal.SIGTERM)
            if force and not handle.stop.killed:
                handle.stop.killed = True
                self.signal(handle, signal.SIGKILL)

    def kill_all(self) -> None:
        """Kill and reap every worker at once, whatever state it is in: the engine has lost its thread."""
        for handle in self.workers.values():
            self.signal(handle, signal.SIGKILL)
            if self._launcher is not None and self._launcher.fileno() < 0 and not handle.dead:
                self.take_event(self._launcher.reap(handle))
            handle.dead = True

    def signal(self, handle: Handle, number: int) -> None:
        if self._launcher is not None and not handle.dead:
            self._launcher.signal(handle, number)

    def tick(self, now: float) -> float | None:
        """Do what is due; return when to be called next (monotonic), or None."""
        following: list[float] = []
        for handle in self.workers.values():
            if handle.dead:
                continue
            if handle.stop is not None:
                when = handle.stop.step(handle, now, self.signal)
                if when is not None:
                    following.append(when)
            else:
                following += self._recycle(handle, now)
        if self._not_before > now:
            following.append(self._not_before)
        return min(following, default=None)

    # -- recycling -------------------------------------------------------------------------------------------------------------

    def _recycle(self, handle: Handle, now: float) -> list[float]:
        """Have a worker leave that is too old or idle for too long; return when to look again."""
        times: list[float] = []
        if not handle.ready or handle.leaving:
            return times
        settings = self._settings
        if settings.max_age_per_child is not None:
            times.append(handle.born + settings.max_age_per_child)  # busy ones too: under load none is ever idle
        if settings.idle_timeout is not None and not handle.flight:
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
        self._close_launcher()

    def _close_launcher(self) -> None:
        if self._launcher is not None:
            self._poller.remove(self._launcher.fileno())
            self._launcher.close()
            self._launcher = None
