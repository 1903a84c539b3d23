"""What no worker can take up at present: it can be had back, and nobody waits for it who need not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from clusters import PATIENCE, at_the_scheduler, eventually
from work import note_run, runs

import taskrun

if TYPE_CHECKING:
    from pathlib import Path

    from clusters import Cluster

NOWHERE = {"NOPE": 1}


def test_tasks_that_no_worker_can_run_leave_the_slots_to_others_and_can_be_cancelled(varied: Cluster) -> None:
    with taskrun.Executor("dask", address=varied.address, max_workers=2) as ex:
        nowhere = ex.options(resources=NOWHERE, timeout=0.1)
        cancelled, killed, *others = [nowhere.submit(pow, 2, 3) for _ in range(5)]
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
        assert not any(future.running() or future.done() for future in (cancelled, killed, *others))
        assert cancelled.cancel()
        assert killed.kill()
        assert killed.cancelled()
        ex.shutdown(cancel_futures=True)
        assert all(future.cancelled() for future in others)
    assert eventually(lambda: not at_the_scheduler(varied))


def test_a_task_that_waits_for_a_resource_is_cancelled_and_does_not_run(varied: Cluster, tmp_path: Path) -> None:
    log, other, go = tmp_path / "log", tmp_path / "other", tmp_path / "go"
    with taskrun.Executor("dask", address=varied.address, max_workers=2) as ex:
        licensed = ex.options(resources={"LICENCE": 1})
        first = licensed.submit(note_run, str(log), str(go))
        assert eventually(lambda: runs(log))
        second, third = (licensed.submit(note_run, str(other)) for _ in range(2))
        # The worker without a licence is free, though as many tasks as there are slots have been sent.
        assert ex.submit(os.getpid).result(PATIENCE) != runs(log)[0]
        assert second.cancel()
        assert not first.cancel()
        go.touch()
        assert first.result(PATIENCE) == third.result(PATIENCE)
    assert len(runs(other)) == 1


def test_an_executor_is_stopped_that_waits_for_a_worker(varied: Cluster) -> None:
    with pytest.raises(KeyboardInterrupt), taskrun.Executor("dask", address=varied.address, resources=NOWHERE) as ex:
        future = ex.submit(pow, 2, 3)
        assert eventually(lambda: at_the_scheduler(varied) == {"no-worker": 1})
        raise KeyboardInterrupt
    assert future.cancelled()


def test_what_workers_of_its_own_cluster_have_is_what_the_executor_says() -> None:
    with taskrun.Executor("dask", max_workers=2, resources={"GPU": 1}) as ex:
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
        assert ex.options(resources={"GPU": 0.5}).submit(pow, 2, 3).result(PATIENCE) == 8
        for wrong in ({"GPU": 2}, {"TPU": 1}):
            error = ex.options(resources=wrong).submit(pow, 2, 3).exception(PATIENCE)
            assert isinstance(error, taskrun.ConfigError)
            assert "resources must be at most {'GPU': 1.0}" in str(error)
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8


def test_workers_of_its_own_cluster_have_numbers_for_names() -> None:
    with taskrun.Executor("dask", max_workers=2) as ex:
        pids = [{ex.options(workers=name).submit(os.getpid).result(PATIENCE) for _ in range(3)} for name in ("0", "1")]
        assert [len(found) for found in pids] == [1, 1]
        assert pids[0] != pids[1]
        assert ex.options(workers=ex.stats()["workers"]).submit(pow, 2, 3).result(PATIENCE) == 8
        assert ex.options(workers="gpu-3", allow_other_workers=True).submit(pow, 2, 3).result(PATIENCE) == 8
        error = ex.options(workers="gpu-3").submit(pow, 2, 3).exception(PATIENCE)
        assert isinstance(error, taskrun.ConfigError)
        assert "workers must be among those of the executor's own cluster: 0 (tcp://" in str(error)
