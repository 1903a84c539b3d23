"""What the scheduler has to remember does not grow with the number of tasks that are over."""

from __future__ import annotations

import itertools
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from clusters import PATIENCE, at_the_scheduler, eventually, running
from taskrun_dask import DaskBackend

import taskrun
from taskrun.future import Future
from taskrun.task import Task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clusters import Cluster


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster that has run nothing yet."""
    with running(tmp_path) as cluster:
        yield cluster


def history(dask_scheduler: Any) -> dict[str, int]:
    """Return how much of tasks that are over is still known; runs in the scheduler."""
    spans = dask_scheduler.extensions["spans"].spans.values()
    return {
        "spans": len(spans),
        "groups of spans": sum(len(span.groups) for span in spans),
        "notes of spans": sum(len(span.metadata["collections"]) for span in spans if span.metadata),
        "groups of computations": sum(len(computation.groups) for computation in dask_scheduler.computations),
        "kinds": len(dask_scheduler.task_prefixes),
        "events": len(dask_scheduler.get_events("taskrun")),
    }


def test_an_endless_input_leaves_nothing_at_the_scheduler(fresh: Cluster) -> None:
    with taskrun.Executor("dask", address=fresh.address) as ex:
        read: list[int] = []
        results = ex.map(abs, (read.append(i) or i for i in itertools.count()), buffersize=10)
        most = 0
        for number in range(300):
            assert next(results) == number
            if number % 20 == 0:
                most = max(most, at_the_scheduler(fresh).total())
        assert len(read) <= 311
        results.close()
        assert most <= 12  # two in flight, ten whose release is on its way
        assert eventually(lambda: not at_the_scheduler(fresh))


@pytest.mark.parametrize("at_once", [1, 8])
def test_single_tasks_leave_no_history(fresh: Cluster, at_once: int) -> None:
    from distributed import Client

    with taskrun.Executor("dask", address=fresh.address) as ex:
        for _ in range(100 // at_once):  # one at a time: the scheduler has nothing to do in between
            for future in [ex.submit(pow, 2, 3) for _ in range(at_once)]:
                assert future.result(PATIENCE) == 8
        assert eventually(lambda: not at_the_scheduler(fresh))
        with Client(fresh.address, set_as_default=False) as client:
            known = client.run_on_scheduler(history)
    assert known == {
        "spans": 1, "groups of spans": 0, "notes of spans": 0, "groups of computations": 0, "kinds": 1, "events": 0
    }  # fmt: skip


def test_dask_takes_tasks_for_as_many_kinds_as_there_are_functions_but_not_for_many() -> None:
    def kind(fn: Any) -> str:
        return backend._kind(Task(fn, (), {}, Future(), 0))

    def named(name: str) -> Any:
        def fn() -> None:
            pass

        fn.__name__ = fn.__qualname__ = name
        return fn

    backend = DaskBackend()
    assert [kind(fn) for fn in (pow, partial(pow, 2), lambda: 0, lambda: 1, named("a_b-2"), named("7"))] == [
        "pow", "pow", "lambda", "lambda", "ab", "task"
    ]  # fmt: skip
    names = {kind(named(letters)) for letters in map("".join, itertools.product("abcdef", repeat=4))}
    assert len(names) <= 101
    assert kind(pow) == "pow"


def test_a_million_items_leave_the_memory_of_scheduler_and_parent_flat(tmp_path: Path) -> None:
    def resident(pid: int) -> int:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    with running(tmp_path) as cluster, taskrun.Executor("dask", address=cluster.address) as ex:
        pids = os.getpid(), cluster.scheduler.pid
        early: list[int] = []
        for number, value in enumerate(ex.map(abs, itertools.count())):
            assert value == number
            if number == 100_000:
                early = list(map(resident, pids))
            elif number == 1_000_000:
                break
        # Dask keeps some of its own history, which has an end: 11 MB after a million items, most of it of the first half.
        assert all(late - before < 50_000_000 for late, before in zip(map(resident, pids), early, strict=True))
