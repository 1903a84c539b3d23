"""A worker that dies fails the task it ran, and nothing else."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import jobs
import pytest
from patience import PATIENCE, eventually, gone

import taskrun
from taskrun.engine import channel

if TYPE_CHECKING:
    from collections.abc import Callable

    from patience import Wire

BACKENDS = ("process", "pool")


def test_suicides_among_many_tasks_fail_alone_and_nothing_is_lost_or_run_twice(make: Callable, tmp_path: Path) -> None:
    file = str(tmp_path / "log")
    deadly = set(random.Random(5).sample(range(600), 30))
    with make() as ex:
        futures = [ex.submit(jobs.die_if, i in deadly, file, i) for i in range(600)]
    for i, future in enumerate(futures):
        if i in deadly:
            error = future.exception()
            assert isinstance(error, taskrun.WorkerCrashedError)
            assert (error.signal, error.task) == (signal.SIGKILL, "die_if")
            assert error.pid is not None
        else:
            assert future.result() == i
    runs = Counter(jobs.lines(Path(file)))
    assert len(runs) == 600
    assert set(runs.values()) == {1}


def test_workers_killed_at_random_from_outside_cost_at_most_the_task_each_ran(make: Callable, tmp_path: Path) -> None:
    file, reports = str(tmp_path / "log"), Counter()
    dice = random.Random(7)
    killed = set()
    with make() as ex:
        futures = [ex.submit(jobs.log_and_return, file, i) for i in range(600)]
        for i, future in enumerate(futures):
            future.add_done_callback(lambda _, i=i: reports.update([i]))
        while not all(future.done() for future in futures):
            workers = [int(label.split()[1]) for label in ex.stats()["workers"]]
            if workers and len(killed) < 30:
                victim = dice.choice(workers)
                killed.add(victim)
                try:
                    os.kill(victim, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                assert gone(victim)
            else:
                taskrun.wait(futures, return_when="FIRST_EXCEPTION", timeout=0.01)
    failed = [i for i, future in enumerate(futures) if future.exception() is not None]
    assert {type(futures[i].exception()) for i in failed} <= {taskrun.WorkerCrashedError}
    assert {futures[i].exception().pid for i in failed} <= killed
    assert len(failed) <= len(killed)
    assert all(future.result() == i for i, future in enumerate(futures) if i not in set(failed))
    assert reports == dict.fromkeys(range(600), 1)
    assert max(Counter(jobs.lines(Path(file))).values()) == 1


def test_a_worker_killed_while_idle_costs_nothing(make: Callable) -> None:
    with make(max_workers=1) as ex:
        first = ex.submit(jobs.pid).result()
        os.kill(first, signal.SIGKILL)
        second = ex.submit(jobs.pid)
        # It may have been sent to the dying one; it had not begun there.
        assert second.result() != first
        assert len(second.attempts) == 1


def test_tasks_sent_to_a_worker_that_dies_before_them_run_elsewhere_without_blame(
    make: Callable, wire: Wire, tmp_path: Path
) -> None:
    file = str(tmp_path / "log")

    def hold_or_log(i: int, path: str | None = None) -> int:
        if path:
            jobs.tell_and_hold(path)
        jobs.log(file, i)
        return i

    with make(max_workers=1) as ex:
        for i in range(20):  # it is believed to be quick, so that more is sent ahead
            ex.submit(hold_or_log, -i).result()
        blocked = ex.submit(hold_or_log, 100, wire.path)
        rest = [ex.submit(hold_or_log, i) for i in range(1, 9)]
        os.kill(int(wire.hear()), signal.SIGKILL)
        assert isinstance(blocked.exception(), taskrun.WorkerCrashedError)
        assert [future.result() for future in rest] == list(range(1, 9))
    assert all(len(future.attempts) == 1 for future in rest)
    assert Counter(jobs.lines(Path(file)))["5"] == 1


@pytest.mark.parametrize("code", [0, 3])
def test_an_exit_in_a_task_is_a_crash_with_its_code(make: Callable, code: int) -> None:
    with make(max_workers=1) as ex:
        error = ex.submit(jobs.exit_at_once, code).exception()
        assert isinstance(error, taskrun.WorkerCrashedError)
        assert (error.exitcode, error.signal, error.oom, error.attempt) == (code, None, False, 1)
        assert "os._exit" in str(error)
        assert ex.submit(jobs.double, 4).result() == 8


@pytest.mark.parametrize("error", [SystemExit(5), KeyboardInterrupt("stop"), GeneratorExit()])
def test_base_exceptions_are_outcomes_and_the_worker_lives_on(make: Callable, error: BaseException) -> None:
    with make(max_workers=1) as ex:
        before = ex.submit(jobs.pid).result()
        outcome = ex.submit(jobs.raise_error, error).exception()
        assert type(outcome) is type(error)
        assert outcome.args == error.args
        assert ex.submit(jobs.pid).result() == before


def test_ctrl_c_sent_to_the_worker_is_an_outcome_while_a_task_runs_and_nothing_while_idle(make: Callable) -> None:
    with make(max_workers=1) as ex:
        worker = ex.submit(jobs.pid).result()
        os.kill(worker, signal.SIGINT)
        assert ex.submit(jobs.pid).result() == worker
        assert isinstance(ex.submit(jobs.kill_self, signal.SIGINT).exception(), KeyboardInterrupt)
        assert ex.submit(jobs.pid).result() == worker


def test_a_fatal_signal_leaves_the_python_stack(make: Callable) -> None:
    with make(max_workers=1) as ex:
        error = ex.submit(jobs.crash_in_c).exception()
    assert isinstance(error, taskrun.WorkerCrashedError)
    assert error.signal == signal.SIGSEGV
    assert "crash_in_c" in error.stack
    assert "SIGSEGV" in str(error)


def test_a_task_that_closes_every_descriptor_fails_alone(make: Callable, capfd: pytest.CaptureFixture[str]) -> None:
    with make() as ex:
        assert isinstance(ex.submit(jobs.close_every_descriptor).exception(), taskrun.WorkerCrashedError)
        assert list(ex.map(jobs.double, range(5))) == [0, 2, 4, 6, 8]
    assert "Bad file descriptor" in capfd.readouterr().err  # the worker says why it ends


def test_a_task_that_closes_the_line_of_its_worker_costs_no_other_task(
    make: Callable, wire: Wire, capfd: pytest.CaptureFixture[str]
) -> None:
    with make(max_workers=1) as ex:
        together = ex.options(chunksize=20)
        together.submit(jobs.tell_and_hold, wire.path)
        wire.hear()
        futures = [together.submit(jobs.close_sockets_if, i == 5, i) for i in range(20)]
        wire.release()
        errors = [future.exception(PATIENCE) for future in futures]
        assert isinstance(errors[5], taskrun.WorkerCrashedError)
        assert [error for error in errors if error] == errors[5:6]
    assert "Bad file descriptor" in capfd.readouterr().err


@pytest.mark.parametrize("make", ["process"], indirect=True)
def test_what_was_answered_before_a_task_wrote_nonsense_counts(make: Callable, wire: Wire) -> None:
    with make(max_workers=1) as ex:
        together = ex.options(chunksize=20)
        together.submit(jobs.tell_and_hold, wire.path)
        wire.hear()
        futures = [together.submit(jobs.write_nonsense_if, i == 15, 2000) for i in range(20)]  # too large for the outbox
        wire.release()
        errors = [future.exception(PATIENCE) for future in futures]
        assert isinstance(errors[15], taskrun.WorkerCrashedError)
        assert [error for error in errors if error] == errors[15:16]


def test_frames_that_came_with_nonsense_are_read_first() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader = channel.FrameReader(ours, channel.REPLY)
        frame = channel.REPLY.pack(4, channel.DONE, 7, 0.0, 0.0, 0.0, 0) + b"data"
        theirs.sendall(2 * frame + b"\xff" * 100)
        assert [payload for _, payload in reader.read()] == [b"data", b"data"]
        assert not reader.drained
        with pytest.raises(ValueError, match="no frame"):
            reader.read()


def test_an_answer_cut_off_in_the_middle_is_a_crash(make: Callable) -> None:
    with make(max_workers=1) as ex:
        assert isinstance(ex.submit(jobs.end_in_mid_answer).exception(), taskrun.WorkerCrashedError)
        assert ex.submit(jobs.double, 1).result() == 2


@pytest.mark.parametrize("job", [jobs.fork_and_return, jobs.fork_and_raise])
def test_a_child_that_comes_back_from_the_task_answers_nothing_and_ends(make: Callable, job: Callable) -> None:
    with make(max_workers=1) as ex:
        assert ex.submit(job).result() == "parent"
        worker = ex.submit(jobs.pid).result()
        children = Path(f"/proc/{worker}/task/{worker}/children")
        # It is a zombie at most: its parent, the task, did not wait for it.
        assert eventually(lambda: all("Z" in Path(f"/proc/{pid}/stat").read_text() for pid in children.read_text().split()))
        assert ex.submit(jobs.pid).result() == worker


class TestRetryAfterACrash:
    def test_it_runs_again_on_a_fresh_worker(self, make: Callable) -> None:
        with make() as ex:
            old = ex.submit(jobs.pid).result()
            retrying = ex.options(retry=taskrun.Retry(max_attempts=2, wait="none"))
            future = retrying.submit(jobs.die_at_first_attempt)
            number, worker = future.result()
        assert (number, worker != old) == (2, True)
        assert [type(attempt.error).__name__ for attempt in future.attempts] == ["WorkerCrashedError", "NoneType"]

    def test_without_a_policy_it_does_not(self, make: Callable) -> None:
        with make() as ex, pytest.raises(taskrun.WorkerCrashedError):
            ex.submit(jobs.die_at_first_attempt).result()

    def test_a_busy_queue_does_not_starve_it(self, make: Callable) -> None:
        with make() as ex:
            retry = taskrun.Retry(max_attempts=2, wait="fixed", initial=0.1, jitter=False)
            crasher = ex.options(retry=retry, priority=1).submit(jobs.die_at_first_attempt)
            others = [ex.submit(jobs.double, 0)]

            def more(_: object) -> None:  # as long as it has not run again, there is always something else to do
                if not crasher.done():
                    others.extend(ex.submit(jobs.double, 1) for _ in range(30))
                    others[-1].add_done_callback(more)

            others[0].add_done_callback(more)
            assert crasher.result(20)[0] == 2

    def test_it_can_be_cancelled_while_it_waits_for_a_fresh_worker(self, make: Callable, wire: Wire, tmp_path: Path) -> None:
        file = tmp_path / "log"

        def crash_then_log() -> None:
            if jobs.attempt() == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            jobs.log(str(file), "ran")

        count = tmp_path / "count"
        ex = make(max_workers=1, initializer=jobs.hold_third, initargs=(str(count), wire.path))
        crasher = ex.options(retry=taskrun.Retry(max_attempts=2, wait="fixed", initial=0.1)).submit(crash_then_log)
        assert eventually(lambda: len(crasher.attempts) == 1)
        ex.submit(jobs.double, 1).result()  # the fresh worker has been used, so another one has to start
        wire.hear()
        assert ex.stats()["queued"] == 0  # pulled: it waits among the suspects
        assert crasher.cancel()
        wire.release()
        assert ex.submit(jobs.double, 2).result() == 4
        assert not file.exists()


def test_what_does_not_pickle_or_unpickle_is_told_once(make: Callable) -> None:
    with make(max_workers=1) as ex:
        for future, cause in (
            (ex.submit(id, threading.Lock()), TypeError),
            (ex.submit(jobs.make_unloadable, "raise"), LookupError),
        ):
            error = future.exception()
            assert isinstance(error, taskrun.SerializationError)
            assert isinstance(error.__cause__, cause)
            assert error.__cause__.__context__ is None
        assert ex.submit(jobs.double, 2).result() == 4
