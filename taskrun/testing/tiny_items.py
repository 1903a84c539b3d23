"""`map` over many tiny items: a backend may combine them, and nobody may notice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import taskrun
from taskrun.testing import tasks
from taskrun.testing.base import Behaviours

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["TinyItemBehaviours"]


class TinyItemBehaviours(Behaviours):
    """What an item can tell is the same whether it travels alone or with others."""

    def test_tiny_items_have_an_index_each(self) -> None:
        with self.executor() as ex:
            assert list(ex.map(tasks.index_of_task, range(self.many))) == list(range(self.many))
            assert sorted(ex.map_unordered(tasks.index_of_task, range(self.many))) == list(range(self.many))

    def test_errors_of_tiny_items_are_their_own(self) -> None:
        with self.executor() as ex:
            found: list[Any] = list(ex.options(return_exceptions=True).map(tasks.fail_each_seventh, range(self.many)))
            expected: list[Any] = [KeyError if item % 7 == 6 else item for item in range(self.many)]
            assert [type(each) if isinstance(each, KeyError) else each for each in found] == expected
            assert [each.args for each in found if isinstance(each, KeyError)] == [(i,) for i in range(6, self.many, 7)]
            results = ex.map(tasks.fail_each_seventh, range(self.many - self.many % 7, 2 * self.many))
            first = [next(results) for _ in range(6)]
            assert first == list(range(self.many - self.many % 7, self.many - self.many % 7 + 6))
            with pytest.raises(KeyError):
                next(results)
            assert next(results, None) is None

    def test_a_stop_iteration_of_a_tiny_item_ends_nothing_in_silence(self) -> None:
        with self.executor() as ex:
            for last in (3, self.many - 1):
                with pytest.raises(RuntimeError, match="the task raised StopIteration"):
                    list(ex.map(tasks.stop_at_the_last, range(self.many), [last] * self.many))

    def test_a_context_variable_that_a_tiny_item_sets_is_its_own(self) -> None:
        with self.executor() as ex:
            assert set(ex.map(tasks.swap_variable, range(self.many))) == {"unset"}

    def test_tiny_items_share_no_objects(self) -> None:
        argument: list[int] = []
        with self.executor() as ex:
            sizes = list(ex.map(tasks.grow, [argument] * self.many))
            results = list(ex.map(tasks.the_one_list, range(self.many)))
            if ex.capabilities.pickles == "yes":
                assert sizes == [1] * self.many
            if ex.capabilities.pickles in ("yes", "results"):
                assert len(set(map(id, results))) == self.many

    def test_what_cannot_travel_among_tiny_items_fails_alone(self) -> None:
        last = self.many - 1
        with self.executor() as ex:
            quiet = ex.options(return_exceptions=True)
            results = list(quiet.map(tasks.a_generator_at_the_end, range(self.many), [last] * self.many))
            items: list[Any] = [*range(last), tasks.no_items()]
            arguments: list[Any] = list(quiet.map(tasks.kind_of_item, items))
            pickles = ex.capabilities.pickles
        assert results[:last] == list(range(last))
        assert arguments[:last] == ["int"] * last
        if pickles in ("yes", "results"):
            assert isinstance(results[last], taskrun.SerializationError)
        if pickles == "yes":
            assert isinstance(arguments[last], taskrun.SerializationError)

    def test_slow_items_among_tiny_ones_run_side_by_side(self, tmp_path: Path) -> None:
        """Those behind the first few that are slow do not wait in a row behind them."""
        with self.executor() as ex:
            concurrent = ex.capabilities.concurrent
            tiny = max(0, self.many - (64 if concurrent else 4))
            seen = list(ex.map(tasks.look_around, [str(tmp_path)] * self.many, range(self.many), [tiny] * self.many))
        assert max(seen) == (2 if concurrent else 1)

    def test_tiny_items_are_counted_each(self) -> None:
        with self.executor() as ex:
            list(ex.options(return_exceptions=True).map(tasks.fail_each_seventh, range(self.many)))
            self.until(lambda: ex.stats()["unfinished"] == 0)
            stats = ex.stats()
        failed = self.many // 7
        assert (stats["submitted"], stats["succeeded"], stats["failed"]) == (self.many, self.many - failed, failed)

    def test_progress_of_tiny_items_is_told(self) -> None:
        told: list[int] = []
        with self.executor() as ex:
            follow = ex.options(progress=lambda done, total: told.append(done))
            assert list(follow.map(tasks.add, range(self.many))) == list(range(self.many))
        assert told
        assert told[-1] == self.many

    def test_coroutines_of_tiny_items_are_awaited(self) -> None:
        with self.executor() as ex:
            assert list(ex.map(tasks.return_a_coroutine, range(self.many))) == list(range(self.many))

    def test_a_map_of_tiny_items_closed_or_dropped_ends_well(self, tmp_path: Path) -> None:
        ran = tmp_path / "ran"
        with self.executor() as ex:
            results = ex.map(tasks.add, range(self.many))
            assert [next(results) for _ in range(10)] == list(range(10))
            results.close()
            assert next(results, None) is None
            ex.map(tasks.write_line, [str(ran)] * self.many, range(self.many))
            assert ex.submit(tasks.add, 1).result(self.patience) == 1
        assert sorted(map(int, ran.read_text().split())) == list(range(self.many))
