"""What has not begun can be taken back, wherever it waits; what has begun is told."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import jobs
import pytest
from patience import PATIENCE, eventually

import taskrun
from taskrun import waits
from taskrun.engine import channel, packing
from taskrun.engine.handle import Handle
from taskrun.engine.reclaim import Reclaimer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from patience import Wire

    from taskrun.task import Task


def hold_or_log(i: int, file: str, path: str | None = None) -> int:
    """Quick mostly, so that many are sent ahead; with *path* it holds."""
    if path:
        jobs.tell_and_hold(path)
    jobs.log(file, i)
    return i


def warm_up(ex: taskrun.Executor, file: str) -> None:
    for _ in range(30):
        ex.submit(hold_or_log, -1, file).result()


class TestSentAhead:
    def test_a_task_in_the_workers_pipe_can_be_cancelled_and_never_runs(
        self, make: Callable, wire: Wire, tmp_path: Path
    ) -> None:
        file = str(tmp_path / "log")
        with make(max_workers=1) as ex:
            warm_up(ex, file)
            futures = [ex.submit(hold_or_log, i, file, wire.path if i == 0 else None) for i in range(20)]
            wire.hear()
            assert eventually(futures[0].running)
            assert not futures[0].cancel()
            assert [futures[i].cancel() for i in (3, 19, 4)] == [True] * 3
            assert not any(futures[i].running() for i in range(1, 20))
            wire.release()
            left = [i for i in range(20) if i not in (3, 4, 19)]
            assert [futures[i].result() for i in left] == left
        assert [line for line in jobs.lines(Path(file)) if line != "-1"] == [str(i) for i in left]

    def test_shutdown_with_cancel_futures_takes_them_back(self, make: Callable, wire: Wire, tmp_path: Path) -> None:
        file = str(tmp_path / "log")
        ex = make(max_workers=1)
        warm_up(ex, file)
        futures = [ex.submit(hold_or_log, i, file, wire.path if i == 0 else None) for i in range(20)]
        wire.hear()
        ex.shutdown(wait=False, cancel_futures=True)
        assert eventually(lambda: all(future.cancelled() for future in futures[1:]))
        wire.release()
        assert futures[0].result() == 0

    def test_what_waits_behind_a_slow_task_runs_on_a_free_worker(self, make: Callable, wire: Wire, tmp_path: Path) -> None:
        file = str(tmp_path / "log")
        ex = make(max_workers=2)
        warm_up(ex, file)
        futures = [ex.submit(hold_or_log, i, file, wire.path if i == 5 else None) for i in range(200)]
        done, waiting = taskrun.wait(futures[:5] + futures[6:], timeout=20)
        assert (len(done), len(waiting)) == (199, 0)  # while it still holds
        assert futures[5].running()
        wire.release()
        assert futures[5].result() == 5
        assert Counter(jobs.lines(Path(file))) == {"-1": 30, **{str(i): 1 for i in range(200)}}

    def test_tasks_of_one_batch_that_wait_for_each_other_do_not_deadlock(
        self, make: Callable, wire: Wire, tmp_path: Path
    ) -> None:
        file = str(tmp_path / "log")

        def release_or_hold(i: int, path: str | None = None) -> int:
            if path and i == 0:
                jobs.tell_and_hold(path)
            elif path:
                with open(path + ".go", "wb", buffering=0) as go:
                    go.write(b"x")
            return i

        ex = make(max_workers=2)
        for _ in range(30):
            ex.submit(release_or_hold, 1).result()
        warm_up(ex, file)
        first, second = ex.submit(release_or_hold, 0, wire.path), ex.submit(release_or_hold, 1, wire.path)
        assert (first.result(20), second.result(20)) == (0, 1)

    def test_there_is_one_worker_more_for_those_before_their_turn_and_no_third_one(
        self, make: Callable, wire: Wire, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(waits, "_STUCK_AFTER", 0.05)
        with make(max_workers=2) as ex:
            together = ex.options(chunksize=10)
            ready = [together.submit(jobs.tell_and_hold, wire.path, "ready") for _ in range(2)]
            assert [wire.hear(), wire.hear()] == ["ready", "ready"]
            wire.release(2)
            assert len({future.result(PATIENCE) for future in ready}) == 2
            all_here = threading.Event()  # both are free, and are given their batches at the same time
            ex._backend._supervisor.tell(all_here.wait, PATIENCE)
            futures = [together.submit(jobs.hold_if, wire.path, i) for i in range(20)]
            all_here.set()
            for _ in range(3):
                assert wire.hear() == "held"  # the first of two batches, and the second of the one that is older
            time.sleep(0.5)
            assert len(ex.stats()["workers"]) == 3
            wire.release(20)
            assert [future.result(PATIENCE) for future in futures] == list(range(20))
            assert eventually(lambda: len(ex.stats()["workers"]) == 2)

    def test_what_workers_give_back_that_are_to_leave_runs_while_they_wait_for_it(
        self, make: Callable, wire: Wire, tmp_path: Path
    ) -> None:
        def act(mine: str, other: str | None = None) -> str:
            (tmp_path / mine).touch()
            while other and not (tmp_path / other).exists():
                time.sleep(0.0005)
            return mine

        with make(max_workers=2) as ex:
            together = ex.options(chunksize=2)
            for i in range(2):
                together.submit(jobs.tell_and_hold, wire.path, i)
            assert {wire.hear(), wire.hear()} == {"0", "1"}
            pairs = [("a0", "c0"), ("c0", None), ("a1", "c1"), ("c1", None)]
            futures = [together.submit(act, *pair) for pair in pairs]
            supervisor = ex._backend._supervisor
            wire.release(2)
            assert eventually(lambda: (tmp_path / "a0").exists() and (tmp_path / "a1").exists())
            supervisor.tell(lambda: [supervisor._fleet.retire(handle) for handle in list(supervisor._fleet.workers.values())])
            assert [future.result(PATIENCE) for future in futures] == ["a0", "c0", "a1", "c1"]

    def test_tasks_that_meet_in_pairs_do_not_deadlock_however_they_are_dealt_out(self, make: Callable, tmp_path: Path) -> None:
        def meet(pair: object, me: int) -> int:
            (tmp_path / f"{pair} {me}").touch()
            while not (tmp_path / f"{pair} {1 - me}").exists():
                time.sleep(0.0005)
            return me

        with make(max_workers=2) as ex:
            for i in range(10):  # they are known to be quick
                assert [future.result(20) for future in [ex.submit(meet, f"early {i}", me) for me in range(2)]] == [0, 1]
            futures = [ex.submit(meet, i, me) for i in range(20) for me in range(2)]
            assert [future.result(40) for future in futures] == 20 * [0, 1]


class TestWhileItIsPickled:
    class Slow:
        entered = threading.Event()
        go = threading.Event()
        fail = False

        def __reduce__(self) -> tuple[Any, ...]:
            type(self).entered.set()
            assert type(self).go.wait(20)
            if type(self).fail:
                raise LookupError("stays here")
            return int, (5,)

    @pytest.mark.parametrize("fail", [False, True])
    def test_it_can_be_cancelled_and_the_queue_stays_in_order(self, make: Callable, fail: bool, tmp_path: Path) -> None:
        slow = type("Slow", (self.Slow,), {"entered": threading.Event(), "go": threading.Event(), "fail": fail})()
        file = str(tmp_path / "log")
        with make(max_workers=1) as ex:
            ex.submit(jobs.double, 1).result()
            future = ex.submit(jobs.log_and_return, file, slow)
            assert slow.entered.wait(20)
            behind = ex.submit(jobs.double, 2)
            assert future.cancel()
            slow.go.set()
            assert behind.result(20) == 4
            stats = ex.stats()
            assert (stats["queued"], stats["unfinished"], stats["cancelled"], stats["failed"]) == (0, 0, 1, 0)
        assert not Path(file).exists()

    def test_what_no_longer_fits_into_the_batch_can_be_cancelled_and_the_others_run_in_order(
        self, make: Callable, wire: Wire, tmp_path: Path
    ) -> None:
        class Large(self.Slow):
            def __reduce__(self) -> tuple[Any, ...]:
                super().__reduce__()
                return bytes, (b"x" * packing.ENOUGH,)

        large = type("Large", (Large,), {"entered": threading.Event(), "go": threading.Event()})()
        file = str(tmp_path / "log")
        with make(max_workers=1) as ex:
            view = ex.options(chunksize=10)
            view.submit(jobs.tell_and_hold, wire.path, "held")
            assert wire.hear() == "held"
            futures = [view.submit(jobs.log_and_size, file, i, large if i == 0 else b"") for i in range(6)]
            wire.release()
            assert large.entered.wait(PATIENCE)  # all are in one batch
            assert futures[2].cancel()
            large.go.set()
            sizes = [future.result(PATIENCE) for i, future in enumerate(futures) if i != 2]
        assert sizes == [packing.ENOUGH, 0, 0, 0, 0]
        assert jobs.lines(Path(file)) == ["0", "1", "3", "4", "5"]

    def test_a_submit_in_the_meantime_is_not_held_up(self, make: Callable) -> None:
        slow = type("Slow", (self.Slow,), {"entered": threading.Event(), "go": threading.Event()})()
        with make(max_workers=1) as ex:
            future = ex.submit(jobs.double, slow)
            assert slow.entered.wait(20)
            others = [ex.submit(jobs.double, i) for i in range(1000)]
            slow.go.set()
            assert future.result(20) == 10
            assert others[-1].result(20) == 1998


def test_a_running_task_sees_that_it_was_asked_to_cancel(make: Callable, wire: Wire) -> None:
    with make(max_workers=1) as ex:
        future = ex.submit(jobs.wait_until_cancelled, wire.path)
        wire.hear()
        assert not future.cancel()
        assert future.result(20) == "saw it"
        again = ex.submit(lambda: taskrun.current_task().cancelled)
        assert again.result() is False


@pytest.mark.parametrize("size", [0, 60_000])
def test_cancels_that_race_with_workers_leave_each_task_cancelled_or_run_exactly_once(
    make: Callable, tmp_path: Path, size: int
) -> None:
    file, ballast = str(tmp_path / "log"), bytes(size)  # with it few fit into a batch, and the others are given back
    with make() as ex:
        futures = [ex.submit(jobs.log_and_size, file, i, ballast) for i in range(1500)]
        said = {}

        def cancel_some(offset: int) -> None:
            for i in range(offset, 1500, 4):
                said[i] = futures[i].cancel()

        threads = [threading.Thread(target=cancel_some, args=(offset,)) for offset in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    runs = Counter(map(int, jobs.lines(Path(file))))
    assert set(runs.values()) <= {1}
    for i, future in enumerate(futures):
        assert future.cancelled() == (i not in runs) == said.get(i, False)


class TestTokens:
    """Who reads a token has the task."""

    @pytest.fixture
    def handle(self) -> Iterator[Handle]:
        handle = Handle(0)
        yield handle
        handle.close()

    @staticmethod
    def sent(handle: Handle, count: int) -> list[Any]:
        tasks = [SimpleNamespace(number=i) for i in range(count)]
        handle.flight.update(enumerate(tasks))
        handle.put_tokens(channel.tokens_of(0, count))
        handle.assigned = count
        return tasks

    def test_all_unclaimed_tasks_come_back_oldest_first_and_claimed_ones_stay(self, handle: Handle) -> None:
        tasks = self.sent(handle, 5)
        assert os.read(handle.tokens_out, 2 * channel.TOKEN) == channel.tokens_of(0, 2)  # as the worker does
        assert (handle.unclaimed(), handle.has_claimed(tasks[1]), handle.has_claimed(tasks[2])) == (3, True, False)
        assert handle.take_back() == tasks[2:]
        assert list(handle.flight.values()) == tasks[:2]
        assert (handle.assigned, handle.unclaimed(), handle.take_back()) == (2, 0, [])

    def test_one_task_comes_back_and_the_order_of_the_others_is_kept(self, handle: Handle) -> None:
        tasks = self.sent(handle, 5)
        handle.leave()
        assert handle.take_back_one(tasks[2])
        assert not handle.take_back_one(tasks[2])
        assert list(handle.flight.values()) == [*tasks[:2], *tasks[3:]]
        assert (handle.assigned, handle.unclaimed()) == (4, 4)
        assert os.read(handle.tokens_out, 99) == channel.tokens_of(0, 2) + channel.tokens_of(3, 2) + channel.LEAVE

    def test_the_order_to_leave_stays_when_all_tasks_are_taken_back(self, handle: Handle) -> None:
        tasks = self.sent(handle, 3)
        handle.leave()
        handle.leave()
        assert (handle.unclaimed(), handle.take_back()) == (3, tasks)
        assert (handle.unclaimed(), os.read(handle.tokens_out, 99)) == (0, channel.LEAVE)

    def test_two_takers_never_get_the_same_task(self, handle: Handle) -> None:
        tasks = self.sent(handle, channel.MAX_AHEAD)
        claimed: list[int] = []

        def claim() -> None:
            while True:
                last = done.is_set()  # before the look: what is in the other's hands at that moment comes back
                try:
                    claimed.append(channel.number_of(os.read(handle.tokens_out, channel.TOKEN)))
                except BlockingIOError:
                    if last:
                        return

        done = threading.Event()
        thread = threading.Thread(target=claim)
        thread.start()
        back = [tasks[i] for i in range(len(tasks) - 1, 0, -7) if handle.take_back_one(tasks[i])]
        done.set()
        thread.join()
        assert sorted([*claimed, *(task.number for task in back)]) == list(range(len(tasks)))

    @pytest.mark.parametrize(
        ("pace", "chunksize", "back"),
        [(0.01, None, 18), (0.004, None, 0), (0.01, 20, 0)],
        ids=["far too much", "a bit more", "as the user wanted"],
    )
    def test_what_was_sent_to_a_worker_goes_back_when_it_turns_out_to_be_far_too_much(
        self, handle: Handle, pace: float, chunksize: int | None, back: int
    ) -> None:
        fleet: Any = SimpleNamespace(returned=[])
        dispatcher: Any = SimpleNamespace(pace_slot={jobs.double: SimpleNamespace(seconds=pace, size=0)}.get)
        scheduler: Any = None
        tasks = self.sent(handle, 20)
        tasks[0].options, tasks[0].fn = SimpleNamespace(chunksize=chunksize), jobs.double
        os.read(handle.tokens_out, 2 * channel.TOKEN)  # the worker is at the second
        Reclaimer(fleet, dispatcher, threading.RLock(), scheduler).look_for_too_much([handle])
        assert fleet.returned == tasks[20 - back :]
        assert list(handle.flight.values()) == tasks[: 20 - back]

    def test_a_token_is_the_one_of_its_place_wherever_the_numbers_begin_and_no_other(self) -> None:
        size = channel.TOKEN
        for first in (0, 5, channel.TOKENS - 1, 7 * channel.TOKENS - channel.MAX_AHEAD // 2):
            tokens = channel.tokens_of(first, channel.MAX_AHEAD)
            each = [tokens[at : at + size] for at in range(0, len(tokens), size)]
            assert [channel.number_of(token) for token in each] == [
                number % channel.TOKENS for number in range(first, first + channel.MAX_AHEAD)
            ]
            assert channel.LEAVE not in tokens
            assert len({*each, *(channel.tokens_of(first + i) for i in range(channel.MAX_AHEAD))}) == channel.MAX_AHEAD
            for at in range(1, len(tokens) - 1, size):  # across two of them
                assert tokens[at : at + size] not in each
        assert channel.MAX_AHEAD < channel.TOKENS


def test_a_worker_that_may_keep_connections_of_a_task_taken_back_leaves() -> None:
    handle, task = Handle(0), cast("Task", object())
    try:
        for number, carrying in enumerate((False, True)):
            handle.flight = {number: task}
            handle.carrying = {number} if carrying else set()
            handle.put_tokens(channel.tokens_of(number))
            assert handle.take_back() == [task]
            assert handle.leaving is carrying
            assert handle._read_tokens() == (channel.LEAVE if carrying else b"")
    finally:
        handle.close()
