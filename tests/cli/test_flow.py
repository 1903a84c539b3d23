"""The flow of a run is bounded, ordered on request, and can be stopped."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from patience import eventually

from taskrun.cli import flow as flow_module
from taskrun.cli.flow import Flow, in_order
from taskrun.cli.inputs import Item


def numbers(count: int, weight: int = 1):
    return (Item(number, number, None, weight) for number in range(count))


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as pool:
        yield pool


def drain(flow: Flow, outcomes=None):
    found = []
    for outcome in outcomes or flow.outcomes():
        found.append(outcome)
        flow.release(outcome)
    return found


def test_every_item_comes_out_once_and_in_order(pool):
    flow = Flow(numbers(5000), lambda item: pool.submit(lambda: -item.value), concurrent=True)
    found = drain(flow, in_order(flow.outcomes()))
    assert [outcome.value for outcome in found] == [-number for number in range(5000)]


def test_unordered_outcomes_come_as_they_are_ready(pool):
    second_seen = threading.Event()

    def work(number):
        if number == 0:
            assert second_seen.wait(30)

    flow = Flow(numbers(2), lambda item: pool.submit(work, item.value), concurrent=True)
    outcomes = flow.outcomes()
    assert next(outcomes).item.index == 1
    second_seen.set()
    assert next(outcomes).item.index == 0
    assert list(outcomes) == []


def test_who_receives_is_told_when_nothing_more_is_ready_also_where_the_input_has_just_ended(pool):
    go_on, told = threading.Event(), []
    flow = Flow(
        numbers(2),
        lambda item: pool.submit(lambda: item.index == 0 or go_on.wait(30)),
        concurrent=True,
        before_waiting=lambda: told.append(flow._events.empty()),
    )
    outcomes = flow.outcomes()
    assert next(outcomes).item.index == 0
    assert eventually(lambda: not flow._events.empty())  # that there is no third one
    told.clear()
    receiver = threading.Thread(target=drain, args=(flow, outcomes))
    receiver.start()
    assert eventually(lambda: told)
    go_on.set()
    receiver.join(30)
    assert all(told)


def test_errors_are_outcomes_even_those_that_are_no_exception(pool):
    def work(number):
        raise [ValueError, SystemExit, KeyboardInterrupt][number](number)

    flow = Flow(numbers(3), lambda item: pool.submit(work, item.value), concurrent=True)
    found = drain(flow, in_order(flow.outcomes()))
    assert [type(outcome.error) for outcome in found] == [ValueError, SystemExit, KeyboardInterrupt]


def test_a_broken_item_is_not_submitted_and_keeps_its_place(pool):
    def source():
        yield Item(0, "a", None, 1)
        yield Item(1, "b", "f:2", 1, "f:2: broken")
        yield Item(2, "c", None, 1)

    flow = Flow(source(), lambda item: pool.submit(str.upper, item.value), concurrent=True)
    found = drain(flow, in_order(flow.outcomes()))
    assert [(outcome.value, outcome.item.problem) for outcome in found] == [("A", None), (None, "f:2: broken"), ("C", None)]


@pytest.mark.parametrize(("weight", "most"), [(1, flow_module.WINDOW_ITEMS), (flow_module.WINDOW_BYTES // 4, 4)])
def test_no_more_is_read_than_fits_the_window(weight, most):
    futures = []
    full = threading.Event()

    def submit(item):
        futures.append(Future())
        if len(futures) == most:
            full.set()
        return futures[-1]

    flow = Flow(numbers(10 * most, weight), submit, concurrent=True)
    outcomes = flow.outcomes()
    released = threading.Thread(target=lambda: full.wait(30) and futures[0].set_result(None))
    released.start()
    first = next(outcomes)
    released.join()
    assert len(futures) == most
    assert first.item.index == 0
    flow.stop()
    assert all(outcome.not_run for outcome in outcomes)


def test_an_item_larger_than_the_window_goes_alone(pool):
    flow = Flow(numbers(3, flow_module.WINDOW_BYTES * 2), lambda item: pool.submit(int, item.value), concurrent=True)
    assert len(drain(flow)) == 3


def test_stop_cancels_what_waits_and_hands_out_what_runs():
    running, go = threading.Event(), threading.Event()

    def work():
        running.set()
        assert go.wait(30)
        return "finished"

    with ThreadPoolExecutor(1) as pool:
        flow = Flow(numbers(100), lambda item: pool.submit(work), concurrent=True)

        def stop():
            # One runs, and another one at least waits: else none would be cancelled, and nothing let the first one go.
            if running.wait(30) and eventually(lambda: len(flow._open) > 1):
                flow.stop()

        stopper = threading.Thread(target=stop)
        stopper.start()
        found = []
        for outcome in flow.outcomes():
            found.append(outcome)
            flow.release(outcome)
            if len(flow._open) == 1:  # all that waited were cancelled; let go earlier, one of them might start
                go.set()
        stopper.join()
    assert [outcome.value for outcome in found if not outcome.not_run] == ["finished"]
    assert len(found) > 1


def test_stop_does_not_wait_for_an_input_that_hangs(pool):
    never, read_on = threading.Event(), threading.Event()

    def source():
        yield Item(0, 0, None, 1)
        never.wait(30)
        read_on.set()

    flow = Flow(source(), lambda item: pool.submit(int, item.value), concurrent=True)
    for outcome in flow.outcomes():
        flow.release(outcome)
        flow.stop()
    assert not read_on.is_set()  # it is over, and the input still hangs
    never.set()
    assert read_on.wait(30)


def test_an_error_of_submitting_ends_the_run_instead_of_hanging_it():
    def submit(item):
        raise RuntimeError("cannot schedule new futures after shutdown")

    with pytest.raises(RuntimeError, match="after shutdown"):
        drain(Flow(numbers(3), submit, concurrent=True))


def test_without_concurrency_items_run_in_turn_in_this_thread():
    seen = []

    def submit(item):
        seen.append((item.index, threading.current_thread() is threading.main_thread()))
        future = Future()
        future.set_result(item.value)
        return future

    told = []
    flow = Flow(numbers(5), submit, concurrent=False, before_waiting=lambda: told.append(len(seen)))
    for outcome in flow.outcomes():
        assert len(seen) == outcome.item.index + 1
        assert told == list(range(1, len(seen)))  # before each that follows another
        if outcome.item.index == 2:
            flow.stop()
    assert seen == [(0, True), (1, True), (2, True)]
