"""What is lost is told within seconds, and what had finished stays: the cluster, a worker, the way there."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from clusters import PATIENCE, STORE, Cluster, eventually, free_port, running
from work import die, die_once, note_run, runs

import taskrun

if TYPE_CHECKING:
    from pathlib import Path


def test_a_cluster_that_dies_fails_what_runs_and_what_waits(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(tmp_path) as mortal, taskrun.Executor("ray", address=mortal.address) as ex:
        done = ex.submit(pow, 2, 3)
        assert done.result(PATIENCE) == 8
        under_way = [ex.submit(note_run, str(log), str(tmp_path / "never")) for _ in range(2)]
        assert eventually(lambda: len(runs(log)) == 2)
        waiting = ex.submit(pow, 2, 4)
        mortal.kill()
        started = time.monotonic()
        for future in (*under_way, waiting):
            error = future.exception(PATIENCE)
            assert isinstance(error, taskrun.WorkerCrashedError)
            assert "has lost its cluster" in str(error)
        assert time.monotonic() - started < 20
        with pytest.raises(taskrun.WorkerCrashedError, match="has lost its cluster"):
            ex.submit(pow, 2, 6)
    assert done.result() == 8


def test_a_cluster_that_died_while_nothing_ran_is_missed(tmp_path: Path) -> None:
    with running(tmp_path) as mortal, taskrun.Executor("ray", address=mortal.address) as ex:
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
        mortal.kill()
        assert eventually(lambda: ex.closed)
        with pytest.raises(taskrun.WorkerCrashedError, match="nobody answers"):
            ex.submit(pow, 2, 3)


def test_a_program_that_leaves_ray_by_itself_is_told_and_connected_to_nothing_else(cluster: Cluster, tmp_path: Path) -> None:
    """Ray forgets what it was asked for, and would start or find a cluster for whatever it is asked next."""
    import ray

    log = tmp_path / "log"
    with taskrun.Executor("ray", address=cluster.address) as ex:
        under_way = [
            (ex, ex.options(timeout=PATIENCE))[n].submit(note_run, str(log), str(tmp_path / "never")) for n in range(2)
        ]
        assert eventually(lambda: len(runs(log)) == 2)
        ray.shutdown()
        started = time.monotonic()
        for future in under_way:
            assert isinstance(future.exception(PATIENCE), taskrun.WorkerCrashedError)
        assert time.monotonic() - started < 10
        assert eventually(lambda: ex.closed)
        with pytest.raises(taskrun.WorkerCrashedError, match="has ended its connection"):
            ex.submit(pow, 2, 3)
        assert not ray.is_initialized()
        with taskrun.Executor("ray", address=cluster.address) as another:
            ex.shutdown()
            assert another.submit(pow, 2, 3).result(PATIENCE) == 8
        assert not ray.is_initialized()


def test_a_worker_that_dies_fails_its_task_alone_and_the_task_is_run_once(cluster: Cluster, tmp_path: Path) -> None:
    log, other = tmp_path / "log", tmp_path / "other"
    with taskrun.Executor("ray", address=cluster.address) as ex:
        beside = ex.submit(note_run, str(other), str(tmp_path / "go"))
        assert eventually(lambda: runs(other))
        error = ex.submit(die, str(log)).exception(PATIENCE)
        assert isinstance(error, taskrun.WorkerCrashedError)
        assert error.guilt == "known"
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
        (tmp_path / "go").touch()
        assert beside.result(PATIENCE) == runs(other)[0]
        future = ex.submit(note_run, str(log), str(tmp_path / "never"))
        assert eventually(lambda: len(runs(log)) == 2)
        os.kill(runs(log)[1], signal.SIGKILL)
        assert isinstance(future.exception(PATIENCE), taskrun.WorkerCrashedError)
    assert len(runs(log)) == 2  # Ray's own default is three more runs of each


@pytest.mark.parametrize("options", [{}, {"timeout": PATIENCE}], ids=["alone", "stream"])
def test_a_worker_that_is_told_to_end_has_crashed_and_its_task_has_not_asked_to_exit(
    cluster: Cluster, tmp_path: Path, options: dict[str, float]
) -> None:
    """Ray has its workers end by SIGTERM, which is a SystemExit in whatever they run. (A task's own one: conformance.)"""
    log = tmp_path / "log"
    with taskrun.Executor("ray", address=cluster.address, **options) as ex:
        future = ex.submit(note_run, str(log), str(tmp_path / "never"))
        assert eventually(lambda: runs(log))
        os.kill(runs(log)[0], signal.SIGTERM)
        error = future.exception(PATIENCE)
        assert isinstance(error, taskrun.WorkerCrashedError)
        assert error.guilt == "known"
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
    assert len(runs(log)) == 1


def test_a_crash_is_tried_again_if_the_policy_says_so(cluster: Cluster, tmp_path: Path) -> None:
    retry = taskrun.Retry(max_attempts=3, on_crash=True, wait="none")
    with taskrun.Executor("ray", address=cluster.address, retry=retry) as ex:
        future = ex.submit(die_once, str(tmp_path / "log"))
        assert future.result(PATIENCE) == "survived"
        assert [type(attempt.error) for attempt in future.attempts] == [taskrun.WorkerCrashedError, type(None)]


def test_a_timeout_and_a_kill_end_the_process(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with taskrun.Executor("ray", address=cluster.address) as ex:
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
        killed = ex.submit(note_run, str(log), str(tmp_path / "never"))
        assert eventually(lambda: runs(log))
        assert killed.kill()
        assert isinstance(killed.exception(PATIENCE), taskrun.TaskKilledError)
        late = ex.options(timeout=5).submit(note_run, str(log), str(tmp_path / "never"))
        assert eventually(lambda: len(runs(log)) == 2)
        assert isinstance(late.exception(PATIENCE), taskrun.TaskTimeoutError)
        assert eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in runs(log)))


def test_an_address_where_nobody_listens_is_told_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(taskrun.BackendUnavailableError, match="nobody listens there"):
        taskrun.Executor("ray", address=f"127.0.0.1:{free_port()}", connect_timeout=1)
    assert time.monotonic() - started < 10


def test_a_cluster_with_another_version_of_taskrun_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "sitecustomize.py"  # found by the workers only: they get the path of the head node
    other.write_text('import taskrun; taskrun.__version__ = "0.0.1"\n')
    with running(tmp_path, path=str(tmp_path)) as cluster, taskrun.Executor("ray", address=cluster.address) as ex:
        errors = [ex.options(retry=3, timeout=limit).submit(pow, 2, 3).exception(PATIENCE) for limit in (None, PATIENCE)]
    for error in errors:
        assert isinstance(error, taskrun.BackendUnavailableError)
        assert "taskrun 0.0.1" in str(error)
        assert f"taskrun {taskrun.__version__}" in str(error)


def test_a_cluster_with_another_version_of_ray_is_refused(tmp_path: Path) -> None:
    with running(tmp_path, program='import ray; ray.__version__ = "2.1.0"') as cluster:
        with pytest.raises(taskrun.BackendUnavailableError, match=r"2\.1\.0"):
            taskrun.Executor("ray", address=cluster.address)


def test_another_token_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    code = "import sys, taskrun; taskrun.Executor('ray', address=sys.argv[1])"
    env = {**os.environ, "RAY_AUTH_TOKEN": "0" * 64}
    done = subprocess.run(
        [sys.executable, "-c", code, cluster.address], env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1
    assert "BackendUnavailableError: no Ray cluster can be used at" in done.stderr
    assert "token" in done.stderr


def test_another_cluster_than_that_of_the_process_is_refused(cluster: Cluster) -> None:
    with taskrun.Executor("ray", address=cluster.address) as ex:
        with socket.create_server(("127.0.0.1", 0)) as server:
            with pytest.raises(taskrun.ConfigError, match="one cluster for a process"):
                taskrun.Executor("ray", address=f"127.0.0.1:{server.getsockname()[1]}")
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8


def test_nothing_outlives_a_program_that_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = (
        "import sys, taskrun; from work import note_run\n"
        f"ex = taskrun.Executor('ray', max_workers=2, object_store_memory={STORE})\n"
        "ex.submit(note_run, sys.argv[1], sys.argv[1] + '.never').result()"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code, str(log)], env={**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    )
    try:
        assert eventually(lambda: runs(log))
    finally:
        program.kill()
        program.wait()
    assert eventually(lambda: not os.path.exists(f"/proc/{runs(log)[0]}"))
