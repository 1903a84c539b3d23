"""The timer: functions called at their time, in one thread that nothing of theirs can end."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from patience import PATIENCE, eventually

from taskrun.threads import OwnThread
from taskrun.timer import Timer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def timer() -> Iterator[Timer]:
    timer = Timer("test")
    yield timer
    timer.stop()
    timer.join()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "test-timer"]


def test_what_is_due_is_called_with_its_arguments_in_a_thread_of_ours(timer: Timer) -> None:
    called = threading.Event()
    seen: list[object] = []

    def note(*args: object) -> None:
        seen.append((args, threading.current_thread().name))
        called.set()

    assert timer.call_at(time.monotonic(), note, 1, "two")
    assert called.wait(PATIENCE)
    assert seen == [((1, "two"), "test-timer")]


def test_never_before_its_time(timer: Timer) -> None:
    called = threading.Event()
    when = time.monotonic() + 0.05
    at: list[float] = []
    timer.call_at(when, lambda: (at.append(time.monotonic()), called.set()))
    assert called.wait(PATIENCE)
    assert at[0] >= when


def test_the_order_is_that_of_the_times_and_then_of_the_calls(timer: Timer) -> None:
    order: list[str] = []
    go, done = threading.Event(), threading.Event()
    timer.call_at(time.monotonic() - 9, go.wait, PATIENCE)  # the thread is busy while the others are entered
    now = time.monotonic()
    timer.call_at(now - 1, order.append, "later")
    timer.call_at(now - 2, order.append, "first of two")
    timer.call_at(now - 2, order.append, "second of two")
    timer.call_at(now, done.set)
    go.set()
    assert done.wait(PATIENCE)
    assert order == ["first of two", "second of two", "later"]


def test_what_comes_first_wakes_a_thread_that_waits_for_something_later(timer: Timer) -> None:
    called = threading.Event()
    timer.call_at(time.monotonic() + 3600, int)
    timer.call_at(time.monotonic() + 1e12, int)  # farther than the C library can wait
    timer.call_at(time.monotonic(), called.set)
    assert called.wait(PATIENCE)


def test_it_does_not_grow_while_what_comes_is_always_later(timer: Timer) -> None:
    done = threading.Event()
    start = time.monotonic()
    timer.call_at(start + 3600, int)
    for i in range(50):
        timer.call_at(start + 0.01 + i * 0.0005, int)
    timer.call_at(start + 0.05, done.set)
    assert done.wait(PATIENCE)
    assert len(timer._bell._gates) <= 1
    assert len(timer._heap) == 1


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
def test_an_error_is_logged_and_ends_nothing(timer: Timer, error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    called = threading.Event()

    def fail() -> None:
        raise error

    timer.call_at(time.monotonic(), fail)
    timer.call_at(time.monotonic(), called.set)
    assert called.wait(PATIENCE)
    assert "error in the timer of test" in caplog.text


def test_after_stop_nothing_is_called_and_the_thread_ends(timer: Timer) -> None:
    called: list[int] = []
    timer.call_at(time.monotonic() + 3600, called.append, 1)
    timer.stop()
    timer.join()
    assert timer.call_at(time.monotonic(), called.append, 2)
    assert not threads()  # nobody is there to call it
    assert not called


def test_a_function_may_stop_the_timer_and_wait_for_it(timer: Timer) -> None:
    called = threading.Event()
    timer.call_at(time.monotonic(), lambda: (timer.stop(), timer.join(), called.set()))
    assert called.wait(PATIENCE)


def test_without_a_thread_it_says_no_and_tries_again_the_next_time(timer: Timer, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(self: OwnThread) -> None:
        raise RuntimeError("can't start new thread")

    order: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(OwnThread, "start", no_thread)
        assert not timer.call_at(time.monotonic() - 1, order.append, "refused")
    called = threading.Event()
    timer.call_at(time.monotonic(), order.append, "taken")
    assert timer.call_at(time.monotonic(), called.set)
    assert called.wait(PATIENCE)
    assert order == ["taken"]


def test_ctrl_c_while_the_thread_starts_leaves_one_thread_in_the_end(timer: Timer, monkeypatch: pytest.MonkeyPatch) -> None:
    start = OwnThread.start

    def torn(self: OwnThread) -> None:
        start(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(OwnThread, "start", torn)
        with pytest.raises(KeyboardInterrupt):
            timer.call_at(time.monotonic() + 3600, int)
    called = threading.Event()
    timer.call_at(time.monotonic(), called.set)
    assert called.wait(PATIENCE)
    assert eventually(lambda: len(threads()) == 1)
