"""Workers are replaced by count, memory, age and idleness, and no task pays for it."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import jobs
import pytest
from patience import PATIENCE, eventually, gone

import taskrun

if TYPE_CHECKING:
    from collections.abc import Callable

    from patience import Wire

BACKENDS = ("process", "pool")


@pytest.mark.parametrize("share", [{"max_age_per_child": 1}, {"max_tasks_per_child": 1}], ids=["age", "count"])
def test_a_replacement_is_there_before_the_worker_that_it_replaces_leaves(make: Callable, wire: Wire, share: dict) -> None:
    with make(max_workers=1, **share) as ex:
        held = ex.submit(jobs.tell_and_hold, wire.path)
        wire.hear()
        too_old = time.monotonic() + 1
        follows = ex.submit(jobs.pid)
        assert eventually(lambda: len(ex.stats()["workers"]) == 2 and time.monotonic() > too_old)
        there = set(ex.stats()["workers"])
        assert not follows.running()  # it would be one more than `max_workers`
        wire.release()
        assert {f"pid {held.result(PATIENCE)}", f"pid {follows.result(PATIENCE)}"} == there
        assert held.result() != follows.result()


@pytest.mark.parametrize("share", [{"max_age_per_child": 0.05}, {"max_tasks_per_child": 1}], ids=["age", "count"])
def test_a_replacement_that_waits_long_neither_grows_old_nor_is_idle(make: Callable, wire: Wire, share: dict) -> None:
    with make(max_workers=1, idle_timeout=0.05, **share) as ex:
        held = ex.submit(jobs.tell_and_hold, wire.path)
        wire.hear()
        follows = ex.submit(jobs.pid)
        assert eventually(lambda: len(ex.stats()["workers"]) == 2)
        there = set(ex.stats()["workers"])
        time.sleep(0.5)  # however long it is: it would have been replaced ten times
        assert set(ex.stats()["workers"]) == there
        wire.release()
        assert {f"pid {held.result(PATIENCE)}", f"pid {follows.result(PATIENCE)}"} == there


@pytest.mark.parametrize("share", [{"max_age_per_child": 3e6}, {"idle_timeout": 3e6}], ids=["age", "idle"])
def test_a_share_of_months_is_no_more_than_can_be_waited_for(
    make: Callable, wire: Wire, share: dict, caplog: pytest.LogCaptureFixture
) -> None:
    with make(max_workers=1, **share) as ex:
        held = ex.submit(jobs.tell_and_hold, wire.path)
        wire.hear()
        wire.release()
        assert held.result(PATIENCE) == ex.submit(jobs.pid).result(PATIENCE)
    assert not caplog.records


def test_no_worker_runs_more_tasks_than_max_tasks_per_child(make: Callable) -> None:
    with make(max_tasks_per_child=7) as ex:
        pids = Counter(future.result() for future in [ex.submit(jobs.pid) for _ in range(70)])
    assert max(pids.values()) <= 7
    assert len(pids) >= 10


def test_a_worker_for_each_task(make: Callable) -> None:
    with make(max_tasks_per_child=1) as ex:
        assert len(set(ex.map(jobs.pid, range(12)))) == 12


def test_never_more_than_max_workers_tasks_run_at_once_while_workers_are_replaced(make: Callable, tmp_path: Path) -> None:
    file = str(tmp_path / "log")

    def watch(i: int) -> None:
        jobs.log(file, "+1")
        time.sleep(0.002)
        jobs.log(file, "-1")

    with make(max_tasks_per_child=2) as ex:
        list(ex.map(watch, range(40)))
    running, most = 0, 0
    for line in jobs.lines(Path(file)):
        running += int(line)
        most = max(most, running)
    assert running == 0
    assert most <= 2


def test_a_worker_that_grew_too_large_is_replaced_after_its_task(make: Callable) -> None:
    def grow(size: int) -> int:
        globals()["hoard"] = bytearray(os.urandom(1)) * size
        return os.getpid()

    with make(max_workers=1, max_memory_per_child="150MB") as ex:
        small = ex.submit(grow, 1000).result()
        assert ex.submit(grow, 1000).result() == small
        large = ex.submit(grow, 200_000_000).result()
        assert large == small
        assert ex.submit(jobs.pid).result() != large


def test_an_old_worker_is_replaced_even_if_it_is_never_idle(make: Callable) -> None:
    with make(max_workers=1, max_age_per_child=0.1) as ex:
        pids = set()
        futures = [ex.submit(jobs.pid) for _ in range(300)]
        end = time.monotonic() + PATIENCE
        while len(pids) < 3 and time.monotonic() < end:
            pids.add(futures.pop(0).result())
            futures.append(ex.submit(jobs.pid))  # the queue is never empty
    assert len(pids) == 3


def test_idle_workers_end_and_come_back_when_needed(make: Callable) -> None:
    with make(idle_timeout=0.05) as ex:
        first = set(ex.map(jobs.pid, range(10)))
        assert all(gone(worker) for worker in first)
        assert eventually(lambda: ex.stats()["workers"] == [])
        assert ex.submit(jobs.pid).result() not in first


def test_the_finalizer_runs_in_workers_that_end_in_order_and_only_there(make: Callable, tmp_path: Path, wire: Wire) -> None:
    file = tmp_path / "log"

    def finalize() -> None:
        jobs.log(str(file), os.getpid())

    with make(max_workers=1, finalizer=finalize, max_tasks_per_child=2) as ex:
        recycled = ex.submit(jobs.pid).result()
        assert ex.submit(jobs.pid).result() == recycled
        assert gone(recycled)
        assert jobs.lines(file) == [str(recycled)]
        assert isinstance(ex.submit(jobs.exit_at_once, 1).exception(), taskrun.WorkerCrashedError)
        last = ex.submit(jobs.pid).result()
    assert jobs.lines(file) == [str(recycled), str(last)]


def test_exit_handlers_of_the_task_run_when_a_worker_ends_in_order(make: Callable, tmp_path: Path) -> None:
    import atexit

    file = tmp_path / "log"
    with make(max_workers=1) as ex:
        ex.submit(atexit.register, jobs.log, str(file), "tidied").result()
    assert jobs.lines(file) == ["tidied"]


class TestInitializer:
    def test_it_runs_once_in_each_worker_before_any_task(self, make: Callable, tmp_path: Path) -> None:
        file = tmp_path / "log"
        with make(initializer=jobs.log, initargs=(str(file), "init"), max_tasks_per_child=5) as ex:
            pids = set(ex.map(jobs.pid, range(20)))
            assert len(jobs.lines(file)) >= len(pids)

    def test_one_that_kills_its_worker_is_a_clear_error_soon(self, make: Callable) -> None:
        ex = make(initializer=jobs.exit_at_once, initargs=(3,))
        futures = [ex.submit(jobs.double, 1) for _ in range(5)]
        for future in futures:
            error = future.exception(20)
            assert isinstance(error, taskrun.InitializerError)
            assert "exited with code 3" in str(error)

    def test_one_that_recovers_is_tried_again(self, make: Callable, tmp_path: Path) -> None:
        count = str(tmp_path / "count")

        def fail_twice() -> None:
            jobs.log(count, "tried")
            if len(jobs.lines(Path(count))) <= 2:
                raise LookupError("not yet")

        with make(max_workers=1, initializer=fail_twice) as ex:
            assert ex.submit(jobs.double, 4).result(20) == 8

    def test_one_that_does_not_pickle_is_a_clear_error(self, make: Callable) -> None:
        ex = make(initializer=print, initargs=(jobs.Unpicklable(),))
        error = ex.submit(jobs.double, 1).exception(20)
        assert isinstance(error, taskrun.InitializerError)
        assert "stays here" in str(error)


def test_a_worker_that_is_idle_after_a_long_task_leaves(make: Callable) -> None:
    """Nobody looks at one that is busy for long; somebody has to when it is not any more."""
    ex = make(max_workers=1, idle_timeout=0.1)
    ex.submit(time.sleep, 0.4).result(PATIENCE)
    assert eventually(lambda: not ex.stats()["workers"])
