"""Settings reach Dask, from code and from a profile; the user's own keywords never do."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from clusters import PATIENCE, eventually
from taskrun_dask.options import EXECUTOR, TASK, read_executor, read_task
from work import note_run, runs, told

import taskrun
from taskrun.cpus import cpu_count

if TYPE_CHECKING:
    from pathlib import Path

    from clusters import Cluster


def test_keywords_of_dasks_are_the_functions(cluster: Cluster) -> None:
    keywords = {
        "key": 1,
        "workers": 2,
        "resources": 3,
        "retries": 4,
        "pure": 5,
        "priority": 6,
        "fn": 7,
        "actor": 8,
        "timeout": 9,
    }
    with taskrun.Executor("dask", address=cluster.address) as ex:
        assert ex.submit(told, 1, **keywords).result(PATIENCE) == ((1,), keywords)


def test_identical_calls_are_not_merged(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with taskrun.Executor("dask", address=cluster.address) as ex:
        futures = [ex.submit(note_run, str(log)) for _ in range(20)]
        assert all(future.result(PATIENCE) for future in futures)
    assert len(runs(log)) == 20


def test_as_many_workers_as_the_cluster_has_threads(cluster: Cluster) -> None:
    with taskrun.Executor("dask", address=cluster.address) as ex:
        assert ex._max_workers == 2
    with taskrun.Executor("dask", address=cluster.address, max_workers=1) as ex:
        assert ex._max_workers == 1


def test_a_task_runs_where_its_options_say(varied: Cluster) -> None:
    with taskrun.Executor("dask", address=varied.address) as ex:
        plain, rich = (ex.options(workers=name).submit(os.getpid).result(PATIENCE) for name in ("plain", ["rich"]))
        assert plain != rich
        for _ in range(3):
            assert ex.options(workers="plain").submit(os.getpid).result(PATIENCE) == plain
            assert ex.options(resources={"LICENCE": 1}).submit(os.getpid).result(PATIENCE) == rich
        unless = ex.options(workers="nowhere", allow_other_workers=True)
        assert unless.submit(os.getpid).result(PATIENCE) in (plain, rich)


def test_options_of_the_executor_hold_for_its_tasks(varied: Cluster) -> None:
    with taskrun.Executor("dask", address=varied.address, resources={"LICENCE": 1}) as ex:
        rich = {ex.submit(os.getpid).result(PATIENCE) for _ in range(3)}
        assert len(rich) == 1
        with_plain = ex.options(resources={}, workers="plain")
        assert with_plain.submit(os.getpid).result(PATIENCE) not in rich


def test_a_profile_says_all_of_it(varied: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taskrun.toml").write_text(
        f'[profiles.cluster]\nbackend = "dask"\naddress = "{varied.address}"\nresources = {{ LICENCE = 1 }}\n'
    )
    monkeypatch.chdir(tmp_path)
    with taskrun.Executor(profile="cluster") as ex:
        assert ex.backend_name == "dask"
        assert len({ex.submit(os.getpid).result(PATIENCE) for _ in range(3)}) == 1


def test_the_time_of_a_task_that_waits_for_a_resource_has_not_begun(varied: Cluster, tmp_path: Path) -> None:
    log, go = tmp_path / "log", tmp_path / "go"
    with taskrun.Executor("dask", address=varied.address, resources={"LICENCE": 1}, max_workers=2) as ex:
        first = ex.submit(note_run, str(log), str(go))
        assert eventually(lambda: runs(log))
        second = ex.options(timeout=0.3).submit(pow, 2, 3)
        with pytest.raises(TimeoutError):
            second.result(1.0)
        assert not second.done()
        go.touch()
        assert first.result(PATIENCE)
        assert second.result(PATIENCE) == 8


def test_a_timeout_comes_on_time_though_the_work_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    log, go = tmp_path / "log", tmp_path / "go"
    with taskrun.Executor("dask", address=cluster.address) as ex:
        late = ex.options(timeout=0.2).submit(note_run, str(log), str(go))
        error = late.exception(PATIENCE)
        assert isinstance(error, taskrun.TaskTimeoutError)
        assert 0.2 <= error.elapsed < 2
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
        go.touch()
    assert len(runs(log)) == 1


def test_a_large_argument_and_a_large_result(cluster: Cluster) -> None:
    with taskrun.Executor("dask", address=cluster.address) as ex:
        data = os.urandom(12_000_000)
        assert ex.submit(bytes.__add__, data, b"x").result(PATIENCE) == data + b"x"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("address", 8786),
        ("address", ""),
        ("connect_timeout", 0),
        ("connect_timeout", "3 weeks"),
        ("tls_ca_file", "ca.pem"),
        ("security", "strict"),
        ("memory_limit", [1]),
        ("memory_limit", "much"),
        ("memory_limit", "0.1"),
        ("workers", []),
        ("allow_other_workers", "yes"),
        ("resources", {"GPU": "many"}),
    ],
)
def test_a_wrong_value_is_named(name: str, value: object) -> None:
    with pytest.raises(taskrun.ConfigError, match=name):
        taskrun.Executor("dask", **{name: value})


def test_a_wrong_option_of_a_task_fails_that_task_alone(cluster: Cluster) -> None:
    with taskrun.Executor("dask", address=cluster.address) as ex:
        assert isinstance(ex.options(resources=3).submit(pow, 2, 3).exception(PATIENCE), taskrun.ConfigError)
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
        with pytest.raises(taskrun.UnsupportedOptionError, match="resource"):
            ex.options(resource={"GPU": 1})


def test_a_wrong_value_in_a_file_is_told_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taskrun.toml").write_text('[profiles.cluster]\nbackend = "dask"\nconnect_timeout = "soon"\n')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(taskrun.ConfigError, match=r"taskrun\.toml.*connect_timeout"):
        taskrun.Executor(profile="cluster")


def test_durations_and_sizes_are_read_as_everywhere() -> None:
    options = read_executor({"connect_timeout": "1m30s", "memory_limit": "512MB"})
    assert (options.connect_timeout, options.memory_limit) == (90.0, 512_000_000)
    assert [read_executor({"memory_limit": limit}).memory_limit for limit in ("auto", "0", 0.5, "1GiB")] == [
        "auto",
        0,
        0.5,
        2**30,
    ]


def test_what_is_not_given_is_the_executors() -> None:
    options = read_executor({"resources": {"GPU": 1}, "workers": "a"})
    assert read_task(options, {"workers": ["b", "c"]}) == {
        "workers": ("b", "c"), "allow_other_workers": False, "resources": {"GPU": 1.0}
    }  # fmt: skip
    assert set(TASK) < set(EXECUTOR)


def test_an_executor_inside_a_task_takes_its_part_of_the_cpus() -> None:
    def workers_inside() -> int:
        with taskrun.Executor("process") as inner:
            return inner._max_workers

    with taskrun.Executor("dask", max_workers=2) as ex:
        assert ex.submit(workers_inside).result(PATIENCE) == max(1, cpu_count() // 2)
