"""`Executor.map`, to the letter of the standard library, and its `buffersize` to that of Python 3.14.

The standard library's ThreadPoolExecutor takes part where it has the behaviour, which proves that a test asks for it.
"""

from __future__ import annotations

import itertools
import operator
import threading
import time
import weakref
from concurrent import futures as standard
from typing import TYPE_CHECKING, Any

import pytest
import standard_kinds as kinds
from standard_kinds import CONCURRENT, EVERYWHERE, OURS, PATIENCE, Gate, no_collector, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

everywhere = pytest.mark.parametrize("kind", EVERYWHERE)
concurrent = pytest.mark.parametrize("kind", CONCURRENT)
ours = pytest.mark.parametrize("kind", OURS)


@pytest.fixture
def make() -> Iterator[Callable[..., Any]]:
    """Make executors of a kind; at the end they are shut down."""
    made: list[Any] = []

    def executor(kind: str, **options: Any) -> Any:
        made.append(kinds.make(kind, **options))
        return made[-1]

    yield executor
    for each in made:
        each.shutdown()


def endless(read: list[int]) -> Iterator[int]:
    for number in itertools.count():
        read.append(number)
        yield number


def steps(first: str, gate: Gate, directory: Path) -> Iterator[tuple[str, ...]]:
    """Return the inputs of a map of `kinds.step` whose second item is held at the gate; the others would make files."""
    rest = [("mark", str(directory / f"ran {number}"), "") for number in range(5)]
    return zip((first, "", ""), ("hold", *gate.task[1:]), *rest, strict=True)


class TestResults:
    @everywhere
    @pytest.mark.parametrize("chunksize", [1, 3, 100])
    def test_they_come_in_the_order_of_the_input(self, make: Any, kind: str, chunksize: int) -> None:
        results = make(kind).map(pow, range(10), range(10), chunksize=chunksize)
        assert iter(results) is results
        assert list(results) == list(map(pow, range(10), range(10)))
        assert list(results) == []

    @everywhere
    @pytest.mark.parametrize(
        "inputs",
        [
            lambda: ([1, 2, 3, 4], [1, 2]),
            lambda: ([1, 2], range(100), (7, 8, 9)),
            lambda: ([1, 2, 3], iter([4, 5])),
            lambda: (iter([1, 2, 3]), itertools.count()),
            lambda: ([1, 2, 3], itertools.repeat(2)),
            lambda: ({1: "one", 2: "two"}, "ab"),
            lambda: ([], [1]),
            lambda: ([1], iter([])),
            lambda: ([],),
            lambda: (iter([]),),
            lambda: (),
        ],
    )
    def test_the_shortest_input_ends_it(self, make: Any, kind: str, inputs: Any) -> None:
        inputs = inputs()
        ours, theirs = zip(*map(itertools.tee, inputs), strict=True) if inputs else ((), ())
        # What has a length is given as it is, not as an iterator.
        given = [it if hasattr(it, "__len__") else copied for it, copied in zip(inputs, ours, strict=True)]
        results = make(kind).map(kinds.capture, *given)
        assert list(results) == [(items, {}) for items in zip(*theirs, strict=False)]

    @everywhere
    def test_it_submits_at_the_call_and_runs_without_being_iterated(self, make: Any, kind: str, tmp_path: Path) -> None:
        ex = make(kind)
        ex.map(kinds.mark, [str(tmp_path / str(number)) for number in range(10)])
        if kind != "serial":  # that runs the first one only, until it is iterated or shut down
            until(lambda: len(list(tmp_path.iterdir())) == 10)
        ex.shutdown()
        assert len(list(tmp_path.iterdir())) == 10

    @everywhere
    def test_what_is_not_iterable_is_refused_at_the_call(self, make: Any, kind: str) -> None:
        with pytest.raises(TypeError, match="not iterable"):
            make(kind).map(abs, 5)

    @everywhere
    def test_one_that_was_handed_out_is_kept_by_nobody(self, make: Any, kind: str) -> None:
        handed_out = 0
        for thing in make(kind).map(kinds.make_thing, range(10)):
            gone = weakref.ref(thing)
            handed_out += 1
            del thing
            until(lambda gone=gone: gone() is None)
        assert handed_out == 10

    @everywhere
    def test_they_can_be_read_when_the_executor_is_shut_down_or_gone(self, make: Any, kind: str) -> None:
        ex = make(kind)
        before = ex.map(abs, range(-9, 0))
        ex.shutdown()
        assert list(before) == list(range(9, 0, -1))
        assert list(kinds.make(kind).map(abs, range(-9, 0))) == list(range(9, 0, -1))

    @everywhere
    def test_threads_may_take_turns(self, make: Any, kind: str) -> None:
        results = make(kind).map(abs, range(5))
        found: list[int] = [next(results)]
        thread = threading.Thread(target=lambda: found.append(next(results)))
        thread.start()
        thread.join(PATIENCE)
        assert [*found, *results] == list(range(5))


class TestErrors:
    @everywhere
    def test_one_surfaces_in_its_place_and_ends_the_iterator(self, make: Any, kind: str) -> None:
        results = make(kind).map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
        assert [next(results), next(results)] == [(0, 1), (0, 1)]
        with pytest.raises(ZeroDivisionError):
            next(results)
        for _ in range(2):
            with pytest.raises(StopIteration):
                next(results)

    @concurrent
    def test_one_cancels_what_has_not_started(self, make: Any, kind: str, tmp_path: Path) -> None:
        ex, gate = make(kind, max_workers=1), Gate(kind, tmp_path)
        results = ex.map(kinds.step, *steps("fail", gate, tmp_path))
        until(gate.started.exists)
        with pytest.raises(LookupError):
            next(results)
        gate.open()
        ex.shutdown()
        assert not list(tmp_path.glob("ran *"))

    @everywhere
    def test_one_of_a_base_class_surfaces_too(self, make: Any, kind: str) -> None:
        results = make(kind).map(kinds.leave, [3])
        with pytest.raises(SystemExit):
            next(results)
        assert list(results) == []

    @everywhere
    def test_one_that_nobody_asks_for_is_no_trouble(self, make: Any, kind: str, caplog: pytest.LogCaptureFixture) -> None:
        ex = make(kind)
        ex.map(kinds.divide, [1, 1], [0, 0])
        ex.shutdown()
        assert caplog.messages == []

    # Not on `serial`, where the frames of the caller are below those of the task: a cycle, for the collector to find.
    @concurrent
    def test_one_is_kept_by_nobody(self, make: Any, kind: str) -> None:
        ex = make(kind)
        with no_collector():
            payload = kinds.Thing()
            gone = [weakref.ref(payload)]
            results = ex.map(kinds.fail_with, [payload])
            try:
                next(results)
            except LookupError as error:
                gone.append(weakref.ref(error))
            del payload
            assert len(gone) == 2
            until(lambda: [ref() for ref in gone] == [None, None])


class TestTime:
    @concurrent
    def test_it_runs_out(self, make: Any, kind: str, tmp_path: Path) -> None:
        ex, gate = make(kind, max_workers=1), Gate(kind, tmp_path)
        results = ex.map(kinds.step, *steps("at once", gate, tmp_path), timeout=0.1)
        found = []
        with pytest.raises(TimeoutError):
            for value in results:
                found.append(value)
        assert found in ([], ["at once"])  # as many as came in time
        assert list(results) == []
        gate.open()
        ex.shutdown()
        assert not list(tmp_path.glob("ran *"))

    @concurrent
    def test_it_counts_from_the_call(self, make: Any, kind: str, tmp_path: Path) -> None:
        gate = Gate(kind, tmp_path)
        results = make(kind).map(kinds.step, ["hold"], *([path] for path in gate.task[1:]), timeout=0.05)
        over = time.monotonic() + 0.05
        until(lambda: time.monotonic() > over)
        with pytest.raises(TimeoutError):  # at once: had it begun to count now, `next` would have waited
            next(results)
        gate.open()

    @everywhere
    def test_what_is_done_can_be_read_when_it_is_over(self, make: Any, kind: str) -> None:
        ex = make(kind)
        results = ex.map(abs, [-1], timeout=0)
        ex.shutdown()
        assert list(results) == [1]

    @concurrent
    def test_the_one_it_waited_for_is_cancelled_as_the_rest_is(self, make: Any, kind: str, tmp_path: Path) -> None:
        ex, gate = make(kind, max_workers=1), Gate(kind, tmp_path)
        running = gate.run_on(ex)
        results = ex.map(kinds.mark, [str(tmp_path / "ran 1"), str(tmp_path / "ran 2")], timeout=0)
        with pytest.raises(TimeoutError):
            next(results)
        gate.open()
        assert running.result(PATIENCE) == "went on"
        ex.shutdown()
        assert not list(tmp_path.glob("ran *"))


class TestClosing:
    @concurrent
    def test_it_cancels_what_has_not_started(self, make: Any, kind: str, tmp_path: Path) -> None:
        ex, gate = make(kind, max_workers=1), Gate(kind, tmp_path)
        results = ex.map(kinds.step, *steps("at once", gate, tmp_path))
        assert next(results) == "at once"
        until(gate.started.exists)
        results.close()
        gate.open()
        ex.shutdown()
        assert not list(tmp_path.glob("ran *"))

    @pytest.mark.parametrize("kind", ["thread", "process", "asyncio"])
    def test_it_does_so_before_the_first_result_was_asked_for(self, make: Any, kind: str, tmp_path: Path) -> None:
        # The standard generator has nothing to close before it is started: its tasks run.
        ex, gate = make(kind, max_workers=1), Gate(kind, tmp_path)
        gate.run_on(ex)
        ex.map(kinds.mark, [str(tmp_path / f"ran {number}") for number in range(5)]).close()
        gate.open()
        ex.shutdown()
        assert not list(tmp_path.glob("ran *"))

    @everywhere
    def test_a_closed_one_is_at_its_end(self, make: Any, kind: str) -> None:
        results = make(kind).map(abs, range(5))
        assert next(results) == 0
        results.close()
        results.close()
        assert list(results) == []


class TestArguments:
    @pytest.mark.parametrize("chunksize", [0, -1])
    @ours
    def test_chunks_are_not_empty(self, make: Any, kind: str, chunksize: int) -> None:
        with pytest.raises(ValueError, match=r"^chunksize must be >= 1\.$"):
            make(kind).map(abs, [1], chunksize=chunksize)

    def test_so_says_the_standard_process_pool(self) -> None:
        with standard.ProcessPoolExecutor(1) as pool, pytest.raises(ValueError, match=r"^chunksize must be >= 1\.$"):
            pool.map(abs, [1], chunksize=0)

    @ours
    @pytest.mark.parametrize("chunksize", ["3", 1.5, [1]])
    def test_a_chunk_size_is_a_whole_number(self, make: Any, kind: str, chunksize: Any) -> None:
        ex = make(kind)
        with pytest.raises(TypeError, match=r"^chunksize must be an integer or None$"):
            ex.map(abs, [1], chunksize=chunksize)
        assert list(ex.map(abs, [-1])) == [1]  # and the workers never see it

    # Python 3.14 brought `buffersize`; there is no standard executor here to prove these.

    @ours
    @pytest.mark.parametrize("buffersize", ["3", 1.5, [1]])
    def test_a_buffer_size_is_a_whole_number(self, make: Any, kind: str, buffersize: Any) -> None:
        with pytest.raises(TypeError, match=r"^buffersize must be an integer or None$"):
            make(kind).map(abs, [1], buffersize=buffersize)

    @ours
    @pytest.mark.parametrize("buffersize", [0, -1])
    def test_a_buffer_holds_something(self, make: Any, kind: str, buffersize: int) -> None:
        with pytest.raises(ValueError, match=r"^buffersize must be None or > 0$"):
            make(kind).map(abs, [1], buffersize=buffersize)

    @everywhere
    def test_they_are_given_by_keyword(self, make: Any, kind: str) -> None:
        ex = make(kind)
        with pytest.raises(TypeError):
            ex.map(abs, [1], whatever=3)
        with pytest.raises(TypeError):
            ex.map()


class TestBuffer:
    @ours
    @pytest.mark.parametrize("buffersize", [1, 3, 4, 100])
    def test_all_results_come_through_a_buffer_of_any_size(self, make: Any, kind: str, buffersize: int) -> None:
        ex = make(kind)
        for items in (range(20), iter(range(20))):
            assert list(ex.map(pow, items, itertools.repeat(2), buffersize=buffersize)) == [i**2 for i in range(20)]

    @ours
    def test_there_may_be_nothing_to_buffer(self, make: Any, kind: str) -> None:
        ex = make(kind)
        for inputs in ((), ([],), (iter([]),), ([1], [])):
            assert list(ex.map(pow, *inputs, buffersize=4)) == []

    @ours
    @pytest.mark.parametrize("buffersize", [1, 2, 5])
    def test_it_reads_so_far_ahead_and_no_further(self, make: Any, kind: str, buffersize: int) -> None:
        read: list[int] = []
        results = make(kind).map(abs, endless(read), buffersize=buffersize)
        assert 1 <= len(read) <= buffersize  # at the call; fewer when the input is slow, or the machine
        for taken in range(1, 30):
            assert next(results) == taken - 1
            assert taken <= len(read) <= taken + buffersize
        results.close()

    @ours
    def test_several_endless_inputs(self, make: Any, kind: str) -> None:
        one, other = [], []
        results = make(kind).map(operator.add, endless(one), endless(other), buffersize=4)
        assert list(itertools.islice(results, 10)) == list(range(0, 20, 2))
        assert len(one) == len(other) <= 14
        results.close()

    @pytest.mark.parametrize("kind", ["thread", "process", "asyncio"])
    def test_no_more_than_it_holds_are_under_way(self, make: Any, kind: str, tmp_path: Path) -> None:
        ex = make(kind, max_workers=1)
        results = ex.map(kinds.mark, [str(tmp_path / str(number)) for number in range(10)], buffersize=3)
        until(lambda: ex.stats()["unfinished"] == 0)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]
        next(results)
        until(lambda: len(list(tmp_path.iterdir())) == 4)
        assert list(results) == [None] * 9
