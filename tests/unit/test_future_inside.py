"""A future from the inside: what clients of the standard class read and set, what ours is made of, what it keeps alive."""

from __future__ import annotations

import copy
import logging
import pickle
import re
import threading
import weakref
from concurrent import futures as standard
from typing import TYPE_CHECKING, Any

import pytest
from standard_kinds import PATIENCE, no_collector, waiting_for

import taskrun
from taskrun import future_state as module

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = type[standard.Future[Any]]


@pytest.fixture(params=[standard.Future, taskrun.Future], ids=["standard", "taskrun"])
def make(request: pytest.FixtureRequest) -> Make:
    return request.param


class TestWhatClientsReachInto:
    def test_the_standard_attributes_can_be_read(self, make: Make) -> None:
        future = make()
        assert (future._state, future._result, future._exception) == ("PENDING", None, None)
        assert (future._waiters, future._done_callbacks) == ([], [])
        assert isinstance(future._condition, threading.Condition)
        assert future._condition is future._condition

    def test_the_state_can_be_set_from_outside(self, make: Make) -> None:
        future = make()
        with future._condition:
            future._result = 7
            future._state = "FINISHED"
            future._condition.notify_all()
        assert future.result() == 7
        with future._condition:
            future._exception = LookupError("lost")
        assert str(future.exception()) == "lost"

    def test_who_waits_sees_a_state_that_is_set_from_outside(self, make: Make) -> None:
        future = make()
        found: list[int] = []
        thread = waiting_for(future, lambda: found.append(future.result(PATIENCE)))
        with future._condition:
            future._result = 7
            future._state = "FINISHED"
            future._condition.notify_all()
        thread.join(PATIENCE)
        assert found == [7]

    def test_another_condition_can_be_set(self, make: Make) -> None:
        future = make()
        mine = future._condition = threading.Condition()
        assert future._condition is mine
        found: list[int] = []
        thread = waiting_for(future, lambda: found.append(future.result(PATIENCE)))
        future.set_result(3)
        thread.join(PATIENCE)
        assert found == [3]

    def test_the_lists_are_live_and_can_be_replaced(self, make: Make) -> None:
        future = make()
        seen: list[Any] = []
        future._done_callbacks.append(lambda f: seen.append("appended"))
        future.add_done_callback(lambda f: seen.append("added"))
        assert len(future._done_callbacks) == 2
        future._done_callbacks = [*future._done_callbacks, lambda f: seen.append("set")]
        future.set_result(None)
        assert seen == ["appended", "added", "set"]

    @pytest.mark.parametrize("replace", [False, True])
    @pytest.mark.parametrize(
        ("end", "told"),
        [
            (lambda future: future.set_result(5), "add_result"),
            (lambda future: future.set_exception(LookupError()), "add_exception"),
            (lambda future: future.cancel() and future.set_running_or_notify_cancel(), "add_cancelled"),
        ],
        ids=["result", "exception", "cancel"],
    )
    def test_waiters_are_told(self, make: Make, end: Any, told: str, replace: bool) -> None:
        class Waiter:
            def __getattr__(self, name: str) -> Callable[[Any], None]:
                return lambda future: seen.append((name, future))

        future = make()
        waiter: Any = Waiter()
        seen: list[Any] = []
        if replace:
            future._waiters = [waiter]
        else:
            future._waiters.append(waiter)
        end(future)
        assert seen == [(told, future)]

    def test_attributes_of_the_users_can_be_attached(self, make: Make) -> None:
        future: Any = make()
        future.owner = "me"
        assert future.owner == "me"
        assert weakref.ref(future)() is future

    def test_futures_are_told_apart_by_identity(self, make: Make) -> None:
        one, other = make(), make()
        assert one != other
        assert len({one, other, one}) == 2

    def test_it_can_be_subclassed_and_named_in_annotations(self, make: Make) -> None:
        class Mine(make):  # type: ignore[misc, valid-type]
            pass

        mine = Mine()
        mine.set_result(1)
        assert re.fullmatch(r"<Mine at 0x[0-9a-f]+ state=finished returned int>", repr(mine))
        assert make[int].__origin__ is make  # type: ignore[attr-defined, valid-type]


class TestOnlyOurs:
    def test_it_is_a_standard_future_without_a_dictionary_of_its_own(self) -> None:
        future: taskrun.Future[int] = taskrun.Future()
        assert isinstance(future, standard.Future)
        future.add_done_callback(print)
        repr(future)
        assert vars(future) == {}  # the standard base brings one; ours fills it with nothing

    def test_nothing_is_made_for_a_future_that_nobody_waits_for(self) -> None:
        future: taskrun.Future[int] = taskrun.Future()
        future.set_result(5)
        assert (future.result(), future.done(), future.exception()) == (5, True, None)
        assert (future._cond, future._gates, future._watchers, future._callbacks) == (None, (), None, None)

    def test_who_waits_in_vain_leaves_nothing(self) -> None:
        future: taskrun.Future[int] = taskrun.Future()
        for ask in (future.result, future.exception):
            with pytest.raises(TimeoutError):
                ask(0.001)
        assert (future._cond, future._gates) == (None, ())

    @pytest.mark.parametrize(
        ("touch", "before"),
        [
            (lambda future: future.set_result(5), {"_state": "PENDING", "_result": None}),
            (lambda future: future.add_done_callback(print), {"_callbacks": None}),
            (lambda future: future._condition, {"_cond": None}),
            (lambda future: future._waiters, {"_watchers": None}),
            (lambda future: future._done_callbacks, {"_callbacks": None}),
        ],
    )
    def test_while_one_thread_makes_a_part_the_others_keep_off(self, touch: Any, before: dict[str, Any]) -> None:
        """The lock for all futures is held meanwhile; without it two threads may make two conditions, or miss one."""
        future: taskrun.Future[int] = taskrun.Future()
        thread = threading.Thread(target=touch, args=(future,))
        with module._STATE:
            thread.start()
            thread.join(0.02)  # long enough for one that does not keep off
            assert thread.is_alive()
            assert {name: getattr(future, name) for name in before} == before
        thread.join(PATIENCE)
        assert {name: getattr(future, name) for name in before} != before

    def test_one_made_by_hand_has_no_attempts_and_its_kill_is_cancel(self) -> None:
        future: taskrun.Future[int] = taskrun.Future()
        assert future.attempts == ()
        assert future.kill() is True
        assert future.cancelled()
        running: taskrun.Future[int] = taskrun.Future()
        running.set_running_or_notify_cancel()
        assert running.kill() is False

    @pytest.mark.parametrize("how", [pickle.dumps, copy.copy, copy.deepcopy])
    def test_it_does_not_pickle_and_says_what_to_send(self, how: Any) -> None:
        with pytest.raises(TypeError, match="Future objects cannot be pickled: send the task's result"):
            how(taskrun.Future())


class TestCycles:
    def test_asking_for_an_exception_makes_no_cycle(self, make: Make) -> None:
        with no_collector():
            future = make()
            future.set_exception(LookupError())
            gone = weakref.ref(future)
            for timeout in (None, 0):
                with pytest.raises(LookupError):
                    future.result(timeout)
            assert isinstance(future.exception(), LookupError)
            del future
            assert gone() is None

    @pytest.mark.parametrize("cancelled", [False, True])
    def test_asking_in_vain_makes_no_cycle(self, make: Make, cancelled: bool) -> None:
        with no_collector():
            future = make()
            gone = weakref.ref(future)
            if cancelled:
                future.cancel()
            for ask in (future.result, future.exception):
                with pytest.raises(standard.CancelledError if cancelled else TimeoutError):
                    ask(0)
            del ask, future
            assert gone() is None

    def test_callbacks_make_no_cycle_though_they_fail(self, make: Make) -> None:
        logging.disable()  # pytest keeps records, and with them the future
        try:
            with no_collector():
                future = make()
                gone = weakref.ref(future)
                future.add_done_callback(lambda f: f.result() / 0)
                future.set_result(1)
                del future
                assert gone() is None
        finally:
            logging.disable(logging.NOTSET)
