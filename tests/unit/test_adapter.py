"""Executors of the user's, adapted: they stay his, and what is not known of them is not guessed."""

from __future__ import annotations

import concurrent.futures
import os
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

import pytest
from patience import PATIENCE, eventually

import taskrun

if TYPE_CHECKING:
    from pathlib import Path


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
