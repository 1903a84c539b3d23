"""A signal handler or destructor that submits, in the middle of whatever taskrun does in that thread: a task like any other."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from patience import eventually
from standard_kinds import OURS, make

import taskrun
from taskrun import future as future_module
from taskrun import future_state, waiting

if TYPE_CHECKING:
    from types import FrameType

PATIENCE = 40
SLOW = ("pool", "fork")
KINDS = [kind for kind in OURS if ":" not in kind]


@pytest.mark.parametrize("kind", KINDS)
def test_submit_may_be_struck_by_a_handler_that_submits(kind: str) -> None:
    handled: dict[int, Any] = {}
    submitted: list[Any] = []
    numbers = count()
    enough = 60 if kind in SLOW else 1000

    def submit(_: int, __: FrameType | None) -> None:
        if len(handled) < enough:
            number = next(numbers)  # it may be struck itself
            handled[number] = ex.submit(abs, -number)

    before = signal.signal(signal.SIGALRM, submit)
    try:
        with make(kind, max_workers=4) as ex:
            signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
            deadline = time.monotonic() + PATIENCE
            while len(handled) < enough and time.monotonic() < deadline:
                submitted.append(ex.submit(abs, -len(submitted)))
                if len(submitted) % 5 == 0:  # so that workers park, and are let go again
                    submitted[-1].result(PATIENCE)
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            assert [future.result(PATIENCE) for future in submitted] == list(range(len(submitted)))
            assert len(handled) >= enough
            assert all(future.result(PATIENCE) == number for number, future in handled.items())
            assert sum(not name.endswith("-loop") for name in ex.stats()["workers"]) <= 4
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("held", ["condition", "all futures", "waiter"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "serial"])
def test_what_is_struck_may_hold_what_the_end_of_a_task_needs(kind: str, held: str) -> None:
    with make(kind, max_workers=2) as ex:
        ending = ex.submit(time.sleep, 0.2)
        watcher = waiting._Watcher(None)
        watcher.watch([ending])
        locks = {"condition": ending._condition, "all futures": future_state._STATE, "waiter": watcher._lock}
        with locks[held]:  # type: ignore[attr-defined]
            assert eventually(lambda: ending._task is None)  # it is about to be done
            for _ in range(3):
                time.sleep(0.01)  # it may be about to ask for what we hold
                others = [ex.submit(abs, -1) for _ in range(3)]  # as a handler does, or a destructor
            others[0].cancel()
        assert ending.result(PATIENCE) is None
        assert all(other.result(PATIENCE) == 1 for other in others[1:])
        watcher.close()
    assert ex.stats()["unfinished"] == 0


class Submits:
    """A destructor that submits, once the main thread is about to end the future that was being looked at."""

    def __init__(self, ex: Any, about_to: threading.Event) -> None:
        self._ex, self._about_to = ex, about_to

    def __del__(self) -> None:
        self._about_to.wait(PATIENCE)
        time.sleep(0.1)
        with suppress(RuntimeError):  # it may be shut down by then
            self._ex.submit(abs, -1)


@pytest.mark.parametrize("held", ["condition", "all futures", "waiter"])
@pytest.mark.parametrize("how", ["cancel", "kill", "shutdown"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "serial"])
def test_a_destructor_may_submit_while_the_main_thread_ends_what_its_thread_looks_at(kind: str, how: str, held: str) -> None:
    with make(kind, max_workers=1) as ex:
        first = ex.submit(time.sleep, 0.5)
        waits = ex.submit(abs, -1)
        assert eventually(first.running)
        watcher = waiting._Watcher(None)
        watcher.watch([waits])
        locks = {"condition": waits._condition, "all futures": future_state._STATE, "waiter": watcher._lock}
        inside, about_to = threading.Event(), threading.Event()

        def look() -> None:
            with locks[held]:  # type: ignore[attr-defined]
                inside.set()
                Submits(ex, about_to)

        other = threading.Thread(target=look, daemon=True)
        other.start()
        assert inside.wait(PATIENCE)
        ends = {"cancel": waits.cancel, "kill": waits.kill, "shutdown": partial(ex.shutdown, wait=False, cancel_futures=True)}
        about_to.set()
        ends[how]()  # type: ignore[operator]
        other.join(PATIENCE)
        assert not other.is_alive()
        assert waits.cancelled()
        assert first.exception(PATIENCE) is None
        watcher.close()
    assert ex.stats()["unfinished"] == 0


def test_a_future_that_is_being_cancelled_is_cancelled_for_others_too_and_counted() -> None:
    with make("thread", max_workers=1) as ex:
        go = threading.Event()
        running, waits = ex.submit(go.wait, PATIENCE), ex.submit(abs, -1)
        said: list[bool] = []
        with waits._condition:  # so that it is done late
            other = threading.Thread(target=lambda: said.append(waits.cancel()))
            other.start()
            assert eventually(lambda: waits._task is None)
            assert not waits.done()
            assert waits.cancel()
            assert (ex.stats()["unfinished"], ex.stats()["cancelled"]) == (1, 1)
        other.join()
        assert said == [True]
        assert waits.cancelled()
        go.set()
        assert running.result(PATIENCE)


def test_a_handler_that_waits_in_the_middle_of_taskrun_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with make("thread", max_workers=2) as ex:
        future = ex.submit(time.sleep, 0.1)
        with monkeypatch.context() as longer:
            longer.setattr(future_module, "_A_MOMENT", 2 * PATIENCE)
            began = time.monotonic()
            for lock in (ex._scheduler.lock, future_state._STATE):
                with lock, pytest.raises(RuntimeError, match="would never end"):
                    future.result()
            assert time.monotonic() - began < PATIENCE
        assert future.result() is None


def test_a_predicate_on_serial_gets_its_result_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(future_module, "_A_MOMENT", 2 * PATIENCE)
    with make("serial") as ex:

        def asks(_: BaseException) -> bool:
            return ex.options(retry=None).submit(abs, -1).result() == 2  # no

        began = time.monotonic()
        failed = ex.options(retry=taskrun.Retry(max_attempts=2, on=asks)).submit(int, "no number")
        assert isinstance(failed.exception(), ValueError)
        assert time.monotonic() - began < PATIENCE


def test_a_wait_that_a_handler_ends_leaves_nothing_at_the_future(monkeypatch: pytest.MonkeyPatch) -> None:
    def strike(*_: object) -> None:
        raise LookupError("struck")

    before = signal.signal(signal.SIGALRM, strike)
    try:
        for moment in (PATIENCE, 1e-3):  # in the first wait, and in the one after that
            monkeypatch.setattr(future_module, "_A_MOMENT", moment)
            future: taskrun.Future[int] = taskrun.Future()
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            with pytest.raises(LookupError, match="struck"):
                future.result(PATIENCE)
            assert future._gates == ()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
