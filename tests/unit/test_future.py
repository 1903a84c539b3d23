"""A future made by hand: states, outcome, callbacks.

The tests of standard behaviour run on the standard class too, which proves that they ask for what it does.
"""

from __future__ import annotations

import logging
import re
import threading
from concurrent import futures as standard
from typing import TYPE_CHECKING, Any

import pytest
from standard_kinds import PATIENCE, sleepers, until, waiting_for

import taskrun

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = type[standard.Future[Any]]


@pytest.fixture(params=[standard.Future, taskrun.Future], ids=["standard", "taskrun"])
def make(request: pytest.FixtureRequest) -> Make:
    return request.param


def _pending(make: Make) -> standard.Future[Any]:
    return make()


def _running(make: Make) -> standard.Future[Any]:
    future = make()
    assert future.set_running_or_notify_cancel() is True
    return future


def _cancelled(make: Make) -> standard.Future[Any]:
    future = make()
    assert future.cancel() is True
    return future


def _told_of_cancel(make: Make) -> standard.Future[Any]:
    future = _cancelled(make)
    assert future.set_running_or_notify_cancel() is False
    return future


def _returned(make: Make) -> standard.Future[Any]:
    future = make()
    future.set_result(42)
    return future


def _raised(make: Make) -> standard.Future[Any]:
    future = make()
    future.set_exception(LookupError("lost"))
    return future


STATES: dict[Callable[[Make], standard.Future[Any]], tuple[str, bool, bool, bool, str]] = {
    # how to get there: (_state, running, cancelled, done, the end of its repr)
    _pending: ("PENDING", False, False, False, "pending"),
    _running: ("RUNNING", True, False, False, "running"),
    _cancelled: ("CANCELLED", False, True, True, "cancelled"),
    _told_of_cancel: ("CANCELLED_AND_NOTIFIED", False, True, True, "cancelled"),
    _returned: ("FINISHED", False, False, True, "finished returned int"),
    _raised: ("FINISHED", False, False, True, "finished raised LookupError"),
}
every_state = pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
unfinished = pytest.mark.parametrize("state", [_pending, _running], ids=lambda state: state.__name__)
both_cancelled = pytest.mark.parametrize("state", [_cancelled, _told_of_cancel], ids=lambda state: state.__name__)
final = pytest.mark.parametrize("state", [_cancelled, _told_of_cancel, _returned, _raised], ids=lambda state: state.__name__)


class TestStates:
    @every_state
    def test_each_state_answers_the_questions(self, make: Make, state: Any) -> None:
        future = state(make)
        name, running, cancelled, done, _ = STATES[state]
        assert future._state == name
        assert (future.running(), future.cancelled(), future.done()) == (running, cancelled, done)

    @every_state
    def test_each_state_shows_in_the_repr(self, make: Make, state: Any) -> None:
        future = state(make)
        assert repr(future) == f"<Future at {id(future):#x} state={STATES[state][4]}>"

    @pytest.mark.parametrize(("state", "answer"), [(_pending, True), (_running, False), (_returned, False), (_raised, False)])
    def test_cancel_works_only_before_it_runs(self, make: Make, state: Any, answer: bool) -> None:
        future = state(make)
        before = future._state
        assert future.cancel() is answer
        assert future._state == ("CANCELLED" if answer else before)

    @both_cancelled
    def test_cancel_of_a_cancelled_future_is_true_and_changes_nothing(self, make: Make, state: Any) -> None:
        future = state(make)
        before = future._state
        assert future.cancel() is True
        assert future._state == before

    @pytest.mark.parametrize("state", [_running, _told_of_cancel, _returned, _raised], ids=lambda state: state.__name__)
    def test_running_it_twice_is_refused_and_logged(self, make: Make, state: Any, caplog: pytest.LogCaptureFixture) -> None:
        future = state(make)
        with pytest.raises(RuntimeError, match=r"^Future in unexpected state$"):
            future.set_running_or_notify_cancel()
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("concurrent.futures", logging.CRITICAL)
        assert record.getMessage() == f"Future {id(future)} in unexpected state: {future._state}"

    @final
    def test_it_finishes_once(self, make: Make, state: Any) -> None:
        future = state(make)
        before = repr(future)
        message = f"^{future._state}: {re.escape(before)}$"
        with pytest.raises(standard.InvalidStateError, match=message):
            future.set_result(1)
        with pytest.raises(standard.InvalidStateError, match=message):
            future.set_exception(ValueError())
        assert repr(future) == before


class TestOutcome:
    def test_the_value_is_the_very_object(self, make: Make) -> None:
        future, value = make(), object()
        future.set_result(value)
        assert future.result() is future.result(timeout=0) is future.result(-1) is value
        assert future.exception() is None

    def test_the_exception_is_the_very_object(self, make: Make) -> None:
        future, error = make(), LookupError("lost")
        future.set_exception(error)
        for _ in range(2):
            with pytest.raises(LookupError) as caught:
                future.result(timeout=0)
            assert caught.value is error
        assert future.exception(0) is future.exception() is error

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, StopIteration])
    def test_any_base_exception_can_be_the_outcome(self, make: Make, kind: type[BaseException]) -> None:
        future = make()
        future.set_exception(kind("x"))
        with pytest.raises(kind):
            future.result()

    def test_no_exception_is_a_result_of_none(self, make: Make) -> None:
        future = make()
        future.set_exception(None)
        assert (future.result(), future.exception(), future._state) == (None, None, "FINISHED")

    def test_an_exception_that_is_false_is_raised_all_the_same(self) -> None:
        # The standard class of Python up to 3.13.0 returns None here.
        class EmptyError(Exception):
            def __len__(self) -> int:
                return 0

        future: taskrun.Future[None] = taskrun.Future()
        future.set_exception(EmptyError())
        with pytest.raises(EmptyError):
            future.result()

    @both_cancelled
    def test_a_cancelled_future_has_no_outcome(self, make: Make, state: Any) -> None:
        future = state(make)
        for ask in (future.result, future.exception):
            with pytest.raises(standard.CancelledError):
                ask(timeout=0)

    @unfinished
    @pytest.mark.parametrize("timeout", [0, -1, 0.001])
    def test_time_runs_out(self, make: Make, state: Any, timeout: float) -> None:
        future = state(make)
        for ask in (future.result, future.exception):
            with pytest.raises(TimeoutError) as caught:
                ask(timeout=timeout)
            assert type(caught.value) is standard.TimeoutError
        assert not future.done()

    @pytest.mark.parametrize(
        ("end", "seen"),
        [
            (lambda future: future.set_result(5), "5"),
            (lambda future: future.set_exception(LookupError("lost")), "LookupError('lost')"),
            (lambda future: future.cancel(), "CancelledError()"),
        ],
        ids=["result", "exception", "cancel"],
    )
    def test_the_end_wakes_all_who_wait(self, make: Make, end: Any, seen: str) -> None:
        future = make()
        found: list[str] = []

        def ask() -> None:
            try:
                found.append(repr(future.result(PATIENCE)))
            except Exception as error:
                found.append(repr(error))

        threads = [waiting_for(future, ask) for _ in range(3)]
        end(future)
        for thread in threads:
            thread.join(PATIENCE)
        assert found == [seen] * 3

    def test_the_timeout_is_counted_in_spite_of_false_alarms(self) -> None:
        # The standard class takes any wake-up of its condition for the end of the time.
        future: taskrun.Future[int] = taskrun.Future()
        found: list[int] = []
        thread = waiting_for(future, lambda: found.append(future.result(PATIENCE)))
        with future._condition:
            future._condition.notify_all()
        until(lambda: sleepers(future) or not thread.is_alive())
        future.set_result(3)
        thread.join(PATIENCE)
        assert found == [3]


class TestCallbacks:
    @pytest.mark.parametrize(
        "end",
        [
            lambda future: future.set_result(5),
            lambda future: future.set_exception(LookupError()),
            lambda future: future.cancel(),
        ],
        ids=["result", "exception", "cancel"],
    )
    def test_they_get_the_future_in_the_order_added(self, make: Make, end: Any) -> None:
        future = make()
        seen: list[Any] = []
        for number in range(5):
            future.add_done_callback(lambda f, number=number: seen.append((number, f, f.done())))
        assert seen == []
        end(future)
        assert seen == [(number, future, True) for number in range(5)]

    @final
    def test_one_added_to_a_future_that_is_done_runs_at_once(self, make: Make, state: Any) -> None:
        future = state(make)
        seen: list[Any] = []
        future.add_done_callback(lambda f: seen.append((f, threading.current_thread())))
        assert seen == [(future, threading.current_thread())]

    def test_the_same_one_added_twice_runs_twice(self, make: Make) -> None:
        future = make()
        seen: list[Any] = []
        future.add_done_callback(seen.append)
        future.add_done_callback(seen.append)
        future.set_result(None)
        assert seen == [future, future]

    def test_they_run_once_however_often_it_is_cancelled(self) -> None:
        # The standard class agrees; the second step of a cancellation runs none either.
        future: taskrun.Future[Any] = taskrun.Future()
        seen: list[Any] = []
        future.add_done_callback(seen.append)
        assert future.cancel()
        assert future.cancel()
        future.set_running_or_notify_cancel()
        assert future.cancel()
        assert seen == [future]

    def test_one_that_adds_another_has_it_run(self, make: Make) -> None:
        future = make()
        seen: list[Any] = []
        future.add_done_callback(lambda f: f.add_done_callback(seen.append))
        future.set_result(None)
        assert seen == [future]

    @pytest.mark.parametrize("done_before", [False, True])
    def test_an_error_in_one_is_logged_and_hurts_nobody(
        self, make: Make, done_before: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        future = make()
        if done_before:
            future.set_result(5)
        seen: list[Any] = []
        future.add_done_callback(lambda _: 1 / 0)
        future.add_done_callback(seen.append)
        if not done_before:
            future.set_result(5)
        assert seen == [future]
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("concurrent.futures", logging.ERROR)
        assert record.getMessage() == f"exception calling callback for {future!r}"
        assert record.exc_info is not None
        assert record.exc_info[0] is ZeroDivisionError

    @pytest.mark.parametrize("done_before", [False, True])
    def test_a_base_exception_in_one_reaches_who_ended_the_future(self, make: Make, done_before: bool) -> None:
        def leave(_: object) -> None:
            raise SystemExit(3)

        future = make()
        if done_before:
            future.set_result(5)
        else:
            future.add_done_callback(leave)
        with pytest.raises(SystemExit):
            future.add_done_callback(leave) if done_before else future.set_result(5)
        assert future.result() == 5

    def test_a_base_exception_in_one_keeps_no_other_from_running(self) -> None:
        def leave(_: object) -> None:
            seen.append("left")
            raise SystemExit(3)

        future: taskrun.Future[Any] = taskrun.Future()
        seen: list[Any] = []
        for callback in (seen.append, leave, seen.append, leave, seen.append):
            future.add_done_callback(callback)
        with pytest.raises(SystemExit):
            future.set_result(5)
        assert seen == [future, "left", future, "left", future]

    def test_no_lock_is_held_while_they_run(self, make: Make) -> None:
        future = make()
        found: list[int] = []

        def look_from_another_thread(_: object) -> None:
            thread = threading.Thread(target=lambda: found.append(future.result(PATIENCE)))
            thread.start()
            thread.join(PATIENCE)

        future.add_done_callback(look_from_another_thread)
        future.set_result(5)
        assert found == [5]
