"""Where callbacks run: one after the other, in one thread that is started when there is something to run."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from patience import PATIENCE, eventually

import taskrun
from taskrun import future
from taskrun.callbacks import CallbackRunner
from taskrun.threads import OwnThread
from taskrun.waits import Waits

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def runner() -> Iterator[CallbackRunner]:
    runner = CallbackRunner("test-callbacks")
    yield runner
    runner.close()
    runner.join()


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "test-callbacks"]


def test_nothing_runs_before_it_is_told_to_and_no_thread_is_there_before(runner: CallbackRunner) -> None:
    called = threading.Event()
    runner.add(called.set)
    assert not called.is_set()
    assert not own_threads()
    runner.run()
    assert called.wait(PATIENCE)
    assert len(own_threads()) == 1


def test_in_order_in_one_thread(runner: CallbackRunner) -> None:
    seen: list[tuple[int, str]] = []
    done = threading.Event()
    for i in range(20):
        runner.add(lambda i=i: seen.append((i, threading.current_thread().name)))  # type: ignore[misc]
        runner.run()
    runner.add(done.set)
    runner.run()
    assert done.wait(PATIENCE)
    assert seen == [(i, "test-callbacks") for i in range(20)]


def test_inside_is_true_in_a_callback_only(runner: CallbackRunner) -> None:
    seen: list[bool] = []
    runner.run_here(lambda: (seen.append(runner.inside()), runner.run_here(lambda: None), seen.append(runner.inside())))
    assert seen == [True, True]  # also after a nested one
    assert not runner.inside()


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
def test_an_error_does_not_stop_the_others(
    runner: CallbackRunner, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise error

    called = threading.Event()
    runner.add(fail)
    runner.add(called.set)
    runner.run()
    assert called.wait(PATIENCE)
    assert "exception calling callback" in caplog.text
    with pytest.raises(type(error)):
        runner.run_here(fail)
    assert not runner.inside()


def test_close_runs_what_was_added_and_join_waits_for_it() -> None:
    runner = CallbackRunner("test-callbacks")
    hold = threading.Event()
    seen: list[int] = []
    runner.add(lambda: hold.wait(PATIENCE))
    for i in range(5):
        runner.add(lambda i=i: seen.append(i))  # type: ignore[misc]
    runner.close()
    hold.set()
    runner.join()
    assert seen == [0, 1, 2, 3, 4]
    assert not own_threads()


def test_what_is_added_after_the_end_runs_where_it_is_added() -> None:
    runner = CallbackRunner("test-callbacks")
    runner.close()
    where: list[threading.Thread] = []
    runner.add(lambda: where.append(threading.current_thread()))
    runner.run()
    assert where == [threading.current_thread()]


def test_inline_it_never_has_a_thread() -> None:
    runner = CallbackRunner("test", inline=True)
    where: list[threading.Thread] = []
    runner.add(lambda: where.append(threading.current_thread()))
    runner.run()
    assert where == [threading.current_thread()]
    runner.close()
    runner.join()


def test_without_a_thread_they_run_where_they_are_added(runner: CallbackRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(self: OwnThread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(OwnThread, "start", no_thread)
    where: list[threading.Thread] = []
    runner.add(lambda: where.append(threading.current_thread()))
    runner.run()
    assert where == [threading.current_thread()]


def test_ctrl_c_while_the_thread_starts_loses_no_callback(runner: CallbackRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    start = OwnThread.start

    def torn(self: OwnThread) -> None:
        start(self)
        raise KeyboardInterrupt

    called = threading.Event()
    runner.add(called.set)
    with monkeypatch.context() as patch:
        patch.setattr(OwnThread, "start", torn)
        with pytest.raises(KeyboardInterrupt):
            runner.run()
    runner.run()
    assert called.wait(PATIENCE)
    assert eventually(lambda: len(own_threads()) == 1)


def test_a_callback_may_add_another_and_close(runner: CallbackRunner) -> None:
    called = threading.Event()

    def more() -> None:
        runner.add(called.set)
        runner.run()
        runner.close()
        runner.join()  # in a callback: returns at once

    runner.add(more)
    runner.run()
    assert called.wait(PATIENCE)


@pytest.mark.parametrize("backend", ["thread", "process", "asyncio", "dummy"])
def test_a_wait_in_a_callback_is_refused_however_short_it_would_be(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(future, "_A_MOMENT", PATIENCE)
    told: list[str] = []
    with taskrun.Executor(backend, max_workers=2) as ex:

        def callback(_: object) -> None:
            try:
                told.append(repr(ex.submit(time.sleep, 0.3).result()))
            except RuntimeError as error:
                told.append(str(error))

        ex.submit(abs, -1).add_done_callback(callback)
        assert eventually(lambda: bool(told))
    assert "in a done callback" in told[0]


def test_a_wait_that_is_refused_leaves_nothing_in_the_future(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Waits, "waiting", refuse)
    gate = threading.Event()
    with taskrun.Executor("thread", max_workers=1) as ex:
        waited = ex.submit(gate.wait, PATIENCE)
        for timeout in (None, PATIENCE):
            with pytest.raises(RuntimeError, match="never end"):
                waited.result(timeout)
        assert waited._gates == ()
        gate.set()


def refuse(*_: object) -> None:
    raise RuntimeError("this wait would never end")
