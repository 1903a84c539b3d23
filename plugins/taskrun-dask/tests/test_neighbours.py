"""What others do, on the cluster or in this process, holds up nothing of ours."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from clusters import PATIENCE, Cluster, eventually, running
from distributed import Client
from work import note_run, runs

import taskrun

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MUTE = """
import asyncio, os
from distributed import Worker

real = Worker.get_data


async def get_data(self, comm, *args, **kwargs):
    while os.path.exists("mute"):
        await asyncio.sleep(0.005)
    return await real(self, comm, *args, **kwargs)


Worker.get_data = get_data
"""
"""A worker that does not hand out what it has as long as there is a file of that name, as one does that is stopped."""


@pytest.fixture
def half_mute(tmp_path: Path) -> Iterator[Cluster]:
    """A worker called mute, as above, and one called plain."""
    (tmp_path / "mute").touch()
    with running(tmp_path, workers=0) as cluster:
        cluster.worker("--name", "mute", program=MUTE)
        cluster.worker("--name", "plain")
        cluster.wait_for_workers(2)
        yield cluster


def test_a_worker_that_keeps_its_results_to_itself_keeps_none_of_others(half_mute: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with taskrun.Executor("dask", address=half_mute.address) as ex:
        kept = ex.options(workers="mute").submit(note_run, str(log))
        assert eventually(lambda: runs(log))
        plain = ex.options(workers="plain")
        for number in range(20):
            assert plain.submit(pow, 2, number).result(PATIENCE) == 2**number
        assert not kept.done()
        (tmp_path / "mute").unlink()
        assert kept.result(PATIENCE) == runs(log)[0]


def test_what_was_fetched_for_ever_comes_with_the_next_task_of_that_worker(half_mute: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with taskrun.Executor("dask", address=half_mute.address) as ex:
        mute = ex.options(workers="mute")
        first = mute.submit(note_run, str(log))
        assert eventually(lambda: runs(log))
        second = mute.submit(note_run, str(log))
        assert first.result(PATIENCE) == runs(log)[0]
        (tmp_path / "mute").unlink()
        assert second.result(PATIENCE) == runs(log)[1]


def test_a_callback_of_dasks_may_wait_for_a_task_of_ours(cluster: Cluster) -> None:
    """Dask has one thread for the callbacks of all clients of a process."""
    found = []
    with Client(cluster.address, set_as_default=False) as client, taskrun.Executor("dask", address=cluster.address) as ex:
        client.submit(pow, 2, 3).add_done_callback(lambda done: found.append(ex.submit(pow, 2, done.result()).result(PATIENCE)))
        assert eventually(lambda: found == [256])


def test_a_plugin_that_somebody_has_removed_is_missed_and_a_new_executor_brings_it_back(tmp_path: Path) -> None:
    from taskrun_dask.arbiter import Arbiter

    with running(tmp_path) as cluster, Client(cluster.address, set_as_default=False) as client:
        with taskrun.Executor("dask", address=cluster.address) as ex:
            running_on = ex.submit(note_run, str(tmp_path / "log"), str(tmp_path / "go"))
            assert eventually(lambda: runs(tmp_path / "log"))
            client.unregister_scheduler_plugin(Arbiter.name)
            errors = [ex.submit(os.getpid).exception(PATIENCE) for _ in range(3)]
            (tmp_path / "go").touch()
            assert running_on.result(PATIENCE) == runs(tmp_path / "log")[0]
            assert isinstance(errors[-1], taskrun.BackendUnavailableError)
            assert "the scheduler has lost taskrun's plugin" in str(errors[-1])
            with taskrun.Executor("dask", address=cluster.address) as other:
                assert other.submit(pow, 2, 3).result(PATIENCE) == ex.submit(pow, 2, 3).result(PATIENCE) == 8
