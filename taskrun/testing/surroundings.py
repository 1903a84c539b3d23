"""What a task finds around it: itself, its seed, context variables, executors of its own."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

import taskrun
from taskrun.backends.interpreter import InterpreterBackend
from taskrun.plugins import BUILTIN
from taskrun.testing import tasks
from taskrun.testing.base import Behaviours
from taskrun.threads import in_subinterpreter

__all__ = ["SurroundingsBehaviours"]


class SurroundingsBehaviours(Behaviours):
    """What code inside a task can rely on."""

    def test_current_task_and_seeds(self) -> None:
        with self.executor(seed=3) as ex:
            first = [ex.submit(tasks.seed_of_task).result(self.patience) for _ in range(3)]
        with taskrun.Executor("serial", seed=3) as ex:
            again = [ex.submit(tasks.seed_of_task).result(self.patience) for _ in range(3)]
        assert first == again
        assert [index for index, _, _ in first] == [0, 1, 2]
        assert taskrun.current_task() is None

    def test_a_map_seeds_its_items_by_their_position(self) -> None:
        with self.executor(seed=3) as ex:
            first = list(ex.map(tasks.seed_of_task, range(5), chunksize=2))
            again = list(ex.map(tasks.seed_of_task, iter(range(5))))
            with_options = list(ex.options(chunksize=3).map(tasks.seed_of_task, range(5)))
        assert first == again == with_options
        assert [index for index, _, _ in first] == list(range(5))
        assert len({seed for _, seed, _ in first}) == 5

    def test_a_task_knows_its_name_and_its_deadline(self) -> None:
        with self.executor() as ex:
            name, attempt, left = ex.options(name="fetch", timeout=1000).submit(tasks.about_task).result(self.patience)
            assert (name, attempt) == ("fetch", 1)
            assert left is not None
            assert 0 < left <= 1000
            assert ex.submit(tasks.about_task).result(self.patience) == ("about_task", 1, None)

    def test_context_variables(self) -> None:
        with self.executor(context_vars=(tasks.VARIABLE,)) as ex:
            token = tasks.VARIABLE.set("submitter's")
            try:
                assert ex.submit(tasks.read_variable).result(self.patience) == "submitter's"
                assert ex.submit(tasks.set_variable, "task's").result(self.patience) == "task's"
                assert tasks.VARIABLE.get() == "submitter's"
                assert ex.submit(tasks.read_variable).result(self.patience) == "submitter's"
            finally:
                tasks.VARIABLE.reset(token)

    def test_in_this_process_all_context_variables_are_the_submitters(self) -> None:
        with self.executor() as ex:
            token = tasks.VARIABLE.set("submitter's")
            try:
                there = ex.submit(tasks.read_variable).result(self.patience)
                assert list(ex.map(tasks.read_variable, range(3))) == [there] * 3
            finally:
                tasks.VARIABLE.reset(token)
            inherits = ex.capabilities.pickles != "yes"  # in this process, or a fork has copied everything
            assert there == ("submitter's" if inherits else "unset")

    @pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="a closed pipe gives no signal on Windows")
    @pytest.mark.filterwarnings("ignore::taskrun.UnsafeForkWarning")
    def test_a_closed_pipe_is_an_error_whatever_the_program_does_about_its_own(self) -> None:
        before = signal.signal(signal.SIGPIPE, lambda *_: None)
        try:
            with self.executor() as ex:
                assert ex.submit(tasks.write_to_nobody).result(self.patience) == "an error"
        finally:
            signal.signal(signal.SIGPIPE, before)

    def test_a_task_that_waits_for_another_one_of_its_executor_does_not_wait_for_ever(self) -> None:
        with self.executor(max_workers=1) as ex:
            if ex.capabilities.processes or self.pickling(ex.capabilities.pickles):
                return  # the executor does not travel: a task cannot wait for its own
            for wait in (_result, _waited, _completed, _awaited):
                future = ex.submit(wait, ex, self.patience)
                error = future.exception(self.patience)
                # Somebody else's threads cannot be made more: then it is told.
                assert error is None or (isinstance(error, RuntimeError) and "same executor" in str(error))
            assert ex.submit(tasks.add, 1).result(self.patience) == 1

    @pytest.mark.filterwarnings("ignore::taskrun.UnsafeForkWarning")  # of a fork beside the threads that the outer one has
    @pytest.mark.parametrize("inner", BUILTIN)
    def test_a_task_can_use_an_executor_of_its_own(self, inner: str) -> None:
        """On any backend, but for what a sub-interpreter does not allow: that is said."""
        with self.executor() as ex:
            future = ex.submit(tasks.sum_on, inner, 5)
            if inner == "interpreter" and InterpreterBackend.unavailable() is not None:
                lacks: str | None = "Python 3.14"
            elif inner in ("pool", "dummy", "fork") and ex.submit(in_subinterpreter).result(self.patience):
                lacks = "a sub-interpreter"
            else:
                lacks = None
            error = future.exception(self.patience)
            if lacks is None:
                assert future.result() == 20
            else:
                assert isinstance(error, taskrun.BackendUnavailableError)
                assert lacks in str(error)


def _result(ex: taskrun.Executor, patience: float) -> Any:
    return ex.submit(tasks.add, 1).result(patience)


def _waited(ex: taskrun.Executor, patience: float) -> Any:
    return taskrun.wait([ex.submit(tasks.add, 1)], timeout=patience).done.pop().result()


def _completed(ex: taskrun.Executor, patience: float) -> Any:
    return next(iter(taskrun.as_completed([ex.submit(tasks.add, 1)], timeout=patience))).result()


async def _awaited(ex: taskrun.Executor, patience: float) -> Any:
    async with asyncio.timeout(patience):
        return await ex.submit(tasks.add, 1)
