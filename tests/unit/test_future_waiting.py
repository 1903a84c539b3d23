"""`wait` and `as_completed`: the standard functions and ours, on futures of the standard class, of ours, and of both."""

from __future__ import annotations

import itertools
import sys
import threading
import weakref
from concurrent import futures as standard
from typing import TYPE_CHECKING, Any

import pytest
from standard_kinds import PATIENCE, no_collector, until

import taskrun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONDITIONS = [standard.ALL_COMPLETED, standard.FIRST_COMPLETED, standard.FIRST_EXCEPTION]

Futures = list[standard.Future[Any]]


@pytest.fixture(params=["standard", "taskrun", "mixed"])
def make(request: pytest.FixtureRequest) -> Callable[[], standard.Future[Any]]:
    kinds: dict[str, list[Any]] = {"standard": [standard.Future], "taskrun": [taskrun.Future]}
    turns = itertools.cycle(kinds.get(request.param, [taskrun.Future, standard.Future]))
    return lambda: next(turns)()


@pytest.fixture(params=[standard, taskrun], ids=["by standard", "by taskrun"])
def by(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def some(make: Any) -> Futures:
    """Five futures: pending, running, cancelled and told of it, with a result, with an exception."""
    some = [make() for _ in range(5)]
    some[1].set_running_or_notify_cancel()
    some[2].cancel()
    some[2].set_running_or_notify_cancel()
    some[3].set_result(3)
    some[4].set_exception(LookupError())
    return some


def during(call: Callable[[], Any], watched: standard.Future[Any], then: Callable[[], object]) -> Any:
    """Return what *call* returns in another thread; *then* is done once it waits for *watched*."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    until(lambda: watched._waiters or not thread.is_alive())
    then()
    thread.join(PATIENCE)
    (value,) = found
    return value


def test_the_names_are_the_standard_ones() -> None:
    assert [taskrun.ALL_COMPLETED, taskrun.FIRST_COMPLETED, taskrun.FIRST_EXCEPTION] == CONDITIONS
    assert type(taskrun.wait([])) is type(standard.wait([]))


class TestWait:
    @pytest.mark.parametrize("return_when", CONDITIONS)
    def test_nothing_to_wait_for(self, by: Any, return_when: str) -> None:
        assert by.wait([], return_when=return_when) == (set(), set())

    @pytest.mark.parametrize("return_when", CONDITIONS)
    def test_all_are_done(self, make: Any, by: Any, return_when: str) -> None:
        futures = [make() for _ in range(4)]
        for future in futures:
            future.set_result(1)
        result = by.wait(futures, return_when=return_when)
        assert (result.done, result.not_done) == (set(futures), set())
        assert all(future._waiters == [] for future in futures)

    def test_whatever_is_iterable_and_each_future_once(self, make: Any, by: Any) -> None:
        future = make()
        assert by.wait(itertools.repeat(future, 3), timeout=0) == (set(), {future})
        future.set_result(1)
        assert by.wait(iter([future, future])) == ({future}, set())

    @pytest.mark.parametrize("timeout", [0, -1, 0.001])
    def test_time_runs_out(self, some: Futures, by: Any, timeout: float) -> None:
        done, not_done = by.wait(some, timeout)
        assert (done, not_done) == (set(some[2:]), set(some[:2]))
        assert all(future._waiters == [] for future in some)

    def test_first_completed_is_content_with_what_is_done(self, some: Futures, by: Any) -> None:
        assert by.wait(some, PATIENCE, "FIRST_COMPLETED") == (set(some[2:]), set(some[:2]))
        assert by.wait(some[:3], PATIENCE, return_when=taskrun.FIRST_COMPLETED) == ({some[2]}, set(some[:2]))

    def test_first_exception_is_content_with_one_that_is_there(self, some: Futures, by: Any) -> None:
        assert by.wait(some, PATIENCE, "FIRST_EXCEPTION") == (set(some[2:]), set(some[:2]))

    def test_first_exception_takes_no_result_and_no_cancellation_for_one(self, some: Futures, by: Any) -> None:
        done, not_done = by.wait(some[:4], 0.001, "FIRST_EXCEPTION")
        assert (done, not_done) == ({some[2], some[3]}, set(some[:2]))

    def test_a_cancelled_future_counts_once_its_executor_took_note(self, make: Any, by: Any) -> None:
        future = make()
        future.cancel()
        assert by.wait([future], 0) == (set(), {future})
        assert during(lambda: by.wait([future], PATIENCE), future, future.set_running_or_notify_cancel) == ({future}, set())

    @pytest.mark.parametrize(
        ("return_when", "ending", "done"),
        [
            ("ALL_COMPLETED", "result exception cancel", 3),
            ("FIRST_COMPLETED", "result", 1),
            ("FIRST_COMPLETED", "exception", 1),
            ("FIRST_COMPLETED", "cancel", 1),
            ("FIRST_EXCEPTION", "exception", 1),
            ("FIRST_EXCEPTION", "result exception", 2),
            ("FIRST_EXCEPTION", "result result cancel", 3),
        ],
    )
    def test_it_returns_when_it_is_told_to(self, make: Any, by: Any, return_when: str, ending: str, done: int) -> None:
        futures = [make() for _ in range(3)]

        def end() -> None:
            for future, how in zip(futures, ending.split(), strict=False):
                if how == "result":
                    future.set_result(1)
                elif how == "exception":
                    future.set_exception(LookupError())
                else:
                    future.cancel()
                    future.set_running_or_notify_cancel()

        result = during(lambda: by.wait(futures, PATIENCE, return_when), futures[-1], end)
        assert result == (set(futures[:done]), set(futures[done:]))
        assert all(future._waiters == [] for future in futures)

    def test_an_unknown_condition_is_refused(self, some: Futures, by: Any) -> None:
        with pytest.raises(ValueError, match="Invalid return condition: 'SOME_COMPLETED'"):
            by.wait(some, return_when="SOME_COMPLETED")


class TestAsCompleted:
    def test_nothing_to_wait_for(self, by: Any) -> None:
        assert list(by.as_completed([])) == []

    def test_it_does_nothing_until_it_is_asked(self, by: Any) -> None:
        results = by.as_completed(5)
        assert iter(results) is results
        with pytest.raises(TypeError):
            next(results)

    def test_what_is_done_comes_though_there_is_no_time(self, some: Futures, by: Any) -> None:
        assert set(by.as_completed(some[2:], timeout=0)) == set(some[2:])
        assert set(by.as_completed(some[2:], timeout=-1)) == set(some[2:])

    def test_each_future_once(self, make: Any, by: Any) -> None:
        one, other = make(), make()
        one.set_result(1)
        other.set_result(2)
        assert len(list(by.as_completed(itertools.chain([one, other], [one, one])))) == 2

    @pytest.mark.parametrize("timeout", [0, 0.001])
    def test_out_of_time_it_tells_how_many_are_missing(self, some: Futures, by: Any, timeout: float) -> None:
        found = set()
        results = by.as_completed([*some, some[0]], timeout)
        with pytest.raises(TimeoutError, match=r"^2 \(of 5\) futures unfinished$"):
            found.update(future for future in results if found.add(future))
        assert found == set(some[2:])
        assert list(results) == []
        assert all(future._waiters == [] for future in some)

    def test_they_come_in_the_order_in_which_they_end(self, make: Any, by: Any) -> None:
        futures = [make() for _ in range(6)]
        futures[3].set_result(1)
        order = [5, 0, 4]
        results = by.as_completed(futures, PATIENCE)
        assert next(results) is futures[3]
        for number in order:
            futures[number].set_result(1)
        assert [next(results) for _ in order] == [futures[number] for number in order]
        futures[2].set_exception(LookupError())
        assert next(results) is futures[2]
        futures[1].cancel()
        futures[1].set_running_or_notify_cancel()
        assert list(results) == [futures[1]]
        assert all(future._waiters == [] for future in futures)

    def test_it_wakes_up_when_one_ends(self, make: Any, by: Any) -> None:
        future = make()
        assert during(lambda: list(by.as_completed([future], PATIENCE)), future, lambda: future.set_result(1)) == [future]

    def test_one_that_is_left_takes_its_waiters_along(self, some: Futures, by: Any) -> None:
        results = by.as_completed(some)
        next(results)
        assert some[0]._waiters != []
        results.close()
        assert all(future._waiters == [] for future in some)

    def test_it_keeps_no_future_that_it_has_yielded(self, make: Any, by: Any) -> None:
        futures = [make() for _ in range(6)]
        for future in futures[:3]:
            future.set_result(object())
        with no_collector():
            for future in by.as_completed(futures, PATIENCE):
                futures.remove(future)
                gone = weakref.ref(future)
                del future
                assert gone() is None
                if futures and not any(other.done() for other in futures):
                    futures[-1].set_result(object())
        assert futures == []


class TestRaces:
    @pytest.fixture(autouse=True)
    def _switch_often(self) -> Iterator[None]:
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        yield
        sys.setswitchinterval(interval)

    @pytest.mark.parametrize("end", ["result", "cancel"])
    def test_threads_that_are_the_first_to_wait_lose_no_wake_up(self, end: str) -> None:
        """The condition, the waiters and the callbacks are made by whoever comes first: all come at once here."""
        called: list[int] = []

        def asks(future: taskrun.Future[int], number: int) -> list[Callable[[], object]]:
            return [
                lambda: future.exception(PATIENCE),
                lambda: future.exception(PATIENCE),
                lambda: taskrun.wait([future], PATIENCE),
                lambda: list(standard.as_completed([future], PATIENCE)),
                lambda: list(taskrun.as_completed([future], PATIENCE)),
                lambda: future.add_done_callback(lambda _: called.append(number)),
                lambda: future.add_done_callback(lambda _: called.append(number)),
                lambda: (future.cancel(), future.set_running_or_notify_cancel()) if end == "cancel" else future.set_result(1),
            ]

        for number in range(60):
            future: taskrun.Future[int] = taskrun.Future()
            all_at_once([guarded(ask) for ask in asks(future, number)])
            assert future.done()
            assert future._waiters == []
        assert sorted(called) == sorted([*range(60)] * 2)

    def test_one_thread_wins_when_all_finish_it(self) -> None:
        for _ in range(60):
            future: taskrun.Future[int] = taskrun.Future()
            won: list[int] = []

            def finish(number: int, future: taskrun.Future[int] = future, won: list[int] = won) -> None:
                try:
                    future.set_result(number)
                except standard.InvalidStateError:
                    return
                won.append(number)

            all_at_once([lambda number=number: finish(number) for number in range(6)])  # type: ignore[misc]
            assert won == [future.result()]

    def test_all_have_one_condition(self) -> None:
        for _ in range(200):
            future: taskrun.Future[int] = taskrun.Future()
            found: list[Any] = []
            all_at_once([lambda future=future, found=found: found.append(future._condition)] * 4)  # type: ignore[misc]
            assert len(set(map(id, found))) == 1


def guarded(ask: Callable[[], object]) -> Callable[[], object]:
    def call() -> None:
        try:
            ask()
        except standard.CancelledError:
            pass

    return call


def all_at_once(calls: list[Callable[[], object]]) -> None:
    """Do all of *calls*, each in a thread of its own; all must return without an error."""
    barrier = threading.Barrier(len(calls))
    errors: list[BaseException] = []

    def run(call: Callable[[], object]) -> None:
        barrier.wait(PATIENCE)
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    assert errors == []


class TestOnAnExecutor:
    """What ours do more than the standard ones: a worker that waits is made up for, a callback that would hang is told."""

    @pytest.mark.parametrize(
        "ask",
        [
            lambda fs: len(taskrun.wait(fs, PATIENCE).done),
            lambda fs: sum(1 for _ in taskrun.as_completed(fs, PATIENCE)),
        ],
        ids=["wait", "as_completed"],
    )
    def test_a_worker_that_waits_for_several_executors_is_made_up_for_in_each(self, ask: Any) -> None:
        with taskrun.Executor("thread", max_workers=1) as ex, taskrun.Executor("thread", max_workers=1) as other:
            gate = threading.Event()
            last = other.submit(gate.wait, PATIENCE)  # until the task of `ex` is through

            def nested() -> int:
                own = ex.submit(gate.set)
                return int(ask([last, own, *[other.submit(abs, 1) for _ in range(3)]]))

            assert ex.submit(nested).result(PATIENCE) == 5

    def test_a_callback_may_look_at_what_is_done_and_may_not_wait_for_the_rest(self) -> None:
        found: list[Any] = []
        start, end = threading.Event(), threading.Event()
        with taskrun.Executor("thread", max_workers=1) as ex:
            first, rest = ex.submit(start.wait, PATIENCE), ex.submit(end.wait, PATIENCE)

            def look(done: standard.Future[Any]) -> None:
                both = [done, rest]
                try:
                    found.append(taskrun.wait(both, 0))
                    found.append(taskrun.wait(both, return_when="FIRST_COMPLETED"))
                    found.append(next(iter(taskrun.as_completed(both))))
                    for ask in (taskrun.wait, lambda fs: list(taskrun.as_completed(fs))):
                        try:
                            ask(both)
                        except RuntimeError as error:
                            found.append(str(error))
                finally:
                    end.set()

            first.add_done_callback(look)
            start.set()
        assert found[:3] == [({first}, {rest}), ({first}, {rest}), first]
        assert ["done callback" in message for message in found[3:]] == [True, True]

    def test_each_step_looks_at_few_futures(self) -> None:
        """Else many thousands of futures take minutes."""
        looks: list[None] = []

        class Counted(taskrun.Future[int]):
            def done(self) -> bool:
                looks.append(None)
                return super().done()

        with taskrun.Executor("thread", max_workers=1) as ex:
            futures = [Counted(ex._scheduler) for _ in range(1000)]
            for future in futures[:500]:
                future.set_result(1)
            results = taskrun.as_completed(futures, PATIENCE)
            for future in futures[500:]:
                next(results)
                future.set_result(1)
            assert sum(1 for _ in results) == 500
        assert len(looks) <= 5 * len(futures)
