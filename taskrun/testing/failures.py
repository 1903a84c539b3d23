"""Errors: what a task raised, and what could not travel, fail their own task with the whole story and nothing else."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest

import taskrun
from taskrun.testing import tasks
from taskrun.testing.base import Behaviours

__all__ = ["FailureBehaviours"]


class FailureBehaviours(Behaviours):
    """What `future.exception()` is."""

    def test_the_original_exception_with_chain_and_notes(self) -> None:
        with self.executor() as ex:
            error = ex.submit(tasks.raise_chain).exception(self.patience)
        assert type(error) is ValueError
        assert error.args == ("outer", 2)
        assert "a note" in error.__notes__
        assert type(error.__cause__) is KeyError
        assert error.__cause__.args == ("inner",)

    def test_the_traceback_shows_where_in_the_task_it_was_raised(self) -> None:
        import traceback

        with self.executor() as ex:
            error = ex.submit(tasks.raise_this, ValueError("x")).exception(self.patience)
        assert error is not None
        assert "in raise_this" in "".join(traceback.format_exception(error))

    @pytest.mark.parametrize("how", ["return", "raise"])
    def test_a_process_that_a_task_forks_answers_nothing(self, how: str) -> None:
        with self.executor() as ex:
            if not ex.capabilities.processes:
                assert ex.submit(tasks.add, 1).result(self.patience) == 1  # a copy of this program would come back from it
                return
            assert [ex.submit(tasks.fork_and_return, how).result(self.patience) for _ in range(3)] == ["parent"] * 3
            assert [ex.submit(tasks.add, i).result(self.patience) for i in range(5)] == list(range(5))

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

    def test_a_keyboard_interrupt_in_a_task_is_its_outcome(self) -> None:
        with self.executor(max_workers=1) as ex:
            if ex.capabilities.concurrent:
                error = ex.submit(tasks.raise_this, KeyboardInterrupt("x")).exception(self.patience)
                assert type(error) is KeyboardInterrupt
            else:
                with pytest.raises(KeyboardInterrupt):  # it runs in the caller, whom Ctrl-C is meant for
                    ex.submit(tasks.raise_this, KeyboardInterrupt("x"))
            assert ex.submit(tasks.add, 1).result(self.patience) == 1

    def test_what_is_not_callable_fails_its_own_task(self) -> None:
        with self.executor() as ex:
            bad: Any = 42
            assert isinstance(ex.submit(bad).exception(self.patience), TypeError)
            assert ex.submit(tasks.add, 1).result(self.patience) == 1

    def test_an_argument_that_does_not_pickle_fails_its_own_task_and_is_named(self) -> None:
        with self.executor(max_workers=1) as ex:
            good = [ex.submit(tasks.add, i) for i in range(3)]
            bad = ex.submit(tasks.kind_of, 1, second=threading.Lock())
            good += [ex.submit(tasks.add, i) for i in range(3, 6)]
            if self.pickling(ex.capabilities.pickles):
                error = bad.exception(self.patience)
                assert isinstance(error, taskrun.SerializationError)
                assert "'second'" in str(error)
                assert "lock" in str(error)
            else:
                assert bad.result(self.patience) == "lock"
            assert [future.result(self.patience) for future in good] == list(range(6))
            # The worker may believe now that it has this function, or its parent may.
            assert ex.submit(tasks.kind_of, 1, second=2).result(self.patience) == "int"

    def test_a_result_that_does_not_pickle_fails_its_own_task(self) -> None:
        with self.executor(max_workers=1) as ex:
            capability = ex.capabilities.pickles
            future = ex.submit(tasks.make_lock)
            if self.pickling(capability) or capability == "results":
                error = future.exception(self.patience)
                assert isinstance(error, taskrun.SerializationError)
                assert "result" in str(error)
            else:
                assert type(future.result(self.patience)) is type(threading.Lock())
            assert ex.submit(tasks.add, 1).result(self.patience) == 1

    def test_an_exception_that_cannot_be_rebuilt_is_still_caught_by_its_base(self) -> None:
        with self.executor(max_workers=1) as ex:
            error = ex.submit(tasks.raise_stubborn).exception(self.patience)
            assert isinstance(error, (tasks.StubbornError, taskrun.RemoteError))
            assert isinstance(error, LookupError)
            assert "stubborn" in str(error)
            assert ex.submit(tasks.add, 1).result(self.patience) == 1

    def test_an_exception_that_refuses_to_be_changed_comes_back(self) -> None:
        with self.executor(max_workers=1) as ex:
            again = ex.options(retry=taskrun.Retry(max_attempts=2, on=tasks.FrozenError, wait="none"))
            for error in (
                ex.submit(tasks.raise_frozen, "k").exception(self.patience),
                again.submit(tasks.raise_frozen, "k").exception(self.patience),
            ):
                assert type(error) is tasks.FrozenError
                assert error.key == "k"
            assert ex.submit(tasks.add, 1).result(self.patience) == 1

    def test_a_failed_task_leaves_no_cycle(self) -> None:
        with self.executor(max_workers=1) as ex:
            gc.collect()
            gc.disable()
            try:
                ref = self._error_of(ex)
                self.until(lambda: ref() is None)
            finally:
                gc.enable()

    def _error_of(self, ex: taskrun.Executor) -> weakref.ref[Any]:
        future = ex.submit(tasks.raise_awkward)
        try:
            return weakref.ref(future.exception(self.patience))
        finally:
            del future  # where tasks run in the caller, the traceback leads back to this frame

    def test_pickling_that_waits_for_the_same_executor_hurts_nothing_else(self) -> None:
        with self.executor(max_workers=1) as ex:
            future = ex.submit(tasks.kind_of, _Waits(ex), None)
            error = future.exception(self.patience)
            if ex.capabilities.pickles == "yes":  # one thread pickles for all: it must not wait for what it has to do itself
                assert isinstance(error, taskrun.SerializationError)
                assert isinstance(error.__cause__, RuntimeError)
            else:
                assert error is None
            assert ex.submit(tasks.add, 1).result(self.patience) == 1


class _Waits:
    """Asks the executor for its value when it is pickled."""

    def __init__(self, executor: taskrun.Executor) -> None:
        self._executor = executor

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (self._executor.submit(tasks.add, 1).result(),)
