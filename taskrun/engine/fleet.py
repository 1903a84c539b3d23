"""The workers of one executor: made on demand, buried when dead, replaced when old, stopped when told.

Used by the I/O thread only, but for what says otherwise. What it finds out it adds to `outcomes` and `returned`, which the
supervisor hands to the scheduler.
"""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING

from taskrun.engine import crash, posix
from taskrun.engine.handle import Handle
from taskrun.engine.starting import BORN_WITHIN, Starting
from taskrun.engine.stopping import GONE_WITHIN, LOOK_AGAIN, STACK_PATIENCE, Stop
from taskrun.threads import call_soon

if TYPE_CHECKING:
    from taskrun.task import Cause, Task

__all__ = ["Fleet"]

_SAID_WITHIN = 5.0
"""Seconds after the end of a worker when the template is given up that has not said so. All workers of the program die with it:
one that just has no CPU on a busy machine must not be taken for one that somebody stopped."""


class Fleet(Starting):
    """The table of workers."""

    # -- death -----------------------------------------------------------------------------------------------------------------

    def bury(self, handle: Handle) -> None:
        """Settle what a dead worker had: its answers were read already; the rest of its flight fails or goes back."""
        with self.lock:
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
            task.worker = handle.label
            error, cause = crash.verdict(handle, task, oom, template_died)
            if cause == "crashed" and not template_died:
                self.crashed.add(task.future)
                self.anybody_crashed = True
            self.outcomes.append((task, False, error, cause, None))

    def _died_at_start(self, handle: Handle) -> None:
        how = f"worker {handle.label} {crash.how_it_ended(handle.exit_status)} while it started"
        stack = handle.stack()
        error = RuntimeError(how + (f"\n{stack}" if stack else ""))
        if self._settings.initializer is not None:
            self._initializer_failed(error)
        else:
            self._start_failed(error)

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
        with self.lock:
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
            with self.lock:
                self.returned += handle.take_back()
            if handle.stop is None:
                handle.stop = Stop.of_everything(now)
                if not force:
                    self.signal(handle, signal.SIGTERM)
            if force and not handle.stop.killed:
                handle.stop.kill(handle, now, self.signal)

    def lose(self, handle: Handle, error: BaseException) -> None:
        """Kill a worker whose answer cannot be read; what it has not begun runs elsewhere."""
        handle.trouble = error
        with self.lock:
            self.returned += handle.take_back()  # what it has not begun it shall not begin
        self.signal(handle, signal.SIGKILL)

    def _lose_silent(self, handle: Handle, due: float, now: float) -> list[float]:
        """Kill a worker whose line is closed, and that has not ended when that is *due*; return when to look again."""
        gone_by = due + GONE_WITHIN
        if handle.trouble is None:
            if now < due:
                return [due]
            self.lose(handle, crash.line_closed())
        return [gone_by if now < gone_by else self._overdue(handle, now)]

    def _overdue(self, handle: Handle, now: float) -> float:
        """See to a worker that was killed and that nobody has reported dead; return when to look again.

        Its memory may take long to free, or the template has had no turn yet to kill it or to say that it has ended.
        """
        if now < handle.overdue_until:
            return handle.overdue_until
        handle.overdue_until = now + LOOK_AGAIN
        if not posix.is_over(handle.pidfd):
            with contextlib.suppress(OSError):  # it belongs to another user by now
                signal.pidfd_send_signal(handle.pidfd, signal.SIGKILL)
        elif handle.over_since is None:
            handle.over_since = now
        elif now >= handle.over_since + _SAID_WITHIN:
            handle.over_since = now  # it is given as much time again
            if handle.number not in self._template_died:
                self.lose_launcher()
        return handle.overdue_until

    def is_stopped(self, handle: Handle) -> bool:
        """Return whether somebody has stopped a worker (SIGSTOP)."""
        return handle.pid is not None and posix.is_stopped(handle.pid)

    def do_without(self, handle: Handle, now: float) -> None:
        """Kill a worker that somebody has stopped; if it goes on just now with what it was sent, it lives."""
        with self.lock:
            self.returned += handle.take_back()
            idle = not handle.flight
        if idle and handle.stop is None:
            handle.stop = Stop.of_everything(now)
            handle.stop.kill(handle, now, self.signal)

    def _see_off(self, handle: Handle, now: float) -> list[float]:
        """See that a worker that has nothing more to do ends, though somebody has stopped it; return when to look again."""
        if handle.leaving_look.is_due(now, LOOK_AGAIN) and self.is_stopped(handle):
            self.do_without(handle, now)
        return [handle.leaving_look.next]

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
            self._listen_for_room()

    def tick(self, now: float) -> float | None:
        """Do what is due; return when to be called next (monotonic), or None."""
        following: list[float] = []
        for handle in self.workers.values():
            if handle.dead:
                continue
            if handle.pidfd < 0:
                following.append(self._unborn(handle, now))
            if handle.stop is not None:
                following += self._step(handle, handle.stop, now)
            elif handle.silent_since is not None:
                following += self._lose_silent(handle, handle.silent_since + crash.SILENT_FOR, now)
            elif handle.leaving and not handle.flight:
                following += self._see_off(handle, now)
            else:
                following += self._recycle(handle, now)
        if len(self.workers) > self.limit:
            self._shrink()
        if self.failures.not_before > now:
            following.append(self.failures.not_before)
        return min(following, default=None)

    def _unborn(self, handle: Handle, now: float) -> float:
        """Do without a launcher that has not started *handle* for very long; return when to look again."""
        if now > handle.born + BORN_WITHIN:
            handle.born = now  # it is given as much time again
            self.lose_launcher()
        return handle.born + BORN_WITHIN

    def _step(self, handle: Handle, stop: Stop, now: float) -> list[float]:
        """Go on with stopping a worker; return when to look again."""
        when = stop.step(handle, now, self.signal)
        if now >= stop.gone_by and handle.pidfd >= 0:
            when = self._overdue(handle, now)
        return [] if when is None else [when]

    def allow(self, extra: int) -> None:
        """Let there be *extra* workers beside `max_workers` from now on: as many are stuck."""
        self.limit = self._settings.max_workers + extra

    # -- recycling -------------------------------------------------------------------------------------------------------------

    def _shrink(self) -> None:
        """Have idle workers leave that are too many, the newest first: others were stuck, and are not any more."""
        current = self._current()
        idle = [handle for handle in reversed(current) if handle.free]
        for handle in idle[: max(0, len(current) - self.limit)]:
            self.retire(handle)

    def _recycle(self, handle: Handle, now: float) -> list[float]:
        """Have a worker leave that is too old or idle for too long; return when to look again."""
        settings = self._settings
        times: list[float] = []
        if (settings.max_age_per_child is None and settings.idle_timeout is None) or not handle.ready or handle.leaving:
            return times
        if not handle.assigned and self._scheduler.queued:  # it waits for the end of the one that it replaces: it is not idle
            handle.moved = now
            return times
        if settings.max_age_per_child is not None:
            times.append(handle.born + settings.max_age_per_child)  # busy ones too: under load none is ever idle
        if settings.idle_timeout is not None and not handle.flight:
            times.append(handle.moved + settings.idle_timeout)
        if any(when <= now for when in times):
            self.retire(handle)
            return [now]  # the next turn starts another in its place, if there is work for it
        return times

    def check_size(self, handle: Handle, rss: int) -> None:
        """Have a worker leave that has grown too large, after the task it runs."""
        handle.rss = rss
        limit = self._settings.max_memory_per_child
        if limit is not None and rss > limit and not handle.leaving:
            self.retire(handle)

    def retire(self, handle: Handle) -> None:
        """Have a worker end in order after the task it runs; what it has not begun goes back."""
        with self.lock:
            self.returned += handle.take_back()
            handle.leave()

    def close(self) -> None:
        """Close everything."""
        for handle in list(self.workers.values()):
            self._discard(handle)
        self._close_launcher()
