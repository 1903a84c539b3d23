"""`map`, `starmap`, `imap` and their siblings, as `multiprocessing.Pool` has them."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import queue
import threading
import time
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

import pool_jobs as jobs
import pytest
from pool_jobs import PATIENCE, Countdown, Gate, SaidWhen, until, until_when

from taskrun import pool as pool_module

if TYPE_CHECKING:
    from pathlib import Path

SQUARES = [number * number for number in range(100)]


# -- map and starmap -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [None, 1, 7, 1000])
def test_map_returns_the_results_in_order(make: Any, kind: str, chunksize: int | None) -> None:
    pool, count = make(kind), 6 if kind == "fork" else 100
    expected = SQUARES[:count]
    assert pool.map(jobs.square, range(count), chunksize) == expected
    assert pool.map(jobs.square, iter(range(count)), chunksize=chunksize) == expected
    assert pool.starmap(jobs.multiply, zip(range(count), range(count), strict=True), chunksize) == expected
    assert pool.map_async(jobs.square, list(range(count)), chunksize).get(PATIENCE) == expected
    assert pool.starmap_async(jobs.multiply, [[n, n] for n in range(count)], chunksize).get(PATIENCE) == expected


def test_whatever_can_be_iterated(make: Any, kind: str) -> None:
    pool = make(kind)
    for items in ([], (), "", {}, set(), iter(()), range(0), Countdown(0)):
        assert pool.map(jobs.identity, items) == []
        assert list(pool.imap(jobs.identity, items)) == []
        assert list(pool.imap_unordered(jobs.identity, items)) == []
        assert pool.map_async(jobs.identity, items).get(PATIENCE) == []
        assert pool.starmap(jobs.identity, items) == []
    for items in ([1, 2], (1, 2), "12", {1: 0, 2: 0}, b"12", Countdown(2), {"a": 1}.items(), map(int, "12")):
        again = map(int, "12") if isinstance(items, map) else items
        assert pool.map(jobs.identity, items if again is items else map(int, "12")) == list(again)
        assert list(pool.imap(jobs.identity, items)) == list(map(int, "12") if isinstance(items, map) else items)


def test_a_map_of_many_items(make: Any, kind: str) -> None:
    count = {"fork": 30, "pool": 1_000, "dummy": 2_000, "asyncio": 2_000}.get(kind, 4_000)
    pool = make(kind)
    assert pool.map(jobs.identity, range(count)) == list(range(count))
    assert list(pool.imap(jobs.identity, range(count), chunksize=100)) == list(range(count))
    assert sorted(pool.imap_unordered(jobs.identity, iter(range(count // 10)), chunksize=10)) == list(range(count // 10))


def test_a_map_of_nothing_calls_back(make: Any, backend: str) -> None:
    called: list[Any] = []
    assert make(backend).map_async(jobs.square, [], callback=called.append).get(PATIENCE) == []
    assert called == [[]]


def test_callbacks_of_maps_get_the_list_or_the_error(make: Any, kind: str) -> None:
    pool, called = make(kind), []
    pool.map_async(int, ["1", "2"], callback=called.append, error_callback=called.append).wait(PATIENCE)
    assert called == [[1, 2]]
    pool.starmap_async(int, [("a",)], callback=called.append, error_callback=called.append).wait(PATIENCE)
    assert len(called) == 2
    assert isinstance(called[1], ValueError)


def test_a_map_that_fails_waits_for_all_its_items(make: Any, kind: str, tmp_path: Path) -> None:
    pool, ran = make(kind), tmp_path / "ran"

    def one(item: int) -> int:
        jobs.mark(str(ran), item)
        return jobs.fail_for((0, 3), item)

    result = pool.map_async(one, range(8), 1)
    result.wait(PATIENCE)
    assert jobs.marks(ran) == list(range(8))
    assert not result.successful()
    with pytest.raises(KeyError, match="0|3" if kind == "original" else "0"):  # the original: the one that came first
        result.get(0)


def test_of_several_errors_the_first_of_the_input_is_raised(make: Any, backend: str) -> None:
    with pytest.raises(KeyError, match=r"^0$"):
        make(backend, 4).map(jobs.late_error, range(4), 1)


def test_an_item_fails_alone_whatever_the_chunksize(make: Any, backend: str, tmp_path: Path) -> None:
    pool = make(backend)
    iterator = pool.imap(jobs.odd_fails, range(6), chunksize=6)
    assert [outcome(iterator) for _ in range(7)] == [0, KeyError, 2, KeyError, 4, KeyError, StopIteration]


def test_a_map_collects_its_input_at_the_call(make: Any, kind: str, tmp_path: Path) -> None:
    gate, items = Gate(kind, tmp_path), [1, 2, 3]
    pool = make(kind, 1)
    held = pool.apply_async(*gate.task)
    result = pool.map_async(jobs.identity, iter(items))
    items[:] = [7]
    gate.open()
    assert result.get(PATIENCE) == [1, 2, 3]
    assert held.get(PATIENCE) == "went on"


def test_an_input_that_raises_fails_the_map(make: Any, kind: str) -> None:
    pool = make(kind)
    for total, when in ((1, -1), (1, -1), (10, 3)):
        with pytest.raises(SaidWhen):
            pool.map(jobs.square, until_when(total, when), 1)

    class Refusing:
        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            raise SaidWhen

        def __len__(self) -> int:
            return 1

    with pytest.raises(SaidWhen):
        pool.map(jobs.square, Refusing(), 1)
    assert pool.map(jobs.square, [2]) == [4]


def test_a_map_inside_a_task_of_another_pool(make: Any, backend: str) -> None:
    inner = "thread" if backend == "interpreter" else backend
    assert make(backend).starmap(jobs.nested, [(inner, 3), (inner, 4)]) == [[0, 1, 4], [0, 1, 4, 9]]


@pytest.mark.parametrize("backend", ["serial", "thread", "dummy", "asyncio"])
def test_tasks_may_use_their_own_pool(make: Any, backend: str) -> None:
    pool = make(backend, 1)

    def deep(level: int) -> int:
        return 1 if level == 0 else pool.map(deep, [level - 1])[0] + pool.apply(deep, (0,)) + next(pool.imap(deep, iter([0])))

    assert pool.apply_async(deep, (3,)).get(PATIENCE) == 7


# -- imap ----------------------------------------------------------------------------------------------------------------------


def outcome(iterator: Any) -> Any:
    try:
        return next(iterator)
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("make_items", [list, iter, Countdown], ids=["list", "iterator", "sized"])
def test_imap_gives_the_results_in_order_then_ends(make: Any, kind: str, make_items: Any) -> None:
    items = Countdown(30) if make_items is Countdown else make_items(range(30))
    expected = list(range(30, 0, -1)) if make_items is Countdown else list(range(30))
    iterator = make(kind).imap(jobs.identity, items)
    assert iter(iterator) is iterator
    assert [next(iterator) for _ in range(30)] == expected
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(iterator)


@pytest.mark.parametrize("chunksize", [1, 4])
@pytest.mark.parametrize("make_items", [list, iter], ids=["list", "iterator"])
def test_imap_unordered_gives_every_result_once(make: Any, kind: str, make_items: Any, chunksize: int) -> None:
    expected = SQUARES[: 20 if kind == "fork" else None]
    iterator = make(kind).imap_unordered(jobs.square, make_items(range(len(expected))), chunksize)
    assert sorted(iterator) == expected
    assert next(iterator, None) is None


def test_imap_unordered_gives_what_is_done_first(make: Any, concurrent: str, tmp_path: Path) -> None:
    pool, gate = make(concurrent, 2), Gate(concurrent, tmp_path)

    def work(item: int) -> Any:
        return jobs.hold(*gate.task[1]) if item == 0 else item

    iterator = pool.imap_unordered(work, iter(range(5)))
    assert [iterator.next(PATIENCE) for _ in range(4)] == [1, 2, 3, 4]
    gate.open()
    assert list(iterator) == ["went on"]


def test_next_ends_with_its_timeout_and_loses_nothing(make: Any, concurrent: str, tmp_path: Path) -> None:
    gate = Gate(concurrent, tmp_path)

    def work(item: int) -> Any:
        return jobs.hold(*gate.task[1]) if item == 0 else item

    iterator = make(concurrent, 2).imap(work, range(3))
    begun = time.monotonic()
    for _ in range(2):
        with pytest.raises(multiprocessing.TimeoutError) as caught:
            iterator.next(timeout=0.1)
        assert caught.type is multiprocessing.TimeoutError
    assert 0.2 <= time.monotonic() - begun < 4
    gate.open()
    assert [iterator.next(timeout=PATIENCE) for _ in range(3)] == ["went on", 1, 2]


def test_polling_comes_to_an_end(make: Any, kind: str) -> None:
    iterator, found = make(kind).imap(jobs.square, iter(range(5))), []
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            found.append(iterator.next(timeout=0.001))
        except multiprocessing.TimeoutError:
            continue
        except StopIteration:
            break
    assert found == [0, 1, 4, 9, 16]


def test_an_items_error_does_not_end_the_iteration(make: Any, kind: str) -> None:
    pool = make(kind)
    for items in ([0, 1, 2, 3], iter([0, 1, 2, 3])):
        iterator = pool.imap(jobs.odd_fails, items)
        assert [outcome(iterator) for _ in range(5)] == [0, KeyError, 2, KeyError, StopIteration]


def test_what_the_input_raises_comes_once_and_after_the_results(make: Any, kind: str) -> None:
    pool = make(kind)
    for total, when, before in ((1, -1, []), (10, 3, [0, 1, 4])):
        iterator = pool.imap(jobs.square, until_when(total, when))
        assert [outcome(iterator) for _ in range(len(before) + 2)] == [*before, SaidWhen, StopIteration]
        iterator = pool.imap_unordered(jobs.square, until_when(total, when))
        found = [outcome(iterator) for _ in range(len(before) + 2)]
        assert sorted(map(str, found)) == sorted(map(str, [*before, SaidWhen, StopIteration]))
    iterator = pool.imap(jobs.square, 5)
    assert [outcome(iterator) for _ in range(2)] == [TypeError, StopIteration]


def test_an_input_may_raise_a_timeout_error_or_leave(make: Any, backend: str) -> None:
    pool = make(backend)

    def failing(error: BaseException) -> Any:
        yield 1
        raise error

    iterator = pool.imap(jobs.square, failing(TimeoutError("of the input")))
    assert next(iterator) == 1
    with pytest.raises(TimeoutError, match="of the input"):
        iterator.next(PATIENCE)
    assert next(iterator, "end") == "end"
    iterator = pool.imap_unordered(jobs.square, failing(SystemExit(3)))
    if backend == "serial":  # read by whoever iterates: the exit is his
        with pytest.raises(SystemExit):
            list(iterator)
        return
    assert iterator.next(PATIENCE) == 1
    with pytest.raises(SystemExit):
        iterator.next(PATIENCE)


def test_a_stop_iteration_of_a_task_does_not_end_the_loop_in_silence(make: Any, backend: str) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(make(backend).imap(jobs.stop_iteration, [1]))


def test_results_come_while_the_input_waits_for_them(make: Any, concurrent: str) -> None:
    inbox: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    inbox.put(2)
    iterator = make(concurrent).imap(jobs.square, iter(inbox.get, None))
    for expected in (4, 16, 256, 65536):
        assert iterator.next(PATIENCE) == expected
        with pytest.raises(multiprocessing.TimeoutError):
            iterator.next(0.05)
        inbox.put(expected)
    inbox.put(None)
    assert list(iterator) == [4294967296]


def test_imap_runs_ahead_of_whoever_iterates_but_not_far(make: Any, backend: str) -> None:
    read = itertools.count()
    pool = make(backend)
    iterator = pool.imap(jobs.square, (number for number in read if time.sleep(0.0005) is None), 1)
    assert [next(iterator) for _ in range(20)] == SQUARES[:20]
    if backend != "serial":
        time.sleep(0.3)
    assert next(read) < 3000
    pool.terminate()


def test_items_are_read_once_by_one_thread(make: Any, concurrent_backend: str) -> None:
    threads: list[int] = []

    def items() -> Any:
        for number in range(60):
            threads.append(threading.get_ident())
            yield number

    pool = make(concurrent_backend)
    found: list[int] = []
    iterator = pool.imap(jobs.identity, items())
    takers = [threading.Thread(target=lambda: [found.append(value) for value in iterator]) for _ in range(3)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join(PATIENCE)
    assert sorted(found) == list(range(60))
    assert len(threads) == 60
    assert len(set(threads)) == 1


# -- imap and the end of the pool ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("items", [list(range(40)), iter(range(40)), Countdown(40)], ids=["list", "iterator", "sized"])
def test_an_imap_goes_on_after_close(make: Any, kind: str, items: Any) -> None:
    if not isinstance(items, (list, Countdown)):
        items = iter(range(40))
    pool = make(kind)
    iterator = pool.imap_unordered(jobs.identity, items)
    pool.close()
    assert len(list(iterator)) == 40
    pool.join()


@pytest.mark.parametrize("seconds", [0.0, 0.002])
def test_join_reads_the_rest_and_the_results_stay(make: Any, kind: str, seconds: float) -> None:
    pool = make(kind)
    expected = list(range(30 if kind == "fork" else 100))
    items = (number for number in expected if time.sleep(seconds) is None)
    iterator = pool.imap(jobs.slowly, items)  # far more than 0.1 s of work
    pool.close()
    pool.join()
    assert list(iterator) == expected


def test_an_imap_that_nobody_iterates_runs_to_its_end(make: Any, kind: str, tmp_path: Path) -> None:
    ran, pool = tmp_path / "ran", make(kind)

    def one(item: int) -> None:
        jobs.mark(str(ran), item)

    pool.imap(one, iter(range(20)))
    pool.imap_unordered(one, list(range(20, 40)))
    pool.close()
    pool.join()
    assert jobs.marks(ran) == list(range(40))


def test_an_imap_half_iterated_and_dropped_runs_to_its_end(make: Any, concurrent: str, tmp_path: Path) -> None:
    ran, pool = tmp_path / "ran", make(concurrent)

    def one(item: int) -> int:
        return jobs.mark(str(ran), jobs.slowly(item))

    half = 30 if concurrent == "fork" else 100
    for items in (iter(range(half)), list(range(half, 2 * half))):
        for _ in pool.imap(one, items):
            break
    until(lambda: jobs.marks(ran) == list(range(2 * half)))


def test_join_says_that_it_waits_for_an_input(
    make: Any, concurrent_backend: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_TELL_AFTER", 0.2)
    inbox: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    inbox.put(2)
    pool = make(concurrent_backend)
    iterator = pool.imap(jobs.square, iter(inbox.get, None))
    pool.close()
    joining = threading.Thread(target=pool.join)
    joining.start()
    until(lambda: caplog.records)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("taskrun", logging.WARNING)
    assert "1 imap(s), which has given 1 items" in record.getMessage()
    assert joining.is_alive()
    inbox.put(3)
    inbox.put(None)
    joining.join(PATIENCE)
    assert not joining.is_alive()
    assert list(iterator) == [4, 9]
    assert len(caplog.records) == 1


def test_terminate_ends_an_imap_with_an_endless_input(make: Any, backend: str) -> None:
    pool = make(backend)
    iterator = pool.imap(jobs.square, itertools.count())
    assert next(iterator) == 0
    begun = time.monotonic()
    pool.terminate()
    pool.join()
    assert time.monotonic() - begun < 10
    errors = []
    for _ in range(100_000):
        try:
            next(iterator)
        except CancelledError as error:
            errors.append(error)
        except StopIteration:
            break
    else:
        raise AssertionError("it did not end")
    assert errors
