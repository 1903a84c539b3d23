"""`map` in its corners: who reads the input, when, and what happens when nobody asks any more."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import queue
import signal
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

import taskrun
from taskrun import mapping
from taskrun.map_feed import Feed
from taskrun.testing.base import Behaviours

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 20.0


@pytest.fixture
def threads() -> Iterator[taskrun.Executor]:
    with taskrun.Executor("thread", max_workers=2) as ex:
        yield ex


class TestInput:
    def test_no_lock_is_held_while_it_is_read(self, threads: taskrun.Executor) -> None:
        first_done = threading.Event()

        def item(i: int) -> int:
            return i

        def feed() -> Iterator[int]:
            yield 1
            # The first task ends now, and whoever reports that must not wait for us.
            assert threads.submit(abs, -2).result(PATIENCE) == 2
            first_done.set()
            yield 2

        assert list(threads.map(item, feed())) == [1, 2]
        assert first_done.is_set()

    def test_it_may_wait_for_what_its_own_items_do(self, threads: taskrun.Executor) -> None:
        found: queue.Queue[int] = queue.Queue()

        def crawl() -> Iterator[int]:
            yield 1
            while (link := found.get(timeout=PATIENCE)) < 20:
                yield link

        def visit(link: int) -> int:
            found.put(link * 2)
            return link

        assert list(threads.map(visit, crawl())) == [1, 2, 4, 8, 16]

    def test_it_may_not_wait_for_results_of_items_that_it_has_not_given_yet(self, threads: taskrun.Executor) -> None:
        results: Any = None

        def impatient() -> Iterator[int]:
            if results is not None:
                next(results)
            yield 1
            next(results)
            next(results)
            yield 2

        results = threads.map(abs, impatient(), buffersize=1)
        with pytest.raises(RuntimeError, match="asks for the next result of the same map"):
            list(results)

    def test_it_is_let_go_when_the_map_is_over(self, threads: taskrun.Executor) -> None:
        closed = []

        def file() -> Iterator[int]:
            try:
                yield from itertools.count()
            finally:
                closed.append(True)

        results = threads.map(abs, file())
        assert next(results) == 0
        results.close()
        gc.collect()
        assert closed == [True]

    def test_an_interrupt_of_it_goes_through_at_once_and_cancels_the_rest(self, threads: taskrun.Executor) -> None:
        def interrupted() -> Iterator[int]:
            yield 1
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(threads.map(abs, interrupted()))
        assert threads.submit(abs, -1).result(PATIENCE) == 1

    def test_large_items_are_read_by_their_size(self, threads: taskrun.Executor) -> None:
        read: list[int] = []

        def large() -> Iterator[bytes]:
            for i in range(100):
                read.append(i)
                yield bytes(16 * 1024 * 1024)

        results = threads.map(len, large())
        for taken in range(1, 10):
            next(results)
            assert len(read) <= taken + 4
        results.close()

    def test_what_is_no_iterable_is_an_error_at_the_call(self, threads: taskrun.Executor) -> None:
        with pytest.raises(TypeError):
            threads.map(abs, 3)  # type: ignore[call-overload]
        assert threads.stats()["submitted"] == 0

    def test_no_input_at_all_is_an_empty_map(self, threads: taskrun.Executor) -> None:
        assert list(threads.map(abs)) == []  # type: ignore[call-overload]
        assert list(threads.map(abs, [])) == []
        assert list(threads.map(abs, iter([]))) == []


class TestAbandoned:
    def test_dropping_an_iterator_that_was_asked_cancels_what_has_not_started(self) -> None:
        hold = threading.Event()
        with taskrun.Executor("thread", max_workers=1) as ex:
            results = ex.map(lambda i: hold.wait(PATIENCE) if i else None, range(50), buffersize=50)
            assert next(results) is None
            del results
            until(lambda: ex.stats()["cancelled"] >= 48)
            hold.set()

    def test_results_that_nobody_asks_for_are_not_kept(self, threads: taskrun.Executor) -> None:
        class Result:
            alive: ClassVar[weakref.WeakSet[Result]] = weakref.WeakSet()

            def __init__(self, _: int) -> None:
                self.alive.add(self)

        threads.map(Result, range(500))
        until(lambda: threads.stats()["succeeded"] == 500)
        until(lambda: gc.collect() is not None and not Result.alive)

    def test_dropping_one_over_an_input_without_a_length_before_it_was_asked_warns_once(self) -> None:
        with taskrun.Executor("thread", max_workers=1) as ex:
            with pytest.warns(taskrun.UnfinishedMapWarning, match="only its first items run"):
                ex.map(abs, itertools.count())
            ex.shutdown()

    def test_a_finished_one_and_a_closed_one_warn_of_nothing(self, threads: taskrun.Executor) -> None:
        assert list(threads.map(abs, iter([1]))) == [1]
        open_end = threads.map(abs, itertools.count())
        open_end.close()
        open_end.close()
        assert list(open_end) == []

    def test_an_error_in_the_block_is_not_hidden_by_the_warning(self) -> None:
        with pytest.raises(ZeroDivisionError), taskrun.Executor("thread", max_workers=1) as ex:
            results = ex.map(abs, itertools.count())
            next(results)
            raise ZeroDivisionError

    def test_one_that_is_left_half_way_and_dropped_is_not_called_unfinished(self, monkeypatch: pytest.MonkeyPatch) -> None:
        later: list[Any] = []
        monkeypatch.setattr(mapping, "call_soon", later.append)  # the janitor is slow
        with taskrun.Executor("thread", max_workers=1) as ex:  # UnfinishedMapWarning would be an error
            assert list(itertools.islice(ex.map(abs, itertools.count()), 5)) == [0, 1, 2, 3, 4]
        (close,) = later
        close()

    def test_serial_runs_the_rest_at_shutdown_in_the_caller(self) -> None:
        ran: list[int] = []
        with taskrun.Executor("serial") as ex:
            ex.map(lambda i: ran.append(threading.get_ident()), range(3))
            assert len(ran) == 1
        assert ran == [threading.get_ident()] * 3


class TestStruck:
    """By a signal handler that raises, as `signal.alarm` is used for a limit of time."""

    @pytest.mark.parametrize("step", ["_room", "_numbered", "_opened", "_note_open", "take"])
    @pytest.mark.parametrize("lazy", [False, True])
    def test_what_the_handler_raises_arrives(
        self, threads: taskrun.Executor, step: str, lazy: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = getattr(Feed, step)

        def strike(self: Feed, *args: Any, **kwargs: Any) -> Any:
            found = original(self, *args, **kwargs)
            if threading.current_thread() is threading.main_thread():
                raise LookupError("struck")
            return found

        with monkeypatch.context() as struck:
            struck.setattr(Feed, step, strike)
            with pytest.raises(LookupError, match="struck"):
                list(threads.options(chunksize=1).map(abs, iter(range(10)) if lazy else range(10)))
        assert list(threads.map(abs, range(10))) == list(range(10))


@pytest.mark.parametrize("action", ["iterate", "close", "drop"])
def test_a_map_in_a_forked_child_is_refused_though_another_thread_was_inside(threads: taskrun.Executor, action: str) -> None:
    go, inside = threading.Event(), threading.Event()
    results = threads.options(chunksize=1).map(lambda _: go.wait(PATIENCE), range(10))

    def hold() -> None:
        with results._taker.feed._lock:
            inside.set()
            go.wait(PATIENCE)

    other = threading.Thread(target=hold)
    other.start()
    assert inside.wait(PATIENCE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads beside a fork
        pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(int(PATIENCE))
            if action == "iterate":
                with pytest.raises(RuntimeError, match="fork"):
                    list(results)
            elif action == "close":
                results.close()
            else:
                threads.shutdown()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    go.set()
    other.join()
    assert all(results)


class TestProgress:
    def test_an_error_in_the_function_is_logged_and_hurts_nobody(self, caplog: pytest.LogCaptureFixture) -> None:
        def broken(done: int, total: int | None) -> None:
            raise LookupError("no such terminal")

        with taskrun.Executor("thread") as ex, caplog.at_level(logging.ERROR, "taskrun"):
            assert list(ex.options(progress=broken).map(abs, range(10))) == list(range(10))
        assert "no such terminal" in caplog.text

    def test_without_a_length_there_is_no_total(self, threads: taskrun.Executor) -> None:
        told: list[tuple[int, int | None]] = []
        assert list(threads.options(progress=lambda *numbers: told.append(numbers)).map(abs, iter(range(5)))) == [0, 1, 2, 3, 4]
        until(lambda: told and told[-1] == (5, None))

    @pytest.mark.parametrize(
        ("others", "total"),
        [
            ((itertools.repeat(0), itertools.count()), 5),
            ((itertools.repeat(0, 3),), 3),
            ((itertools.repeat(0), itertools.repeat(0, 0)), 0),
            ((range(4), itertools.repeat(0)), 4),
        ],
    )
    def test_the_total_is_that_of_the_shortest_input(self, others: tuple[Any, ...], total: int) -> None:
        kept, found = mapping._collected((range(5), *others))
        assert len(kept) == len(others) + 1
        assert found == total

    def test_endless_inputs_have_no_total(self) -> None:
        assert mapping._collected((itertools.repeat(0), itertools.count()))[1] is None

    def test_a_bar_is_drawn_on_standard_error(self, threads: taskrun.Executor, capsys: pytest.CaptureFixture[str]) -> None:
        assert list(threads.options(progress=True).map(abs, range(7))) == list(range(7))
        threads.shutdown()
        out, err = capsys.readouterr()
        assert out == ""
        assert "7/7" in err

    def test_without_its_library_the_bar_is_refused(self, threads: taskrun.Executor, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("taskrun.choice.bar_available", lambda: False)
        with pytest.raises(taskrun.UnsupportedOptionError, match=r"taskrun-executor\[cli\]"):
            threads.options(progress=True)
        threads.options(progress=print)


def test_the_window_is_full_again_soon_while_results_are_taken() -> None:
    read: list[int] = []

    def count() -> Iterator[int]:
        for i in itertools.count():
            read.append(i)
            yield i

    with taskrun.Executor("thread", max_workers=1) as ex:
        results = ex.map(abs, count(), buffersize=2)
        for i in range(50):
            assert next(results) == i
            assert i < len(read) <= i + 3
        results.close()


def test_the_iterator_is_in_order_for_many_threads_that_take_turns(threads: taskrun.Executor) -> None:
    results = threads.map(abs, iter(range(300)))
    turn = threading.Lock()
    found: list[int] = []

    def take() -> None:
        while True:
            with turn:
                value = next(results, None)
                if value is None:
                    return
                found.append(value)

    takers = [threading.Thread(target=take) for _ in range(3)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert found == list(range(300))


def until(condition: Any) -> None:
    waiter = Behaviours()
    waiter.until(condition)
