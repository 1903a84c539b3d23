"""The time of a task begins when a worker takes it up, whatever it has waited for; what is over leaves nothing in Ray."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

import pytest
import ray
from clusters import PATIENCE, eventually
from work import die, note_run, runs

import taskrun

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clusters import Cluster


@pytest.fixture(scope="module")
def connected(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, to which this process stays connected: that costs seconds."""
    with taskrun.Executor("ray", address=cluster.address):
        yield cluster


def test_what_waits_for_a_resource_has_all_of_its_time_afterwards(connected: Cluster, tmp_path: Path) -> None:
    log, go = tmp_path / "log", tmp_path / "go"
    with taskrun.Executor("ray", address=connected.address, max_workers=3) as ex:
        licensed = ex.options(resources={"LICENCE": 1})
        first = licensed.submit(note_run, str(log), str(go))
        assert eventually(lambda: runs(log))
        in_time = licensed.options(timeout=2).submit(note_run, str(log))
        late = licensed.options(timeout=2).submit(note_run, str(log), str(tmp_path / "never"))
        with pytest.raises(TimeoutError):
            in_time.result(4)
        assert not in_time.done()
        assert not late.done()
        go.touch()
        assert first.result(PATIENCE)
        assert in_time.result(PATIENCE)
        error = late.exception(PATIENCE)
        assert isinstance(error, taskrun.TaskTimeoutError)
        assert 2 <= error.elapsed < 60
        assert eventually(lambda: not os.path.exists(f"/proc/{runs(log)[2]}"))
    assert len(runs(log)) == 3


def test_what_waits_can_be_killed_and_never_runs(connected: Cluster, tmp_path: Path) -> None:
    log, go = tmp_path / "log", tmp_path / "go"
    with taskrun.Executor("ray", address=connected.address, max_workers=2) as ex:
        licensed = ex.options(resources={"LICENCE": 1}, timeout=PATIENCE)
        first = licensed.submit(note_run, str(log), str(go))
        assert eventually(lambda: runs(log))
        waiting = licensed.submit(note_run, str(log))
        assert eventually(lambda: len(ex.stats()["workers"]) == 2)  # it was sent
        assert not waiting.running()
        assert waiting.kill()
        assert isinstance(waiting.exception(PATIENCE), taskrun.TaskKilledError)
        go.touch()
        assert first.result(PATIENCE)
    assert len(runs(log)) == 1


def test_a_task_with_a_timeout_that_crashes_is_told_and_is_run_once(connected: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with taskrun.Executor("ray", address=connected.address, timeout=PATIENCE) as ex:
        error = ex.submit(die, str(log)).exception(PATIENCE)
        assert isinstance(error, taskrun.WorkerCrashedError)
    assert len(runs(log)) == 1


@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_what_is_over_is_not_kept_by_ray(connected: Cluster, timeout: float | None) -> None:
    worker = ray._private.worker.global_worker.core_worker
    with taskrun.Executor("ray", address=connected.address, timeout=timeout) as ex:
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
        gc.collect()
        gc.disable()  # answers may be large: they do not wait for it
        try:
            for n in range(30):
                assert ex.submit(pow, 2, n).result(PATIENCE) == 2**n
            assert eventually(lambda: len(worker.get_all_reference_counts()) < 10)
        finally:
            gc.enable()
