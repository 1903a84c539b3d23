"""`map` and its siblings: order, errors in their place, and how far the input is read."""

from __future__ import annotations

import itertools
import threading
import weakref
from itertools import count, repeat
from typing import TYPE_CHECKING, Any

import pytest

import taskrun
from taskrun.testing import item_tasks, tasks
from taskrun.testing.base import Behaviours

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["MapBehaviours"]


class MapBehaviours(Behaviours):
    """What the iterator over results does."""

    def test_map_keeps_the_order(self) -> None:
        with self.executor() as ex:
            numbers = range(min(500, self.many))
            assert list(ex.map(tasks.add, numbers, numbers)) == [2 * i for i in numbers]

    def test_map_unordered_and_starmap(self) -> None:
        with self.executor() as ex:
            assert sorted(ex.map_unordered(tasks.add, range(50))) == list(range(50))
            assert sorted(ex.map_unordered(tasks.add, iter(range(50)))) == list(range(50))
            assert list(ex.starmap(tasks.add, [(1, 2), (3, 4)])) == [3, 7]

    def test_unordered_results_come_as_they_are_done(self, tmp_path: Path) -> None:
        go_on = tmp_path / "go_on"
        with self.executor() as ex:
            if not ex.capabilities.concurrent:
                go_on.touch()
            waits = [(str(go_on), "slow"), ("", "quick")]
            results = ex.map_unordered(tasks.wait_for_file, *zip(*waits, strict=True), timeout=self.patience)
            try:
                first = next(results)
            finally:
                go_on.touch()
            assert {first, next(results)} == {"slow", "quick"}
            assert first == ("quick" if ex.capabilities.concurrent else "slow")

    @pytest.mark.parametrize("chunksize", [1, 7, 1000])
    def test_chunks_change_no_outcome(self, chunksize: int) -> None:
        with self.executor() as ex:
            results = ex.options(return_exceptions=True).map(tasks.divide, itertools.repeat(12), range(4), chunksize=chunksize)
            values = list(results)
        assert isinstance(values[0], ZeroDivisionError)
        assert values[1:] == [12, 6, 4]

    def test_map_raises_the_first_error_and_can_return_them(self) -> None:
        with self.executor() as ex:
            results = ex.map(lambda x: 10 // x, [5, 0, 2])
            assert next(results) == 2
            with pytest.raises(ZeroDivisionError):
                next(results)
            assert list(results) == []
            values = list(ex.options(return_exceptions=True).map(lambda x: 10 // x, [5, 0, 2]))
            assert values[0::2] == [2, 5]
            assert isinstance(values[1], ZeroDivisionError)

    def test_a_task_that_raises_stop_iteration_does_not_end_the_map_in_silence(self) -> None:
        with self.executor() as ex, pytest.raises(RuntimeError, match="StopIteration"):
            list(ex.map(tasks.raise_this, [StopIteration("x")]))

    def test_map_reads_an_endless_input_only_so_far(self) -> None:
        read: list[int] = []

        def endless() -> Iterator[int]:
            for i in itertools.count():
                read.append(i)
                yield i

        with self.executor() as ex:
            results = ex.map(tasks.add, endless(), buffersize=8)
            assert [next(results) for _ in range(20)] == list(range(20))
            assert 20 <= len(read) <= 28
            results.close()
            assert list(results) == []
            by_default = ex.map(tasks.add, endless())
            assert [next(by_default) for _ in range(20)] == list(range(20))
            assert len(read) <= 28 + 20 + 20_000
            by_default.close()

    def test_an_input_that_fails_does_so_in_its_place(self) -> None:
        def broken() -> Iterator[int]:
            yield 1
            yield 2
            raise LookupError("the input broke")

        with self.executor() as ex:
            results = ex.map(tasks.add, broken())
            assert [next(results), next(results)] == [1, 2]
            with pytest.raises(LookupError, match="the input broke"):
                next(results)

    def test_an_error_comes_out_of_a_map_with_its_own_context_and_no_other(self) -> None:
        with self.executor() as ex:
            for items in ([0], range(self.many)):
                with pytest.raises(ValueError, match="handled") as caught:
                    list(ex.map(item_tasks.raise_while_handling, items, [items[-1]] * len(items)))
                assert isinstance(caught.value.__context__, KeyError)
                assert caught.value.__context__.__context__ is None
            with pytest.raises(KeyError) as plain:
                list(ex.map(item_tasks.fail_each_seventh, [6]))
            assert plain.value.__context__ is None

    def test_a_list_that_changes_after_the_call_changes_nothing(self) -> None:
        count = min(100, self.many)
        items = list(range(count))
        with self.executor() as ex:
            results = ex.map(tasks.add, items)
            items.clear()
            assert list(results) == list(range(count))

    def test_inputs_that_repeat_or_count_are_as_long_as_the_others(self) -> None:
        ex = taskrun.Executor(self.backend() if isinstance(self.backend, type) else self.backend, **self.options)
        count_of_all = min(200, self.many)
        items = list(range(count_of_all))
        results = ex.map(tasks.kinds_of, items, repeat("r"), count())
        short = ex.map(tasks.kinds_of, items, repeat("r", 3), repeat(None))
        items.clear()
        ex.shutdown()
        assert list(results) == [("int", "str", "int")] * count_of_all
        assert list(short) == [("int", "str", "NoneType")] * 3

    @pytest.mark.parametrize("buffersize", [None, 2])
    def test_a_map_never_iterated_runs_to_its_end(self, buffersize: int | None, tmp_path: Path) -> None:
        ran, items = tmp_path / "ran", range(min(100, self.many))
        with self.full_until_shutdown(tmp_path) as ex:
            ex.map(tasks.write_line, [str(ran)] * len(items), items, buffersize=buffersize)
        assert sorted(map(int, ran.read_text().split())) == list(items)

    def test_results_that_are_dropped_are_gone(self) -> None:
        """Nobody waits for more of them: what is kept until then would be kept for as long as the executor."""
        with self.executor(max_workers=1) as ex:
            numbers = range(self.many)
            for mapped, given in ((ex.map, numbers), (ex.map_unordered, iter(numbers))):
                taken = [weakref.ref(result) for result in mapped(tasks.Counted, given)]
                self.until(lambda taken=taken: not any(ref() for ref in taken))  # type: ignore[misc]
            submitted = [ex.submit(tasks.Counted, number) for number in range(5)]
            taken = [weakref.ref(submitted.pop().result(self.patience)) for _ in range(5)]
            self.until(lambda: not any(ref() for ref in taken))

    def test_results_can_be_read_after_shutdown(self, tmp_path: Path) -> None:
        items = range(min(100, self.many))
        with self.full_until_shutdown(tmp_path) as ex:
            results = ex.map(tasks.add, items)
            windowed = ex.map(tasks.add, items, buffersize=2)
        assert list(results) == list(items)
        assert list(windowed) == list(items)

    def test_an_input_without_a_length_is_never_cut_short_in_silence(self) -> None:
        with self.executor(max_workers=1) as ex:
            results = ex.map(tasks.add, iter(range(5)), buffersize=2)
            assert next(results) == 0
            with pytest.warns(taskrun.UnfinishedMapWarning, match="close"):
                ex.shutdown()
            with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
                list(results)

    def test_a_map_out_of_time_raises_and_cancels_what_has_not_started(self, tmp_path: Path) -> None:
        go_on = tmp_path / "go_on"
        with self.executor(max_workers=1) as ex:
            if not ex.capabilities.concurrent:
                assert list(ex.map(tasks.add, [1], timeout=0)) == [1]  # over at the call
                results = ex.map(tasks.add, [1, 2], timeout=0)
                assert next(results) == 1
                with pytest.raises(TimeoutError):
                    next(results)
                return
            try:
                results = ex.map(tasks.wait_for_file, [str(go_on)] * 8, range(8), timeout=0.05, buffersize=8)
                with pytest.raises(TimeoutError):
                    next(results)
                self.until(lambda: ex.stats()["queued"] == 0)
            finally:
                go_on.touch()
        stats = ex.stats()
        assert stats["succeeded"] <= 1
        assert stats["succeeded"] + stats["cancelled"] == 8

    def test_progress_is_told_to_the_end(self) -> None:
        told: list[tuple[int, int | None]] = []
        with self.executor() as ex:
            follow = ex.options(progress=lambda done, total: told.append((done, total)))
            assert list(follow.map(tasks.add, range(50))) == list(range(50))
        assert told
        assert told[-1] == (50, 50)
        assert told == sorted(told)

    def test_many_threads_share_one_map(self) -> None:
        found: list[int] = []
        errors: list[BaseException] = []

        def take() -> None:
            try:
                found.extend(results)
            except BaseException as error:  # one that ends a thread would be lost
                errors.append(error)

        with self.executor() as ex:
            numbers = range(min(400, self.many))
            results = ex.map(tasks.add, iter(numbers))
            threads = [threading.Thread(target=take) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert not errors
        assert sorted(found) == list(numbers)

    def test_map_arguments_are_checked(self) -> None:
        bad: Any = "3"
        with self.executor() as ex:
            with pytest.raises(ValueError, match="chunksize must be >= 1"):
                ex.map(tasks.add, [1], chunksize=0)
            with pytest.raises(TypeError, match="chunksize must be an integer or None"):
                ex.map(tasks.add, [1], chunksize=bad)
            with pytest.raises(ValueError, match="buffersize must be None or > 0"):
                ex.map(tasks.add, [1], buffersize=0)
            with pytest.raises(TypeError, match="buffersize must be an integer or None"):
                ex.map(tasks.add, [1], buffersize=bad)
            with pytest.raises(TypeError):
                ex.map(tasks.add, 3)  # type: ignore[call-overload]
            assert list(ex.map(tasks.add, [1])) == [1]
