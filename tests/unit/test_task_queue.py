"""The queue against a simple model of it, and the queue of callers."""

from __future__ import annotations

import signal
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskrun.task_queue import CallerQueue, TaskQueue

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


def task(priority: int = 0) -> Any:
    return SimpleNamespace(options=SimpleNamespace(priority=priority), settled=False, pulled=True)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(-2, 2)),
        st.tuples(st.just("take"), st.integers(1, 4)),
        st.tuples(st.just("give back"), st.integers(1, 4)),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("clean"), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS)
def test_it_gives_the_highest_priority_first_and_equal_ones_in_their_order(steps: list[tuple[str, int]]) -> None:
    queue, model, taken = TaskQueue(), [], []
    for step, number in steps:
        if step == "put":
            model.append(task(number))
            queue.put(model[-1])
        elif step == "take":
            expected = sorted(model, key=lambda each: -each.options.priority)[:number]  # a stable sort
            found = queue.take(number)
            assert [id(each) for each in found] == [id(each) for each in expected]
            assert all(each.pulled for each in found)
            model = [each for each in model if all(each is not other for other in found)]
            taken = found
        elif step == "give back":
            queue.put_back(taken)
            model, taken = taken + model, []
        elif step == "cancel" and number < len(model):
            cancelled = model.pop(number)
            cancelled.settled = True
            queue.skip(cancelled)
        elif step == "clean":
            queue.clean()
        assert len(queue) == len(model)
        assert not any(each.pulled for each in model)


def test_thousands_that_are_cancelled_are_not_kept() -> None:
    queue, tasks = TaskQueue(), [task() for _ in range(5000)]
    for each in tasks:
        queue.put(each)
    for each in tasks[:-1]:
        each.settled = True
        queue.skip(each)
    assert len(queue) == 1
    assert sum(map(len, queue._levels.values())) < 3000
    assert queue.take(9) == [tasks[-1]]


def test_each_thread_has_its_own_queue_and_any_may_cancel() -> None:
    queue, mine = CallerQueue(), task()
    queue.put(mine)
    theirs: list[Any] = []

    def other() -> None:
        theirs.append(queue.take_one())
        mine.settled = True
        queue.skip(mine)
        theirs.append(len(queue))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert theirs == [None, 0]
    assert len(queue) == 0
    assert queue.take_one() is None


@pytest.mark.parametrize("take", [TaskQueue.take_one, lambda queue: queue.take(5)])
def test_a_task_that_was_settled_and_not_counted_leaves_the_queue_empty(take: Callable[[TaskQueue], object]) -> None:
    queue = TaskQueue()
    cancelled = task()
    queue.put(cancelled)
    cancelled.settled = True  # and Ctrl-C came before `skip`
    assert not take(queue)
    assert len(queue) == 0


def test_a_handler_may_put_tasks_while_the_queue_is_cleaned() -> None:
    queue, handled, enough = TaskQueue(), [], 200

    def put(_: int, __: FrameType | None) -> None:
        if len(handled) < enough:
            handled.append(task(len(handled) % 3))
            queue.put(handled[-1])

    waiting = [task() for _ in range(5000)]
    queue.put_back(waiting)
    before = signal.signal(signal.SIGALRM, put)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
        while len(handled) < enough:
            cancelled = [task() for _ in range(500)]
            for each in cancelled:
                queue.put(each)
                each.settled = True
                queue.skip(each)
            queue.clean()
            queue.everything()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    queue.clean()
    assert len(queue) == len(waiting) + enough
    expected = sorted(waiting + handled, key=lambda each: -each.options.priority)
    assert [id(each) for each in queue.take(10**6)] == [id(each) for each in expected]
