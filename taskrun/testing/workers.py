"""Workers: how many, what they run first and last, and when they are replaced."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest

import taskrun
from taskrun.testing import tasks
from taskrun.testing.base import Behaviours
from taskrun.threads import OwnThread

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["WorkerBehaviours"]


class WorkerBehaviours(Behaviours):
    """`max_workers`, `initializer`, `finalizer`, recycling."""

    def test_max_workers_must_be_positive(self) -> None:
        for wrong in (0, -1):
            with pytest.raises(ValueError, match="max_workers must be greater than 0"), self.executor(max_workers=wrong):
                pass
        with self.executor(max_workers=1) as ex:
            assert ex.submit(tasks.add, 1).result(self.patience) == 1

    def test_two_workers_run_two_tasks_at_once_and_not_three(self, tmp_path: Path) -> None:
        with self.executor(max_workers=2) as ex:
            if not ex.capabilities.concurrent:
                assert ex.submit(tasks.add, 1).done()  # it ran in the caller
                return
            meeting = [ex.submit(tasks.meet, str(tmp_path), name, 2, self.patience) for name in ("a", "b")]
            assert [future.result(self.patience) for future in meeting] == [2, 2]
            crowd = tmp_path / "crowd"
            crowd.mkdir()
            counts = [ex.submit(tasks.count_neighbours, str(crowd), str(i)) for i in range(12)]
            assert max(future.result(self.patience) for future in counts) <= 2

    def test_no_task_is_lost_where_no_more_threads_are_to_be_had(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Those that there are do the work; without any, each future says why."""

        def refuse(_: OwnThread) -> None:
            raise RuntimeError("can't start new thread")

        futures: list[Any] = []
        with self.executor(max_workers=3) as ex:
            assert ex.submit(tasks.add, 1).result(self.patience) == 1
            with monkeypatch.context() as patch, suppress(taskrun.InitializerError):  # it may refuse more, then
                patch.setattr(OwnThread, "start", refuse)
                futures += (ex.submit(tasks.add, number) for number in range(20))
            assert not taskrun.wait(futures, self.patience).not_done
        assert futures
        for number, future in enumerate(futures):
            error = future.exception()
            assert future.result() == number if error is None else "can't start new thread" in str(error)

    def test_initializer_runs_before_the_first_task(self) -> None:
        with self.executor() as ex:
            supported = ex.capabilities.initializer != "no"
        if not supported:
            with (
                pytest.warns(taskrun.UnsupportedOptionWarning, match="initializer"),
                self.executor(initializer=tasks.initialize),
            ):
                return
        with self.executor(initializer=tasks.initialize, initargs=("ready",), max_workers=1) as ex:
            tasks.INITIALIZED.clear()
            assert ex.submit(tasks.last_initialized).result(self.patience) == "ready"

    def test_a_failing_initializer_is_an_error_on_every_future(self) -> None:
        with self.executor() as ex:
            supported = ex.capabilities.initializer != "no"
        if not supported:
            refused = pytest.raises(taskrun.UnsupportedOptionError, match="initializer")
            with refused, self.executor(initializer=tasks.fail_to_initialize, strict=True):
                pass
            return
        with self.executor(initializer=tasks.fail_to_initialize) as ex:
            future = ex.submit(tasks.add, 1)
            error = future.exception(self.patience)
            assert isinstance(error, taskrun.InitializerError)
            assert "no such licence server" in str(error)
            with pytest.raises(taskrun.InitializerError):
                ex.submit(tasks.add, 1)

    def test_a_failing_initializer_is_an_error_of_each_item_of_a_map(self) -> None:
        with self.executor() as ex:
            if self.see_refused(ex, "initializer"):
                return
        for count in (3, 100_000):
            with self.executor(initializer=tasks.fail_to_initialize) as ex:
                errors: Iterator[Any] = ex.options(return_exceptions=True).map(abs, range(count))
                assert {type(error) for error in islice(errors, 2_000)} == {taskrun.InitializerError}
            with self.executor(initializer=tasks.fail_to_initialize) as ex, pytest.raises(taskrun.InitializerError):
                list(ex.map(abs, range(count)))

    def test_finalizer_runs_when_a_worker_ends_in_order(self, tmp_path: Path) -> None:
        with self.executor() as ex:
            supported = ex.capabilities.initializer != "no"
        log = tmp_path / "log"

        def finalizer() -> None:
            tasks.write_line(str(log), "finalized")

        if not supported:
            with pytest.warns(taskrun.UnsupportedOptionWarning, match="finalizer"), self.executor(finalizer=finalizer):
                return
        with self.executor(finalizer=finalizer, max_workers=1) as ex:
            assert ex.submit(tasks.add, 1).result(self.patience) == 1
            assert ex.capabilities.initializer == "in each child" or not log.exists()
        assert log.read_text().split() == ["finalized"]

    def test_max_tasks_per_child_replaces_workers(self) -> None:
        with self.executor(max_workers=1, max_tasks_per_child=2) as ex:
            futures = [ex.submit(tasks.add, i) for i in range(7)]
            assert [future.result(self.patience) for future in futures] == list(range(7))
            ran = Counter(future.attempts[0].worker for future in futures)
            if ex.capabilities.recycle_by_count:
                assert max(ran.values()) == 2
                assert len(ran) == 4, ran
