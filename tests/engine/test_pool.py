"""What is the pool backend's own: that it is `multiprocessing.Pool`, and what that has besides workers."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from multiprocessing import forkserver, spawn
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jobs
import pytest
from patience import PATIENCE, eventually, gone, stopped

import taskrun
from taskrun.backends import pool_watch
from taskrun.engine import small_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Script
    from patience import Wire

BACKENDS = ("pool",)

# What was found on it is asked of the others, too.
every_process_like = pytest.mark.parametrize("make", ["process", "pool", "fork"], indirect=True)


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


@pytest.fixture
def behind(wire: Wire) -> Callable[..., Any]:
    def submit(ex: Any, fn: Callable, *args: Any, **options: Any) -> Any:
        """Submit a call while the only worker is busy, and free the worker."""
        ahead = ex.submit(jobs.tell_and_hold, wire.path)
        wire.hear()
        future = ex.options(**options).submit(fn, *args)
        wire.release()
        assert ahead.result(PATIENCE)
        return future

    return submit


@pytest.fixture(params=["to a free worker", "behind another task"])
def submit(request: pytest.FixtureRequest, behind: Callable[..., Any]) -> Callable[..., Any]:
    """Submit a call; the keeper hands it over in one case, in the other the thread that took the answer before."""
    return behind if request.param == "behind another task" else lambda ex, fn, *args: ex.submit(fn, *args)


class TestSlowToPickle:
    def test_it_holds_up_nobody_else(self, make: Callable, held: type[Held]) -> None:
        with make(max_workers=2) as ex:
            slow = ex.submit(give_back, Held("pickling"))
            assert held.reached.wait(PATIENCE)
            assert not slow.running()
            assert [ex.submit(jobs.double, i).result(PATIENCE) for i in range(5)] == [0, 2, 4, 6, 8]
            held.go.set()
            assert slow.result(PATIENCE).side == "pickling"

    def test_it_can_be_cancelled_meanwhile_and_does_not_run(
        self, make: Callable, submit: Callable, held: type[Held], tmp_path: Any
    ) -> None:
        file = tmp_path / "log"
        with make(max_workers=1) as ex:
            slow = submit(ex, jobs.log, str(file), Held("pickling"))
            assert held.reached.wait(PATIENCE)
            assert slow.cancel()
            held.go.set()
            assert ex.submit(jobs.double, 4).result(PATIENCE) == 8
        assert not file.exists()

    def test_its_worker_may_die_meanwhile_which_costs_nothing(self, make: Callable, submit: Callable, held: type[Held]) -> None:
        with make(max_workers=1) as ex:
            worker = ex.submit(jobs.pid).result()
            slow = submit(ex, give_back, Held("pickling"))
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


def test_a_worker_whose_threads_end_while_its_burial_is_looked_at_loses_nothing(
    make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the question whether it may still answer and the one whether all is over."""
    may_answer = small_pool.SmallPool.may_answer

    def at_first(pool: small_pool.SmallPool) -> bool:
        for thread in pool.threads():
            thread.join(PATIENCE)
        monkeypatch.setattr(small_pool.SmallPool, "may_answer", may_answer)
        return True

    monkeypatch.setattr(small_pool.SmallPool, "may_answer", at_first)
    with make(max_workers=1) as ex:
        for _ in range(3):
            assert isinstance(ex.submit(jobs.die_if, True, os.devnull, 0).exception(PATIENCE), taskrun.WorkerCrashedError)


class TestGoesOn:
    """A worker that has answered gets what waits from the thread that took its answer: the keeper has no part in it."""

    @pytest.mark.parametrize("end", ["kill_workers", "terminate_workers"])
    def test_all_may_end_meanwhile(self, make: Callable, behind: Callable, held: type[Held], end: str) -> None:
        ex = make(max_workers=1)
        slow = behind(ex, give_back, Held("pickling"))
        assert held.reached.wait(PATIENCE)
        ending = threading.Thread(target=getattr(ex, end))
        ending.start()
        held.go.set()
        ending.join(PATIENCE)
        assert not ending.is_alive()
        assert slow.done()

    @pytest.mark.parametrize("what", ["killed", "discarded"])
    def test_a_task_may_be_ended_just_before_it_is_given(
        self, make: Callable, behind: Callable, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        ex = make(max_workers=1)
        give = ex._backend._hand_over
        ended = threading.Event()

        def end_first(worker: Any, task: Any, **options: Any) -> bool:
            if task.fn is time.sleep and not ended.is_set():
                if what == "killed":
                    assert task.future.kill()
                else:
                    ex.shutdown(wait=False, cancel_futures=True)
                ended.set()
            return bool(give(worker, task, **options))

        monkeypatch.setattr(ex._backend, "_hand_over", end_first)
        future = behind(ex, time.sleep, 10 * PATIENCE)
        assert ended.wait(PATIENCE)
        assert eventually(future.done)
        assert future.cancelled() if what == "discarded" else not future.running()
        ex.shutdown()

    def test_what_does_not_pickle_fails_alone(self, make: Callable, behind: Callable) -> None:
        with make(max_workers=1) as ex:
            wrong = behind(ex, give_back, threading.Lock())
            after = ex.submit(jobs.double, 3)
            assert isinstance(wrong.exception(PATIENCE), taskrun.SerializationError)
            assert after.result(PATIENCE) == 6

    @pytest.mark.parametrize("what", ["killed", "stopped"])
    def test_a_worker_that_is_struck_before_it_takes_it_up_is_replaced(
        self, make: Callable, behind: Callable, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        give = small_pool.SmallPool.apply_here
        struck: list[int] = []

        def strike(pool: small_pool.SmallPool, *args: Any) -> None:
            pid = pool.process.pid
            assert pid is not None
            if not struck:
                struck.append(pid)
                if what == "stopped":
                    stopped(pid)
                else:
                    os.kill(pid, signal.SIGKILL)
                    assert gone(pid)
            give(pool, *args)

        monkeypatch.setattr(small_pool.SmallPool, "apply_here", strike)
        with make(max_workers=1) as ex:
            future = behind(ex, jobs.pid)
            assert future.result(PATIENCE) not in struck
            assert struck
            assert len(future.attempts) == 1

    def test_its_limits_are_kept(self, make: Callable, behind: Callable) -> None:
        with make(max_workers=1) as ex:
            late = behind(ex, time.sleep, 10 * PATIENCE, timeout=0.2)
            assert isinstance(late.exception(PATIENCE), taskrun.TaskTimeoutError)
            assert ex.submit(jobs.double, 3).result(PATIENCE) == 6

    def test_each_worker_still_runs_no_more_than_its_share(self, make: Callable) -> None:
        with make(max_workers=2, max_tasks_per_child=3) as ex:
            pids = [future.result(PATIENCE) for future in [ex.submit(jobs.pid) for _ in range(12)]]
            assert max(pids.count(pid) for pid in pids) == 3


def leave_a_thread(path: str) -> int:
    threading.Thread(target=jobs.tell_and_hold, args=(path,)).start()
    return 1


@every_process_like
def test_a_thread_that_a_task_leaves_behind_does_not_cost_its_slot(make: Callable, wire: Wire) -> None:
    with make(max_workers=1) as ex:
        assert ex.submit(leave_a_thread, wire.path).result(PATIENCE) == 1
        wire.hear()
        assert ex.submit(jobs.double, 4).result(PATIENCE) == 8
        wire.release()


@pytest.mark.parametrize("make", ["pool", "fork"], indirect=True)
def test_a_keeper_that_fails_again_and_again_gives_up(
    make: Callable, wire: Wire, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with make(max_workers=1) as ex:
        running = ex.options(retry=taskrun.Retry(max_attempts=3, on_crash=True)).submit(jobs.tell_and_hold, wire.path)
        wire.hear()

        def fail() -> None:
            raise LookupError("a fault of ours")

        monkeypatch.setattr(ex._backend, "_feed", fail)
        waiting = ex.submit(jobs.double, 4)
        ex._backend._have_it_look()  # what waits is no reason to: a pool's worker takes it by itself
        for future in (running, waiting):  # also where it would be tried again
            assert isinstance(future.exception(PATIENCE), Exception)
        with pytest.raises(taskrun.InitializerError, match="a fault of ours"):
            ex.submit(jobs.double, 4)
        monkeypatch.undo()
    assert 5 < caplog.text.count("error in the keeper") < 20


def test_a_keeper_that_gives_up_does_not_wait_for_the_users_pickling(
    make: Callable, held: type[Held], monkeypatch: pytest.MonkeyPatch
) -> None:
    with make(max_workers=1) as ex:
        stuck = ex.submit(give_back, Held("pickling"))
        assert held.reached.wait(PATIENCE)

        def fail() -> None:
            raise LookupError("a fault of ours")

        monkeypatch.setattr(ex._backend, "_feed", fail)
        waiting = ex.submit(jobs.double, 4)
        for future in (stuck, waiting):
            assert isinstance(future.exception(PATIENCE), Exception)
        monkeypatch.undo()
    held.go.set()


@pytest.mark.parametrize("another_first", [False, True], ids=["keeper", "worker's thread"])
def test_a_task_on_its_way_to_a_worker_can_be_cancelled(
    make: Callable, held: type[Held], wire: Wire, monkeypatch: pytest.MonkeyPatch, another_first: bool
) -> None:
    """In the moment between the queue and the worker's hands, too, which the keeper fills or the worker's own thread."""
    with make(max_workers=1) as ex:
        assert ex.submit(jobs.double, 1).result(PATIENCE) == 2
        scheduler = ex._scheduler
        pull, pulled, asking = scheduler.pull, threading.Event(), threading.Event()

        def pull_slowly(limit: int) -> list[Any]:
            tasks = pull(limit)
            if any(task.name == "wanted" for task in tasks):
                pulled.set()
                asking.wait(PATIENCE)
                time.sleep(0.1)  # it is being cancelled now
            return tasks

        monkeypatch.setattr(scheduler, "pull", pull_slowly)
        if another_first:
            running = ex.submit(jobs.tell_and_hold, wire.path)
            wire.hear()
        future = ex.options(name="wanted").submit(give_back, Held("pickling"))
        if another_first:
            wire.release()
            assert running.result(PATIENCE) > 0
        assert pulled.wait(PATIENCE)
        asking.set()
        assert future.cancel()
        assert future.cancelled()
        held.go.set()
        assert ex.submit(jobs.double, 4).result(PATIENCE) == 8


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

    def test_one_that_was_stopped_is_done_without(self, make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pool_watch, "_MADE_WITHIN", 0.2)
        with make(max_workers=1) as ex:
            ex.submit(jobs.double, 1).result(PATIENCE)
            stopped(forkserver._forkserver._forkserver_pid)  # type: ignore[attr-defined]
            assert isinstance(ex.submit(jobs.exit_at_once, 3).exception(PATIENCE), taskrun.WorkerCrashedError)
            assert ex.submit(jobs.double, 2).result(PATIENCE) == 4

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


class Awaited:
    """Does not unpickle before the file is there."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open_awaited, (self.path,)


def open_awaited(path: str) -> str:
    if not os.path.exists(path):
        raise LookupError("not there yet")
    return "loaded"


def test_a_function_that_did_not_unpickle_is_not_taken_for_the_one_before_it(make: Callable, tmp_path: Any) -> None:
    with make(max_workers=1) as ex:
        first = lambda: "first"  # noqa: E731 - it has to be gone soon
        assert ex.submit(first).result() == "first"
        del first
        gc.collect()
        needed = Awaited(str(tmp_path / "needed"))
        second = lambda: ("second", needed)  # noqa: E731
        assert isinstance(ex.submit(second).exception(), taskrun.SerializationError)
        (tmp_path / "needed").touch()
        assert ex.submit(second).result() == ("second", "loaded")


def write_junk() -> None:
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}").startswith("socket"):
                os.write(int(fd), b"\0\0\0\4junk")


def test_a_worker_whose_answers_cannot_be_read_is_killed_and_replaced(make: Callable) -> None:
    with make(max_workers=1) as ex:
        error = ex.submit(write_junk).exception(PATIENCE)
        assert isinstance(error, taskrun.WorkerCrashedError)
        assert "could not be read" in "".join(error.__notes__)
        assert ex.submit(jobs.double, 2).result(PATIENCE) == 4


def refuse_new_paths() -> None:
    class Finder:
        @classmethod
        def find_spec(cls, *_: Any) -> None:
            return None

        @classmethod
        def invalidate_caches(cls) -> None:
            raise OSError("the user's import hook")

    sys.meta_path.append(Finder)


def test_an_import_hook_that_fails_is_an_error_and_hurts_no_neighbour(
    make: Callable, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make(max_workers=2, initializer=refuse_new_paths) as ex:
        both = [ex.submit(jobs.tell_and_hold, wire.path) for _ in range(2)]
        assert wire.hear() != wire.hear()
        wire.release()  # one of them
        taskrun.wait(both, PATIENCE, taskrun.FIRST_COMPLETED)
        monkeypatch.setattr(sys, "path", [*sys.path, "/nowhere"])
        assert isinstance(ex.submit(jobs.double, 1).exception(PATIENCE), OSError)
        assert ex.submit(jobs.double, 1).result(PATIENCE) == 2
        wire.release()
        assert all(future.result(PATIENCE) for future in both)


@every_process_like
def test_an_initializer_that_forks_and_comes_back_twice_is_one_worker(make: Callable) -> None:
    with make(max_workers=1, initializer=jobs.fork_and_return) as ex:
        assert [ex.submit(jobs.double, i).result(PATIENCE) for i in range(5)] == [0, 2, 4, 6, 8]


def test_a_task_given_back_while_it_was_pickled_does_not_fail_by_that(make: Callable, held: type[Held]) -> None:
    with make(max_workers=1) as ex:
        worker = ex.submit(jobs.pid).result()
        future = ex.submit(give_back, FailsAtFirst())
        assert held.reached.wait(PATIENCE)
        os.kill(worker, signal.SIGKILL)
        assert future.result(PATIENCE) == 0  # elsewhere
        held.go.set()


class FailsAtFirst:
    """Does not pickle at first, and tells it late."""

    def __init__(self) -> None:
        self.asked = 0

    def __reduce__(self) -> Any:
        self.asked += 1
        if self.asked == 1:
            Held._hold()
            raise ValueError("at first")
        return int, ()


@every_process_like
def test_workers_start_though_the_working_directory_is_gone(
    make: Callable, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone_soon = tmp_path / "gone soon"
    gone_soon.mkdir()
    monkeypatch.chdir(gone_soon)
    gone_soon.rmdir()
    with make(max_workers=1) as ex:
        assert ex.submit(jobs.double, 2).result(PATIENCE) == 4


@pytest.mark.parametrize("make", ["process", "pool"], indirect=True)
def test_what_pickling_submits_is_not_held_back_by_max_pending(make: Callable) -> None:
    with make(max_workers=1, max_pending=1) as ex:

        class Submits:
            def __reduce__(self) -> Any:
                inner.extend(ex.submit(jobs.double, i) for i in range(4))
                return int, ("7",)

        inner: list[Any] = []
        assert ex.submit(give_back, Submits()).result(PATIENCE) == 7
        assert [future.result(PATIENCE) for future in inner] == [0, 2, 4, 6]


@pytest.mark.parametrize(
    ("make", "options"),
    [("fork", {}), ("process", {"start_method": "fork"}), ("pool", {"start_method": "fork"})],
    indirect=["make"],
)
def test_threads_of_a_task_in_a_forked_process_are_waited_for(make: Callable, options: Any, tmp_path: Any) -> None:
    file = str(tmp_path / "log")

    def start_thread() -> bool:
        def late() -> None:
            time.sleep(0.05)
            jobs.log(file, "late")

        threading.Thread(target=late).start()
        return threading.current_thread() is threading.main_thread()

    with make(max_workers=1, **options) as ex:
        assert ex.submit(start_thread).result(PATIENCE) is True
    assert jobs.lines(Path(file)) == ["late"]


def test_what_the_program_wants_loaded_in_the_fork_server_is_loaded_beside_ours(script: Script) -> None:
    code = """
import multiprocessing, sys, taskrun
multiprocessing.set_forkserver_preload(["colorsys"])
if __name__ == "__main__":
    for _ in range(2):
        with taskrun.Executor("pool", max_workers=1) as ex:
            loaded = ex.submit(lambda: ["colorsys" in sys.modules, "taskrun.engine.pool_worker" in sys.modules]).result()
    print(*loaded, *multiprocessing.forkserver._forkserver._preload_modules)
"""
    assert script.run(code) == "True True colorsys taskrun.engine.pool_worker taskrun.by_value\n"


def test_another_taskrun_in_the_current_directory_is_not_taken_for_this_one(script: Script, tmp_path: Path) -> None:
    """The fork server would look there first, unlike the program."""
    (tmp_path / "elsewhere" / "taskrun").mkdir(parents=True)
    (tmp_path / "elsewhere" / "taskrun" / "__init__.py").write_text("raise SystemError('another taskrun')")
    code = f"""
import os, sys, taskrun
os.chdir({str(tmp_path / "elsewhere")!r})
if __name__ == "__main__":
    with taskrun.Executor("pool", max_workers=1) as ex:
        print(ex.submit(lambda: sys.modules["taskrun"].__file__).result() == taskrun.__file__)
"""
    assert script.run(code) == "True\n"


@pytest.mark.filterwarnings("ignore::taskrun.UnsafeForkWarning")
def test_a_worker_that_nobody_waits_for_any_more_is_reaped_however_long_it_takes_to_die(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from taskrun.engine.pooled import PooledWorker

    worker = PooledWorker(0)
    worker.make(multiprocessing.get_context("fork"), os.getpid(), print)
    worker.made = True
    pid = worker.pid
    assert pid is not None
    threads = worker.pool.threads()
    dying = threading.Timer(0.3, os.kill, (pid, signal.SIGKILL))  # the pool's threads have ended by then
    monkeypatch.setattr(worker, "signal", lambda number: dying.start())
    os.kill(pid, signal.SIGSTOP)  # else it ends of itself, when its line is closed
    worker.destroy()
    dying.join()
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    for thread in threads:
        thread.join(PATIENCE)
