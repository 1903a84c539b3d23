"""Settings: each is honoured, or refused in so many words."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

import taskrun
from taskrun.testing import tasks
from taskrun.testing.base import Behaviours

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SettingsBehaviours"]


class SettingsBehaviours(Behaviours):
    """What an executor is made with, besides its backend, and what no other class of behaviours is about."""

    def test_env_is_seen_by_tasks(self) -> None:
        with self.honouring(self.has_processes(), env={"TASKRUN_CONFORMANCE": "here"}) as ex:
            if ex is not None:
                assert ex.submit(os.getenv, "TASKRUN_CONFORMANCE").result(self.patience) == "here"
        assert "TASKRUN_CONFORMANCE" not in os.environ

    def test_cpu_affinity_pins_workers_in_turn(self) -> None:
        mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        able = self.has_processes()
        with self.honouring(able, cpu_affinity=mine[:1]) as ex:
            if ex is not None and hasattr(os, "sched_getaffinity"):
                assert ex.submit(os.sched_getaffinity, 0).result(self.patience) == {mine[0]}
        if able and hasattr(os, "sched_getaffinity"):
            with pytest.raises(taskrun.ConfigError, match="may not use"), self.executor(cpu_affinity=[max(mine) + 1000]):
                pass

    def test_inner_max_num_threads_bounds_what_libraries_use(self) -> None:
        with self.honouring(self.has_processes(), inner_max_num_threads=3) as ex:
            if ex is not None:
                told = ex.submit(os.getenv, "OPENBLAS_NUM_THREADS").result(self.patience)
                assert told == os.environ.get("OPENBLAS_NUM_THREADS", "3")  # what the user has set stays

    def test_memory_age_and_idleness_are_limits_or_accepted(self) -> None:
        with self.executor(max_workers=1, max_memory_per_child="1MB") as ex:
            limited = ex.capabilities.recycle_by_state
            first, second = (self.worker_of(ex) for _ in range(2))
            assert first != second or not limited
        with self.executor(max_workers=1, max_age_per_child="50ms") as ex:
            first = self.worker_of(ex)
            if limited:
                self.until(lambda: self.worker_of(ex) != first)
        with self.executor(max_workers=1, idle_timeout="50ms") as ex:
            assert self.worker_of(ex)
            if limited:
                self.until(lambda: not ex.stats()["workers"])
            assert ex.submit(tasks.add, 1).result(self.patience) == 1

    def test_the_age_of_a_worker_begins_when_it_is_ready(self) -> None:
        """An initializer that takes longer than the limit would else have each worker leave after its first task."""
        with self.executor() as ex:
            if not ex.capabilities.recycle_by_state:
                return  # no worker leaves because of its age
        with self.executor(max_workers=1, max_age_per_child=0.5, initializer=time.sleep, initargs=(0.6,)) as ex:
            futures = [ex.submit(tasks.add, 1) for _ in range(40)]
            assert [future.result(self.patience) for future in futures] == [1] * 40
            assert len({future.attempts[0].worker for future in futures}) <= 20

    def test_retry_and_soft_timeout_hold_for_all_tasks(self) -> None:
        with self.executor(retry=taskrun.Retry(max_attempts=3, on=OSError, wait="none")) as ex:
            assert ex.submit(tasks.fail_until, 3).result(self.patience) == 3
        with self.executor(soft_timeout=0.1) as ex:
            assert isinstance(ex.submit(tasks.spin, self.patience).exception(self.patience), taskrun.TaskTimeoutError)

    def test_require_refuses_a_backend_that_lacks_it(self) -> None:
        with self.executor(require=("original_exceptions",)) as ex:
            able = ex.capabilities
        for field in ("crash_isolation", "processes", "recycle_by_state", "closures"):
            if getattr(able, field):
                with self.executor(require=[field]):
                    continue
            with pytest.raises(taskrun.UnsupportedOptionError, match=field), self.executor(require=(field,)):
                pass
        with pytest.raises(taskrun.ConfigError, match="no_such_field"), self.executor(require=("no_such_field",)):
            pass

    def test_an_executor_has_the_name_it_is_given(self) -> None:
        with self.executor(name="night-shift") as ex:
            assert "night-shift" in repr(ex)
            assert ex.submit(tasks.add, 1).result(self.patience) == 1

    def test_a_profile_of_the_project_file_applies(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "taskrun.toml").write_text("[profiles.night]\nseed = 77\n")
        monkeypatch.chdir(tmp_path)
        with self.executor(profile="night") as ex, taskrun.Executor("serial", seed=77) as same:
            assert ex.submit(tasks.seed_of_task).result(self.patience) == same.submit(tasks.seed_of_task).result()
        with pytest.raises(taskrun.ConfigError, match="knight"), self.executor(profile="knight"):
            pass

    # -- options of some backends only -----------------------------------------------------------------------------------------

    def test_start_method_and_its_synonym_choose_how_processes_are_made(self) -> None:
        able = self.has_option("start_method")
        with self.honouring(able, start_method="spawn") as ex:
            if ex is not None:
                assert ex.submit(tasks.add, 1).result(self.patience) == 1
        with self.honouring(self.has_option("mp_context"), mp_context=self.options.get("start_method", "forkserver")) as ex:
            if ex is not None:
                assert ex.submit(tasks.add, 1).result(self.patience) == 1
        if able:
            with pytest.raises(taskrun.ConfigError, match="teleport"), self.executor(start_method="teleport"):
                pass

    def test_thread_name_prefix_names_the_workers(self) -> None:
        with self.honouring(self.has_option("thread_name_prefix"), thread_name_prefix="weaver") as ex:
            if ex is not None:
                assert self.worker_of(ex).startswith("weaver")

    def test_check_pickle_finds_what_cannot_travel(self) -> None:
        with self.honouring(self.has_option("check_pickle"), check_pickle=True) as ex:
            if ex is not None:
                error = ex.submit(tasks.kind_of, 1, tasks.make_lock()).exception(self.patience)
                assert isinstance(error, taskrun.SerializationError)
