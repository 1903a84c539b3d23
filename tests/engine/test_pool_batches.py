"""What the pool backend sends as one message: nothing of that is lost, done twice, or held up."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import jobs
import pytest
from patience import PATIENCE, eventually, gone, stopped

import taskrun
from taskrun.backends import pool_batches
from taskrun.engine.batch import Batch, Claims

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from patience import Wire


BACKENDS = ("pool",)
MANY = 20


class Scene:
    """One worker in the middle of a batch: it has run the first task, holds in the second, and the others wait for that."""

    def __init__(self, ex: Any, wire: Wire, file: Path) -> None:
        self.ex, self.wire, self.file = ex, wire, file
        alone = ex.submit(jobs.hold_and_log, wire.path, os.devnull, 0)
        wire.hear()
        self.over = ex.submit(jobs.hold_and_log, None, str(file), -1)
        self.holds = ex.submit(jobs.hold_and_log, wire.path, os.devnull, 0)
        self.behind = [ex.submit(jobs.hold_and_log, None, str(file), number) for number in range(MANY)]
        wire.release()
        self.pid = int(wire.hear())
        alone.result(PATIENCE)
        (self.worker,) = ex._backend._processes.values()
        assert len(self.worker.batch.flight) > MANY  # that what is over is so may have been heard of

    def see_all_run_once(self) -> None:
        for future in (self.over, *self.behind):
            assert future.cancelled() or future.result(PATIENCE)
        runs = Counter(map(int, jobs.lines(self.file)))
        assert runs == {-1: 1} | {number: 1 for number, future in enumerate(self.behind) if not future.cancelled()}


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Have batches be as large as they can, however slow this machine is."""
    monkeypatch.setattr(pool_batches, "_SECONDS", 1e9)
    return monkeypatch


@pytest.fixture
def scene(make: Callable, wire: Wire, tmp_path: Path, large: pytest.MonkeyPatch) -> Callable[..., Scene]:
    """Make one in which nothing is taken back because it waits."""
    large.setattr(pool_batches, "_OVERDUE", 1e9)
    return lambda **options: Scene(make(max_workers=1, **options), wire, tmp_path / "log")


def test_they_run_in_their_order_when_the_worker_comes_to_them(scene: Callable) -> None:
    here = scene()
    assert here.holds.running()
    assert not any(future.running() for future in here.behind)
    here.wire.release()
    here.see_all_run_once()
    assert jobs.lines(here.file) == [str(number) for number in range(-1, MANY)]
    assert all(f"pid {here.pid}" == future.attempts[0].worker for future in here.behind)
    here.ex.shutdown()


def test_what_is_over_is_heard_of_before_the_batch_is(scene: Callable) -> None:
    here = scene()
    assert here.over.result(PATIENCE) == here.pid
    assert len(here.over.attempts) == 1
    assert here.holds.running()
    here.wire.release()
    here.see_all_run_once()
    here.ex.shutdown()


def test_some_of_them_can_be_cancelled_and_the_others_run(scene: Callable) -> None:
    here = scene()
    assert here.behind[7].cancel()
    assert here.behind[9].kill()
    assert not here.holds.cancel()
    here.wire.release()
    here.see_all_run_once()
    assert [future.cancelled() for future in here.behind].count(True) == 2
    here.ex.shutdown()


def test_what_runs_is_told_that_it_is_to_be_cancelled(make: Callable, wire: Wire, large: pytest.MonkeyPatch) -> None:
    with make(max_workers=1) as ex:
        alone = ex.submit(jobs.asked_to_end, wire.path)
        wire.hear()
        futures = [ex.submit(jobs.asked_to_end, wire.path) for _ in range(5)]
        assert not alone.cancel()
        for future in futures:
            wire.hear()
            assert not future.cancel()
            assert future.result(PATIENCE) is True


def test_shutdown_cancels_them(scene: Callable) -> None:
    here = scene()
    here.ex.shutdown(wait=False, cancel_futures=True)
    assert eventually(lambda: all(future.cancelled() for future in here.behind))
    here.wire.release()
    here.ex.shutdown()
    assert here.holds.result() == here.pid
    assert jobs.lines(here.file) == ["-1"]


@pytest.mark.parametrize("end", ["kill_workers", "terminate_workers"])
def test_they_do_not_begin_once_all_is_to_end(scene: Callable, end: str) -> None:
    here = scene()
    getattr(here.ex, end)()
    assert isinstance(here.holds.exception(PATIENCE), taskrun.TaskKilledError)
    assert eventually(lambda: all(future.done() for future in here.behind))
    assert here.over.result(PATIENCE) == here.pid
    assert jobs.lines(here.file) == ["-1"]


def test_they_run_elsewhere_when_their_worker_dies(scene: Callable) -> None:
    here = scene()
    os.kill(here.pid, signal.SIGKILL)
    assert isinstance(here.holds.exception(PATIENCE), taskrun.WorkerCrashedError)
    here.see_all_run_once()
    assert all(len(future.attempts) == 1 for future in here.behind)
    here.ex.shutdown()


@pytest.mark.parametrize("how", ["killed", "out of time"])
def test_they_run_elsewhere_when_the_task_before_them_is_stopped(
    make: Callable, wire: Wire, tmp_path: Path, large: pytest.MonkeyPatch, how: str
) -> None:
    if how == "killed":
        large.setattr(pool_batches, "_OVERDUE", 1e9)
    here = Scene(make(max_workers=1, timeout=2.0 if how == "out of time" else None), wire, tmp_path / "log")
    if how == "killed":
        assert here.holds.kill()
    error = here.holds.exception(PATIENCE)
    assert isinstance(error, taskrun.TaskKilledError if how == "killed" else taskrun.TaskTimeoutError)
    assert gone(here.pid)
    here.see_all_run_once()
    here.ex.shutdown()


def test_what_a_task_keeps_waiting_runs_elsewhere_and_what_is_over_is_heard_of(
    make: Callable, wire: Wire, tmp_path: Path, large: pytest.MonkeyPatch
) -> None:
    ex = make(max_workers=1)
    here = Scene(ex, wire, tmp_path / "log")
    assert here.over.result(PATIENCE) == here.pid
    assert eventually(lambda: here.worker.task is not None)  # and the others are owed
    assert here.holds.running()
    assert not any(future.running() for future in here.behind)
    assert ex.stats()["queued"] == MANY
    assert here.behind[3].cancel()
    ex._backend._tell(ex._backend._allow, 1)  # as if it had been stuck for long
    here.see_all_run_once()
    assert not here.holds.done()
    here.wire.release()
    assert here.holds.result(PATIENCE) == here.pid
    ex.shutdown()


def test_tasks_that_wait_for_those_behind_them_do_not_wait_for_ever(
    make: Callable, wires: list[Wire], large: pytest.MonkeyPatch
) -> None:
    """Both workers hold, and what would let them go was sent behind: with one at a time it would run on the other one."""
    with make(max_workers=2) as ex:
        [future.result(PATIENCE) for future in [ex.submit(jobs.hold_or_let_go, None, False) for _ in range(200)]]
        futures = []
        for wire in wires:  # each waits for its own: that one which began too soon ends does not help the one before it
            futures += [ex.submit(jobs.hold_or_let_go, wire.path, True), ex.submit(jobs.hold_or_let_go, wire.path, False)]
            futures += [ex.submit(jobs.hold_or_let_go, None, False) for _ in range(30)]
        for future in futures:
            future.result(PATIENCE)
    assert not ex._scheduler._stuck


@pytest.mark.parametrize(("workers", "seconds"), [(2, 0.5), (4, 1.0)])
def test_tasks_that_are_merely_slow_have_one_worker_more(
    make: Callable, tmp_path: Path, large: pytest.MonkeyPatch, workers: int, seconds: float
) -> None:
    """Each worker but one begins with a task that is not its turn: one after the other they would all be made up for."""
    file = str(tmp_path / "log")
    with make(max_workers=workers) as ex:
        [future.result(PATIENCE) for future in [ex.submit(jobs.count_in, file, 0.0) for _ in range(100 * workers)]]
        futures = [ex.submit(jobs.count_in, file, seconds) for _ in range(4 * workers)]
        assert max(future.result(PATIENCE) for future in futures) <= workers + 1


def test_a_higher_priority_beside_what_is_owed_does_not_keep_the_keeper_busy(
    make: Callable, wires: list[Wire], large: pytest.MonkeyPatch
) -> None:
    """Where there is a worker more, it is for what is owed only, whatever else waits and may not be given to it."""
    with make(max_workers=2) as ex:
        [future.result(PATIENCE) for future in [ex.submit(jobs.hold_or_let_go, None, False) for _ in range(200)]]
        alone = [ex.submit(jobs.tell_and_hold, wires[2].path), ex.submit(jobs.tell_and_hold, wires[3].path)]
        wires[2].hear(), wires[3].hear()
        futures = []
        for wire in wires[:2]:
            futures += [ex.submit(jobs.hold_or_let_go, wire.path, True), ex.submit(jobs.hold_or_let_go, wire.path, False)]
        for each in wires[2:4]:
            each.release()
        assert eventually(lambda: ex._backend._owed)
        high = ex.options(priority=5).submit(jobs.double, 2)
        for future in (*alone, *futures, high):
            future.result(PATIENCE)


def test_what_a_signal_handler_raises_between_two_tasks_loses_nothing(make: Callable, counts: list[int]) -> None:
    with make(max_workers=1) as ex:
        [future.result(PATIENCE) for future in [ex.submit(jobs.alarm_if, False) for _ in range(100)]]
        futures = [ex.submit(jobs.alarm_if, i % 50 == 9) for i in range(400)]
        errors = [future.exception(PATIENCE) for future in futures]
    assert sum(error is None for error in errors) >= 380
    assert counts


def test_only_what_runs_is_told_of_its_cancel(scene: Callable) -> None:
    """One that is over, and not heard of yet, would take that word from it."""
    here = scene()
    noted: set[int] = set()  # twice, if what runs has become the worker's task meanwhile

    def note_cancel(number: int | None = None) -> None:
        noted.add(here.worker.sequence if number is None else number)

    here.worker.note_cancel = note_cancel
    running = here.worker.batch.first + 1
    over = here.worker.batch.flight.get(here.worker.batch.first)
    assert not here.holds.cancel()
    assert noted == {running}
    if over is not None:
        here.ex._backend.notice_cancel(over)
    assert noted == {running}
    here.wire.release()
    here.see_all_run_once()
    here.ex.shutdown()


@pytest.mark.parametrize("end", ["exits", "is out of time"])
def test_what_a_task_has_read_the_claims_of_is_not_taken_for_begun(make: Callable, large: pytest.MonkeyPatch, end: str) -> None:
    with make(max_workers=1, timeout=1.0 if end == "is out of time" else None) as ex:
        [future.result(PATIENCE) for future in [ex.submit(jobs.steal, None) for _ in range(100)]]
        futures = [ex.submit(jobs.steal, end if i == 5 else None) for i in range(60)]
        errors = {i for i, future in enumerate(futures) if future.exception(PATIENCE) is not None}
        assert errors == {5}


def test_a_worker_that_somebody_has_stopped_keeps_none(scene: Callable) -> None:
    here = scene()
    here.wire.release()
    here.see_all_run_once()
    give = here.worker.give_batch
    sent: list[int] = []

    def give_to_one_that_is_stopped(*args: Any) -> None:
        stopped(here.pid)
        sent.append(len(here.worker.batch.flight))
        give(*args)

    here.worker.give_batch = give_to_one_that_is_stopped
    hold = here.ex.submit(jobs.hold_and_log, here.wire.path, os.devnull, 0)
    here.wire.hear()
    futures = [here.ex.submit(jobs.hold_and_log, None, os.devnull, 0) for _ in range(10)]
    here.wire.release()
    assert hold.result(PATIENCE) == here.pid
    assert here.pid not in {future.result(PATIENCE) for future in futures}
    assert sent == [10]
    here.ex.shutdown()


@pytest.mark.parametrize("taken", [1, MANY])
def test_claims_that_a_task_has_taken_are_missed_by_nobody(scene: Callable, taken: int) -> None:
    here = scene()
    assert len(os.read(here.worker.claims.fd, taken)) == taken
    here.wire.release()
    here.see_all_run_once()
    assert here.ex.submit(jobs.double, 4).result(PATIENCE) == 8
    here.ex.shutdown()


def test_a_worker_whose_claims_a_task_has_closed_is_sent_one_task_at_a_time(make: Callable, large: pytest.MonkeyPatch) -> None:
    with make(max_workers=1) as ex:
        assert ex.submit(jobs.close_pipes).result(PATIENCE)
        futures = [ex.submit(jobs.double, i) for i in range(300)]
        assert [future.result(PATIENCE) for future in futures] == [2 * i for i in range(300)]
        (worker,) = ex._backend._processes.values()
        assert not worker.takes_batches


@pytest.fixture
def counts(large: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by the size of each batch that is sent."""
    sizes: list[int] = []
    send = Batch.send

    def count(self: Batch, first: int, tasks: Any) -> None:
        sizes.append(len(tasks))
        send(self, first, tasks)

    large.setattr(Batch, "send", count)
    return sizes


def give_back(value: Any) -> Any:
    return value


class Own(list[int]):
    """A list of the user's: to pickle it may run anything."""


@pytest.mark.parametrize(
    ("options", "argument", "together"),
    [
        ({}, [1, {"a": (2.0, None)}], True),
        ({"timeout": 100, "soft_timeout": 90, "seed": 3, "retry": 3}, "text", True),
        ({"max_tasks_per_child": 60}, 1, True),
        ({}, Own(), False),
        ({}, bytes(200_000), False),
        ({"timeout": 0.09}, None, False),
        ({"max_memory_per_child": 1 << 40}, 1, False),
    ],
    ids=[
        "native kinds",
        "with options",
        "workers are counted",
        "the user's own",
        "large",
        "a short limit",
        "workers are weighed",
    ],
)
def test_what_is_sent_together(make: Callable, counts: list[int], options: Any, argument: Any, together: bool) -> None:
    with make(**options) as ex:
        futures = [ex.submit(give_back, argument) for _ in range(150)]
        for future in futures:
            try:
                assert future.result(PATIENCE) == argument
            except taskrun.TaskTimeoutError:  # of those with a short limit, on a busy machine
                assert "timeout" in options
    assert bool(counts) == together


def test_a_worker_is_given_no_more_than_its_share(make: Callable, counts: list[int]) -> None:
    with make(max_tasks_per_child=25) as ex:
        pids = Counter(future.result(PATIENCE) for future in [ex.submit(jobs.pid) for _ in range(250)])
    assert max(pids.values()) == 25
    assert sorted(pids.values())[3] == 25  # the last ones need not come to that
    assert counts


@pytest.mark.parametrize("chunksize", [1, 4])
def test_a_chunksize_bounds_it(make: Callable, counts: list[int], chunksize: int) -> None:
    with make() as ex:
        view = ex.options(chunksize=chunksize)
        [future.result(PATIENCE) for future in [view.submit(jobs.double, i) for i in range(200)]]
    assert max(counts, default=1) == chunksize


@pytest.mark.parametrize("fate", ["raises", "returns its own", "returns much", "cannot be pickled"])
def test_what_is_not_for_others_to_wait_behind_ends_it(make: Callable, counts: list[int], fate: str) -> None:
    with make() as ex:
        [future.result(PATIENCE) for future in [ex.submit(jobs.odd_one, None, i) for i in range(100)]]
        before = len(counts)
        assert before
        futures = [ex.submit(jobs.odd_one, fate if i % 50 == 17 else None, i) for i in range(300)]
        for i, future in enumerate(futures):
            if i % 50 != 17:
                assert future.result(PATIENCE) == i
            elif fate == "raises":
                assert isinstance(future.exception(PATIENCE), ZeroDivisionError)
            elif fate == "cannot be pickled":
                assert isinstance(future.exception(PATIENCE), taskrun.SerializationError)
            else:
                assert future.result(PATIENCE) == jobs.odd_one(fate, i)
        assert len(counts) > before


def test_a_task_that_dies_fails_alone_and_one_that_is_tried_again_runs_alone(
    make: Callable, tmp_path: Path, counts: Any
) -> None:
    file = str(tmp_path / "log")
    with make(retry=taskrun.Retry(max_attempts=2, wait="none")) as ex:
        [future.result(PATIENCE) for future in [ex.submit(jobs.die_if, False, file, i) for i in range(100)]]
        futures = [ex.submit(jobs.die_if, i % 40 == 13, file, i) for i in range(100, 300)]
        for i, future in enumerate(futures, 100):
            if i % 40 == 13:
                assert isinstance(future.exception(PATIENCE), taskrun.WorkerCrashedError)
            else:
                future.result(PATIENCE)
                assert len(future.attempts) == 1
    runs = Counter(map(int, jobs.lines(tmp_path / "log")))
    assert runs == {i: 1 + (i % 40 == 13 and i >= 100) for i in range(300)}
    assert counts


def test_slow_tasks_go_alone(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(Batch, "send", lambda _self, _first, tasks: sizes.append(len(tasks)))
    with make() as ex:
        [future.result(PATIENCE) for future in [ex.submit(time.sleep, 0.005) for _ in range(30)]]
    assert not sizes


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
@pytest.mark.filterwarnings("ignore::taskrun.UnsafeForkWarning")
def test_whichever_way_workers_are_made(make: Callable, counts: list[int], method: str) -> None:
    with make(start_method=method) as ex:
        futures = [ex.submit(jobs.double, i) for i in range(300)]
        assert [future.result(PATIENCE) for future in futures] == [2 * i for i in range(300)]
    assert sum(counts) > 100


def test_ctrl_c_in_a_cancel_loses_none_of_the_others(scene: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """It strikes once the claims are taken: what comes after that is left to whoever looks next."""
    here = scene()
    take = Claims.take

    def torn(self: Claims, into: list[bytes]) -> None:
        take(self, into)
        monkeypatch.setattr(Claims, "take", take)
        raise KeyboardInterrupt

    monkeypatch.setattr(Claims, "take", torn)
    with pytest.raises(KeyboardInterrupt):
        here.behind[5].cancel()
    here.wire.release()
    here.see_all_run_once()
    assert here.behind[5].cancelled()
    here.ex.shutdown()


class TestABatch:
    """By itself, without a worker."""

    @pytest.fixture
    def claims(self) -> Iterator[Claims]:
        claims = Claims()
        yield claims
        claims.close()

    @pytest.fixture
    def tasks(self) -> list[Any]:
        return [object() for _ in range(5)]

    def test_until_it_is_sent_each_can_be_had_back_once(self, claims: Claims, tasks: list[Any]) -> None:
        batch = Batch(claims, tasks)
        assert batch.ask_back(tasks[2])
        assert not batch.ask_back(tasks[2])
        assert not batch.ask_back(object())  # type: ignore[arg-type]
        assert batch.tasks == [*tasks[:2], *tasks[3:]]
        assert batch.take_back() == [*tasks[:2], *tasks[3:]]
        assert batch.take_back() == []
        assert claims.left() == 0

    def test_what_has_begun_cannot_be_had_back_and_the_rest_once(self, claims: Claims, tasks: list[Any]) -> None:
        batch = Batch(claims, tasks)
        batch.send(10, tasks)
        assert (batch.begun(), batch.last, batch.size) == (0, 14, 5)
        os.read(claims.fd, 1)
        os.read(claims.fd, 1)
        assert batch.begun() == 2
        assert not batch.ask_back(tasks[1])
        assert batch.ask_back(tasks[3])
        assert claims.left() == 0
        assert batch.begun() == 2
        assert batch.take_back() == [tasks[2], tasks[4]]
        assert batch.take_back(2) == []
        assert list(batch.flight) == [10, 11]

    def test_at_its_end_what_has_not_begun_goes_back_whoever_has_the_claims(self, claims: Claims, tasks: list[Any]) -> None:
        batch = Batch(claims, tasks)
        batch.send(1, tasks)
        os.read(claims.fd, 3)  # the worker took one, somebody else two
        assert batch.take_back(1) == tasks[1:]
        assert claims.left() == 0
        assert batch.take_back() == []
