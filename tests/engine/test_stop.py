"""A timeout or `kill()` really stops the work, the right work, and all that it started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import jobs
import pytest
from patience import PATIENCE, eventually, gone, stopped

import taskrun
from taskrun.backends import fork
from taskrun.engine.handle import Handle
from taskrun.engine.notes import STACK_AT
from taskrun.engine.stopping import Stop

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from patience import Wire

BACKENDS = ("process", "pool")


@pytest.fixture
def make(make: Callable[..., taskrun.Executor]) -> Callable[..., taskrun.Executor]:
    """Make executors whose workers have imported `jobs` before their first task, whose time it would cost."""
    return lambda **options: make(**{"initializer": jobs.pid, **options})


class TestTimeout:
    def test_it_fails_with_the_stack_and_the_worker_is_replaced(self, make: Callable) -> None:
        with make(max_workers=1, timeout=0.3) as ex:
            before = ex.submit(jobs.pid).result()
            error = ex.submit(jobs.tell_and_hold, os.devnull[:-4] + "nowhere").exception()
            assert isinstance(error, FileNotFoundError)
            error = ex.submit(time.sleep, 60).exception()
            assert isinstance(error, taskrun.TaskTimeoutError)
            assert (error.limit, error.task, error.attempt, error.soft) == (0.3, "sleep", 1, False)
            assert 0.3 <= error.elapsed < 5
            assert gone(before)
            assert ex.submit(jobs.pid).result() != before

    def test_the_stack_shows_the_task_and_not_the_engine(self, make: Callable, wire: Wire) -> None:
        with make(timeout=1.5) as ex:  # by then it runs, however busy the machine is
            error = ex.submit(jobs.tell_and_hold, wire.path).exception()
        assert isinstance(error, taskrun.TaskTimeoutError)
        assert "in hold" in error.stack
        assert "worker.py" not in error.stack
        assert error.stack in str(error)

    @pytest.mark.parametrize("then", ["hold", "exit when asked"])
    def test_processes_that_the_task_started_end_with_it(self, make: Callable, wire: Wire, then: str) -> None:
        with make() as ex:
            future = ex.options(timeout=2.0).submit(jobs.start_helper, wire.path, then)  # to start Python takes its time
            helper = int(wire.hear())
            assert isinstance(future.exception(), taskrun.TaskTimeoutError)
            assert gone(helper)

    def test_processes_of_a_crashed_task_end_with_it(self, make: Callable, wire: Wire) -> None:
        with make() as ex:
            future = ex.submit(jobs.start_helper, wire.path, "exit badly")
            assert gone(int(wire.hear()))
            assert isinstance(future.exception(), taskrun.WorkerCrashedError)

    def test_a_task_that_ignores_sigterm_is_killed(self, make: Callable, wire: Wire) -> None:
        with make() as ex:
            future = ex.options(timeout=0.3).submit(jobs.ignore_and_hold, wire.path)
            worker = int(wire.hear())
            assert isinstance(future.exception(), taskrun.TaskTimeoutError)
            assert gone(worker)

    def test_a_task_that_answers_sigterm_with_an_exception_has_that_as_outcome_once(self, make: Callable) -> None:
        def leave_when_asked() -> None:
            signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit("asked")))
            threading.Event().wait(60)

        with make(max_workers=1) as ex:
            future = ex.options(timeout=0.3).submit(leave_when_asked)
            assert isinstance(future.exception(), (SystemExit, taskrun.TaskTimeoutError))
            assert ex.submit(jobs.double, 1).result() == 2

    def test_the_time_of_a_task_starts_when_it_is_taken_up_not_when_it_is_queued(self, make: Callable) -> None:
        with make(max_workers=1) as ex:
            futures = [ex.options(timeout=0.4).submit(time.sleep, 0.1) for _ in range(7)]
            assert [future.exception() for future in futures] == [None] * 7

    def test_a_neighbour_that_waits_behind_the_stopped_task_runs_elsewhere(self, make: Callable, wire: Wire) -> None:
        def hold_if(path: str | None) -> str:
            if path:
                jobs.tell_and_hold(path)
            return "done"

        ex = make(max_workers=1)
        for _ in range(20):
            ex.submit(hold_if, None).result()
        slow = ex.options(timeout=0.4).submit(hold_if, wire.path)
        behind = [ex.submit(hold_if, None) for _ in range(5)]
        wire.hear()
        assert isinstance(slow.exception(), taskrun.TaskTimeoutError)
        assert [future.result() for future in behind] == ["done"] * 5

    def test_a_result_that_comes_at_the_last_moment_is_that_result_or_a_timeout_and_hurts_no_other(
        self, make: Callable
    ) -> None:
        with make() as ex:
            futures = [ex.options(timeout=0.02).submit(time.sleep, 0.02 + (i - 10) / 2000) for i in range(20)]
            for future in futures:
                error = future.exception()
                assert error is None or isinstance(error, taskrun.TaskTimeoutError)
            assert ex.submit(jobs.double, 3).result() == 6

    def test_a_retry_after_a_timeout_has_its_full_time_again(self, make: Callable) -> None:
        def slow_at_first() -> int:
            if jobs.attempt() == 1:
                time.sleep(60)
            time.sleep(0.05)
            return jobs.attempt()

        with make(max_workers=1) as ex:
            retry = taskrun.Retry(max_attempts=2, wait="none", on_timeout=True)
            assert ex.options(timeout=1.5, retry=retry).submit(slow_at_first).result() == 2


class TestStoppedWorker:
    def test_it_blocks_no_submit_whatever_the_size_and_does_not_escape_its_timeout(self, make: Callable, wire: Wire) -> None:
        ex = make(max_workers=1, timeout=0.3)
        worker = ex.submit(jobs.pid).result()
        stopped(worker)
        began = time.monotonic()
        futures = [ex.submit(len, bytes(1 << 20)) for _ in range(8)]
        submitted = time.monotonic() - began
        first = futures[0].exception(20)
        assert first is None or isinstance(first, taskrun.TaskTimeoutError)  # on a busy machine its replacement may come late
        assert [future.result(20) for future in futures[1:]] == [1 << 20] * 7
        assert gone(worker)
        assert submitted < 2

    def test_its_running_task_does_not_escape_either(self, make: Callable, wire: Wire) -> None:
        with make(max_workers=1) as ex:
            future = ex.options(timeout=0.4).submit(jobs.tell_and_hold, wire.path)
            worker = int(wire.hear())
            stopped(worker)
            assert isinstance(future.exception(20), taskrun.TaskTimeoutError)
            assert gone(worker)

    def test_what_it_has_not_taken_up_runs_elsewhere(self, make: Callable) -> None:
        ex = make(max_workers=2)
        worker = ex.submit(jobs.pid).result()
        stopped(worker)
        pids = {ex.submit(jobs.pid).result(20) for _ in range(20)}
        pids |= set(ex.map(jobs.pid, range(200)))
        assert worker not in pids
        with contextlib.suppress(ProcessLookupError):  # on the pool backend it was killed
            os.kill(worker, signal.SIGCONT)
        ex.shutdown()

    @pytest.mark.parametrize("make", ["process"], indirect=True)  # on the pool backend it was killed
    def test_it_is_used_again_once_it_goes_on_and_is_needed(self, make: Callable, wire: Wire) -> None:
        ex = make(max_workers=2)
        worker = ex.submit(jobs.pid).result()
        stopped(worker)
        assert ex.submit(jobs.pid).result(20) != worker
        other = ex.submit(jobs.tell_and_hold, wire.path)
        wire.hear()
        os.kill(worker, signal.SIGCONT)
        assert ex.submit(jobs.pid).result(20) == worker  # nobody else is there
        wire.release()
        assert other.result() != worker


class TestKill:
    def test_a_running_task_fails_as_killed_and_the_next_runs(self, make: Callable, wire: Wire) -> None:
        with make(max_workers=1) as ex:
            future = ex.submit(jobs.tell_and_hold, wire.path)
            worker = int(wire.hear())
            assert future.kill()
            error = future.exception(20)
            assert isinstance(error, taskrun.TaskKilledError)
            assert (future.cancelled(), future.kill(), error.attempt) == (False, False, 1)
            assert gone(worker)
            assert ex.submit(jobs.double, 2).result() == 4

    def test_kill_of_a_pending_task_is_cancel(self, make: Callable, wire: Wire) -> None:
        ex = make(max_workers=1)
        ex.submit(jobs.tell_and_hold, wire.path)
        wire.hear()
        waiting = ex.submit(jobs.double, 1)
        assert waiting.kill()
        assert waiting.cancelled()

    def test_many_kills_at_any_moment_leave_each_future_with_one_outcome(self, make: Callable) -> None:
        with make() as ex:
            futures = [ex.submit(time.sleep, 0.002) for _ in range(60)]
            killed = []
            for future in futures[::3]:
                eventually(lambda f=future: f.running() or f.done())
                killed.append(future.kill())
            assert ex.submit(jobs.double, 2).result() == 4
        for future in futures:
            assert future.done()
            if not future.cancelled():
                error = future.exception()
                assert error is None or (isinstance(error, taskrun.TaskKilledError) and future in futures[::3])

    def test_idle_workers_that_do_not_heed_it_are_killed(self, make: Callable) -> None:
        def ignore() -> int:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            return os.getpid()

        ex = make(max_workers=1)
        worker = ex.submit(ignore).result(PATIENCE)
        ex.terminate_workers()
        assert gone(worker)

    @pytest.mark.parametrize("method", ["terminate_workers", "kill_workers"])
    def test_stopping_all_workers_settles_everything_at_once(self, make: Callable, wire: Wire, method: str) -> None:
        ex = make()
        running = [ex.submit(jobs.tell_and_hold, wire.path) for _ in range(2)]
        workers = {int(wire.hear()), int(wire.hear())}
        waiting = [ex.submit(jobs.double, i) for i in range(10)]
        getattr(ex, method)()
        assert {type(future.exception()) for future in running} == {taskrun.TaskKilledError}
        assert all(future.cancelled() for future in waiting)
        assert len(workers) == 2
        assert all(gone(worker) for worker in workers)

    def test_a_task_that_ignores_sigterm_ends_when_all_are_terminated(self, make: Callable, wire: Wire) -> None:
        ex = make()
        future = ex.submit(jobs.ignore_and_hold, wire.path)
        worker = int(wire.hear())
        ex.terminate_workers()
        assert isinstance(future.exception(), taskrun.TaskKilledError)
        assert gone(worker)


class TestSoftTimeout:
    def test_it_is_raised_in_the_task_which_may_answer_it(self, make: Callable) -> None:
        def tidy_up() -> str:
            try:
                time.sleep(60)
            except taskrun.TaskTimeoutError as error:
                return f"tidy, soft={error.soft}"
            return "late"

        with make(max_workers=1) as ex:
            before = ex.submit(jobs.pid).result()
            assert ex.options(soft_timeout=0.05).submit(tidy_up).result() == "tidy, soft=True"
            error = ex.options(soft_timeout=0.05).submit(time.sleep, 60).exception()
            assert isinstance(error, taskrun.TaskTimeoutError)
            assert error.soft
            assert ex.submit(jobs.pid).result() == before

    @pytest.mark.parametrize("limit", [0.0001, 0.001, 0.005, 0.02, 0.05])
    def test_it_strikes_coroutines_at_any_moment_and_the_next_one_has_a_sound_loop(self, make: Callable, limit: float) -> None:
        with make(max_workers=1) as ex:  # the first coroutine: before it begins asyncio is imported and a loop is made
            for _ in range(3):
                error = ex.options(soft_timeout=limit).submit(jobs.sleep_then, 60, 1).exception()
                assert isinstance(error, taskrun.TaskTimeoutError)
                assert ex.submit(jobs.sleep_then, 0.001, 7).result() == 7
                assert ex.submit(asyncio.sleep, 0, 8).result() == 8

    def test_a_coroutine_that_does_not_await_is_struck_all_the_same(self, make: Callable) -> None:
        with make(max_workers=1) as ex:
            error = ex.options(soft_timeout=0.05).submit(jobs.block_in_a_coroutine, 60).exception()
            assert isinstance(error, taskrun.TaskTimeoutError)
            assert ex.submit(jobs.sleep_then, 0.001, 7).result() == 7

    def test_no_alarm_is_left_for_the_next_task(self, make: Callable) -> None:
        with make(max_workers=1) as ex:
            assert ex.options(soft_timeout=0.05).submit(jobs.double, 2).result() == 4
            assert ex.submit(signal.getitimer, signal.ITIMER_REAL).result() == (0.0, 0.0)
            assert ex.submit(signal.getsignal, signal.SIGALRM).result() == signal.SIG_DFL
            assert ex.submit(time.sleep, 0.1).exception() is None


class TestSteps:
    """The order of events in a stop, without a clock."""

    def test_it_asks_after_the_stack_and_kills_later(self) -> None:
        handle, sent = Handle(0), []
        try:
            stop = Stop(None, TimeoutError(), "timeout", 10.0, patience=0.05)
            assert 10.0 < stop.step(handle, 10.0, lambda _, number: sent.append(number)) <= 10.05
            os.pwrite(handle.notes, b"stack", STACK_AT)
            assert stop.step(handle, 10.001, lambda _, number: sent.append(number)) <= 10.01
            assert sent == []
            later = stop.step(handle, 10.02, lambda _, number: sent.append(number))
            assert sent == [signal.SIGTERM]
            gone_by = stop.step(handle, later, lambda _, number: sent.append(number))
            assert gone_by > later
            assert sent == [signal.SIGTERM, signal.SIGKILL]
            assert stop.step(handle, later + 9, lambda _, number: sent.append(number)) is None
            assert len(sent) == 2
        finally:
            handle.close()

    def test_a_stack_of_an_earlier_task_is_not_taken_for_that_of_a_later_one(self) -> None:
        handle = Handle(0)
        try:
            os.pwrite(handle.notes, b"old stack\n", STACK_AT)
            assert (handle.has_stack(), handle.stack()) == (True, "old stack")
            handle.forget_stack()
            assert (handle.has_stack(), handle.stack()) == (False, None)
            os.pwrite(handle.notes, b"new stack\n", STACK_AT + 10)
            assert handle.stack() == "new stack"
        finally:
            handle.close()


def test_a_child_that_has_answered_and_does_not_end_gives_its_slot_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of its task goes on: without a limit it is waited for, as at the end of any program."""
    monkeypatch.setattr(fork, "_LINGER", 0.5)
    with taskrun.Executor("fork", max_workers=1) as ex:
        lingering = ex.options(timeout=0.3).submit(leave_a_thread)
        assert lingering.result(PATIENCE) == "left"
        assert ex.submit(abs, -1).result(PATIENCE) == 1


def leave_a_thread() -> str:
    threading.Thread(target=time.sleep, args=(10 * PATIENCE,)).start()
    return "left"


def test_the_limit_of_a_task_does_not_strike_what_comes_after_its_answer(tmp_path: Path) -> None:
    """Of a child: its finalizer goes on past the limit of the task, and a queue that it flushes arrives whole."""
    finalized = tmp_path / "finalized"

    def finalize() -> None:
        time.sleep(1.0)
        finalized.touch()

    with taskrun.Executor("fork", max_workers=1, finalizer=finalize) as ex:
        queue = ex.context.Queue()
        assert ex.options(timeout=0.8).submit(fill, queue).result(PATIENCE) == "put"
        time.sleep(1.0)  # nobody reads meanwhile, so that the child cannot end
        assert [len(queue.get(timeout=PATIENCE)) for _ in range(4)] == [1 << 20] * 4
        queue.close()
    assert finalized.exists()


def fill(queue: Any) -> str:
    for _ in range(4):
        queue.put(bytes(1 << 20))
    return "put"
