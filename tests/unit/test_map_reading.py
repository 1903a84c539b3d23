"""Reading several items at a time holds none of them back."""

from __future__ import annotations

import itertools
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import taskrun
from taskrun import map_reading, sharing
from taskrun.backends.base import Backend
from taskrun.map_reading import Reader
from taskrun.map_runs import FeedInRuns
from taskrun.map_window import MAX_BYTES, MAX_ITEMS
from tests.patience import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Clockwork:
    """A timer that calls when told to."""

    def __init__(self) -> None:
        self.asked: list[Callable[[], object]] = []

    def call_at(self, when: float, fn: Callable[[], object]) -> bool:
        self.asked.append(fn)
        return True

    def strike(self) -> None:
        asked, self.asked = self.asked, []
        for fn in asked:
            fn()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading is quick, however busy the machine is."""
    monkeypatch.setattr(map_reading, "_READING", 60.0)
    monkeypatch.setattr(map_reading, "_HELD_BACK", 60.0)


@pytest.mark.usefixtures("patient")
def test_items_are_read_many_at_a_time_and_none_beyond_the_limit() -> None:
    items = itertools.count()
    reader = Reader(items, pytest.fail, Clockwork().call_at)
    assert reader.read(100) == list(range(100))
    assert next(items) == 100


@pytest.mark.usefixtures("patient")
def test_the_end_comes_after_the_last_item_and_stays() -> None:
    reader = Reader(range(30), pytest.fail, Clockwork().call_at)
    assert reader.read(100) == list(range(30))
    assert reader.read(100) == []
    assert reader.read(1) == []


def test_an_error_of_the_input_comes_after_what_was_read_before_it() -> None:
    def items() -> Iterator[int]:
        yield from range(30)
        raise LookupError("broken")

    reader = Reader(items(), pytest.fail, Clockwork().call_at)
    assert reader.read(100) == list(range(30))
    with pytest.raises(LookupError, match="broken"):
        reader.read(100)


def test_large_items_are_read_one_by_one() -> None:
    reader = Reader((bytes(1 << 20) for _ in itertools.count()), pytest.fail, Clockwork().call_at)
    assert len(reader.read(1000)) <= 8
    assert [len(reader.read(1000)) for _ in range(20)] == [1] * 20


def test_without_a_timer_items_are_read_one_by_one() -> None:
    reader = Reader(itertools.count(), pytest.fail, lambda when, fn: False)
    assert [reader.read(100) for _ in range(3)] == [[0], [1], [2]]


def test_what_was_read_is_handed_over_while_the_input_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the input is read one by one for a while, then many at a time again."""
    monkeypatch.setattr(map_reading, "_HELD_BACK", 0.0)
    waits, go_on = threading.Event(), threading.Event()
    clockwork, handed = Clockwork(), []

    def items() -> Iterator[int]:
        yield 0
        yield 1
        waits.set()
        assert go_on.wait(PATIENCE)
        yield from range(2, 1000)

    def hand_over() -> None:
        assert waits.wait(PATIENCE)
        clockwork.strike()
        go_on.set()

    reader = Reader(items(), handed.extend, clockwork.call_at)
    timer = threading.Thread(target=hand_over)
    timer.start()
    read = reader.read(100)
    timer.join()
    assert handed == [0, 1]
    assert read[0] == 2
    monkeypatch.undo()
    while len(more := reader.read(100)) == 1:
        read += more
    assert len(more) > 1  # how many, the machine's speed decides
    assert read + more == list(range(2, 2 + len(read) + len(more)))


def test_what_was_handed_over_is_not_the_end_of_the_input() -> None:
    handed: list[int] = []
    reader: Reader

    def items() -> Iterator[int]:
        yield from range(5)
        reader.hand_over()
        yield from range(5, 8)

    reader = Reader(items(), handed.extend, Clockwork().call_at)
    read: list[int] = []
    while more := reader.read(8):
        read += more
    assert handed == list(range(5))
    assert read == list(range(5, 8))


def test_who_has_closed_it_is_handed_nothing() -> None:
    reader: Reader

    def items() -> Iterator[int]:
        yield 1
        reader.close()
        reader.hand_over()
        yield 2

    reader = Reader(items(), pytest.fail, Clockwork().call_at)
    assert reader.read(100) == [1, 2]


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_a_stream_of_tiny_items_is_read_no_further_than_the_window(backend: str) -> None:
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        for number in itertools.count():
            read = number + 1
            yield number

    ahead = []
    with taskrun.Executor(backend, max_workers=2) as ex:
        for ordered in (True, False):
            read = 0
            results = ex.map(abs, items()) if ordered else ex.map_unordered(abs, items())
            for taken, _ in enumerate(itertools.islice(results, 60_000)):
                ahead.append(read - taken)
            results.close()
    assert max(ahead) <= MAX_ITEMS + 1
    assert max(ahead) > 1000  # they did come many at a time


@pytest.mark.parametrize("backend", ["thread", "process", "asyncio"])
def test_an_input_may_ask_its_own_map_when_items_have_become_tiny(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Never known as slow: what is slow is read when all results are handed out, and then there is none to ask for.
    monkeypatch.setattr(map_reading, "_HELD_BACK", PATIENCE)
    monkeypatch.setattr(sharing, "in_use", False)  # else items do not travel together, and a read is slow sooner
    results: Any = None
    asked = []

    def items() -> Iterator[int]:
        yield from range(3000)
        asked.append(next(results))
        yield 3000
        asked.append(next(results))
        yield 3001

    with taskrun.Executor(backend, max_workers=2) as ex:
        results = ex.map(abs, items())
        found = list(results)
    assert len(asked) == 2
    assert sorted(found + asked) == list(range(3002))


@pytest.mark.filterwarnings("ignore::taskrun.UnfinishedMapWarning")  # from the input, where it is a task for each item
@pytest.mark.parametrize("backend", ["thread", "process"])
def test_an_executor_shut_down_while_a_stream_is_read_refuses_the_rest(backend: str) -> None:
    ex = taskrun.Executor(backend, max_workers=2)

    def items() -> Iterator[int]:
        yield from range(5000)
        ex.shutdown(wait=False)
        yield from range(5000, 10_000)

    found = []
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        for value in ex.map(abs, items()):
            found.append(value)  # one by one: what came before the error is looked at
    assert found == list(range(len(found)))
    assert len(found) <= 5000
    ex.shutdown()


def test_a_stream_leaves_no_watch_behind() -> None:
    with taskrun.Executor("thread", max_workers=2) as ex:
        assert list(ex.map(abs, iter(range(5000)))) == list(range(5000))
        timer = ex._scheduler.timer
        assert eventually(lambda: not timer._heap)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("backend", ["thread", "process"])
def test_a_stream_keeps_nothing_of_what_was_handed_out(backend: str, ordered: bool) -> None:
    with taskrun.Executor(backend, max_workers=2) as ex:
        results = ex.map(abs, itertools.count()) if ordered else ex.map_unordered(abs, itertools.count())
        feed: Any = results._taker.feed
        for _ in itertools.islice(results, 100_000):
            pass
        if isinstance(feed, FeedInRuns):  # not where another test has used `shared` before
            assert feed._run_of.keys() <= feed._open.keys()
            assert len(feed._open) + feed._more <= MAX_ITEMS
        assert len(feed._open) <= MAX_ITEMS
        results.close()


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("backend", ["thread", "process"])
def test_threads_that_share_a_stream_get_each_item_once(backend: str, ordered: bool) -> None:
    found: list[list[int]] = [[], [], [], []]
    with taskrun.Executor(backend, max_workers=2) as ex:
        numbers = iter(range(200_000))
        results = ex.map(abs, numbers) if ordered else ex.map_unordered(abs, numbers)
        threads = [threading.Thread(target=own.extend, args=(results,)) for own in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * PATIENCE)
        assert not any(thread.is_alive() for thread in threads)
    assert sorted(itertools.chain(*found)) == list(range(200_000))


def test_results_do_not_wait_for_an_input_that_has_become_slow() -> None:
    """Not even for those items that it was asked for while it was quick."""
    behind = []

    def items() -> Iterator[int]:
        yield from range(20_000)
        for number in range(20_000, 20_040):
            slow.wait(0.01)
            behind.append(number - taken)
            yield number

    slow, taken = threading.Event(), 0
    with taskrun.Executor("thread", max_workers=2) as ex:
        for value in ex.map(abs, items()):
            taken = value + 1
    assert behind[-1] <= 2


def test_while_the_input_waits_the_timer_rests() -> None:
    clockwork = Clockwork()
    waits, go_on = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 0
        waits.set()
        assert go_on.wait(PATIENCE)
        yield 1

    reader = Reader(items(), lambda _: None, clockwork.call_at)
    thread = threading.Thread(target=reader.read, args=(100,))
    thread.start()
    assert waits.wait(PATIENCE)

    def handed_over() -> bool:
        clockwork.strike()
        return not clockwork.asked

    assert eventually(handed_over)
    go_on.set()
    thread.join()


@pytest.mark.parametrize("small", [0, 300, 5_000])
def test_items_that_have_become_large_are_read_no_further_ahead_than_memory_has_room_for(small: int) -> None:
    read = taken = most = 0

    def items() -> Iterator[bytes]:
        nonlocal read
        for _ in range(small):
            yield b"small"
        for _ in range(400):
            read += 1
            yield bytes(1 << 20)

    with taskrun.Executor("thread", max_workers=1) as ex:
        for size in ex.map(len, items()):
            taken += size > 5
            most = max(most, read - taken)
    assert most <= 2 * MAX_BYTES >> 20  # half of that, but for what is read before the timer looks


@pytest.mark.parametrize("struck", ["hold", "count_items", "submit_all"])
def test_ctrl_c_while_a_run_of_a_stream_is_submitted_leaves_nothing_open(struck: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "in_use", False)  # as another test has left it: items would travel alone
    monkeypatch.setattr(Backend, "tiny", 1.0)
    with taskrun.Executor("thread", max_workers=2) as ex:
        results = ex.map(abs, itertools.count())
        for _ in itertools.islice(results, 5_000):
            pass
        method = getattr(ex._scheduler, struck)

        def strike(*args: Any, **options: Any) -> Any:
            if not left or threading.current_thread() is not threading.main_thread():
                return method(*args, **options)
            left.clear()
            if struck == "hold":
                method(*args, **options)  # it comes just after
            raise KeyboardInterrupt

        left = [True]
        with monkeypatch.context() as striking, pytest.raises(KeyboardInterrupt):
            striking.setattr(ex._scheduler, struck, strike)
            for _ in results:
                pass
        assert eventually(lambda: ex.stats()["unfinished"] == 0)
        assert eventually(lambda: not ex._scheduler._feeders)  # a moment later
        assert ex.submit(abs, -1).result(PATIENCE) == 1


def test_an_input_that_leaves_by_system_exit_holds_up_no_other_taker() -> None:
    """It was read for a taker that had a run of results in hand."""
    leave, reading, main = threading.Event(), threading.Event(), threading.current_thread()

    def items() -> Iterator[int]:
        for number in itertools.count():
            if leave.is_set() and threading.current_thread() is main:
                reading.set()
                assert eventually(lambda: waits(other))
                raise SystemExit
            yield number

    def take() -> None:
        reading.wait(PATIENCE)
        try:
            for _ in results:
                pass
        except BaseException as error:
            ended.append(error)

    ended: list[BaseException] = []
    with taskrun.Executor("thread", max_workers=1) as ex:
        results = ex.map(abs, items())
        other = threading.Thread(target=take)
        other.start()
        with pytest.raises(SystemExit):
            for number, _ in enumerate(results):
                if number == 60_000:
                    leave.set()
        other.join(PATIENCE)
        assert not other.is_alive()
    # One that had just waited for a result, and asks for the next one after that, finds the map at its end.
    assert [type(error) for error in ended] in ([SystemExit], [])


def waits(thread: threading.Thread) -> bool:
    """Return whether *thread* waits for somebody in the library."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code.co_name in ("wait_at", "_wait")
