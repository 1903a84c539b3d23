"""What a task finds around it: itself, its seed, context variables, executors of its own."""

from __future__ import annotations

import pytest

import taskrun
from taskrun.testing import tasks
from taskrun.testing.base import Behaviours

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
        assert first == again
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
            inherits = not ex.capabilities.processes or ex.capabilities.pickles == "results"  # or a fork has copied everything
            assert there == ("submitter's" if inherits else "unset")

    @pytest.mark.parametrize("inner", ["serial", "thread", "process"])
    def test_a_task_can_use_an_executor_of_its_own(self, inner: str) -> None:
        with self.executor() as ex:
            assert ex.submit(tasks.sum_on, inner, 5).result(self.patience) == 20
