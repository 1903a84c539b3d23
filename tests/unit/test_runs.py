"""Several items as one task: what each can tell, and how a run stops."""

from __future__ import annotations

import contextvars
import functools
import pickle
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import taskrun
from taskrun import map_pace, map_runs, map_under_way, runs, sharing
from taskrun.backends.base import Backend
from taskrun.map_pace import Pace
from taskrun.runs import Outcomes, Run, pack_items, split_outcomes
from taskrun.task import CurrentTask, current_task, entered
from taskrun.testing import item_tasks, tasks
from tests.patience import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VARIABLE: contextvars.ContextVar[Any] = contextvars.ContextVar("variable", default=0)
COUNT = 2000


class Flag:
    cancel_requested = False


def outcomes(fn: Callable[..., Any], items: list[Any], *, packs: bool = False, spread: bool = False) -> Outcomes:
    """Run *items* as a worker does, as those from number 100 on."""
    run = Run(fn, "work", spread=spread, packs=packs)
    packed = pack_items(items, run)
    assert packed is not None

    def call() -> Any:
        entered.set(CurrentTask("work", 100, 1, None, None, Flag()))
        return run(*packed)

    found = contextvars.copy_context().run(call)
    assert isinstance(found, Outcomes)
    return found


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a run stops sooner or later; and where another test has shared an object, arguments are looked at."""
    monkeypatch.setattr(runs, "_AT_MOST", 60.0)
    monkeypatch.setattr(sharing, "in_use", False)


def test_values_and_errors_stand_in_their_places() -> None:
    found = outcomes(lambda item: 6 // item, [1, 0, 3])
    assert found.values == [6, None, 2]
    assert list(found.errors) == [1]
    assert isinstance(found.errors[1], ZeroDivisionError)
    frames = found.errors[1].__traceback__
    assert frames.tb_frame.f_code.co_name == "<lambda>"
    assert frames.tb_next is None


@pytest.mark.parametrize("packs", [False, True])
def test_each_item_finds_its_own_index_and_one_task(packs: bool) -> None:
    def work(item: int) -> tuple[int, bool]:
        task = current_task()
        assert task is not None
        return task.index, task is current_task()

    found = split_outcomes(outcomes(work, list(range(50)), packs=packs))
    assert [value for value, _ in found] == [(100 + i, True) for i in range(50)]


@pytest.mark.parametrize("value", [1, [], object()])
def test_what_one_item_sets_the_next_does_not_see(value: Any) -> None:
    def work(item: int) -> Any:
        before = VARIABLE.get()
        if item % 3 == 0:
            VARIABLE.set(value)
        return before

    assert outcomes(work, list(range(60))).values == [0] * 60


class Unequal:
    def __eq__(self, other: object) -> bool:
        raise ValueError("which one?")

    __hash__ = object.__hash__


def test_variables_that_cannot_be_compared_are_kept_apart_too() -> None:
    def work(_: int) -> Any:
        before = VARIABLE.get()
        VARIABLE.set(Unequal())
        return before

    context = contextvars.copy_context()
    context.run(VARIABLE.set, first := Unequal())
    assert all(value is first for value in context.run(outcomes, work, list(range(20))).values)


def test_it_stops_between_two_items_when_it_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_AT_MOST", 0.5)

    def work(item: int) -> int:
        if item == 20:
            time.sleep(0.6)
        return item

    found = outcomes(work, list(range(100)))
    assert 20 < len(found.values) < 100
    assert found.values == list(range(len(found.values)))
    assert found.seconds >= 0.6


def test_plain_items_are_one_pickle_and_others_one_each() -> None:
    run = Run(abs, "abs", spread=False, packs=True)
    for items in ([1, 2, True, None, 2.5], ["a"], [1, "a", None, 2.0], [1, "a", 2j], [(1, "a"), (2, b"")]):
        packed = pack_items(items, run)
        assert packed is not None
        assert type(packed[0]) is bytes
        assert (pickle.loads(packed[0]), packed[1]) == (items, False)
    packed = pack_items([[1], {}, (1, [])], run)
    assert packed is not None
    items, each_by_itself = packed
    assert each_by_itself
    assert [pickle.loads(item)[0] for item in items] == [([1],), ({},), ((1, []),)]
    assert pack_items([1, [], (each for each in ())], run) is None


def test_results_share_nothing_and_those_that_do_not_pickle_fail_alone() -> None:
    shared: list[int] = []
    found = split_outcomes(outcomes(lambda item: shared if item else (each for each in ()), [0, 1, 2], packs=True))
    assert isinstance(found[0][1], taskrun.SerializationError)
    assert found[1] == found[2] == ([], None)
    assert found[1][0] is not found[2][0]


def test_errors_come_out_of_pickling_as_themselves() -> None:
    def work(item: int) -> None:
        raise tasks.AwkwardError(code=item)

    errors = [error for _, error in split_outcomes(outcomes(work, [1, 2], packs=True))]
    assert [(type(error), error.code) for error in errors if isinstance(error, tasks.AwkwardError)] == [
        (tasks.AwkwardError, 1),
        (tasks.AwkwardError, 2),
    ]


def test_the_middle_of_some_items_decides_and_one_slow_run_does_not() -> None:
    pace = Pace(10e-6)
    assert pace.seconds is None
    pace.learn([Ended(each) for each in [1.0, 1.0, *[1e-6] * 14]])
    assert pace.seconds == 1e-6
    pace.learn_run(1000, 1e-3)
    pace.learn_run(1000, 1e-3)
    pace.learn_run(10, 1.0)
    assert pace.seconds == 1e-6
    pace.learn_run(10, 1.0)  # of three in a row one was quick: the others were interrupted, perhaps
    assert pace.seconds == 10e-6
    pace.learn_run(10, 1.0)
    assert pace.seconds == 0.1
    pace.learn([Ended(1e-6)] * 490)
    assert pace.seconds == 0.1
    pace.learn([Ended(1e-6)] * 10)
    assert pace.seconds == 1e-6


def test_a_run_whose_rest_is_taken_back_before_it_begins_calls_its_first_item(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(runs, "watch", lambda rest: rest is None or left.append(rest.take()))
    assert outcomes(abs, [-1, -2, -3], packs=False).values == [1]
    assert left == [1]


def test_a_map_whose_runs_are_taken_back_at_once_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_under_way, "OVERDUE", 0.0)
    with taskrun.Executor("thread", max_workers=2) as ex:
        assert list(ex.map(abs, range(0, -20_000, -1))) == list(range(20_000))


@pytest.mark.parametrize("ordered", [True, False])
def test_several_threads_that_share_a_map_have_each_result_once(ordered: bool) -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with taskrun.Executor("thread", max_workers=2) as ex:
            results = (ex.map if ordered else ex.map_unordered)(abs, range(20_000))
            found: list[list[int]] = [[] for _ in range(3)]
            takers = [threading.Thread(target=mine.extend, args=(results,)) for mine in found]
            for taker in takers:
                taker.start()
            for taker in takers:
                taker.join()
    finally:
        sys.setswitchinterval(before)
    assert sorted(value for mine in found for value in mine) == list(range(20_000))


class Destroyed:
    """Runs code in its destructor."""

    def __init__(self, item: int) -> None:
        self.item = item

    def __del__(self) -> None:
        for _ in range(3):
            pass


def test_threads_that_share_a_map_meet_in_destructors_of_its_results() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with taskrun.Executor("thread", max_workers=2) as ex:
            for _ in range(5):
                results, counts = ex.map(Destroyed, range(20_000)), [0] * 4

                def take(who: int, results: Any = results, counts: list[int] = counts) -> None:
                    for _ in results:
                        counts[who] += 1

                takers = [threading.Thread(target=take, args=(who,)) for who in range(4)]
                for taker in takers:
                    taker.start()
                for taker in takers:
                    taker.join()
                assert sum(counts) == 20_000
    finally:
        sys.setswitchinterval(before)


def test_a_destructor_of_a_result_may_take_the_next_one() -> None:
    seen: list[int] = []

    class Greedy:
        def __init__(self, item: int) -> None:
            self.item = item

        def __del__(self) -> None:
            if self.item % 50 == 0 and len(seen) < 20_000:
                other = next(results, None)
                if other is not None:
                    seen.append(other.item)
                    other.item = 1

    with taskrun.Executor("thread", max_workers=2) as ex:
        results = ex.map(Greedy, range(20_000))
        for result in results:
            seen.append(result.item)
            del result
    assert sorted(seen) == list(range(20_000))


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_a_result_that_the_user_drops_is_gone(backend: str) -> None:
    with taskrun.Executor(backend, max_workers=2) as ex:
        dropped: list[weakref.ref[Destroyed]] = []
        for result in ex.map(Destroyed, range(5_000)):
            dropped.append(weakref.ref(result))
            del result
            if len(dropped) == 500:
                # A worker that was interrupted just after it gave a run's results away may hold them for a moment.
                assert eventually(lambda: sum(each() is not None for each in dropped) <= 2)
                dropped.clear()


class Ended:
    def __init__(self, seconds: float) -> None:
        self.last_duration = seconds


# -- maps, whose every run stops after a few items -----------------------------------------------------------------------------


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Iterator[taskrun.Executor]:
    monkeypatch.setattr(Backend, "tiny", 1.0)
    monkeypatch.setattr(runs, "_AT_MOST", 0.0)
    with taskrun.Executor("thread", max_workers=2) as ex:
        yield ex


def test_the_rest_of_a_run_comes_in_its_place(executor: taskrun.Executor) -> None:
    assert list(executor.map(lambda item: -item, range(COUNT))) == [-item for item in range(COUNT)]
    assert sorted(executor.map_unordered(item_tasks.index_of_task, range(COUNT))) == list(range(COUNT))
    assert list(executor.map(item_tasks.index_of_task, range(COUNT))) == list(range(COUNT))


def test_a_map_that_nobody_iterates_keeps_no_run(executor: taskrun.Executor) -> None:
    results = executor.map(lambda item: item, range(COUNT))
    feed = results._taker.feed
    assert isinstance(feed, map_runs.FeedInRuns)
    del results
    executor.shutdown()
    # The janitor lets go of them.
    assert eventually(lambda: not any(map(len, (feed._run_of, feed._open, feed._queue))))


def test_chunksize_bounds_a_run(executor: taskrun.Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    submit = map_runs.FeedInRuns._submit_run

    def noted(feed: map_runs.FeedInRuns, items: list[Any], *rest: Any, **more: Any) -> Any:
        sizes.append(len(items))
        return submit(feed, items, *rest, **more)

    monkeypatch.setattr(map_runs.FeedInRuns, "_submit_run", noted)
    assert list(executor.map(abs, range(COUNT), chunksize=7)) == list(range(COUNT))
    assert max(sizes) == 7


def test_a_bound_coroutine_function_is_one_too() -> None:
    async def later(item: int, other: int) -> int:
        return item + other

    with taskrun.Executor("asyncio", max_workers=2) as ex:
        assert not map_pace.may_run_together(ex._scheduler, functools.partial(later, 1), ex._options)


def test_the_executor_ends_after_the_rest(executor: taskrun.Executor) -> None:
    ran: list[int] = []
    results = executor.map(ran.append, range(COUNT))
    executor.map(ran.append, range(COUNT, 2 * COUNT))  # nobody will ask for its results
    executor.shutdown()
    assert sorted(ran) == list(range(2 * COUNT))
    assert list(results) == [None] * COUNT
    stats = executor.stats()
    assert (stats["submitted"], stats["succeeded"], stats["unfinished"]) == (2 * COUNT, 2 * COUNT, 0)


def test_a_map_that_is_closed_submits_no_rest(executor: taskrun.Executor) -> None:
    results = executor.map(lambda item: item, range(100 * COUNT))
    assert [next(results) for _ in range(COUNT)] == list(range(COUNT))
    results.close()
    executor.shutdown()
    stats = executor.stats()
    assert stats["unfinished"] == 0
    assert stats["succeeded"] < 50 * COUNT


def test_an_executor_that_cancels_submits_no_rest(executor: taskrun.Executor) -> None:
    results = executor.map(lambda item: item, range(100 * COUNT))
    assert next(results) == 0
    executor.shutdown(cancel_futures=True)
    assert executor.stats()["unfinished"] == 0
    with pytest.raises(BaseException, match=r"^$"):
        list(results)


def test_what_is_asked_of_each_item_makes_each_a_task() -> None:
    for options in ({"timeout": 5}, {"retry": 2}, {"chunksize": 1}):
        with taskrun.Executor("thread", max_workers=2) as ex:
            scheduler = ex._scheduler
            view = ex.options(**options)
            assert not map_pace.may_run_together(scheduler, abs, view._options), options
            assert map_pace.may_run_together(scheduler, abs, ex._options)
    for settings in ({"seed": 1}, {"max_tasks_per_child": 5}):
        with taskrun.Executor("dummy", max_workers=2, **settings) as ex:
            assert not map_pace.may_run_together(ex._scheduler, abs, ex._options), settings
    with taskrun.Executor("fork", max_workers=2) as ex:
        assert not map_pace.may_run_together(ex._scheduler, abs, ex._options)
