"""The base of backends on foreign engines, on an engine of two threads that can be made to fail in every way."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from patience import PATIENCE, eventually

import taskrun
from taskrun.backends import Capabilities
from taskrun.backends.remote import Failure, Flight, RemoteBackend, run_pickled_call

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskrun.backends.remote import Answer, Payload


class ThreadsAfar(RemoteBackend):
    """Runs pickled calls in threads, as if they were far away."""

    name = "afar"
    capabilities = Capabilities(pickles="yes", kill="no", initializer="no", processes=True)
    option_names = {"size": "int: how many threads", "broken": "True: the engine does not start"}  # noqa: RUF012
    task_option_names = {"colour": "str"}  # noqa: RUF012

    def __init__(self) -> None:
        self.connections, self.ends = 0, 0
        self.results: dict[str, list[Failure | None]] = {}
        self.delay = threading.Event()
        self.delay.set()
        self.alive = False

    def configure(self, options: Mapping[str, Any]) -> None:
        if not isinstance(options.get("size", 2), int):
            raise taskrun.ConfigError("size must be a number", setting="size")
        self.options = options
        if options.get("size") == 3:
            self.capabilities = Capabilities(pickles="yes", kill="yes", initializer="no", processes=True)

    def slots(self) -> int | None:
        return self.options.get("size")

    def connect(self) -> None:
        self.connections += 1
        if self.options.get("broken"):
            raise OSError("no threads today")
        self.pool = concurrent.futures.ThreadPoolExecutor(4)

    def send(self, flight: Flight, call: Payload) -> Any:
        if (colour := flight.task.options.backend.get("colour")) == "wrong":
            raise taskrun.ConfigError("colour must be another")
        if colour == "fatal":
            raise OSError("the line is dead")
        if colour == "nowhere":
            self.waits(flight)
            return None
        future = self.pool.submit(self._run, flight, call)
        future.add_done_callback(lambda _: self.ended(flight))
        return future

    def _run(self, flight: Flight, call: Payload) -> Answer:
        self.delay.wait(PATIENCE)
        if self.reports_starts:
            self.started(flight, "thread afar")
        return run_pickled_call(call)

    def answers(self) -> bool:
        return self.alive

    def withdraw(self, flights: Sequence[Flight]) -> list[Flight]:
        return [flight for flight in flights if flight.task.options.backend.get("colour") == "nowhere"]

    def collect(self, flights: Sequence[Flight]) -> list[Answer | Failure | None]:
        return [self._result(flight) for flight in flights]

    def _result(self, flight: Flight) -> Answer | Failure | None:
        answer: Answer = flight.handle.result()
        planned = self.results.get(flight.task.name)
        return planned.pop(0) if planned else answer

    def disconnect(self) -> None:
        self.ends += 1
        if self.connections and not self.options.get("broken"):
            self.pool.shutdown()


def test_options_and_size_are_asked_for_before_it_starts() -> None:
    backend = ThreadsAfar()
    with taskrun.Executor(backend, size=5) as ex:
        assert ex._max_workers == 5
        assert backend.connections == 0  # until there is work
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
    assert (backend.connections, backend.ends) == (1, 1)
    with taskrun.Executor(ThreadsAfar(), size=5, max_workers=2) as ex:
        assert ex._max_workers == 2
    with pytest.raises(taskrun.ConfigError, match="size must be a number"):
        taskrun.Executor(ThreadsAfar(), size="large")


def test_capabilities_may_depend_on_the_options() -> None:
    with taskrun.Executor(ThreadsAfar(), size=3, require=("kill",)):
        pass
    with pytest.raises(taskrun.UnsupportedOptionError, match="kill"):
        taskrun.Executor(ThreadsAfar(), size=2, require=("kill",))


def test_an_adapted_pool_says_its_size() -> None:
    with concurrent.futures.ThreadPoolExecutor(3) as pool, taskrun.Executor(pool) as ex:
        assert ex._max_workers == 3


def test_an_engine_that_does_not_start_is_an_error_on_every_future() -> None:
    backend = ThreadsAfar()
    with taskrun.Executor(backend, broken=True) as ex:
        first = ex.submit(pow, 2, 3)
        assert isinstance(first.exception(PATIENCE), taskrun.InitializerError)
        assert "no threads today" in str(first.exception())
        with pytest.raises(taskrun.InitializerError):
            ex.submit(pow, 2, 3)
    assert (backend.connections, backend.ends) == (1, 1)


def test_a_wrong_option_fails_its_task_and_a_dead_line_all_of_them() -> None:
    backend = ThreadsAfar()
    with taskrun.Executor(backend, max_workers=2) as ex:
        assert isinstance(ex.options(colour="wrong").submit(pow, 2, 3).exception(PATIENCE), taskrun.ConfigError)
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
        backend.delay.clear()
        under_way = ex.submit(pow, 2, 4)
        assert eventually(under_way.running)
        last = ex.options(colour="fatal", retry=taskrun.Retry(max_attempts=5, wait="none")).submit(pow, 2, 5)
        for future in (under_way, last):
            error = future.exception(PATIENCE)
            assert isinstance(error, taskrun.WorkerCrashedError)
            assert "the line is dead" in str(error)
        with pytest.raises(taskrun.WorkerCrashedError, match="has lost its cluster"):
            ex.submit(pow, 2, 3)
        backend.delay.set()


def test_a_task_that_cannot_be_sent_fails_alone_while_the_engine_answers() -> None:
    backend = ThreadsAfar()
    backend.alive = True
    with taskrun.Executor(backend, max_workers=2) as ex:
        error = ex.options(colour="fatal").submit(pow, 2, 3).exception(PATIENCE)
        assert isinstance(error, taskrun.BackendUnavailableError)
        assert "the line is dead" in str(error)
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8


def test_what_waits_for_a_worker_takes_no_slot_and_is_had_back() -> None:
    backend = ThreadsAfar()
    backend.reports_starts = backend.reports_each_start = True
    with taskrun.Executor(backend, max_workers=1) as ex:
        first, second, third = (ex.options(colour="nowhere").submit(pow, 2, 3) for _ in range(3))
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
        assert not first.running()
        assert first.cancel()
        assert second.kill()
        assert second.cancelled()
        ex.shutdown(cancel_futures=True)
        assert third.cancelled()
        assert first.attempts == ()


def test_what_waits_for_a_worker_without_a_slot_is_bounded() -> None:
    backend = ThreadsAfar()
    backend.reports_starts = backend.reports_each_start = True
    with taskrun.Executor(backend, max_workers=1) as ex:
        waiting = [ex.options(colour="nowhere").submit(bytes.__len__, bytes(30_000_000)) for _ in range(2)]
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
        waiting += [ex.options(colour="nowhere").submit(bytes.__len__, bytes(30_000_000)) for _ in range(2)]
        behind = ex.submit(pow, 2, 3)
        assert eventually(lambda: len(backend._flights) == 3)
        assert not behind.done()
        assert all(future.cancel() for future in waiting)
        assert behind.result(PATIENCE) == 8


def test_what_may_have_begun_is_not_had_back() -> None:
    backend = ThreadsAfar()
    backend.reports_starts = backend.reports_each_start = True
    backend.delay.clear()
    with taskrun.Executor(backend, max_workers=1) as ex:
        future = ex.submit(pow, 2, 3)
        assert eventually(lambda: backend._flights)
        assert not future.cancel()
        backend.delay.set()
        assert future.result(PATIENCE) == 8


def test_what_never_began_runs_again_and_what_crashed_does_not() -> None:
    backend = ThreadsAfar()
    crash = Failure(taskrun.WorkerCrashedError("it died"), "crashed")
    backend.results = {"unblamed": [None, None], "blamed": [crash]}
    with taskrun.Executor(backend, max_workers=2) as ex:
        unblamed = ex.options(name="unblamed").submit(pow, 2, 3)
        blamed = ex.options(name="blamed").submit(pow, 2, 4)
        assert unblamed.result(PATIENCE) == 8
        assert len(unblamed.attempts) == 1
        assert blamed.exception(PATIENCE) is crash.error


def test_the_time_of_a_task_begins_when_the_engine_says_so() -> None:
    backend = ThreadsAfar()
    backend.reports_starts = True
    with taskrun.Executor(backend, max_workers=2) as ex:
        backend.delay.clear()
        waits = ex.options(timeout=0.2).submit(time.sleep, 0.5)
        with pytest.raises(TimeoutError):
            waits.result(0.5)
        assert not waits.done()
        backend.delay.set()
        error = waits.exception(PATIENCE)
        assert isinstance(error, taskrun.TaskTimeoutError)
        assert error.elapsed is not None
        assert error.elapsed < 0.5  # of which it had waited 0.5 already
        (attempt,) = waits.attempts
        assert attempt.worker == "thread afar"


def test_an_engine_that_does_not_stop_a_task_is_not_waited_for() -> None:
    backend = ThreadsAfar()
    with taskrun.Executor(backend, size=3) as ex:  # it says that it can kill, and does nothing
        backend.delay.clear()
        future = ex.submit(pow, 2, 3)
        assert eventually(future.running)
        started = time.monotonic()
        assert future.kill()
        assert isinstance(future.exception(PATIENCE), taskrun.TaskKilledError)
        assert time.monotonic() - started < 10
        backend.delay.set()
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
