"""What a task promises, as tests: each behaviour once, for every backend.

A backend's capabilities say where it cannot keep a promise; then the documented alternative is what is tested.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

import taskrun
from taskrun.testing import tasks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from taskrun.backends.base import Backend

__all__ = ["BackendConformance"]


class BackendConformance:
    """Inherit it, name your backend, and pytest runs the behaviours against it."""

    backend: ClassVar[str | type[Backend] | concurrent.futures.Executor]
    """A registered name, a class of yours, or an executor to adapt."""
    options: ClassVar[dict[str, Any]] = {}
    """Backend options that every executor of the tests is made with."""
    patience: ClassVar[float] = 20.0
    """Seconds after which a wait counts as a hang; no promise of speed is tested with it."""

    @contextmanager
    def executor(self, **arguments: Any) -> Iterator[taskrun.Executor]:
        backend = self.backend() if isinstance(self.backend, type) else self.backend
        executor = taskrun.Executor(backend, **{"max_workers": 2, **self.options, **arguments})
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)  # a broken backend must not hang its report
            raise
        executor.shutdown()

    # -- results ---------------------------------------------------------------------------------------------------------------

    def test_result_of_a_call_with_all_kinds_of_arguments(self) -> None:
        with self.executor() as ex:
            assert ex.submit(tasks.add, 1, 2, c=3).result(self.patience) == 6

    def test_lambdas_and_closures(self) -> None:
        offset = 5
        with self.executor() as ex:
            assert ex.submit(lambda x: x + offset, 1).result(self.patience) == 6

    def test_keywords_named_like_ours_belong_to_the_user(self) -> None:
        with self.executor() as ex:
            assert ex.submit(dict, fn=1, self=2, timeout=3).result(self.patience) == {"fn": 1, "self": 2, "timeout": 3}

    def test_coroutine_functions_are_awaited(self) -> None:
        later: Any = tasks.double_later
        with self.executor() as ex:
            assert ex.submit(later, 4).result(self.patience) == 8

    def test_many_tasks_each_once(self) -> None:
        with self.executor() as ex:
            futures = [ex.submit(tasks.add, i) for i in range(2000)]
            assert [future.result(self.patience) for future in futures] == list(range(2000))

    def test_wait_and_as_completed(self) -> None:
        with self.executor() as ex:
            futures = [ex.submit(tasks.add, i) for i in range(10)]
            assert {f.result() for f in taskrun.as_completed(futures, self.patience)} == set(range(10))
            done, not_done = concurrent.futures.wait(futures, self.patience)
            assert (len(done), len(not_done)) == (10, 0)
            assert sum(f.result() for f in done) == 45

    def test_attempts_tell_who_ran_it(self) -> None:
        with self.executor() as ex:
            future = ex.submit(tasks.add, 1)
            assert future.result(self.patience) == 1
            (attempt,) = future.attempts
            assert attempt.number == 1
            assert attempt.worker
            assert attempt.started is not None
            assert attempt.started >= attempt.queued
            assert attempt.error is None

    # -- errors ----------------------------------------------------------------------------------------------------------------

    def test_the_original_exception_with_chain_and_notes(self) -> None:
        with self.executor() as ex:
            error = ex.submit(tasks.raise_chain).exception(self.patience)
        assert type(error) is ValueError
        assert error.args == ("outer", 2)
        assert "a note" in error.__notes__
        assert type(error.__cause__) is KeyError
        assert error.__cause__.args == ("inner",)

    def test_exceptions_with_awkward_constructors(self) -> None:
        with self.executor() as ex:
            error = ex.submit(tasks.raise_awkward).exception(self.patience)
        assert type(error) is tasks.AwkwardError
        assert error.code == 7

    @pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, StopIteration, RecursionError, MemoryError])
    def test_base_exceptions_come_back_and_kill_nothing(self, kind: type[BaseException]) -> None:
        with self.executor(max_workers=1) as ex:
            assert type(ex.submit(tasks.raise_this, kind("x")).exception(self.patience)) is kind
            assert ex.submit(tasks.add, 1).result(self.patience) == 1

    def test_what_is_not_callable_fails_its_own_task(self) -> None:
        with self.executor() as ex:
            bad: Any = 42
            assert isinstance(ex.submit(bad).exception(self.patience), TypeError)
            assert ex.submit(tasks.add, 1).result(self.patience) == 1

    # -- map -------------------------------------------------------------------------------------------------------------------

    def test_map_keeps_the_order(self) -> None:
        with self.executor() as ex:
            assert list(ex.map(tasks.add, range(500), range(500))) == [2 * i for i in range(500)]

    def test_map_unordered_and_starmap(self) -> None:
        with self.executor() as ex:
            assert sorted(ex.map_unordered(tasks.add, range(50))) == list(range(50))
            assert list(ex.starmap(tasks.add, [(1, 2), (3, 4)])) == [3, 7]

    def test_map_raises_the_first_error_and_can_return_them(self) -> None:
        with self.executor() as ex:
            results = ex.map(lambda x: 10 // x, [5, 0, 2])
            assert next(results) == 2
            with pytest.raises(ZeroDivisionError):
                next(results)
            values = list(ex.options(return_exceptions=True).map(lambda x: 10 // x, [5, 0, 2]))
            assert values[0::2] == [2, 5]
            assert isinstance(values[1], ZeroDivisionError)

    def test_map_reads_an_endless_input_only_so_far(self) -> None:
        read: list[int] = []

        def endless() -> Iterator[int]:
            for i in itertools.count():
                read.append(i)
                yield i

        with self.executor() as ex:
            results: Any = ex.map(tasks.add, endless(), buffersize=8)
            assert [next(results) for _ in range(20)] == list(range(20))
            assert len(read) <= 28
            results.close()

    def test_map_never_iterated_runs_to_its_end(self) -> None:
        ended = threading.Semaphore(0)
        with self.executor() as ex:
            futures = [ex.submit(tasks.add, i) for i in range(3)]
            for future in futures:
                future.add_done_callback(lambda _: ended.release())
            results = ex.map(tasks.add, range(100))
        assert list(results) == list(range(100))
        assert all(ended.acquire(timeout=self.patience) for _ in futures)

    def test_map_arguments_are_checked(self) -> None:
        with self.executor() as ex:
            with pytest.raises(ValueError, match="chunksize must be >= 1"):
                ex.map(tasks.add, [1], chunksize=0)
            with pytest.raises(ValueError, match="buffersize must be None or > 0"):
                ex.map(tasks.add, [1], buffersize=0)
            assert list(ex.map(tasks.add, [1])) == [1]

    # -- cancel, retry, time ---------------------------------------------------------------------------------------------------

    def test_a_queued_task_can_be_cancelled_and_a_running_one_cannot(self, tmp_path: Path) -> None:
        with self.executor(max_workers=1) as ex:
            if not ex.capabilities.cancel_queued:
                assert ex.submit(tasks.add, 1).cancel() is False  # nothing queues: it is over when submit returns
                assert ex.submit(tasks.add, 1).result(self.patience) == 1
                return
            started, go_on = tmp_path / "started", tmp_path / "go_on"
            running = ex.submit(tasks.touch_then_wait, str(started), str(go_on))
            self.until(started.exists)
            queued = ex.submit(tasks.add, 1)
            try:
                assert queued.cancel()
                assert queued.cancelled()
                assert not running.cancel()
                assert running.running()
            finally:
                go_on.touch()
            assert running.result(self.patience) == "went on"
            with pytest.raises(concurrent.futures.CancelledError):
                queued.result(self.patience)

    def test_thousands_cancelled_at_once_leave_nothing_queued(self, tmp_path: Path) -> None:
        with self.executor(max_workers=1) as ex:
            if not ex.capabilities.cancel_queued:
                assert ex.stats()["queued"] == 0
                assert ex.submit(tasks.add, 1).result(self.patience) == 1
                return
            started, go_on = tmp_path / "started", tmp_path / "go_on"
            running = ex.submit(tasks.touch_then_wait, str(started), str(go_on))
            self.until(started.exists)
            try:
                futures = [ex.submit(tasks.add, i) for i in range(3000)]
                assert all(future.cancel() for future in futures)
                assert ex.stats()["queued"] == 0
            finally:
                go_on.touch()
            assert running.result(self.patience) == "went on"
            assert ex.submit(tasks.add, 1).result(self.patience) == 1

    def test_retry_until_it_works(self) -> None:
        retry = taskrun.Retry(max_attempts=5, on=OSError, initial=0.001)
        with self.executor() as ex:
            future = ex.options(retry=retry).submit(tasks.fail_until, 3)
            assert future.result(self.patience) == 3
            assert [attempt.number for attempt in future.attempts] == [1, 2, 3]

    def test_the_last_error_goes_through_when_attempts_run_out(self) -> None:
        retry = taskrun.Retry(max_attempts=2, on=OSError, initial=0.001)
        with self.executor() as ex:
            future = ex.options(retry=retry).submit(tasks.fail_until, 9)
            error = future.exception(self.patience)
        assert type(error) is OSError
        assert error.args == ("not yet",)
        assert len(error.__notes__) == 1
        assert len(future.attempts) == 2

    def test_timeout_fails_the_future_and_restores_the_slot(self) -> None:
        with self.executor(max_workers=1) as ex:
            future = ex.options(timeout=0.1).submit(time.sleep, 0.5)
            error = future.exception(self.patience)
            assert isinstance(error, taskrun.TaskTimeoutError)
            assert error.limit == 0.1
            assert ex.submit(tasks.add, 1).result(self.patience) == 1

    # -- inside a task ---------------------------------------------------------------------------------------------------------

    def test_current_task_and_seeds(self) -> None:
        with self.executor(seed=3) as ex:
            first = [ex.submit(tasks.seed_of_task).result(self.patience) for _ in range(3)]
        with taskrun.Executor("serial", seed=3) as ex:
            again = [ex.submit(tasks.seed_of_task).result(self.patience) for _ in range(3)]
        assert first == again
        assert [index for index, _, _ in first] == [0, 1, 2]
        assert taskrun.current_task() is None

    def test_context_variables(self) -> None:
        with self.executor(context_vars=(tasks.VARIABLE,)) as ex:
            token = tasks.VARIABLE.set("submitter's")
            try:
                assert ex.submit(tasks.read_variable).result(self.patience) == "submitter's"
                assert ex.submit(tasks.set_variable, "task's").result(self.patience) == "task's"
                assert tasks.VARIABLE.get() == "submitter's"
            finally:
                tasks.VARIABLE.reset(token)

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

    # -- callbacks and the end -------------------------------------------------------------------------------------------------

    def test_callbacks_run_in_order_and_errors_in_them_hurt_nobody(
        self, caplog: pytest.LogCaptureFixture, tmp_path: Path
    ) -> None:
        seen: list[Any] = []
        go_on = tmp_path / "go_on"
        with self.executor() as ex:
            if not ex.capabilities.concurrent:
                go_on.touch()  # the task is over when submit returns
            future = ex.submit(tasks.touch_then_wait, str(tmp_path / "started"), str(go_on))
            future.add_done_callback(lambda f: seen.append(f.result()))
            future.add_done_callback(lambda _: 1 / 0)
            future.add_done_callback(lambda _: seen.append("third"))
            go_on.touch()
        assert seen == ["went on", "third"]
        assert "exception calling callback" in caplog.text

    def test_shutdown_runs_what_was_submitted_and_refuses_more(self) -> None:
        with self.executor() as ex:
            futures = [ex.submit(tasks.add, i) for i in range(20)]
            ex.shutdown(wait=False)
            with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
                ex.submit(tasks.add, 1)
            with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
                ex.map(tasks.add, [1])
        assert [future.result(self.patience) for future in futures] == list(range(20))

    def test_submit_from_other_threads(self) -> None:
        found: list[Any] = []
        with self.executor() as ex:
            threads = [
                threading.Thread(target=lambda n=n: found.append(ex.submit(tasks.add, n).result(self.patience)))
                for n in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert sorted(found) == list(range(8))

    def test_max_workers_must_be_positive(self) -> None:
        with pytest.raises(ValueError, match="max_workers must be greater than 0"), self.executor(max_workers=0):
            pass
        with self.executor(max_workers=1) as ex:
            assert ex.submit(tasks.add, 1).result(self.patience) == 1

    # -- helpers ---------------------------------------------------------------------------------------------------------------

    def until(self, condition: Any) -> None:
        """Wait until *condition* holds; an assertion fails when it does not in time."""
        deadline = time.monotonic() + self.patience
        while not condition():
            assert time.monotonic() < deadline, "the moment waited for did not come"
            time.sleep(0.002)
