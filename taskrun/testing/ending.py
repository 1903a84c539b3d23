"""Callbacks, and how the work ends."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

import taskrun
from taskrun.testing import tasks
from taskrun.testing.base import Behaviours

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["EndBehaviours"]


class EndBehaviours(Behaviours):
    """Done callbacks, `shutdown`, leaving the `with` block."""

    def test_callbacks_run_in_order_and_errors_in_them_hurt_nobody(
        self, caplog: pytest.LogCaptureFixture, tmp_path: Path
    ) -> None:
        seen: list[Any] = []
        with self.executor() as ex:
            with self.held(ex, tmp_path) as held:
                held.future.add_done_callback(lambda f: seen.append(f.result()))
                held.future.add_done_callback(lambda _: 1 / 0)
                held.future.add_done_callback(lambda _: seen.append("third"))
            held.future.result(self.patience)
        assert seen == ["went on", "third"]
        assert "exception calling callback" in caplog.text

    def test_a_callback_may_submit_and_may_not_wait_for_its_own_executor(self, tmp_path: Path) -> None:
        seen: list[Any] = []
        with self.executor(max_workers=1) as ex:
            if not ex.capabilities.concurrent:
                ex.submit(tasks.add, 1).add_done_callback(lambda _: seen.append(ex.submit(tasks.add, 5).result(0)))
                assert seen == [5]  # in the caller, which waits for nothing
                return

            def callback(_: object) -> None:
                with self.held(ex, tmp_path, name="second") as second:
                    for wait in (second.future.result, ex.shutdown):
                        try:
                            wait()
                        except RuntimeError as error:
                            seen.append(str(error))
                        else:
                            seen.append("did not raise")
                seen.append(ex.submit(tasks.add, 5))

            with self.held(ex, tmp_path, name="first") as first:
                first.future.add_done_callback(callback)
            self.until(lambda: len(seen) == 3)
            assert "result()" in seen[0]
            assert "shutdown(wait=True) in a done callback" in seen[1]
            assert seen[2].result(self.patience) == 5

    def test_a_callback_that_blocks_delays_no_result_and_no_deadline(self, tmp_path: Path) -> None:
        reached, go_on, seen = threading.Event(), threading.Event(), []

        def block(_: object) -> None:
            reached.set()
            assert not ex.capabilities.concurrent or go_on.wait(self.patience)
            seen.append("first")

        with self.executor() as ex:
            try:
                with self.held(ex, tmp_path, name="first") as first:
                    first.future.add_done_callback(block)
                assert reached.wait(self.patience)
                with self.held(ex, tmp_path, name="second") as second:
                    second.future.add_done_callback(lambda _: seen.append("second"))
                assert second.future.result(self.patience) == "went on"
                if ex.capabilities.concurrent:
                    late = ex.options(timeout=0.1).submit(tasks.wait_for_file, str(tmp_path / "end"), limit=self.patience)
                    assert isinstance(late.exception(self.patience), taskrun.TaskTimeoutError)
                    assert seen == []
            finally:
                go_on.set()
                (tmp_path / "end").touch()
        assert seen == ["first", "second"]

    def test_a_callback_may_shut_its_executor_down(self, tmp_path: Path) -> None:
        with self.executor() as ex:
            with self.held(ex, tmp_path) as held:
                held.future.add_done_callback(lambda _: ex.shutdown(wait=False))
            self.until(lambda: ex.closed)
            with pytest.raises(RuntimeError, match="after shutdown"):
                ex.submit(tasks.add, 1)

    def test_callbacks_may_submit_and_so_on_for_ever(self) -> None:
        ended: list[int] = []

        def go_on(future: taskrun.Future[int]) -> None:
            ended.append(future.result())
            if len(ended) < self.many:
                ex.submit(tasks.add, len(ended)).add_done_callback(go_on)  # type: ignore[arg-type]

        with self.executor() as ex:
            ex.submit(tasks.add, 0).add_done_callback(go_on)  # type: ignore[arg-type]
            self.until(lambda: len(ended) == self.many)
        assert ended == list(range(self.many))

    def test_no_thread_of_an_executor_is_left_after_shutdown(self) -> None:
        for _ in range(5):
            with self.executor(name="ends-here") as ex:
                assert list(ex.map(tasks.add, range(6))) == list(range(6))
                threads = [thread for thread in threading.enumerate() if "ends-here" in thread.name]
            assert not [thread.name for thread in threads if thread.is_alive()]

    def test_shutdown_runs_what_was_submitted_and_refuses_more(self) -> None:
        with self.executor() as ex:
            futures = [ex.submit(tasks.add, i) for i in range(20)]
            ex.shutdown(wait=False)
            with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
                ex.submit(tasks.add, 1)
            with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
                ex.map(tasks.add, [1])
        assert [future.result(self.patience) for future in futures] == list(range(20))

    def test_shutdown_returns_after_the_callbacks(self) -> None:
        seen: list[int] = []
        with self.executor() as ex:
            for i in range(20):
                ex.submit(tasks.add, i).add_done_callback(lambda future: seen.append(future.result()))
        assert sorted(seen) == list(range(20))

    def test_shutdown_with_cancel_futures_cancels_what_has_not_started(self, tmp_path: Path) -> None:
        with self.executor(max_workers=1) as ex:
            with self.held(ex, tmp_path) as held:
                futures = [ex.submit(tasks.add, i) for i in range(20)]
                ex.shutdown(wait=False, cancel_futures=True)
                ahead = 0 if ex.capabilities.cancel_queued else 20
                assert [future.cancelled() for future in futures] == [i >= ahead for i in range(20)]
            assert held.future.result(self.patience) == "went on"

    def test_leaving_by_ctrl_c_cancels_what_waits_and_stops_what_runs(self, tmp_path: Path) -> None:
        with self.executor(max_workers=1) as ex:
            try:
                with ex, self.held(ex, tmp_path) as held:
                    queued = ex.submit(tasks.add, 1)
                    held.go_on = lambda: None  # type: ignore[method-assign]  # nobody lets it go
                    raise KeyboardInterrupt
            except KeyboardInterrupt:
                pass
            finally:
                type(held).go_on(held)
            if not ex.capabilities.concurrent:
                assert (held.future.result(0), queued.result(0)) == ("went on", 1)  # both were over
                return
            assert queued.cancelled()
            assert isinstance(held.future.exception(0), taskrun.TaskKilledError)
            with pytest.raises(RuntimeError, match="after shutdown"):
                ex.submit(tasks.add, 1)

    def test_work_of_an_executor_that_nobody_holds_is_done(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        backend: Any = self.backend() if isinstance(self.backend, type) else self.backend
        executor = taskrun.Executor(backend, max_workers=1, **self.options)
        futures = [executor.submit(tasks.write_line, str(log), str(i)) for i in range(5)]
        del executor
        for future in futures:
            future.result(self.patience)
        assert log.read_text().split() == ["0", "1", "2", "3", "4"]
