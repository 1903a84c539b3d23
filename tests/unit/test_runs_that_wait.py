"""Items of one run that wait for one another: what has not begun is taken back and runs elsewhere."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from patience import eventually
from standard_kinds import make

import taskrun
from taskrun import sharing
from taskrun.map_runs import FeedInRuns

PATIENCE = 40
KINDS = ["thread", "dummy", "asyncio", "process", "process:spawn", "process:fork", "pool"]


@pytest.fixture(autouse=True)
def items_may_travel_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not in a process in which another test has used `taskrun.shared`."""
    monkeypatch.setattr(sharing, "in_use", False)


def act(directory: str, waiting: frozenset[int], distance: int, item: int) -> int:
    """Return *item*; some wait first for the one that comes *distance* items later."""
    if item in waiting:
        deadline = time.monotonic() + PATIENCE
        while not os.path.exists(f"{directory}/{item + distance}"):
            assert time.monotonic() < deadline, item
            time.sleep(0.001)
    elif item - distance in waiting:
        Path(f"{directory}/{item}").touch()
    return item


@pytest.mark.parametrize("distance", [1, 10, 300])
@pytest.mark.parametrize("how", ["map", "map_unordered", "stream", "Pool"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_item_that_waits_for_a_later_one_is_not_waited_for(kind: str, how: str, distance: int, tmp_path: Path) -> None:
    fn = partial(act, str(tmp_path), frozenset((3000,)), distance)
    backend, _, method = kind.partition(":")
    with taskrun.Executor(backend, max_workers=2, **({"start_method": method} if method else {})) as ex:
        if how == "Pool":
            with taskrun.Pool(2, backend=backend) as pool:
                assert pool.map(fn, range(6000)) == list(range(6000))
        elif how == "map_unordered":
            assert sorted(ex.map_unordered(fn, range(6000))) == list(range(6000))
        else:
            assert list(ex.map(fn, range(6000) if how == "map" else iter(range(6000)))) == list(range(6000))
        stats = ex.stats()
        assert (stats["queued"], stats["unfinished"]) == (0, 0)
        if how != "Pool":
            assert stats["succeeded"] == stats["submitted"] == 6000


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_given_back_is_waited_for_until_it_is_at_hand(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the run has kept may be over and handed out before: then nothing else is under way, and yet it is not the end."""
    submit_rest, ended, held = FeedInRuns._submit_rest, threading.Event(), threading.Event()

    def in_no_hurry(feed: FeedInRuns, run: Any, items: list[Any], first: int) -> list[Any]:
        rest = submit_rest(feed, run, items, first)
        if items and run.given_back:
            held.set()
            eventually(lambda: ended.is_set() or (not feed._open and bool(feed._changed._gates)))
        return rest

    monkeypatch.setattr(FeedInRuns, "_submit_rest", in_no_hurry)
    with make(kind, max_workers=2) as ex:
        for attempt in range(20):  # a run may end just between the two items
            if held.is_set():
                break
            ended.clear()
            (tmp_path / str(attempt)).mkdir()
            fn = partial(act, str(tmp_path / str(attempt)), frozenset((3000,)), 1)
            assert sorted(ex.map_unordered(fn, range(6000))) == list(range(6000))
            ended.set()
    assert held.is_set()


@pytest.mark.parametrize("kind", ["process", "thread"])
def test_errors_in_a_run_that_was_given_back_are_those_of_their_items(kind: str, tmp_path: Path) -> None:
    def fail(item: int) -> int:
        if item == 3000:
            act(str(tmp_path), frozenset((3000,)), 1, item)
        act(str(tmp_path), frozenset((3000,)), 1, item)
        if item in (2999, 3000, 3001, 5000):
            raise LookupError(item)
        return item

    with make(kind) as ex:
        results = list(ex.options(return_exceptions=True).map(fail, range(6000)))
    assert [i for i, result in enumerate(results) if isinstance(result, LookupError)] == [2999, 3000, 3001, 5000]
    assert all(result == i for i, result in enumerate(results) if not isinstance(result, LookupError))


def test_only_what_a_run_has_kept_fails_with_its_worker(tmp_path: Path) -> None:
    def die(item: int) -> int:
        if item == 3000:
            assert eventually(lambda: (tmp_path / "3001").exists())
            os._exit(3)
        if item == 3001:
            (tmp_path / "3001").touch()
        return item

    with taskrun.Executor("process", max_workers=2) as ex:
        results = list(ex.options(return_exceptions=True).map(die, range(6000)))
    died = [i for i, result in enumerate(results) if isinstance(result, taskrun.WorkerCrashedError)]
    assert died[-1] == 3000
    assert died == list(range(died[0], 3001))
    assert all(result == i for i, result in enumerate(results) if i not in set(died))


def test_sigalrm_is_the_tasks_own(tmp_path: Path) -> None:
    """Where it has a handler it keeps it; where not, it finds the default, and none of our alarms goes off later."""

    def look(item: int) -> Any:
        import signal

        if item == 2000:
            time.sleep(0.03)
        return signal.getsignal(signal.SIGALRM) if item > 5990 else None

    def install(_: int) -> None:
        import signal

        signal.signal(signal.SIGALRM, signal.SIG_IGN)

    import signal

    with taskrun.Executor("process", max_workers=1) as ex:
        assert ex.submit(look, 5999).result(PATIENCE) is signal.SIG_DFL
        list(ex.map(look, range(4000)))
        assert ex.submit(look, 5999).result(PATIENCE) is signal.SIG_DFL
        ex.submit(install, 0).result(PATIENCE)
        list(ex.map(look, range(4000)))
        assert ex.submit(look, 5999).result(PATIENCE) is signal.SIG_IGN


TWO, SIX = (3000, 5000), (3000, 3500, 4000, 4500, 5000, 5500)


@pytest.mark.parametrize(
    ("kind", "how", "waiting"),
    [*((kind, "map", SIX) for kind in KINDS), *((kind, "stream", TWO) for kind in KINDS[:4]), ("pool", "Pool", TWO)],
)
def test_as_many_items_may_wait_for_later_ones_as_there_are_workers(
    kind: str, how: str, waiting: tuple[int, ...], tmp_path: Path
) -> None:
    """All at once: then others run what they wait for, for as long as that takes."""
    fn = partial(act, str(tmp_path), frozenset(waiting), 1)
    backend, _, method = kind.partition(":")
    options: dict[str, Any] = {"start_method": method} if method else {}
    with taskrun.Executor(backend, max_workers=2, **options) as ex:
        if how == "Pool":
            with taskrun.Pool(2, backend=backend) as pool:
                assert pool.map(fn, range(8000)) == list(range(8000))
            return
        most = 3 if kind == "asyncio" else 2  # its loop, too
        assert list(ex.map(fn, range(8000) if how == "map" else iter(range(8000)))) == list(range(8000))
        assert [ex.submit(abs, -1).result(PATIENCE) for _ in range(9)] == [1] * 9
        assert eventually(lambda: len(ex.stats()["workers"]) <= most)  # and no longer
        assert not ex._scheduler._stuck


# -- what a task may do to its process, while somebody looks after its runs ----------------------------------------------------

PROCESSES = pytest.mark.parametrize("kind", ["process", "pool"])


def sleep_in_c(slow: int, item: int) -> tuple[int, float]:
    if item != slow:
        return 0, 1.0
    import ctypes

    began = time.monotonic()
    return ctypes.CDLL(None).usleep(150_000), time.monotonic() - began


@PROCESSES
def test_what_an_item_does_in_c_is_not_cut_short(kind: str) -> None:
    with taskrun.Executor(kind, max_workers=2) as ex:
        assert all(result == 0 and took > 0.14 for result, took in ex.map(partial(sleep_in_c, 3000), range(6000)))


def set_signals(how: str, directory: str, item: int) -> int:
    """Do as `act`, after something was done to the signals of the process, or to who gets them."""
    if item == 2990:
        if how == "blocked":
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        elif how == "a thread computes":
            threading.Thread(target=compute, args=(f"{directory}/3001",), daemon=True).start()
        else:
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
                with contextlib.suppress(OSError, ValueError):
                    signal.signal(number, signal.SIG_DFL if how == "default" else signal.SIG_IGN)
    return act(directory, frozenset((3000,)), 1, item)


def compute(until: str) -> None:
    while not os.path.exists(until):
        sum(range(1000))


@PROCESSES
@pytest.mark.parametrize("how", ["blocked", "default", "ignored", "a thread computes"])
def test_items_are_given_back_whatever_the_task_has_done_to_signals(kind: str, how: str, tmp_path: Path) -> None:
    with taskrun.Executor(kind, max_workers=2) as ex:
        assert list(ex.map(partial(set_signals, how, str(tmp_path)), range(6000))) == list(range(6000))


@PROCESSES
def test_the_stack_of_a_task_is_there_after_runs_too(kind: str) -> None:
    with taskrun.Executor(kind, max_workers=1) as ex:
        assert list(ex.map(abs, range(5000))) == list(range(5000))
        error = ex.options(timeout=0.3).submit(time.sleep, PATIENCE).exception(PATIENCE)
    assert isinstance(error, taskrun.TaskTimeoutError)
    assert error.stack


def fork_strictly(strict: bool) -> int:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore")
        pid = os.fork()
    if pid == 0:
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@PROCESSES
def test_a_task_forks_after_runs_as_if_nobody_had_looked_after_them(kind: str) -> None:
    with taskrun.Executor(kind, max_workers=1) as ex:
        for _ in range(3):
            assert list(ex.map(abs, range(3000))) == list(range(3000))
            assert ex.submit(fork_strictly, True).result(PATIENCE) == 7


def fork_in_threads(directory: str, item: int) -> int:
    """Do as `act`, after several threads have forked at once."""
    if item == 3000:
        threads = [threading.Thread(target=fork_strictly, args=(False,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return act(directory, frozenset((3000,)), 1, item)


@PROCESSES
def test_an_item_that_has_forked_is_looked_after_as_before(kind: str, tmp_path: Path) -> None:
    with taskrun.Executor(kind, max_workers=2) as ex:
        assert list(ex.map(partial(fork_in_threads, str(tmp_path)), range(6000))) == list(range(6000))
