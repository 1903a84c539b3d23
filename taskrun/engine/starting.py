"""How workers come to life: asked for, started by a launcher, ready, or not; and what happens when that fails.

Used by the I/O thread only, as the fleet, of which this is the base.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from taskrun import shipping
from taskrun.cpus import cpu_count
from taskrun.engine import channel, crash, surroundings
from taskrun.engine.handle import Handle
from taskrun.engine.launch import Event, Launcher, make_launcher
from taskrun.engine.poller import LAUNCHER
from taskrun.engine.start_failures import StartFailures
from taskrun.errors import TaskrunError
from taskrun.exceptions import load_exception

if TYPE_CHECKING:
    import threading

    from taskrun.engine.launch import StartMethod
    from taskrun.engine.poller import Poller
    from taskrun.future import Future
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Outcome, Scheduler
    from taskrun.task import Task

__all__ = ["BORN_WITHIN", "Starting"]

BORN_WITHIN = 30.0  # seconds; the template has to be up by then, and to have forked


class Starting:
    """The part of the fleet that makes workers. `lock` guards the flights and token pipes of all of them."""

    def __init__(
        self,
        scheduler: Scheduler,
        settings: WorkerSettings,
        method: StartMethod,
        context_vars: list[tuple[str, Any]],
        lock: threading.RLock,
        poller: Poller,
    ) -> None:
        self.workers: dict[int, Handle] = {}
        self.outcomes: list[Outcome] = []
        self.returned: list[Task] = []
        """Tasks taken back unstarted, for `scheduler.give_back`."""
        self.crashed: WeakSet[Future[Any]] = WeakSet()
        """Futures whose task took a worker down: if it runs again, then alone on a fresh worker."""
        self.anybody_crashed = False
        """Whether that was ever so: it costs less to ask."""
        self.broken = False
        self.limit = settings.max_workers
        """How many workers there may be, besides those on their way out."""
        self._scheduler = scheduler
        self._settings = settings
        self._method: StartMethod = method
        self._context_vars = context_vars
        self.lock = lock
        self._poller = poller
        self._launcher: Launcher | None = None
        self._next_number = 0
        self.failures = StartFailures()
        self._memory: crash.OutOfMemoryWatch | None = None
        self._template_died: set[int] = set()  # workers that died with the template

    # -- counting --------------------------------------------------------------------------------------------------------------

    def anybody_free(self) -> bool:
        """Return whether a worker can be given a task at once, and can be expected to take it up."""
        return any(handle.free and not handle.watch.unresponsive for handle in self.workers.values())

    def room_to_start(self) -> int:
        """Return how many more workers may be started now. Those that are on their way out do not count."""
        room = self.limit - len(self._current())
        return room if room > 0 and not self.broken and time.monotonic() >= self.failures.not_before else 0

    def _current(self) -> list[Handle]:
        return [handle for handle in self.workers.values() if not (handle.leaving or handle.dead or handle.stop is not None)]

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
            with shipping.collecting() as found:
                setup = surroundings.describe(self._settings, number, cpu_count(), self._context_vars)
            if self._launcher is None:
                self._launcher = make_launcher(self._method)
                self._memory = crash.OutOfMemoryWatch()
                if self._launcher.fileno() >= 0:
                    self._poller.add(self._launcher.fileno(), LAUNCHER)
            handle = Handle(number)
            self.workers[number] = handle
            self._poller.add(handle.fd, number)
            for one in handle.told.shipped.lacking(found):
                self.send_shipment(handle, one)
            self.send_state(handle, {"setup": setup})
            handle.told.path, handle.told.authkey = list(sys.path), setup["authkey"]
            for event in self._launcher.launch(handle):
                self.take_event(event)
            self._listen_for_room()
            self._get_ready()
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

    def _get_ready(self) -> None:
        """Load what will be needed, or may be when there is nothing left to load it with, while the first worker starts."""
        crash.get_ready()
        if self._method != "fork":  # that one is there already, and waits for its task
            import taskrun.by_value  # noqa: F401 - the functions of scripts and notebooks travel so

    def send_state(self, handle: Handle, state: dict[str, Any]) -> None:
        """Tell a worker what holds from here on."""
        import pickle

        data = pickle.dumps(state, 5)
        self.send(handle, [channel.TASK_HEADER.pack(len(data), channel.STATE, 0, 0, 0, 0, 0.0, 0.0), data])

    def send_shipment(self, handle: Handle, one: shipping.Shipment) -> None:
        """Send a worker what tasks refer to."""
        pieces, count = one.parts(), len(one.descriptors)
        head = channel.TASK_HEADER.pack(sum(map(len, pieces)), channel.SHIPMENT, count, 0, 0, 0, 0.0, 0.0)
        handle.told.shipped.note(one)
        self.send(handle, [head, *pieces], one if count else None)

    def send(self, handle: Handle, parts: list[Any], shipment: shipping.Shipment | None = None) -> None:
        """Send frames to a worker; what its socket does not take now follows when it has room."""
        handle.send(parts, shipment)
        if handle.writer.blocked:
            self._poller.want_room(handle.fd, True)

    def _start_failed(self, error: BaseException, weight: float = 1.0) -> None:
        """Wait a little before the next try; give up if there is no worker and it failed too often in a row."""
        somebody = any(handle.ready for handle in self.workers.values())
        verdict = self.failures.add(error, somebody_works=somebody, weight=weight)
        if verdict is not None:
            self.broken = True
            self._scheduler.break_down(verdict, error)

    def progress(self) -> None:
        """A worker has taken a task up: workers can be started here."""
        self.failures.progress()

    def ready(self, handle: Handle, rss: int) -> None:
        """A worker has started and its initializer went well."""
        handle.ready = True
        handle.rss = rss
        handle.born = handle.moved = time.monotonic()  # its age does not count what it took to get ready
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
            self.failures.pause(pause)

    # -- what the launcher says ------------------------------------------------------------------------------------------------

    def launcher_ready(self) -> None:
        """Take the events of the launcher; if it is dead, see its workers off and make another one when needed."""
        if self._launcher is None:
            return
        try:
            for event in self._launcher.receive():
                self.take_event(event)
            self._listen_for_room()
        except EOFError:
            self._launcher_died()

    def lose_launcher(self) -> None:
        """Do without the launcher, which does not do what it is told."""
        if self._launcher is not None:
            self._launcher.kill()

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

    def _listen_for_room(self) -> None:
        """Be told when the launcher takes more requests, if some wait for that."""
        if self._launcher is not None:
            self._poller.want_room(self._launcher.fileno(), self._launcher.blocked)

    # -- letting go ------------------------------------------------------------------------------------------------------------

    def _discard(self, handle: Handle) -> None:
        self.workers.pop(handle.number, None)
        self._poller.remove(handle.fd)
        self._poller.remove(handle.pidfd)
        with self.lock:  # `revoke` in another thread may be about to look into its pipe
            handle.dead = True
            self.returned += handle.flight.values()
            handle.flight.clear()
            handle.close()

    def _close_launcher(self) -> None:
        if self._launcher is not None:
            self._poller.remove(self._launcher.fileno())
            self._launcher.close()
            self._launcher = None
