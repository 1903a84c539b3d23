"""What the pool backend sends a worker while it runs something else: nothing of that is lost, done twice, or held up."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import jobs
import pytest
from patience import PATIENCE, eventually

import taskrun
from taskrun.backends import pool_ahead
from taskrun.engine import ahead
from taskrun.engine.ahead import Ahead

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from patience import Wire

BACKENDS = ("pool",)
MANY = 20


class Scene:
    """One worker that holds, and what was sent behind: tasks that write their number into a file."""

    def __init__(self, ex: Any, wire: Wire, file: Path) -> None:
        self.ex, self.wire, self.file = ex, wire, file
        ex.submit(jobs.log, os.devnull, "").result(PATIENCE)  # the worker has the function
        first = ex.submit(jobs.tell_and_hold, wire.path)
        wire.hear()
        self.holds = ex.submit(jobs.tell_and_hold, wire.path)
        self.behind = [ex.submit(jobs.log, str(file), number) for number in range(MANY)]
        wire.release()
        self.pid = int(wire.hear())
        first.result(PATIENCE)
        (self.worker,) = ex._backend._processes.values()
        assert eventually(lambda: len(self.worker.ahead.sent) == MANY)

    def see_all_run_once(self) -> None:
        for future in self.behind:
            assert future.cancelled() or future.result(PATIENCE) is None
        runs = Counter(map(int, jobs.lines(self.file)))
        assert runs == {number: 1 for number, future in enumerate(self.behind) if not future.cancelled()}


@pytest.fixture
def scene(make: Callable, wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scene]:
    """Make one in which nothing is taken back because it waits."""
    monkeypatch.setattr(ahead, "_MOST_SECONDS", 1e9)
    monkeypatch.setattr(pool_ahead, "_STUCK_AFTER", 1e9)
    return lambda **options: Scene(make(max_workers=1, **options), wire, tmp_path / "log")


def test_they_run_in_their_order_when_the_worker_comes_to_them(scene: Callable) -> None:
    here = scene()
    assert here.holds.running()
    assert not any(future.running() for future in here.behind)
    here.wire.release()
    here.see_all_run_once()
    assert jobs.lines(here.file) == [str(number) for number in range(MANY)]
    assert all(f"pid {here.pid}" == future.attempts[0].worker for future in here.behind)
    here.ex.shutdown()


def test_one_of_them_can_be_cancelled_and_the_others_run(scene: Callable) -> None:
    here = scene()
    assert here.behind[7].cancel()
    assert here.behind[9].kill()
    here.wire.release()
    here.see_all_run_once()
    assert [future.cancelled() for future in here.behind].count(True) == 2
    here.ex.shutdown()


def test_shutdown_cancels_them(scene: Callable) -> None:
    here = scene()
    here.ex.shutdown(wait=False, cancel_futures=True)
    assert eventually(lambda: all(future.cancelled() for future in here.behind))
    here.wire.release()
    here.ex.shutdown()
    assert here.holds.result() == here.pid
    assert not here.file.exists()


@pytest.mark.parametrize("end", ["kill_workers", "terminate_workers"])
def test_they_do_not_begin_once_all_is_to_end(scene: Callable, end: str) -> None:
    here = scene()
    getattr(here.ex, end)()
    assert isinstance(here.holds.exception(PATIENCE), taskrun.TaskKilledError)
    assert eventually(lambda: all(future.done() for future in here.behind))
    assert not here.file.exists()


def test_they_run_elsewhere_when_their_worker_dies(scene: Callable) -> None:
    here = scene()
    os.kill(here.pid, signal.SIGKILL)
    assert isinstance(here.holds.exception(PATIENCE), taskrun.WorkerCrashedError)
    here.see_all_run_once()
    assert all(len(future.attempts) == 1 for future in here.behind)
    here.ex.shutdown()


@pytest.mark.parametrize("how", ["killed", "out of time"])
def test_they_run_elsewhere_when_the_task_before_them_is_stopped(
    make: Callable, wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(ahead, "_MOST_SECONDS", 1e9)
    monkeypatch.setattr(pool_ahead, "_STUCK_AFTER", 1e9)
    here = Scene(make(max_workers=1, timeout=2.0 if how == "out of time" else None), wire, tmp_path / "log")
    if how == "killed":
        assert here.holds.kill()
    error = here.holds.exception(PATIENCE)
    assert isinstance(error, taskrun.TaskKilledError if how == "killed" else taskrun.TaskTimeoutError)
    here.see_all_run_once()
    here.ex.shutdown()


def test_what_waits_behind_a_task_that_does_not_end_runs_elsewhere(
    make: Callable, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "_MOST_SECONDS", 1e9)
    with make(max_workers=2) as ex:
        [future.result(PATIENCE) for future in [ex.submit(jobs.double, i) for i in range(200)]]
        for _ in range(5):
            behind = [ex.submit(jobs.double, i) for i in range(100)]
            holds = ex.submit(jobs.tell_and_hold, wire.path)
            behind += [ex.submit(jobs.double, i) for i in range(100, 300)]
            assert [future.result(PATIENCE) for future in behind] == [2 * i for i in range(300)]
            assert not holds.done()
            wire.release()
            assert holds.result(PATIENCE)


def test_tasks_that_wait_for_those_behind_them_do_not_wait_for_ever(
    make: Callable, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both workers hold, and what would let them go was sent behind: with one at a time it would run on the other one."""
    monkeypatch.setattr(ahead, "_MOST_SECONDS", 1e9)
    with make(max_workers=2) as ex:
        [future.result(PATIENCE) for future in [ex.submit(jobs.double, i) for i in range(200)]]
        futures = []
        for _ in range(6):
            futures += [ex.submit(jobs.hold, wire.path), ex.submit(let_go, wire.path)]
            futures += [ex.submit(jobs.double, i) for i in range(30)]
        for future in futures:
            future.result(PATIENCE)


def let_go(path: str) -> None:
    fd = os.open(path + ".go", os.O_WRONLY)
    os.write(fd, b"x")
    os.close(fd)


def test_what_a_task_has_stolen_the_token_of_runs_all_the_same(scene: Callable) -> None:
    here = scene()
    with here.ex._scheduler.lock:
        stolen = here.worker.ahead.draw()  # as a task that reads what it finds open
    assert len(stolen) == MANY
    here.wire.release()
    here.see_all_run_once()
    assert here.ex.submit(jobs.double, 4).result(PATIENCE) == 8
    here.ex.shutdown()


def test_the_token_of_the_next_one_may_be_stolen(scene: Callable) -> None:
    here = scene()
    os.read(here.worker.ahead.tokens, 8)
    here.wire.release()
    here.see_all_run_once()
    here.ex.shutdown()


def sent_ahead(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that will grow by how many are sent ahead."""
    counts: list[int] = []
    add = Ahead.add

    def count(self: Ahead, calls: list[Any], *rest: Any) -> None:
        counts.append(len(calls))
        add(self, calls, *rest)

    monkeypatch.setattr(Ahead, "add", count)
    return counts


def give_back(value: Any) -> Any:
    return value


class Own(list[int]):
    """A list of the user's: to pickle it may run anything."""


@pytest.mark.parametrize(
    ("options", "argument", "ahead_of"),
    [
        ({}, [1, {"a": (2.0, None)}], True),
        ({"timeout": 100, "seed": 3}, "text", True),
        ({}, Own(), False),
        ({}, bytes(200_000), False),
        ({"max_tasks_per_child": 1000}, 1, False),
        ({"max_memory_per_child": 1 << 40}, 1, False),
    ],
    ids=["native kinds", "with options", "a class of the user's", "large", "workers are counted", "workers are weighed"],
)
def test_what_is_sent_ahead(
    make: Callable, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], argument: Any, ahead_of: bool
) -> None:
    counts = sent_ahead(monkeypatch)
    monkeypatch.setattr(ahead, "_MOST_SECONDS", 1e9)  # however slow this machine is
    with make(**options) as ex:
        futures = [ex.submit(give_back, argument) for _ in range(150)]
        assert [future.result(PATIENCE) for future in futures] == [argument] * 150
    assert bool(counts) == ahead_of


def test_answers_larger_than_the_line_hold_nothing_up(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = sent_ahead(monkeypatch)
    monkeypatch.setattr(ahead, "_MOST_SECONDS", 1e9)
    with make() as ex:
        sizes = [300_000 + i for i in range(60)]
        futures = [ex.submit(bytes, size) for size in sizes]
        assert [len(future.result(PATIENCE)) for future in futures] == sizes
    assert counts


def test_slow_tasks_are_not_sent_ahead(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = sent_ahead(monkeypatch)
    with make() as ex:
        [future.result(PATIENCE) for future in [ex.submit(time.sleep, 0.005) for _ in range(30)]]
    assert not counts


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
@pytest.mark.filterwarnings("ignore::taskrun.UnsafeForkWarning")
def test_whichever_way_workers_are_made(make: Callable, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    counts = sent_ahead(monkeypatch)
    monkeypatch.setattr(ahead, "_MOST_SECONDS", 1e9)
    with make(start_method=method) as ex:
        futures = [ex.submit(jobs.double, i) for i in range(300)]
        assert [future.result(PATIENCE) for future in futures] == [2 * i for i in range(300)]
    assert sum(counts) > 100
