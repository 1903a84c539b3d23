"""Executors of the user's, adapted: they stay his, and what is not known of them is not guessed."""

from __future__ import annotations

import concurrent.futures
import os
import pickle
import random
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from patience import PATIENCE, eventually

import taskrun
from taskrun.backends.pickled_call import dump_call, run_pickled_call
from taskrun.task import Task

if TYPE_CHECKING:
    from pathlib import Path

    from taskrun.backends.pickled_call import Answer


def append(path: str) -> int:
    with open(path, "a") as file:
        file.write("ran ")
    return taskrun.current_task().attempt  # type: ignore[union-attr]


def wait_for(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.002)


def test_in_a_thread_pool_the_time_begins_when_a_thread_takes_the_task_up(tmp_path: Path) -> None:
    log, go = tmp_path / "log", threading.Event()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        own = pool.submit(go.wait, PATIENCE)  # the user's own work on his own pool
        with taskrun.Executor(pool, timeout=0.1) as ex:
            future = ex.submit(append, str(log))
            with pytest.raises(TimeoutError):
                future.result(0.5)
            assert not future.running()
            go.set()
            assert future.result(PATIENCE) == 1
        assert own.done()


def test_in_a_process_pool_a_task_that_failed_in_its_queue_does_not_run_afterwards(tmp_path: Path) -> None:
    log, go = tmp_path / "log", tmp_path / "go"
    with concurrent.futures.ProcessPoolExecutor(1) as pool:
        pool.submit(wait_for, str(go))
        retry = taskrun.Retry(max_attempts=2, on_timeout=True, wait="none")
        with taskrun.Executor(pool, max_workers=2, timeout=0.2, retry=retry) as ex:
            future = ex.submit(append, str(log))
            assert isinstance(future.exception(PATIENCE), taskrun.TaskTimeoutError)
            go.touch()
            later = ex.options(timeout=None).submit(abs, -1)
            assert later.result(PATIENCE) == 1
    assert not log.exists()
    assert len(future.attempts) == 2


def test_a_pool_that_broke_says_so_on_every_future_in_the_class_of_the_standard_library() -> None:
    with concurrent.futures.ProcessPoolExecutor(1) as pool, taskrun.Executor(pool) as ex:
        crash = ex.submit(os._exit, 3)
        queued = [ex.submit(abs, n) for n in range(20)]
        assert isinstance(crash.exception(PATIENCE), taskrun.WorkerCrashedError)
        errors = [future.exception(PATIENCE) for future in queued]
        assert all(isinstance(error, BrokenProcessPool) for error in errors)
        assert "the adapted ProcessPoolExecutor takes no tasks" in str(errors[-1])
        with pytest.raises(BrokenProcessPool):
            ex.submit(abs, 1)


def test_a_pool_that_was_shut_down_says_that() -> None:
    pool = concurrent.futures.ThreadPoolExecutor(1)
    with taskrun.Executor(pool) as ex:
        assert ex.submit(abs, -1).result(PATIENCE) == 1
        pool.shutdown()
        error = ex.submit(abs, -2).exception(PATIENCE)
        assert type(error) is RuntimeError
        assert "cannot schedule new futures after shutdown" in str(error)


def test_shutdown_leaves_the_pool_open() -> None:
    with concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="his") as pool:
        with taskrun.Executor(pool) as ex:
            names = {ex.submit(lambda: threading.current_thread().name).result(PATIENCE) for _ in range(5)}
        assert all(name.startswith("his") for name in names)
        assert ex.closed
        assert pool.submit(abs, -1).result(PATIENCE) == 1


def test_no_more_is_handed_over_than_there_are_workers() -> None:
    handed_over = []

    class Counting(concurrent.futures.ThreadPoolExecutor):
        def submit(self, *args: object, **kwargs: object) -> concurrent.futures.Future[object]:  # type: ignore[override]
            handed_over.append(1)
            return super().submit(*args, **kwargs)  # type: ignore[arg-type]

    go = threading.Event()
    with Counting(2) as pool, taskrun.Executor(pool) as ex:
        futures = [ex.submit(go.wait, PATIENCE) for _ in range(50)]
        assert eventually(lambda: len(handed_over) == 2)
        assert futures[-1].cancel()
        assert ex.stats()["queued"] == 47
        go.set()
    assert len(handed_over) == 49


class Odd(concurrent.futures.Executor):
    """Runs nothing; what `submit` returns is planned."""

    _max_workers = 1

    def __init__(self, *planned: object) -> None:
        self._planned = [*planned]

    def submit(self, *args: object, **kwargs: object) -> concurrent.futures.Future[object]:  # type: ignore[override]
        found = self._planned.pop(0)
        if isinstance(found, BaseException):
            future: concurrent.futures.Future[object] = concurrent.futures.Future()
            future.set_exception(found)
            return future
        return found  # type: ignore[return-value]


def done(value: object) -> concurrent.futures.Future[object]:
    future: concurrent.futures.Future[object] = concurrent.futures.Future()
    future.set_result(value)
    return future


@pytest.mark.parametrize(("on_crash", "attempts"), [(False, 1), (True, 2)])
def test_an_error_of_the_pools_is_no_error_of_the_tasks(on_crash: bool, attempts: int) -> None:
    theirs = [OSError("a node is gone"), OSError("another as well")]
    retry = taskrun.Retry(max_attempts=2, on=OSError if not on_crash else ValueError, on_crash=on_crash, wait="none")
    with taskrun.Executor(Odd(*theirs), retry=retry) as ex:
        future = ex.submit(abs, -1)
        error = future.exception(PATIENCE)
    assert isinstance(error, taskrun.WorkerCrashedError)
    assert "the adapted Odd failed while task 'abs'" in str(error)
    assert error.__cause__ is theirs[attempts - 1]
    assert len(future.attempts) == attempts


def test_what_the_pool_cannot_pickle_is_not_tried_again() -> None:
    with taskrun.Executor(Odd(pickle.PicklingError("too large")), retry=taskrun.Retry(on=Exception, wait="none")) as ex:
        future = ex.submit(abs, -1)
        assert isinstance(future.exception(PATIENCE), taskrun.SerializationError)
    assert len(future.attempts) == 1


def test_an_answer_that_is_none_fails_its_task_alone() -> None:
    good = run_pickled_call(dump_call(Task(abs, (-2,), {}, taskrun.Future(), 0), []))
    with taskrun.Executor(Odd(done("what?"), done(good))) as ex:
        futures = [ex.submit(abs, -1), ex.submit(abs, -2)]
        assert isinstance(futures[0].exception(PATIENCE), taskrun.WorkerCrashedError)
        assert futures[1].result(PATIENCE) == 2


def test_a_submit_that_returns_no_future_is_told() -> None:
    with taskrun.Executor(Odd(None)) as ex:
        error = ex.submit(abs, -1).exception(PATIENCE)
        assert isinstance(error, taskrun.InitializerError)
        assert "its submit returned None, which is no future" in str(error)


class Silent(concurrent.futures.Executor):
    """As Dask's: it never says that a task runs, so that its futures can be cancelled all the time."""

    _max_workers = 2

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        threading.Thread(target=self._run, args=(future, fn, *args)).start()
        return future

    def _run(self, future: concurrent.futures.Future[Any], fn: Any, *args: Any) -> None:
        answer = fn(*args)
        with suppress(concurrent.futures.InvalidStateError):  # cancelled meanwhile
            future.set_result(answer)


def append_and_wait(path: str, go: str) -> None:
    append(path)
    wait_for(go)


def test_where_nobody_says_that_a_task_runs_its_time_is_up_once_and_it_is_run_once(tmp_path: Path) -> None:
    log, go = tmp_path / "log", tmp_path / "go"
    with taskrun.Executor(Silent()) as ex:
        future = ex.options(timeout=0.3).submit(append_and_wait, str(log), str(go))
        assert isinstance(future.exception(PATIENCE), taskrun.TaskTimeoutError)
        assert ex.submit(abs, -1).result(PATIENCE) == 1
        go.touch()
    assert log.read_text() == "ran "


def draw(_: object = None) -> float:
    return random.random()


def test_in_a_process_pool_the_global_generator_is_seeded_as_in_process() -> None:
    with concurrent.futures.ProcessPoolExecutor(2) as pool, taskrun.Executor(pool, seed=5) as ex:
        drawn = list(ex.map(draw, range(10)))
    with taskrun.Executor("process", max_workers=2, seed=5) as ex:
        assert list(ex.map(draw, range(10))) == drawn
    assert len(set(drawn)) == 10


def test_without_a_seed_nothing_is_seeded_nor_in_a_pool_of_threads() -> None:
    with concurrent.futures.ProcessPoolExecutor(1) as pool, taskrun.Executor(pool) as ex:
        ex.submit(lambda: random.seed(3)).result(PATIENCE)
        assert ex.submit(draw).result(PATIENCE) == random.Random(3).random()
    with concurrent.futures.ThreadPoolExecutor(1) as pool, taskrun.Executor(pool, seed=5) as ex:
        state = random.getstate()
        assert ex.submit(abs, -1).result(PATIENCE) == 1
        assert random.getstate() == state


def test_what_an_engine_ends_its_worker_by_is_raised_and_a_tasks_own_exit_is_its_outcome() -> None:
    def exit_with(code: int) -> None:
        raise SystemExit(code)

    def is_engines(error: BaseException) -> bool:
        return isinstance(error, SystemExit) and error.code == 1

    def run(code: int) -> Answer:
        task = Task(exit_with, (code,), {}, taskrun.Future(), 0)
        return run_pickled_call(dump_call(task, []), ends_by=is_engines)

    succeeded, _, cause, _ = run(3)
    assert (succeeded, cause) == (False, "raised")
    with pytest.raises(SystemExit) as raised:
        run(1)
    assert raised.value.code == 1
