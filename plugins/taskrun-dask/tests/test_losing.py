"""What is lost is told within seconds, and what had finished stays: the scheduler, a worker, the way there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from clusters import PATIENCE, Cluster, at_the_scheduler, eventually, free_port, running
from work import die, die_once, keep, note_run, runs

import taskrun

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def mortal(tmp_path: Path) -> Cluster:
    """A cluster that a test may harm, with nannies as `dask worker` starts them."""
    with running(tmp_path, workers=0) as cluster:
        for _ in range(2):
            cluster.worker(nanny=True)
        cluster.wait_for_workers(2)
        yield cluster


@pytest.fixture
def lone(tmp_path: Path) -> Cluster:
    """The same with one worker: what is sent waits behind what runs there."""
    with running(tmp_path, workers=0) as cluster:
        cluster.worker(nanny=True)
        cluster.wait_for_workers(1)
        yield cluster


def test_a_scheduler_that_dies_fails_what_runs_and_what_waits(mortal: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with taskrun.Executor("dask", address=mortal.address) as ex:
        done = ex.submit(pow, 2, 3)
        assert done.result(PATIENCE) == 8
        running = [ex.submit(note_run, str(log), str(tmp_path / "never")) for _ in range(2)]
        assert eventually(lambda: len(runs(log)) == 2)
        waiting = ex.submit(pow, 2, 4)
        again = ex.options(retry=taskrun.Retry(max_attempts=3, wait="none")).submit(pow, 2, 5)
        mortal.kill(mortal.scheduler)
        started = time.monotonic()
        for future in (*running, waiting, again):
            error = future.exception(PATIENCE)
            assert isinstance(error, taskrun.WorkerCrashedError)
            assert "has lost its cluster" in str(error)
        with pytest.raises(taskrun.WorkerCrashedError, match="has lost its cluster"):
            ex.submit(pow, 2, 6)
    assert time.monotonic() - started < 10
    assert done.result() == 8


def test_a_scheduler_that_died_while_nothing_ran_is_missed_at_the_next_task(mortal: Cluster) -> None:
    with taskrun.Executor("dask", address=mortal.address) as ex:
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
        mortal.kill(mortal.scheduler)
        assert eventually(lambda: ex.stats()["workers"] == [])
        assert isinstance(ex.submit(pow, 2, 3).exception(PATIENCE), taskrun.WorkerCrashedError)


def test_a_worker_that_dies_fails_its_task_alone_and_the_task_is_run_once(mortal: Cluster, tmp_path: Path) -> None:
    log, other = tmp_path / "log", tmp_path / "other"
    with taskrun.Executor("dask", address=mortal.address) as ex:
        beside = ex.submit(note_run, str(other), str(tmp_path / "go"))
        assert eventually(lambda: runs(other))
        crashed = ex.submit(die, str(log))
        error = crashed.exception(PATIENCE)
        assert isinstance(error, taskrun.WorkerCrashedError)
        assert "tcp://127.0.0.1" in str(error)
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
        (tmp_path / "go").touch()
        assert beside.result(PATIENCE) == runs(other)[0]
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
    assert len(runs(log)) == 1  # `allowed-failures` of this scheduler is Dask's default, 3


def test_a_crash_is_tried_again_if_the_policy_says_so(mortal: Cluster, tmp_path: Path) -> None:
    retry = taskrun.Retry(max_attempts=3, on_crash=True, wait="none")
    with taskrun.Executor("dask", address=mortal.address, retry=retry) as ex:
        future = ex.submit(die_once, str(tmp_path / "log"))
        assert future.result(PATIENCE) == "survived"
        assert [type(attempt.error) for attempt in future.attempts] == [taskrun.WorkerCrashedError, type(None)]


def test_a_task_behind_another_is_not_blamed_for_its_death(lone: Cluster, tmp_path: Path) -> None:
    log, other = tmp_path / "log", tmp_path / "other"
    with taskrun.Executor("dask", address=lone.address, max_workers=2) as ex:
        guilty = ex.submit(note_run, str(log), str(tmp_path / "never"))
        assert eventually(lambda: runs(log))
        behind = ex.submit(note_run, str(other))
        assert eventually(lambda: at_the_scheduler(lone) == {"processing": 2})
        assert guilty.running()
        assert not behind.running()
        os.kill(runs(log)[0], signal.SIGKILL)
        error = guilty.exception(PATIENCE)
        assert isinstance(error, taskrun.WorkerCrashedError)
        assert (error.pid, error.guilt) == (runs(log)[0], "known")
        assert behind.result(PATIENCE) == runs(other)[0]
        assert len(behind.attempts) == 1
    assert len(runs(log)) == len(runs(other)) == 1


def test_a_task_that_its_worker_may_not_have_begun_is_not_called_guilty(lone: Cluster, tmp_path: Path) -> None:
    """It has leave on its way to an idle worker, which dies without a word: it is not run again, since it may have begun."""
    log = tmp_path / "log"
    with taskrun.Executor("dask", address=lone.address) as ex:
        pid = ex.submit(os.getpid).result(PATIENCE)
        assert ex.submit(os.getpid).result(PATIENCE) == pid
        assert eventually(lambda: not at_the_scheduler(lone))
        os.kill(pid, signal.SIGSTOP)
        sent = ex.submit(note_run, str(log))
        assert eventually(sent.running)
        os.kill(pid, signal.SIGKILL)
        error = sent.exception(PATIENCE)
        assert isinstance(error, taskrun.WorkerCrashedError)
        assert (error.pid, error.guilt) == (pid, "unknown")
        assert "perhaps before it began" in str(error)
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
    assert not runs(log)


def test_what_has_finished_keeps_its_result_though_the_next_task_there_kills_the_worker(lone: Cluster, tmp_path: Path) -> None:
    with taskrun.Executor("dask", address=lone.address, max_workers=4) as ex:
        pairs = [(ex.submit(pow, 2, number), ex.submit(die, str(tmp_path / "log"))) for number in range(4)]
        for number, (innocent, guilty) in enumerate(pairs):
            assert innocent.result(PATIENCE) == 2**number
            assert isinstance(guilty.exception(PATIENCE), taskrun.WorkerCrashedError)
    assert len(runs(tmp_path / "log")) == 4


def test_large_arguments_are_lost_with_no_worker(tmp_path: Path) -> None:
    with taskrun.Executor("dask", max_workers=2) as ex:
        data = os.urandom(2_000_000)
        innocent, guilty = [], []
        for _ in range(4):
            guilty.append(ex.submit(die, str(tmp_path / "log")))
            innocent += [ex.submit(len, data) for _ in range(4)]
        assert [future.result(PATIENCE) for future in innocent] == [len(data)] * 16
        assert all(isinstance(future.exception(PATIENCE), taskrun.WorkerCrashedError) for future in guilty)
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8


def test_a_task_whose_worker_is_retired_is_not_run_again(tmp_path: Path) -> None:
    """Dask counts that as no death, and has another worker run it: that one is told not to."""
    from distributed import Client

    log = tmp_path / "log"
    with running(tmp_path, workers=0) as cluster:
        for name in ("leaving", "staying"):
            cluster.worker("--name", name)
        cluster.wait_for_workers(2)
        with taskrun.Executor("dask", address=cluster.address) as ex, Client(cluster.address, set_as_default=False) as client:
            leaving = ex.options(workers="leaving", allow_other_workers=True)
            future = leaving.submit(note_run, str(log), str(tmp_path / "never"))
            assert eventually(lambda: runs(log))
            client.retire_workers(names=["leaving"])
            error = future.exception(PATIENCE)
            assert isinstance(error, taskrun.WorkerCrashedError)
            assert error.guilt == "unknown"
            assert leaving.submit(pow, 2, 3).result(PATIENCE) == 8
    assert len(runs(log)) == 1


def test_a_task_whose_worker_is_retired_is_told_though_no_other_is_there(lone: Cluster, tmp_path: Path) -> None:
    from distributed import Client

    log, other = tmp_path / "log", tmp_path / "other"
    with (
        taskrun.Executor("dask", address=lone.address, max_workers=2) as ex,
        Client(lone.address, set_as_default=False) as client,
    ):
        leaving = ex.submit(note_run, str(log), str(tmp_path / "never"))
        assert eventually(lambda: runs(log))
        behind = ex.submit(note_run, str(other))
        assert eventually(lambda: at_the_scheduler(lone) == {"processing": 2})
        client.retire_workers(ex.stats()["workers"], close_workers=True)
        error = leaving.exception(PATIENCE)
        assert isinstance(error, taskrun.WorkerCrashedError)
        assert "was taken from the cluster" in str(error)
        assert not behind.done()
        lone.worker()
        assert behind.result(PATIENCE) == runs(other)[0]
    assert len(runs(log)) == 1


def test_a_task_whose_result_is_lost_is_not_run_again(mortal: Cluster, tmp_path: Path) -> None:
    """Dask would compute it anew: what it knows of a task that is done is taken away from it."""
    from distributed import Client
    from taskrun_dask.arbiter import PREFIX, Arbiter
    from taskrun_dask.worker import VERSIONS, run

    from taskrun.backends.pickled_call import dump_call
    from taskrun.future import Future
    from taskrun.task import Task

    log = tmp_path / "log"
    call = dump_call(Task(note_run, (str(log),), {}, Future(), 0), [])
    with Client(mortal.address, set_as_default=False) as client:
        client.register_plugin(Arbiter(passes_on=True))
        future = client.submit(run, VERSIONS, f"{PREFIX}0", call, 1, key=f"{PREFIX}0", pure=False)
        assert eventually(lambda: future.status == "finished")
        (pid,) = runs(log)
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: future.status in ("lost", "cancelled"))
        assert client.submit(pow, 2, 3).result(timeout=PATIENCE) == 8
        assert len(runs(log)) == 1


def test_a_worker_killed_in_its_own_cluster_is_replaced(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with taskrun.Executor("dask", max_workers=2) as ex:
        futures = [ex.submit(note_run, str(log), str(tmp_path / "go")) for _ in range(2)]
        assert eventually(lambda: len(runs(log)) == 2)
        killed, left = runs(log)
        os.kill(killed, signal.SIGKILL)
        assert eventually(lambda: any(future.done() for future in futures))
        (tmp_path / "go").touch()
        found = [future.exception(PATIENCE) or future.result() for future in futures]
        assert left in found
        (error,) = [one for one in found if one != left]
        assert isinstance(error, taskrun.WorkerCrashedError)
        assert (error.pid, error.guilt) == (killed, "known")
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
    assert len(runs(log)) == 2


def test_news_of_others_in_the_first_message_does_not_keep_us_out(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask's client asserts that there is none, and a scheduler that is busy with others' tasks now and then has some."""
    from distributed import Client

    connect, frights = Client._ensure_connected, iter([True, True])

    async def take_fright(client: Client, **limits: float | None) -> None:
        await connect(client, **limits)
        assert not next(frights, False)

    monkeypatch.setattr(Client, "_ensure_connected", take_fright)
    with taskrun.Executor("dask", address=cluster.address) as ex:
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
    assert next(frights, None) is None


def test_a_worker_is_replaced_however_often_it_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask gives one up that is away when this time has passed since it was lost before: 15 s if nobody says."""
    monkeypatch.setenv("DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT", "1ms")
    log = tmp_path / "log"
    with taskrun.Executor("dask", max_workers=1) as ex:
        try:
            for _ in range(2):
                assert isinstance(ex.submit(die, str(log)).exception(PATIENCE), taskrun.WorkerCrashedError)
            assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
        except TimeoutError:
            ex.kill_workers()  # else the end of the executor waits as well
            raise
    assert len(runs(log)) == 2


def test_a_worker_that_keeps_much_in_memory_goes_on() -> None:
    """Dask gives it nothing more above 80 % of its limit, and looks ten times a second."""
    limit = 500_000_000
    with taskrun.Executor("dask", max_workers=1, memory_limit=limit) as ex:
        try:
            kept = ex.submit(keep, int(0.86 * limit)).result(PATIENCE)
            assert kept > 0.8 * limit
            for _ in range(30):
                ex.submit(time.sleep, 0.02).result(PATIENCE)
        except TimeoutError:
            ex.kill_workers()  # else the end of the executor waits as well
            raise


SLOW = """
import asyncio, os
from distributed import Scheduler

real = Scheduler.gather


async def gather(self, *args, **kwargs):
    while os.path.exists("slow"):
        await asyncio.sleep(0.005)
    return await real(self, *args, **kwargs)


Scheduler.gather = gather
"""
"""A scheduler that fetches no results as long as there is a file of that name, as one that tries to connect to a worker."""


def test_a_result_that_is_lost_while_it_is_fetched_is_told_at_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    (tmp_path / "slow").touch()
    with running(tmp_path, workers=0, program=SLOW) as cluster:
        worker = cluster.worker()
        cluster.wait_for_workers(1)
        with taskrun.Executor("dask", address=cluster.address) as ex:
            future = ex.submit(note_run, str(log))
            assert eventually(lambda: at_the_scheduler(cluster) == {"memory": 1})
            cluster.kill(worker)
            try:
                error = future.exception(PATIENCE / 4)
            finally:
                (tmp_path / "slow").unlink()
            assert isinstance(error, taskrun.WorkerCrashedError)
            assert "the worker that had its result died" in str(error)
            cluster.worker()
            assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
    assert len(runs(log)) == 1


def test_an_address_where_nobody_listens_is_told_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(taskrun.BackendUnavailableError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1"):
        taskrun.Executor("dask", address=f"tcp://127.0.0.1:{free_port()}", connect_timeout=0.5)
    assert time.monotonic() - started < 10


def test_an_address_where_somebody_else_listens_is_told_at_once() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(taskrun.BackendUnavailableError):
        taskrun.Executor("dask", address=f"tcp://127.0.0.1:{server.getsockname()[1]}", connect_timeout=0.5)


def test_a_worker_with_another_version_of_taskrun_is_named(tmp_path: Path) -> None:
    with running(tmp_path, workers=0) as cluster:
        cluster.worker(program='import taskrun; taskrun.__version__ = "0.0.1"')
        cluster.wait_for_workers(1)
        with taskrun.Executor("dask", address=cluster.address) as ex:
            error = ex.options(retry=3).submit(pow, 2, 3).exception(PATIENCE)
    assert isinstance(error, taskrun.BackendUnavailableError)
    assert "taskrun 0.0.1" in str(error)
    assert f"taskrun {taskrun.__version__}" in str(error)


def test_a_scheduler_without_this_package_is_named(tmp_path: Path) -> None:
    hidden = 'import sys; sys.modules["taskrun_dask"] = None'
    with running(tmp_path, workers=0, program=hidden) as cluster:
        with pytest.raises(taskrun.BackendUnavailableError, match="have to be installed there"):
            taskrun.Executor("dask", address=cluster.address)


def test_nothing_outlives_a_program_that_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = (
        "import sys, taskrun; sys.path.insert(0, sys.argv[1]); from work import note_run\n"
        "ex = taskrun.Executor('dask', max_workers=2)\n"
        "ex.submit(note_run, sys.argv[2], sys.argv[2] + '.never')"
    )
    here = os.path.dirname(__file__)
    program = subprocess.Popen([sys.executable, "-c", code, here, str(log)])
    try:
        assert eventually(lambda: runs(log))
    finally:
        program.kill()
        program.wait()
    started = time.monotonic()
    assert eventually(lambda: not os.path.exists(f"/proc/{runs(log)[0]}"))
    assert time.monotonic() - started < 20
