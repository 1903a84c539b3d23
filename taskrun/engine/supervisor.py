"""The process engine, seen from the parent: one I/O thread for each executor. How a task travels::

      submitting threads            I/O thread (this file)                             worker processes (worker.py)
    ┌─────────────────────┐   ┌───────────────────────────────────────────────┐      ┌──────────────────────────────┐
    │ Scheduler.submit    │   │ feed: pull a batch ─► pickle ─► frames ────────┼─────►│ socket ─► frame of the token │
    │   queue ────────────┼──►│ (dispatch.py)            └────► tokens ────────┼─────►│ pipe ───► claim ─► unpickle  │
    │   wake ── eventfd ──┼──►│                                               │      │              │              │
    │                     │   │ epoll                                         │      │              ▼              │
    │ future.cancel       │   │ settle ◄─ unpickle ◄─ frames (answers.py) ◄────┼──────┤ answer ◄─ pickle ◄─ fn(...)  │
    │   revoke ── pipe ───┼─┐ │   │                                           │      └──────────────────────────────┘
    │ Future, callbacks ◄─┼─┼─┼───┘   deaths, deadlines, recycling (fleet.py)   │               ▲ fork
    └─────────────────────┘ │ └───────────────────────┬───────────────────────┘      ┌────────┴─────────────────────┐
       takes tokens back ◄──┘                         └── launch.py: please fork ────►│ template process (template.py)│
                                                                                      └──────────────────────────────┘

Each worker has a channel of its own and shares no lock with anybody. Who reads a task's token has the task: the worker, to
run it, or the parent, to take it back; so when a worker dies the tokens left say exactly what did not begin.

Locks. `_lock` (leaf, re-entrant) guards the flights and token pipes; it is held for dictionary work and one or two system
calls on a pipe, never while pickling, sending frames, or calling the scheduler. The rest belongs to the I/O thread, to which
other threads speak through a deque and an eventfd.

Traps of epoll: a descriptor number may be given out again within one result, to a worker that is not meant. So events are
looked up by number of the worker, not of the descriptor, and workers are buried after the loop over the events.
"""

from __future__ import annotations

import logging
import math
import os
import select
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from taskrun.cpus import cpu_count
from taskrun.engine.answers import Answers
from taskrun.engine.at_workers import AtWorkers
from taskrun.engine.dispatch import Dispatcher
from taskrun.engine.doorbell import Doorbell
from taskrun.engine.fleet import Fleet
from taskrun.engine.poller import LAUNCHER, WAKE, Poller
from taskrun.engine.reclaim import Reclaimer
from taskrun.engine.spin import Spin
from taskrun.runs import Run
from taskrun.threads import OwnThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskrun.engine.handle import Handle
    from taskrun.engine.launch import StartMethod
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler

__all__ = ["Supervisor"]

_log = logging.getLogger("taskrun")

_MOST_TROUBLE = 20
_MOST_SECONDS = 1e6  # that an epoll can be asked to wait

_living: weakref.WeakSet[Supervisor] = weakref.WeakSet()


class Supervisor(AtWorkers):
    """Runs the tasks of one scheduler in worker processes."""

    def __init__(
        self,
        scheduler: Scheduler,
        settings: WorkerSettings,
        method: StartMethod,
        context_vars: list[tuple[str, Any]],
    ) -> None:
        super().__init__(scheduler)
        self._commands: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._asleep = False
        self._hungry = True
        self._ending = False
        self.closed = False
        self._trouble = 0
        self._spin: Spin | None = None  # before the I/O thread sleeps
        self._doorbell = Doorbell()
        try:
            self._poller = poller = Poller()
            poller.add(self._doorbell.fd, WAKE)
        except BaseException:  # no descriptor is left
            self._doorbell.close()
            raise
        self._fleet = fleet = Fleet(scheduler, settings, method, context_vars, self._lock, poller)
        self._dispatcher = Dispatcher(scheduler, settings, fleet, context_vars, self._lock, self._settle)
        self._reclaimer = Reclaimer(fleet, self._dispatcher, self._lock, scheduler)
        self._answers = Answers(scheduler, fleet, self._dispatcher, poller)
        self.thread = OwnThread(f"{settings.name}-engine", self._run)
        _living.add(self)
        try:
            self.thread.start()
        except BaseException:
            self._close()
            raise

    # -- for other threads -----------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Tasks were queued. Costs next to nothing while the I/O thread is awake, or could not use them."""
        # No wake-up is lost: the I/O thread says that it sleeps, then looks at the queue again; the caller has queued under
        # the scheduler's lock, then looks here.
        if self._asleep and self._hungry:
            self._ring()

    def _ring(self) -> None:
        self._asleep = False
        try:
            self._doorbell.ring()
        except BaseException:  # Ctrl-C: nobody would ring again
            self._doorbell.ring()
            raise

    def tell(self, what: Callable[..., None], *args: Any) -> None:
        """Have the I/O thread call ``what(*args)`` soon. Safe anywhere: it only appends and rings."""
        self._commands.append((what, args))
        if self._asleep:
            self._ring()

    def allow(self, extra: int) -> None:
        """Let there be *extra* workers beside `max_workers`."""
        self.tell(self._allow, extra)

    def abort(self, force: bool) -> None:
        """Stop all workers."""
        self.tell(self._abort, force)

    def recall(self) -> None:
        """Give back everything that has not begun."""
        self.tell(self._recall)

    def shutdown(self) -> None:
        """End the workers once they are idle, then this thread."""
        self.tell(self._end_soon)

    def labels(self) -> list[str]:
        """Return the names of the live workers, not of those that are being made."""
        return [each.label for each in list(self._fleet.workers.values()) if each.ready and each.label and not each.dead]

    # -- the thread ------------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._spin = Spin(self._poller.poll) if cpu_count() > 1 else None
        self._dispatcher.begin()
        while True:
            try:
                if not self._turn():
                    break
            except BaseException as error:
                # This thread must not die: every open future depends on it. The workers are replaced, their tasks fail.
                _log.exception("error in the engine of %s", self._scheduler.settings.name)
                if not self._recover(error):
                    break
        self._close()

    def _turn(self) -> bool:
        """Do everything there is to do, then wait for news; False when all is over."""
        while self._commands:
            what, args = self._commands.popleft()
            what(*args)
            del what, args  # they may hold a task, and this frame lives on
        self._give_back()
        # Whoever is told of a result wants the interpreter at once; so that comes last, if none of the user's code runs before.
        # But the rest of a run that was cut short has its turn before others.
        if any(type(outcome[0].fn) is Run for outcome in self._fleet.outcomes):
            self._settle()
        self._hungry = self._dispatcher.feed()
        settles = bool(self._fleet.outcomes)
        if self._ending and not settles and not self._end():
            return False
        busy = [handle for handle in self._fleet.workers.values() if handle.flight]
        timeout = self._see_to_what_is_due(busy)
        self._report()
        self._asleep = True
        late = self._hungry and self._scheduler.queued > self._dispatcher.left  # they came after the look at the queue
        if late or self._commands or self._fleet.outcomes or self._fleet.returned or (self._ending and settles):
            timeout = 0.0
        one_by_one = len(busy) == 1 and len(busy[0].flight) == 1  # the caller of that task waits, most often
        events = (one_by_one and timeout and self._spin is not None and self._spin()) or self._poller.poll(timeout)
        self._asleep = False
        for fd, mask in events:
            self._handle(fd, mask)
        if self._fleet.outcomes:
            self._answers.look_around(busy)
        self._bury()
        return True

    def _see_to_what_is_due(self, busy: list[Handle]) -> float:
        """Return for how many seconds to wait for news, if there is nothing else to do; -1: as long as it takes."""
        now = time.monotonic()
        times = [self._fleet.tick(now), self._answers.spares.tidy(now)]
        if self._dispatcher.left:
            times.append(self._reclaimer.somebody_by())
        self._reclaimer.see_whether_they_move()
        if busy:
            self._reclaimer.look_for_too_much(busy)
            times += (self._answers.look(busy, now), self._reclaimer.look(busy, now), self._reclaimer.look_at_runs(busy, now))
            times.append(self._reclaimer.look_for_stopped(busy, now))
        following = min((when for when in times if when is not None), default=math.inf) - now
        return max(0.0, following) if following < _MOST_SECONDS else -1.0

    def _handle(self, fd: int, mask: int) -> None:
        number, is_pidfd = self._poller.owner(fd)
        if number is None:
            return
        if number == WAKE:
            self._doorbell.heard()
        elif number == LAUNCHER:
            self._fleet.launcher_ready()
        else:
            handle = self._fleet.workers.get(number)
            if handle is None:
                return
            if is_pidfd:
                self._poller.remove(fd)
                self._fleet.ended(handle)
                return
            if mask & select.EPOLLOUT:
                handle.flush()
                self._poller.want_room(handle.fd, handle.writer.blocked)
            if mask & ~select.EPOLLOUT:
                self._answers.read(handle)

    def _bury(self) -> None:
        """See the dead off, now that no event of theirs is left: read what they have still sent, then settle the rest."""
        for handle in [handle for handle in self._fleet.workers.values() if handle.dead]:
            while self._answers.read(handle):
                pass
            self._answers.rest(handle)
            self._fleet.bury(handle)

    def _report(self) -> None:
        """Hand outcomes and returned tasks to the scheduler."""
        while self._fleet.outcomes or self._fleet.returned:
            self._settle()
            self._give_back()

    def _settle(self) -> None:
        outcomes, self._fleet.outcomes = self._fleet.outcomes, []
        if outcomes:
            self._scheduler.settle_ours(outcomes)

    def _give_back(self) -> None:
        returned, self._fleet.returned = self._fleet.returned, []
        if returned:
            self._reclaimer.give_back(returned)

    # -- commands --------------------------------------------------------------------------------------------------------------

    def _allow(self, extra: int) -> None:
        self._fleet.allow(extra)
        if extra:
            self._reclaimer.have_them_travel_alone()

    def _abort(self, force: bool) -> None:
        self._fleet.abort(force=force)
        self._recall()

    def _recall(self) -> None:
        with self._lock:
            for handle in self._fleet.workers.values():
                self._fleet.returned += handle.take_back()
        suspects = self._dispatcher.suspects
        while suspects:
            self._fleet.returned.append(suspects.popleft())

    def _end_soon(self) -> None:
        self._ending = True

    def _end(self) -> bool:
        """Have idle workers leave; False when the last one is gone and nothing is left to do."""
        if self._scheduler.queued and not self._fleet.broken:
            return True
        with self._lock:
            for handle in self._fleet.workers.values():
                if not handle.flight and handle.stop is None:
                    handle.leave()
        return bool(self._fleet.workers or self._commands or self._fleet.outcomes or self._fleet.returned)

    def _recover(self, error: BaseException) -> bool:
        self._trouble += 1
        try:
            self._fleet.returned += self._dispatcher.drop()
            self._fleet.kill_all()
            self._bury()
            if self._trouble < _MOST_TROUBLE:
                self._report()
                return True
            self._scheduler.break_down(f"the engine of this executor failed {self._trouble} times: {error}", error)
            self._report()
        except BaseException:
            _log.exception("the engine of %s could not recover", self._scheduler.settings.name)
        return self._trouble < _MOST_TROUBLE

    # -- end --------------------------------------------------------------------------------------------------------------

    def _close(self) -> None:
        self.closed = True
        self._answers.spares.let_go()
        self._fleet.close()
        self._poller.close()
        self._doorbell.close()
        _living.discard(self)

    def close_forked_copy(self) -> None:
        """In a child made by os.fork: close the copies of our descriptors, so that they hold nothing open."""
        self._lock = self._fleet.lock = threading.RLock()  # another thread may have held it
        if not self.closed:
            self._doorbell.close_forked_copy()
            self._poller.forget_all()
            self._close()


def _after_fork_in_child() -> None:
    for supervisor in list(_living):
        supervisor.close_forked_copy()


os.register_at_fork(after_in_child=_after_fork_in_child)
