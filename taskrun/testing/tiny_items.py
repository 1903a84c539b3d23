"""`map` over many tiny items: a backend may combine them, and nobody may notice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import taskrun
from taskrun.testing import item_tasks, tasks
from taskrun.testing.base import Behaviours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

__all__ = ["TinyItemBehaviours"]


def _stream(items: Iterable[Any]) -> Iterator[Any]:
    """Give the items without telling how many there are."""
    yield from items


_kinds_of_input = pytest.mark.parametrize("given", [list, _stream], ids=["list", "stream"])


class TinyItemBehaviours(Behaviours):
    """What an item can tell is the same whether it travels alone or with others."""

    @_kinds_of_input
    def test_tiny_items_have_an_index_each(self, given: Callable[[Iterable[Any]], Iterable[Any]]) -> None:
        with self.executor() as ex:
            assert list(ex.map(item_tasks.index_of_task, given(range(self.many)))) == list(range(self.many))
            assert sorted(ex.map_unordered(item_tasks.index_of_task, given(range(self.many)))) == list(range(self.many))

    @_kinds_of_input
    def test_errors_of_tiny_items_are_their_own(self, given: Callable[[Iterable[Any]], Iterable[Any]]) -> None:
        with self.executor() as ex:
            found: list[Any] = list(
                ex.options(return_exceptions=True).map(item_tasks.fail_each_seventh, given(range(self.many)))
            )
            expected: list[Any] = [KeyError if item % 7 == 6 else item for item in range(self.many)]
            assert [type(each) if isinstance(each, KeyError) else each for each in found] == expected
            assert [each.args for each in found if isinstance(each, KeyError)] == [(i,) for i in range(6, self.many, 7)]
            results = ex.map(item_tasks.fail_each_seventh, given(range(self.many - self.many % 7, 2 * self.many)))
            first = [next(results) for _ in range(6)]
            assert first == list(range(self.many - self.many % 7, self.many - self.many % 7 + 6))
            with pytest.raises(KeyError):
                next(results)
            assert next(results, None) is None

    def test_a_stop_iteration_of_a_tiny_item_ends_nothing_in_silence(self) -> None:
        with self.executor() as ex:
            for last in (3, self.many - 1):
                with pytest.raises(RuntimeError, match="the task raised StopIteration"):
                    list(ex.map(item_tasks.stop_at_the_last, range(self.many), [last] * self.many))

    @_kinds_of_input
    def test_a_context_variable_that_a_tiny_item_sets_is_its_own(self, given: Callable[[Iterable[Any]], Iterable[Any]]) -> None:
        with self.executor() as ex:
            assert set(ex.map(item_tasks.swap_variable, given(range(self.many)))) == {"unset"}

    @_kinds_of_input
    def test_tiny_items_share_no_objects(self, given: Callable[[Iterable[Any]], Iterable[Any]]) -> None:
        argument: list[int] = []
        with self.executor() as ex:
            sizes = list(ex.map(item_tasks.grow, given([argument] * self.many)))
            results = list(ex.map(item_tasks.the_one_list, given(range(self.many))))
            if ex.capabilities.pickles == "yes":
                assert sizes == [1] * self.many
            if ex.capabilities.pickles in ("yes", "results"):
                assert len(set(map(id, results))) == self.many

    @_kinds_of_input
    def test_what_cannot_travel_among_tiny_items_fails_alone(self, given: Callable[[Iterable[Any]], Iterable[Any]]) -> None:
        last = self.many - 1
        with self.executor() as ex:
            quiet = ex.options(return_exceptions=True)
            results = list(quiet.map(item_tasks.a_generator_at_the_end, given(range(self.many)), [last] * self.many))
            items: list[Any] = [*range(last), item_tasks.no_items()]
            arguments: list[Any] = list(quiet.map(item_tasks.kind_of_item, given(items)))
            pickles = ex.capabilities.pickles
        assert results[:last] == list(range(last))
        assert arguments[:last] == ["int"] * last
        if pickles in ("yes", "results"):
            assert isinstance(results[last], taskrun.SerializationError)
        if pickles == "yes":
            assert isinstance(arguments[last], taskrun.SerializationError)

    @_kinds_of_input
    def test_slow_items_among_tiny_ones_run_side_by_side(
        self, given: Callable[[Iterable[Any]], Iterable[Any]], tmp_path: Path
    ) -> None:
        """Those behind the first few that are slow do not wait in a row behind them."""
        with self.executor() as ex:
            concurrent = ex.capabilities.concurrent
            tiny = max(0, self.many - (64 if concurrent else 4))
            seen = list(
                ex.map(item_tasks.look_around, [str(tmp_path)] * self.many, given(range(self.many)), [tiny] * self.many)
            )
        assert max(seen) == (2 if concurrent else 1)

    @_kinds_of_input
    def test_tiny_items_are_counted_each(self, given: Callable[[Iterable[Any]], Iterable[Any]]) -> None:
        with self.executor() as ex:
            list(ex.options(return_exceptions=True).map(item_tasks.fail_each_seventh, given(range(self.many))))
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
            assert list(ex.map(item_tasks.return_a_coroutine, range(self.many))) == list(range(self.many))

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

    def test_an_input_may_wait_for_its_own_items_when_they_have_become_tiny(self, tmp_path: Path) -> None:
        """What was read before is not held back until more has been read."""
        waits = 3

        def items() -> Iterator[tuple[str, int]]:
            for number in range(self.many):
                yield "", number
            for number in range(waits):
                done = tmp_path / str(number)
                yield str(done), number
                if ex.capabilities.concurrent:
                    self.until(done.exists)

        with self.executor() as ex:
            assert list(ex.starmap(tasks.make_file, items())) == [*range(self.many), *range(waits)]

    def test_a_stream_of_tiny_items_that_fails_does_so_in_its_place(self) -> None:
        def broken() -> Iterator[int]:
            yield from range(self.many)
            raise LookupError("the input broke")

        found = []
        with self.executor() as ex, pytest.raises(LookupError, match="the input broke"):
            for value in ex.map(tasks.add, broken()):
                found.append(value)  # one by one: what comes before the error is looked at
        assert found == list(range(self.many))
