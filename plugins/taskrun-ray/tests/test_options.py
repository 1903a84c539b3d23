"""Settings reach Ray, from code and from a profile; the user's own keywords never do."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import pytest
from clusters import PATIENCE, eventually
from taskrun_ray.options import EXECUTOR, TASK, read_executor, read_task
from work import draw, inner_workers, note_run, runs, told

import taskrun
from taskrun.cpus import cpu_count

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clusters import Cluster


@pytest.fixture(scope="module")
def connected(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, to which this process stays connected: that costs seconds."""
    with taskrun.Executor("ray", address=cluster.address):
        yield cluster


def test_keywords_of_rays_are_the_functions(connected: Cluster) -> None:
    keywords = {"num_cpus": 1, "resources": 2, "max_retries": 3, "name": 4, "runtime_env": 5, "fn": 6, "timeout": 7}
    with taskrun.Executor("ray", address=connected.address) as ex:
        assert ex.submit(told, 1, **keywords).result(PATIENCE) == ((1,), keywords)


def test_identical_calls_are_not_merged(connected: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with taskrun.Executor("ray", address=connected.address) as ex:
        futures = [ex.submit(note_run, str(log)) for _ in range(20)]
        assert all(future.result(PATIENCE) for future in futures)
    assert len(runs(log)) == 20


def test_as_many_workers_as_the_cpus_are_enough_for(connected: Cluster) -> None:
    for settings, workers in (({}, 2), ({"num_cpus": 2}, 1), ({"num_cpus": 0.5}, 4), ({"max_workers": 1}, 1)):
        with taskrun.Executor("ray", address=connected.address, **settings) as ex:  # type: ignore[arg-type]
            assert ex._max_workers == workers


def test_what_a_task_takes_is_kept_from_others(connected: Cluster, tmp_path: Path) -> None:
    log, go = tmp_path / "log", tmp_path / "go"
    with taskrun.Executor("ray", address=connected.address, max_workers=2) as ex:
        licensed = ex.options(resources={"LICENCE": 1})
        first = licensed.submit(note_run, str(log), str(go))
        assert eventually(lambda: runs(log))
        second = licensed.submit(note_run, str(log))
        with pytest.raises(TimeoutError):
            second.result(1)
        assert len(runs(log)) == 1
        go.touch()
        assert first.result(PATIENCE)
        assert second.result(PATIENCE)


def test_an_executor_in_a_task_takes_the_part_of_the_cpus_that_the_task_has(connected: Cluster) -> None:
    here = cpu_count()  # the node is this machine
    with taskrun.Executor("ray", address=connected.address) as ex:
        assert ex.submit(inner_workers).result(PATIENCE) == 1
        assert ex.options(num_cpus=2).submit(inner_workers).result(PATIENCE) == max(1, here // (here // 2 or 1))


def test_the_global_generator_is_seeded_as_in_process(connected: Cluster) -> None:
    with taskrun.Executor("ray", address=connected.address, seed=5) as ex:
        drawn = list(ex.map(draw, range(5)))
    with taskrun.Executor("process", max_workers=2, seed=5) as ex:
        assert list(ex.map(draw, range(5))) == drawn


def test_a_profile_says_all_of_it(connected: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taskrun.toml").write_text(
        f'[profiles.cluster]\nbackend = "ray"\naddress = "{connected.address}"\nnum_cpus = 2\nresources = {{ LICENCE = 1 }}\n'
    )
    monkeypatch.chdir(tmp_path)
    with taskrun.Executor(profile="cluster") as ex:
        assert (ex.backend_name, ex._max_workers) == ("ray", 1)
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8


def test_an_endless_input_is_read_so_far_and_no_further(connected: Cluster) -> None:
    with taskrun.Executor("ray", address=connected.address) as ex:
        read: list[int] = []
        results = ex.map(abs, (read.append(i) or i for i in itertools.count()), buffersize=10)
        assert [next(results) for _ in range(500)] == list(range(500))
        assert len(read) <= 511
        results.close()


def test_a_large_argument_and_a_large_result(connected: Cluster) -> None:
    with taskrun.Executor("ray", address=connected.address) as ex:
        data = os.urandom(12_000_000)
        assert ex.submit(bytes.__add__, data, b"x").result(PATIENCE) == data + b"x"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("address", 6379),
        ("address", "ray://head:10001"),
        ("connect_timeout", 0),
        ("connect_timeout", "soon"),
        ("object_store_memory", "much"),
        ("object_store_memory", 0.5),
        ("memory", "much"),
        ("runtime_env", "pip"),
        ("namespace", ""),
        ("num_cpus", "two"),
        ("num_gpus", -1),
        ("resources", {"CPU": 1}),
        ("scheduling_strategy", "ANYWHERE"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: object) -> None:
    with pytest.raises(taskrun.ConfigError, match=name):
        taskrun.Executor("ray", **{name: value})


def test_a_wrong_option_of_a_task_fails_that_task_alone(connected: Cluster) -> None:
    with taskrun.Executor("ray", address=connected.address) as ex:
        assert isinstance(ex.options(resources=3).submit(pow, 2, 3).exception(PATIENCE), taskrun.ConfigError)
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
        with pytest.raises(taskrun.UnsupportedOptionError, match="num_cpu"):
            ex.options(num_cpu=1)


def test_times_and_sizes_may_be_texts() -> None:
    options = read_executor({"connect_timeout": "1m30s", "object_store_memory": "100MB", "memory": "1GiB"})
    assert (options.connect_timeout, options.object_store_memory, options.memory) == (90.0, 100_000_000, 2**30)
    assert read_task(options, {"memory": "2kB"})["memory"] == 2000
    assert read_executor({"connect_timeout": 0.5, "memory": 0}).connect_timeout == 0.5


def test_what_is_not_given_is_the_executors() -> None:
    options = read_executor({"resources": {"GPU_KIND": 1}, "num_cpus": 2})
    assert read_task(options, {"num_cpus": 0}) == {"num_cpus": 0.0, "resources": {"GPU_KIND": 1.0}}
    assert set(TASK) < set(EXECUTOR)
