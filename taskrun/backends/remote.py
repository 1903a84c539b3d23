"""Runs tasks on an engine that somebody else wrote, wherever its workers are: what the plugins for clusters share.

One thread, the *feeder*, talks to the engine: it pulls while there are free slots, sends, and takes answers. All others speak
to it through a SimpleQueue, which is re-entrant: `wake` may be called from a signal handler, while an engine's locks are not.
`_lock` guards `_flights` and what is said of a flight from several threads.

Tasks travel as bytes, pickled by taskrun, and so do their answers: the engine sees neither the user's function nor his
keywords, and what arrives is what arrives on any other backend.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from abc import abstractmethod
from contextlib import nullcontext, suppress
from functools import partial
from importlib import import_module
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Literal

from taskrun import lifetime
from taskrun.backends.base import Backend, refuse_waiting_in
from taskrun.backends.flights import Failure, Flight, lost_with_engine, may_wait, not_sendable
from taskrun.backends.pickled_call import Answer, Payload, dump_call, load_answer, run_pickled_call
from taskrun.errors import ConfigError, InitializerError, SerializationError, TaskKilledError
from taskrun.serialization import not_sent
from taskrun.threads import OwnThread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Outcome, Scheduler
    from taskrun.task import Task

__all__ = ["Answer", "Failure", "Flight", "Payload", "RemoteBackend", "run_pickled_call"]

_AT_ONCE = 200  # answers taken together
_STOP_LIMIT = 1.0  # seconds from asking the engine to stop a task to giving it up

_log = logging.getLogger("taskrun")


class RemoteBackend(Backend):
    """The base of a backend on a foreign engine: define `connect`, `send`, `collect`, `disconnect`; `interrupt` if it can.

    As many tasks are sent as there are slots, so what is sent runs, as far as can be told. Where the engine reports when a task
    really starts (`reports_starts`, `started`) it is pending until then: its time has not begun, and it can be had back if the
    engine says how (`withdraw`).
    """

    outlived_by: tuple[str, ...] = ("concurrent.futures.thread",)
    """Modules that the engine needs until our tasks are through: their own hooks for interpreter exit come after ours."""
    tiny = 100e-6  # a task costs milliseconds; and a worker whose other threads are busy takes its time over the tiniest
    reports_starts = False
    """`started` is called for a task with a timeout when it begins, before `ended`."""
    reports_each_start = False
    """It is for one without as well."""

    # -- what a backend defines; all are called in the feeder's thread, but `withdraw` and `sever` -----------------------------

    @abstractmethod
    def connect(self) -> None:
        """Have workers: called before the first task is sent. Raises anything: the executor is broken then."""

    @abstractmethod
    def send(self, flight: Flight, call: Payload) -> Any:
        """Have *call* run (`run_pickled_call`) and return a handle; later, from any thread, call `ended(flight)` once.

        Raises ConfigError for an option of the task that is wrong, which fails that task alone; anything else means that the
        engine is lost, unless it `answers`.
        """

    @abstractmethod
    def collect(self, flights: Sequence[Flight]) -> Sequence[Answer | Failure | None]:
        """Return what became of flights that have ended: an answer, or why there is none; None: it never began, run it anew."""

    def answers(self) -> bool:
        """Return whether the engine is there, as far as is known, though something has failed just now."""
        return False

    def withdraw(self, flights: Sequence[Flight]) -> Sequence[Flight]:
        """Return those of *flights* of which it is certain that they have not begun, and will not; in any thread.

        Asked again about one of those it says the same; `forget` follows. Asked of backends that say `reports_starts`.
        """
        return ()

    def interrupt(self, flight: Flight) -> None:
        """Have *flight* end at once, whatever it does; for backends whose capabilities say ``kill="yes"``."""

    def forget(self, flights: Sequence[Flight]) -> None:
        """Nobody wants to hear of *flights* any more: what has not begun need not run."""

    @abstractmethod
    def disconnect(self) -> None:
        """End what `connect`, `slots` and `start` have made; called once, also if `connect` failed or was never called."""

    def sever(self) -> None:
        """Kill what is ours at once, even in the middle of `connect` or `send`; from any thread, without waiting."""

    # -- what it tells ---------------------------------------------------------------------------------------------------------

    def ended(self, flight: Flight) -> None:
        """The engine is through with *flight*; in any thread."""
        self._news.put(flight)

    def started(self, flight: Flight, worker: str, where: Any = None) -> None:
        """A worker has taken *flight* up; in any thread."""
        with self._lock:
            flight.started, flight.worker, flight.where = time.monotonic(), worker, where
            flight.task.worker = worker
            waited = flight in self._waiting
            stopped = flight.stopped is not None
        if self._scheduler.begin(flight.task, flight.started) and stopped:
            self._tell(partial(self.interrupt, flight))
        if waited:
            self._tell(partial(self._takes_a_slot, flight))

    def waits(self, flight: Flight) -> None:
        """No worker can take *flight* up at present: others, which may find one, do not wait for it; in any thread."""
        self._tell(partial(self._takes_no_slot, flight))

    def lose(self, reason: str, error: BaseException | None) -> None:
        """The engine is gone: what was sent fails, what waits as well, and nothing more can be submitted; in any thread."""
        self._tell(partial(self._lose, reason, error))

    def gone(self, flight: Flight, reason: str, error: BaseException | None) -> Failure:
        """Do as `lose`; return what `collect` has to say of *flight*."""
        self.lose(reason, error)
        return Failure(lost_with_engine(flight.task, self._message(reason), error), "crashed")

    # -- the contract ----------------------------------------------------------------------------------------------------------

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        from taskrun.engine.surroundings import locate_context_vars

        self._context_vars = locate_context_vars(settings.context_vars)
        self._scheduler = scheduler
        self._settings = settings
        self._slots = settings.max_workers
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._flights: dict[Task, Flight] = {}
        self._busy: set[Flight] = set()  # the feeder's: sent and not ended, abandoned ones too
        self._waiting: set[Flight] = set()  # those of them that take no slot; changed by the feeder
        self._news: SimpleQueue[Flight | Callable[[], object] | None] = SimpleQueue()
        self._connected = self._closing = False
        self._lost: tuple[str, BaseException | None] | None = None
        for module in self.outlived_by:
            import_module(module)  # its hook is registered before ours, which then runs first
            lifetime.finish_before(module)
        self._feeder = OwnThread(f"{settings.name}-feeder", self._feed)
        self._feeder.start()

    def wake(self) -> None:
        self._news.put(None)

    def _tell(self, what: Callable[[], object]) -> None:
        self._news.put(what)

    # -- the feeder ------------------------------------------------------------------------------------------------------------

    def _feed(self) -> None:
        while True:
            try:
                self._turn(self._next_news())
            except BaseException as error:  # the engine's code, which may raise anything: this thread must not die of it
                _log.debug("the engine of backend %r failed", self.name, exc_info=True)
                self._lose(f"the engine failed with {type(error).__name__}: {error}", error)
            if self._closing and not self._flights and not self._scheduler.queued:
                break
        try:
            self.disconnect()
        except BaseException:
            _log.exception("backend %r could not be disconnected in order", self.name)

    def _next_news(self) -> list[Any]:
        batch = [self._news.get()]
        with suppress(Empty):
            while len(batch) < _AT_ONCE:
                batch.append(self._news.get_nowait())
        return batch

    def _turn(self, batch: list[Any]) -> None:
        ended = [item for item in batch if type(item) is Flight]
        if ended:
            self._take_answers(ended)  # first: what had finished stays, whatever else has happened
        del ended
        for item in batch:
            if item is not None and type(item) is not Flight:
                item()
        del batch
        while (free := self._slots + len(self._waiting) - len(self._busy)) > 0 and (tasks := self._scheduler.pull(free)):
            for task in tasks:
                self._launch(task)
            del tasks, task  # not kept while waiting

    def _launch(self, task: Task) -> None:
        """Send a pulled task. Raises nothing."""
        if self._lost is not None:
            self._scheduler.fail(task, lost_with_engine(task, *self._lost), "initializer")  # it would fail again
            return
        try:
            if not self._connected:
                self.connect()
                self._connected = True
        except BaseException as error:  # the engine's code
            self._scheduler.give_back([task])
            message = f"backend {self.name!r} could not start its workers: {type(error).__name__}: {error}; no task can run"
            self._lost = (message, error)
            self._scheduler.break_down(message, error, InitializerError)
            return
        flight = Flight(task)
        with self._lock:
            self._flights[task] = flight  # from here on `revoke` finds it
        try:
            call = dump_call(task, self._context_vars, seeded=self._settings.seed is not None)
        except SerializationError as error:
            self._not_sent(flight, error)
        except BaseException as error:  # the user's code
            self._not_sent(flight, not_sent(error, task))
        else:
            flight.size = sum(map(len, (call[1].function or b"", call[1].arguments)))
            self._hand_over(flight, call)

    def _hand_over(self, flight: Flight, call: Payload) -> None:
        task = flight.task
        # There is a free slot: where nobody says more, it runs from here on as far as can be told.
        reported = self.reports_starts and (self.reports_each_start or task.options.timeout is not None)
        begun = not task.settled if reported else self._scheduler.begin(task)
        with self._lock:
            if self._flights.get(task) is not flight:
                return  # revoked
            if not begun:
                del self._flights[task]  # cancelled
                return
            flight.sent = True
        self._busy.add(flight)
        try:
            flight.handle = self.send(flight, call)
        except ConfigError as error:
            self._not_sent(flight, error)
        except BaseException as error:  # the engine's code
            if not self.answers():
                self._lose(f"a task could not be sent: {type(error).__name__}: {error}", error)
            self._not_sent(flight, not_sendable(task, error, self.name))

    def _not_sent(self, flight: Flight, error: BaseException) -> None:
        self._busy.discard(flight)
        with self._lock:
            mine = self._flights.pop(flight.task, None) is not None
        if mine:
            self._scheduler.fail(flight.task, error, "serialization")  # it would fail again

    def _takes_no_slot(self, flight: Flight) -> None:
        with self._lock:
            if flight in self._busy and flight.started is None and may_wait(flight, self._waiting):
                self._waiting.add(flight)

    def _takes_a_slot(self, flight: Flight) -> None:
        with self._lock:
            self._waiting.discard(flight)

    def _take_answers(self, ended: list[Flight]) -> None:
        wanted = []
        for flight in ended:
            self._busy.discard(flight)
            with self._lock:
                self._waiting.discard(flight)
                if self._flights.get(flight.task) is flight:
                    wanted.append(flight)
        outcomes: list[Outcome] = []
        back: list[Task] = []
        for flight, found in zip(wanted, self.collect(wanted) if wanted else (), strict=True):
            with self._lock:
                if self._flights.pop(flight.task, None) is None:
                    continue  # abandoned meanwhile
                stopped = flight.stopped
            if isinstance(found, Failure):
                failure = stopped if stopped is not None and found.cause == "crashed" else found
                outcomes.append((flight.task, False, failure.error, failure.cause, None))
            elif found is not None:
                outcomes.append(self._outcome(flight, found))
            else:
                back.append(flight.task)
        self.forget([flight for flight in ended if flight not in wanted])
        self._scheduler.settle(outcomes)
        if back:
            self._scheduler.give_back(back)

    def _outcome(self, flight: Flight, answer: Answer) -> Outcome:
        task, succeeded, value, cause, run = load_answer(flight.task, answer)
        if run is not None:
            worker, _, *cost = run  # the worker's clock may be that of another machine
            run = (flight.worker or worker, flight.started or task.begun, *cost)
        return task, succeeded, value, cause, run

    def _lose(self, reason: str, error: BaseException | None) -> None:
        if self._lost is not None:
            return
        message = self._message(reason)
        self._lost = (message, error)
        with self._lock:
            flights = list(self._flights.values())
            self._flights.clear()
            self._waiting.clear()
        self._busy.clear()
        for flight in flights:
            failure = flight.stopped or Failure(lost_with_engine(flight.task, message, error), "crashed")
            self._scheduler.fail(flight.task, failure.error, failure.cause)
        from taskrun.errors import WorkerCrashedError

        self._scheduler.break_down(message, error, WorkerCrashedError)

    def _message(self, reason: str) -> str:
        return f"backend {self.name!r} has lost its cluster: {reason}; make a new executor once it is there again"

    # -- taking back -----------------------------------------------------------------------------------------------------------

    def revoke(self, task: Task) -> bool:
        with self._lock:
            flight = self._flights.get(task)
            if flight is None or flight.started is not None:
                return False
            if not flight.sent:
                del self._flights[task]  # `_hand_over` looks again
                return True
        try:
            return task in self._taken_back([flight])
        except BaseException:  # Ctrl-C: it may be withdrawn, and nobody has heard of that
            self._tell(partial(self._taken_back, [flight]))
            raise

    def recall(self) -> None:
        self._tell(self._recall)

    def _recall(self) -> None:
        with self._lock:
            waiting = [flight for flight in self._flights.values() if flight.started is None]
        if waiting and self.reports_starts:
            self._scheduler.give_back(self._taken_back(waiting))

    def _taken_back(self, flights: Sequence[Flight]) -> list[Task]:
        """Withdraw *flights* and return the tasks of those that have not begun: they are ours no more."""
        back = []
        for flight in self.withdraw(flights):
            with self._lock:
                if self._flights.pop(flight.task, None) is not None:
                    back.append(flight.task)
            self._tell(partial(self._withdrawn, flight))
        return back

    def _withdrawn(self, flight: Flight) -> None:
        self._busy.discard(flight)
        self._takes_a_slot(flight)
        self.forget([flight])

    # -- stopping --------------------------------------------------------------------------------------------------------------

    def stop(self, task: Task, error: BaseException, cause: Literal["timeout", "killed"]) -> bool:
        now = time.monotonic()
        with self._lock:
            flight = self._flights.get(task)
            if flight is None:
                return False
            if self.capabilities.kill != "yes":
                del self._flights[task]  # nobody waits for it; its slot is free once it ends
                return False
            if flight.stopped is None:
                flight.stopped = Failure(error, cause)
        self._tell(partial(self.interrupt, flight))
        self._scheduler.timer.call_at(now + _STOP_LIMIT, self._give_up, flight)
        return True

    def _give_up(self, flight: Flight) -> None:
        """The engine did not stop it, or has not said so: its future fails all the same."""
        with self._lock:
            if self._flights.get(flight.task) is not flight or flight.stopped is None:
                return
            del self._flights[flight.task]
        self._tell(partial(self.forget, [flight]))
        self._scheduler.fail(flight.task, *flight.stopped)

    # -- waiting ---------------------------------------------------------------------------------------------------------------

    def owns_current_thread(self) -> bool:
        return self._feeder is threading.current_thread()

    def waiting(self) -> AbstractContextManager[None]:
        refuse_waiting_in(self._feeder)
        return nullcontext()

    # -- ending ----------------------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        self._closing = True
        self._news.put(None)

    def abort(self, *, force: bool) -> None:
        with self._lock:
            running = list(self._flights.values())
            if force:
                self._flights.clear()
        for flight in running:
            task = flight.task
            task.cancel_requested = True
            error = TaskKilledError(f"task {task.name!r} was stopped with its executor", task=task.name, attempt=task.number)
            if force:
                self._scheduler.fail(task, error, "killed")
            elif self.capabilities.kill == "yes":
                self.stop(task, error, "killed")
        if force:
            self.sever()
            self._tell(partial(self.forget, running))
        self._news.put(None)

    def join(self, timeout: float | None = None) -> bool:
        if os.getpid() != self._pid:
            return True
        if self._feeder is threading.current_thread():
            return False
        self._feeder.join(timeout)
        return not self._feeder.is_alive()
