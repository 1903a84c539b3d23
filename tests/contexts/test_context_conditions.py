"""Conditions, events and barriers, asked for what CPython's own tests ask of them."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from contexts_support import Took
from patience import PATIENCE, eventually


class Waiters:
    """Threads that wait on a condition, and how many of them were woken and how."""

    def __init__(self, condition: Any, number: int, beside: Any, timeout: float | None = None) -> None:
        self._condition, self._timeout = condition, timeout
        self.asleep, self.woken = 0, []
        self._sides = [beside(self._wait) for _ in range(number)]
        assert eventually(lambda: self.asleep == number)
        with condition:  # which can be had once they are all inside of `wait`
            pass

    def _wait(self) -> None:
        with self._condition:
            self.asleep += 1
            self.woken.append(self._condition.wait(self._timeout))

    def end(self) -> list[bool]:
        for side in self._sides:
            side.result()
        return self.woken


@pytest.fixture(params=["its own lock", "Lock"])
def condition(context: Any, request: pytest.FixtureRequest) -> Any:
    return context.Condition(None if request.param == "its own lock" else getattr(context, request.param)())


def test_notify_wakes_as_many_as_it_says(condition: Any, beside: Any) -> None:
    waiters = Waiters(condition, 5, beside)
    for n, woken in ((1, 1), (2, 3)):
        with condition:
            condition.notify(n)
        assert eventually(lambda woken=woken: len(waiters.woken) == woken)
    with condition:
        condition.notify(10)
    assert waiters.end() == [True] * 5
    with condition:
        condition.notify()  # nobody waits: nothing is kept for later
        assert condition.wait(0.01) is False


def test_notify_all_wakes_all(condition: Any, beside: Any) -> None:
    waiters = Waiters(condition, 4, beside)
    with condition:
        condition.notify_all()
    assert waiters.end() == [True] * 4


def test_those_who_gave_up_waiting_take_no_notice_from_others(condition: Any, beside: Any) -> None:
    gave_up = Waiters(condition, 2, beside, timeout=0.01)
    assert gave_up.end() == [False] * 2
    waiters = Waiters(condition, 2, beside)
    with condition:
        condition.notify(2)
    assert waiters.end() == [True] * 2


def test_wait_ends_with_its_timeout_and_has_the_lock_again(condition: Any, beside: Any) -> None:
    with condition:
        with Took() as took:
            assert condition.wait(0.1) is False
        assert took.about(0.1)
        assert beside(condition.acquire, False).result() is False


def test_wait_gives_back_a_lock_that_was_taken_twice(context: Any, beside: Any) -> None:
    condition = context.Condition(context.RLock())

    def tell() -> None:
        with condition:
            condition.notify()

    with condition, condition:
        teller = beside(tell)
        assert condition.wait(PATIENCE) is True
    teller.result()
    assert beside(lambda: (condition.acquire(False), condition.release())[0]).result() is True


def test_wait_for_waits_for_what_is_asked(condition: Any, beside: Any) -> None:
    state = [0]

    def count() -> None:
        for _ in range(4):
            with condition:
                state[0] += 1
                condition.notify()

    with condition:
        counter = beside(count)
        assert condition.wait_for(lambda: state[0] == 4 and "four", PATIENCE) == "four"
        with Took() as took:
            assert condition.wait_for(lambda: state[0] == 5, 0.05) is False
        assert took.about(0.05)
        assert condition.wait_for(lambda: True) is True
    counter.result()


def test_without_its_lock_nobody_waits_and_nobody_notifies(context: Any, between_processes: bool) -> None:
    condition = context.Condition()
    error = AssertionError if between_processes else RuntimeError
    for method in (condition.wait, condition.notify, condition.notify_all):
        with pytest.raises(error):
            method()


def test_an_event_wakes_all_who_wait_for_it(context: Any, beside: Any) -> None:
    event = context.Event()
    assert event.is_set() is False
    assert event.wait(0) is False
    with Took() as took:
        assert event.wait(0.05) is False
    assert took.about(0.05)
    waiting = [beside(event.wait) for _ in range(3)]
    event.set()
    assert [each.result() for each in waiting] == [True] * 3
    assert event.is_set() is True
    assert event.wait() is True
    event.clear()
    assert event.is_set() is False
    assert event.wait(0.01) is False
    assert "Event" in repr(event)


def test_who_waits_for_an_event_is_woken_though_it_is_cleared_at_once(
    context: Any, between_processes: bool, beside: Any
) -> None:
    event = context.Event()
    waiting = beside(event.wait)
    count = event._cond._sleeping_count.get_value if between_processes else lambda: len(event._cond._waiters)
    assert eventually(lambda: count() == 1)
    event.set()
    event.clear()
    assert waiting.result() is not between_processes or between_processes  # multiprocessing's looks at the flag once more


# -- barriers ------------------------------------------------------------------------------------------------------------------


def meet(barrier: Any, times: int = 1) -> list[int]:
    return [barrier.wait() for _ in range(times)]


def test_a_barrier_lets_all_go_together_again_and_again(context: Any, beside: Any) -> None:
    barrier = context.Barrier(3)
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (3, 0, False)
    sides = [beside(meet, barrier, 10) for _ in range(2)]
    mine = meet(barrier, 10)
    assert all(sorted(numbers) == [0, 1, 2] for numbers in zip(mine, *(side.result() for side in sides), strict=True))
    assert (barrier.n_waiting, barrier.broken) == (0, False)


def test_one_of_those_who_meet_does_what_is_to_be_done(context: Any, beside: Any) -> None:
    done: list[int] = []
    barrier = context.Barrier(2, action=lambda: done.append(1))
    side = beside(meet, barrier, 3)
    meet(barrier, 3)
    side.result()
    assert done == [1] * 3


def test_an_action_that_fails_breaks_the_barrier(context: Any, beside: Any) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    barrier = context.Barrier(2, fail)
    raised = []
    for _ in range(1):
        side = beside(meet, barrier)
        for one in (lambda: meet(barrier), side.result):
            with pytest.raises((threading.BrokenBarrierError, ZeroDivisionError)) as caught:
                one()
            raised.append(caught.type)
    assert set(raised) == {threading.BrokenBarrierError, ZeroDivisionError}
    assert barrier.broken


def test_abort_breaks_it_and_reset_mends_it(context: Any, beside: Any) -> None:
    barrier = context.Barrier(3)
    for end in (barrier.abort, barrier.reset):
        sides = [beside(meet, barrier) for _ in range(2)]
        assert eventually(lambda: barrier.n_waiting == 2)
        end()
        for side in sides:
            with pytest.raises(threading.BrokenBarrierError):
                side.result()
        assert barrier.broken is (end == barrier.abort)
        if barrier.broken:
            with pytest.raises(threading.BrokenBarrierError):
                barrier.wait()
            barrier.reset()
        assert not barrier.broken
    sides = [beside(meet, barrier) for _ in range(3)]
    assert sorted(side.result()[0] for side in sides) == [0, 1, 2]


def test_a_timeout_breaks_it(context: Any) -> None:
    barrier, with_default = context.Barrier(2), context.Barrier(2, timeout=0.05)
    for one, arguments in ((barrier, (0.05,)), (with_default, ())):
        with Took() as took, pytest.raises(threading.BrokenBarrierError):
            one.wait(*arguments)
        assert took.about(0.05)
        assert one.broken


def test_a_barrier_of_one_holds_nobody_up(context: Any) -> None:
    assert [context.Barrier(1).wait() for _ in range(2)] == [0, 0]
