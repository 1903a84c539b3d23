"""What is the pool backend's own: that it is `multiprocessing.Pool`, and what that has besides workers."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from multiprocessing import forkserver, spawn
from typing import TYPE_CHECKING, Any

import jobs
import pytest
from patience import PATIENCE, eventually, gone, stopped

import taskrun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from patience import Wire

BACKENDS = ("pool",)


class Held:
    """Is not pickled, nor unpickled in the parent, before it is let go."""

    reached = threading.Event()
    go = threading.Event()

    def __init__(self, side: str) -> None:
        self.side = side
        self.home = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        if self.side == "pickling" and os.getpid() == self.home:
            self._hold()
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.side == "unpickling" and os.getpid() == self.home:
            self._hold()

    @classmethod
    def _hold(cls) -> None:
        cls.reached.set()
        assert cls.go.wait(PATIENCE)


@pytest.fixture(autouse=True)
def held() -> Iterator[type[Held]]:
    Held.reached.clear()
    Held.go.clear()
    yield Held
    Held.go.set()


def about_process(_: object = None) -> tuple[str, int | None]:
    parent = multiprocessing.parent_process()
    return multiprocessing.current_process().name, None if parent is None else parent.pid


def give_back(value: Any) -> Any:
    return value


@pytest.mark.parametrize(("method", "prefix"), [("forkserver", "ForkServer"), ("spawn", "Spawn"), ("fork", "Fork")])
def test_its_workers_are_processes_of_multiprocessing_pool(make: Callable, method: str, prefix: str) -> None:
    with make(start_method=method) as ex:
        name, parent = ex.submit(about_process).result()
        assert re.fullmatch(prefix + r"PoolWorker-\d+", name)
        assert parent == os.getpid()
        assert name in {process.name for process in multiprocessing.active_children()}
        worker = next(iter(ex._backend._processes.values()))
        assert isinstance(worker.pool, multiprocessing.pool.Pool)


def test_other_processes_of_the_program_still_run_its_main(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/somewhere/program.py", raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    with make() as ex:
        ex.submit(jobs.pid).result()
        assert spawn.get_preparation_data("other")["init_main_from_path"] == "/somewhere/program.py"


class TestSlowToPickle:
    def test_it_holds_up_nobody_else(self, make: Callable, held: type[Held]) -> None:
        with make(max_workers=2) as ex:
            slow = ex.submit(give_back, Held("pickling"))
            assert held.reached.wait(PATIENCE)
            assert not slow.running()
            assert [ex.submit(jobs.double, i).result(PATIENCE) for i in range(5)] == [0, 2, 4, 6, 8]
            held.go.set()
            assert slow.result(PATIENCE).side == "pickling"

    def test_it_can_be_cancelled_meanwhile_and_does_not_run(self, make: Callable, held: type[Held], tmp_path: Any) -> None:
        file = tmp_path / "log"
        with make(max_workers=1) as ex:
            slow = ex.submit(jobs.log, str(file), Held("pickling"))
            assert held.reached.wait(PATIENCE)
            assert slow.cancel()
            held.go.set()
            assert ex.submit(jobs.double, 4).result(PATIENCE) == 8
        assert not file.exists()

    def test_its_worker_may_die_meanwhile_which_costs_nothing(self, make: Callable, held: type[Held]) -> None:
        with make(max_workers=1) as ex:
            worker = ex.submit(jobs.pid).result()
            slow = ex.submit(give_back, Held("pickling"))
            assert held.reached.wait(PATIENCE)
            os.kill(worker, signal.SIGKILL)
            assert gone(worker)
            held.go.set()
            assert slow.result(PATIENCE).side == "pickling"
            assert len(slow.attempts) == 1

    def test_a_task_that_waits_for_its_executor_there_is_refused(self, make: Callable) -> None:
        with make(max_workers=1) as ex:

            class Waits:
                def __reduce__(self) -> Any:
                    ex.submit(jobs.double, 1).result()
                    return int, ()

            error = ex.submit(give_back, Waits()).exception(PATIENCE)
            assert isinstance(error, taskrun.SerializationError)
            assert "same executor" in str(error)


class TestSlowToUnpickle:
    def test_it_holds_up_nobody_else(self, make: Callable, held: type[Held]) -> None:
        with make(max_workers=2) as ex:
            slow = ex.submit(give_back, Held("unpickling"))
            assert held.reached.wait(PATIENCE)
            assert [ex.submit(jobs.double, i).result(PATIENCE) for i in range(5)] == [0, 2, 4, 6, 8]
            held.go.set()
            assert slow.result(PATIENCE).side == "unpickling"

    def test_its_worker_may_die_meanwhile_and_its_time_may_run_out(self, make: Callable, held: type[Held]) -> None:
        with make(max_workers=1) as ex:
            worker = ex.submit(jobs.pid).result()
            ex.submit(give_back, 1).result()  # this module is imported there
            slow = ex.options(timeout=1.0).submit(give_back, Held("unpickling"))
            assert held.reached.wait(PATIENCE)
            os.kill(worker, signal.SIGKILL)
            assert ex.submit(jobs.double, 4).result(PATIENCE) == 8  # on another worker
            time.sleep(1.1)  # past the limit
            held.go.set()
            assert slow.result(PATIENCE).side == "unpickling"


class TestForkServer:
    def test_one_that_was_killed_is_started_again_and_costs_no_running_task(self, make: Callable, wire: Wire) -> None:
        with make(max_workers=2) as ex:
            running = ex.submit(jobs.tell_and_hold, wire.path)
            wire.hear()
            server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
            os.kill(server, signal.SIGKILL)
            assert len({ex.submit(jobs.exit_at_once, 1).exception(PATIENCE).pid for _ in range(2)}) == 2
            assert ex.submit(jobs.double, 2).result(PATIENCE) == 4
            wire.release()
            assert running.result(PATIENCE) > 0

    def test_one_that_was_stopped_does_not_keep_the_executor_from_being_killed(self, make: Callable) -> None:
        with make(max_workers=1) as ex:
            ex.submit(jobs.double, 1).result()
        server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
        stopped(server)
        try:
            ex = make(max_workers=1)
            waiting = ex.submit(jobs.double, 1)
            assert eventually(lambda: ex._backend._processes)
            ex.kill_workers()
            assert waiting.cancelled()
        finally:
            os.kill(server, signal.SIGCONT)


def test_a_grandchild_that_keeps_the_line_open_hides_no_death(make: Callable, wire: Wire) -> None:
    def leave_one_behind(path: str) -> None:
        ready, tell = os.pipe()
        if os.fork() == 0:
            os.setsid()
            os.write(tell, b"x")
            jobs.tell_and_hold(path)
            os._exit(0)
        os.read(ready, 1)
        os._exit(7)

    with make(max_workers=1) as ex:
        error = ex.submit(leave_one_behind, wire.path).exception(PATIENCE)
        assert isinstance(error, taskrun.WorkerCrashedError)
        assert error.exitcode == 7
        assert ex.submit(jobs.double, 2).result(PATIENCE) == 4
        left = int(wire.hear())
        wire.release()
        assert gone(left)
