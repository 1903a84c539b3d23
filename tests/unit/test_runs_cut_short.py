"""Runs of items that are cut short, while all around them ends: each result in its place, nothing lost, no wait in vain."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from patience import eventually
from standard_kinds import make

import taskrun
from taskrun import sharing

PATIENCE = 40
KINDS = ["thread", "dummy", "asyncio", "process", "pool"]
THREADS = ["thread", "dummy", "asyncio"]


@pytest.fixture(autouse=True)
def items_may_travel_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not in a process in which another test has used `taskrun.shared`."""
    monkeypatch.setattr(sharing, "in_use", False)


class Item:
    """What is not copied unnoticed: a run of these has a pickle for each."""

    def __init__(self, number: int) -> None:
        self.number = number


@pytest.mark.parametrize("kind", THREADS)
def test_an_item_that_waits_for_a_task_of_its_executor_is_made_up_for(kind: str) -> None:
    with taskrun.Executor(kind, max_workers=1) as ex:

        def act(item: int) -> int:
            return ex.submit(abs, -item).result(PATIENCE) if item == 3000 else item

        assert list(ex.map(act, range(6000))) == list(range(6000))


@pytest.mark.parametrize("inner", KINDS)
@pytest.mark.parametrize("outer", ["thread", "process", "pool"])
def test_tiny_items_in_an_executor_that_an_item_has_made(outer: str, inner: str) -> None:
    def act(item: int) -> int:
        if item != 3000:
            return item
        with taskrun.Executor(inner, max_workers=2) as ex:
            return sum(ex.map(abs, range(2000))) - sum(range(2000)) + item

    with make(outer) as ex:
        assert list(ex.map(act, range(6000))) == list(range(6000))


@pytest.mark.parametrize("how", ["cancel", "terminate", "kill"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_cut_off_and_is_not_done_leaves_its_place_empty(kind: str, how: str) -> None:
    """The results before are right; then comes the CancelledError, not those of later items."""

    def act(item: int) -> int:
        if item == 3003 or item in late:
            time.sleep(0.012)  # its run stops early, and is not given back
        return item

    late = range(100_000, 200_000, 500)  # so that they are not all done before the taker comes to cut them off
    with make(kind) as ex:
        list(ex.map(abs, range(3000)))
        results = ex.map(act, range(200_000))
        found: list[int] = []
        with pytest.raises((CancelledError, taskrun.TaskKilledError)):
            for value in results:
                found.append(value)
                if value == 3000:
                    if how == "cancel":
                        ex.shutdown(wait=False, cancel_futures=True)
                    else:
                        ex.kill_workers() if how == "kill" else ex.terminate_workers()
        assert found == list(range(len(found)))


@pytest.mark.parametrize("kind", THREADS)
def test_a_run_that_gave_items_back_and_is_abandoned_fails_with_those_it_kept(kind: str) -> None:
    held, go_on = threading.Event(), threading.Event()

    def act(item: int) -> int:
        if item == 3000:
            held.set()
            go_on.wait(PATIENCE)
        return item

    found: list[Any] = []
    try:
        with make(kind) as ex:
            results = ex.options(return_exceptions=True).map(act, range(4000))
            assert held.wait(PATIENCE)
            assert eventually(lambda: ex.stats()["succeeded"] > 3000)  # what it has not begun runs elsewhere
            ex.kill_workers()
            try:
                found += results
            except CancelledError:  # where some were not submitted yet
                found.append("cut off")
    finally:
        go_on.set()
    assert len(found) == 4000 or found.pop() == "cut off"
    assert isinstance(found[3000], taskrun.TaskKilledError)
    assert all(value == i for i, value in enumerate(found) if not isinstance(value, BaseException))


@pytest.mark.filterwarnings("ignore::taskrun.UnfinishedMapWarning")
@pytest.mark.parametrize("seed", range(int(os.environ.get("SEEDS", "1"))))
@pytest.mark.parametrize("how", ["kill", "terminate", "cancel", "shutdown", "close"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_end_at_any_moment_leaves_nothing_unfinished(kind: str, how: str, seed: int) -> None:
    """More of them: SEEDS=40."""
    chance = random.Random(f"{kind}{how}{seed}")
    slow = {chance.randrange(4000): chance.choice([0.012, 0.021, 0.03, 0.1]) for _ in range(8)}

    def act(item: Item) -> int:
        time.sleep(slow.get(item.number, 0)) if item.number in slow else None
        return item.number

    ex = taskrun.Executor(kind, max_workers=chance.choice([1, 2, 3]))
    sized = chance.random() < 0.7
    items = map(Item, range(4000)) if not sized else [Item(i) for i in range(4000)]
    results = ex.options(return_exceptions=True).map(act, items)
    ends = {
        "kill": ex.kill_workers,
        "terminate": ex.terminate_workers,
        "cancel": lambda: ex.shutdown(wait=False, cancel_futures=True),
        "shutdown": ex.shutdown,
        "close": results.close,
    }
    striker = threading.Timer(0.02 + chance.random() * 0.3, ends[how])
    striker.start()
    found: list[Any] = []
    try:
        found += results
        complete = len(found) == 4000 or how == "close"
    except (CancelledError, RuntimeError):  # the rest was not read
        complete = True
    striker.join()
    ex.shutdown()
    assert complete, len(found)
    assert all(value == i for i, value in enumerate(found) if not isinstance(value, BaseException))
    stats = ex.stats()
    assert (stats["queued"], stats["unfinished"]) == (0, 0), stats


SLOW = 0.0


class SlowToPickle(Item):
    def __reduce__(self) -> Any:
        time.sleep(SLOW)
        return type(self), (self.number,)


@pytest.mark.parametrize("kind", ["process", "pool"])
def test_shutdown_waits_for_what_was_given_back_and_is_still_pickled(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = str(tmp_path / "flag")

    def act(item: Item) -> int:
        if item.number == 1400:
            Path(flag).touch()
            time.sleep(0.06)
        return item.number

    with make(kind, max_workers=1) as ex:
        results = ex.map(act, [SlowToPickle(i) for i in range(1600)])
        assert eventually(lambda: os.path.exists(flag))
        monkeypatch.setattr(f"{__name__}.SLOW", 0.005)
    stats = ex.stats()
    assert (stats["succeeded"], stats["unfinished"]) == (1600, 0)
    assert list(results) == list(range(1600))


@pytest.mark.parametrize("kind", KINDS)
def test_a_coroutine_that_a_plain_function_gives_may_wait_for_the_next_item(kind: str, tmp_path: Path) -> None:
    flag = str(tmp_path / "flag")

    async def wait_for_it() -> int:
        import asyncio

        deadline = time.monotonic() + PATIENCE
        while not os.path.exists(flag):  # noqa: ASYNC240 - it is quick
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)
        return 5000

    async def say_it() -> int:
        Path(flag).touch()  # noqa: ASYNC240 - likewise
        return 5001

    def act(item: int) -> Any:
        return wait_for_it() if item == 5000 else say_it() if item == 5001 else item

    with make(kind) as ex:
        assert list(ex.map(act, range(9000))) == list(range(9000))


def alarmed(item: int) -> str | None:
    """Item 3000 installs a handler of its own and is slow; 5000 sets an alarm by it."""
    if item == 3000:
        heard: list[int] = []
        signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
        time.sleep(0.05)  # ours would have gone off
        return "ours" if heard else None
    if item == 5000:
        if signal.getsignal(signal.SIGALRM) is signal.SIG_DFL:
            return None  # the other worker
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        time.sleep(0.03)
    return None


@pytest.mark.parametrize("kind", ["process", "pool"])
def test_alarms_of_tasks_are_their_own(kind: str) -> None:
    with make(kind, max_workers=1) as ex:
        assert set(ex.map(alarmed, range(7000))) == {None}


@pytest.mark.parametrize("kind", ["thread", "process", "fork"])
def test_a_policy_that_is_asked_waits_for_no_callback(kind: str) -> None:
    inside, leave = threading.Event(), threading.Event()

    def block(_: object) -> None:
        inside.set()
        leave.wait(PATIENCE)

    with make(kind) as ex:
        try:
            ex.submit(time.sleep, 0.3).add_done_callback(block)  # it is not done by then, or it would run here
            assert inside.wait(PATIENCE)
            asked = ex.options(retry=taskrun.Retry(on=lambda _: False)).submit(int, "x")
            assert isinstance(asked.exception(PATIENCE), ValueError)
        finally:
            leave.set()


@pytest.mark.parametrize("how", ["kill", "cancel"])
@pytest.mark.parametrize("kind", ["thread", "process", "fork"])
def test_who_ends_a_task_does_not_wait_for_its_policy(kind: str, how: str) -> None:
    inside, leave = threading.Event(), threading.Event()

    def asks(_: object) -> bool:
        inside.set()
        return leave.wait(PATIENCE)

    with make(kind) as ex:
        try:
            future = ex.options(retry=taskrun.Retry(on=asks)).submit(int, "x")
            assert inside.wait(PATIENCE)
            if how == "kill":
                assert future.kill()
            else:
                ex.shutdown(wait=False, cancel_futures=True)
            error = future.exception(PATIENCE)
            assert isinstance(error, taskrun.TaskKilledError if how == "kill" else ValueError)
        finally:
            leave.set()
    assert len(future.attempts) == 1


def test_results_of_an_endless_stream_that_is_cut_short_again_and_again() -> None:
    def act(item: int) -> int:
        if item % 1000 == 999:
            time.sleep(0.003)  # its run stops early
        return item

    with taskrun.Executor("thread", max_workers=2) as ex:
        results = ex.map(act, itertools.count())
        assert list(itertools.islice(results, 30_000)) == list(range(30_000))
        results.close()
