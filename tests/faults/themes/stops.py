"""Line 4: time limits and kills, against tasks that do not want to go. They are gone, and no neighbour is hurt."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

import acts
from patience import PATIENCE, gone, stopped
from table import CONCURRENT, PROCESSES, THREADS, fault

import taskrun

if TYPE_CHECKING:
    from collections.abc import Callable

    from case import Case, Run

STUBBORN = (acts.sleep_on, acts.spin, acts.hold_the_gil, acts.ignore_sigterm, acts.swallow, acts.stop_self, acts.with_child)


def pids(log: str) -> list[int]:
    return [int(line) for line in acts.lines(log)]


@fault("process", "pool", "fork", soak=PROCESSES)
def their_time_is_up(case: Case) -> None:
    """Whatever a task does when its time is up: it is gone, with its children, and its error shows where it was."""
    written: list[bool] = []
    limit = 1.0 if case.full else 0.5
    with case.executor(workers=4) as run:
        logs = {fn: case.log(fn.__name__) for fn in STUBBORN}
        futures = {fn: run.submit(fn, logs[fn], timeout=limit) for fn in STUBBORN}
        run.innocents(6)
        for fn, future in futures.items():
            error = future.exception(2 * PATIENCE)
            assert isinstance(error, taskrun.TaskTimeoutError), (fn, error)
            assert error.limit == limit
            assert all(gone(pid) for pid in pids(logs[fn]))
            if error.stack is not None and pids(logs[fn]):
                written.append(fn.__name__ in error.stack)
        run.innocents(4)
    assert any(written)  # of a busy machine one does not get them all in time


@fault("process", "pool", "fork", soak=PROCESSES)
def they_are_killed(case: Case) -> None:
    """One by one, by their futures."""
    with case.executor(workers=4) as run:
        for fn in STUBBORN:
            log = case.log(fn.__name__)
            future = run.submit(fn, log)
            run.innocents(1)
            assert acts.until(lambda log=log, fn=fn: len(pids(log)) == 1 + (fn is acts.with_child))
            assert future.kill()
            error = future.exception(PATIENCE)
            assert isinstance(error, taskrun.TaskKilledError), (fn, error)
            assert not future.cancelled()
            assert all(gone(pid) for pid in pids(log))


def all_at_once(case: Case, end: Callable[[Run], None], *, limit: float = PATIENCE) -> None:
    """Have tasks that do not want to go, and others behind them, when *end* ends the executor."""
    kinds = (acts.sleep_on, acts.ignore_sigterm, acts.stop_self, acts.with_child)
    with case.executor(workers=len(kinds), whole=False) as run:
        logs = {fn: case.log(f"{fn.__name__}-{end.__name__}") for fn in kinds}
        running = [run.submit(fn, logs[fn]) for fn in kinds]
        assert acts.until(lambda: all(pids(log) for log in logs.values()) and len(pids(logs[acts.with_child])) == 2)
        waiting = [run.submit(acts.give_back, i) for i in range(20)]
        end(run)
        for future in running:
            assert isinstance(future.exception(limit), taskrun.TaskKilledError), future
        assert all(future.cancelled() for future in waiting)
        assert all(gone(pid) for log in logs.values() for pid in pids(log))


def terminate(run: Run) -> None:
    run.ex.terminate_workers()


def kill(run: Run) -> None:
    run.ex.kill_workers()


def leave_by_ctrl_c(run: Run) -> None:
    try:
        with run.ex:
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass


@fault("process", "pool", "fork", soak=PROCESSES)
def all_are_stopped_at_once(case: Case) -> None:
    """By the executor's two methods, and by Ctrl-C in its block."""
    for end in (terminate, kill, leave_by_ctrl_c):
        all_at_once(case, end)


@fault("process", "pool", "fork", soak=PROCESSES)
def time_runs_out_at_the_very_end_of_tasks(case: Case) -> None:
    """Each has its result or its time was up; the task that the worker took up next is never hit in its place."""
    limit = 0.05
    with case.executor() as run:
        for i in range(case.count(16, 300)):
            future = run.submit(time.sleep, limit + (i % 16 - 8) / 2000, timeout=limit)
            run.innocents(2)
            run.futures.append(future)
        for future in run.futures:
            error = future.exception(PATIENCE)
            assert error is None or isinstance(error, taskrun.TaskTimeoutError), error


@fault("process", "pool", "fork", soak=PROCESSES)
def tasks_are_killed_at_any_moment(case: Case) -> None:
    """Queued, on their way, running, over: each has the outcome that `kill` said, and nobody else pays."""
    killed: list[bool] = []
    with case.executor(workers=3) as run:
        for i in range(case.count(30, 600)):
            future = run.submit(time.sleep, 0.003)
            run.innocents(1)
            if i % 3 == 0:
                acts.until(lambda future=future: future.running() or future.done())
            killed.append(future.kill())
        for future, dead in zip(run.futures, killed, strict=True):
            error = None if future.cancelled() else future.exception(PATIENCE)
            assert future.cancelled() or isinstance(error, taskrun.TaskKilledError) if dead else error is None, (dead, future)


@fault("process", "pool", "fork", soak=PROCESSES)
def a_retry_follows_a_timeout(case: Case) -> None:
    """Where the policy says so; with its whole time again."""
    retry = taskrun.Retry(max_attempts=2, wait="none", on_timeout=True)
    with case.executor(retry=retry) as run:
        future = run.submit(acts.slow_at_first, timeout=2.0)
        run.innocents(4)
        assert future.result(PATIENCE) == 2
        assert [type(attempt.error) for attempt in future.attempts] == [taskrun.TaskTimeoutError, type(None)]


# -- threads: nobody can stop them, but their future fails on time and their slot is given to another --------------------------


def until_let_go(gate: str) -> bool:
    """Wait until there is such a file, and tell whether one was asked to cancel meanwhile."""
    task = taskrun.current_task()
    assert task is not None
    while not os.path.exists(gate):
        time.sleep(0.005)
        if task.cancelled:
            return True
    return task.cancelled


@fault(*THREADS)
def threads_go_on(case: Case) -> None:
    """Time limits, kills: the future fails on time, capacity is restored, a cooperative task learns of it."""
    gate = case.log("gate")
    try:
        with case.executor() as run:
            late = [run.submit(until_let_go, gate, timeout=0.1) for _ in range(2)]
            for future in late:
                assert isinstance(future.exception(PATIENCE), taskrun.TaskTimeoutError)
            killed = [run.submit(until_let_go, gate) for _ in range(2)]
            assert acts.until(lambda: all(future.running() for future in killed))
            assert all(future.kill() for future in killed)
            assert all(isinstance(future.exception(PATIENCE), taskrun.TaskKilledError) for future in killed)
            run.innocents(4)
            asked = run.submit(until_let_go, gate)
            assert acts.until(asked.running)
            assert not asked.cancel()
            assert asked.result(PATIENCE) is True
    finally:
        acts.write(gate, 0)


# -- cancellation by asyncio, on every backend --------------------------------------------------------------------------------


def until_asked() -> str:
    task = taskrun.current_task()
    assert task is not None
    return "asked" if acts.until(lambda: task.cancelled) else "not asked"


@fault("process", "pool", "fork", "thread", "dummy", "asyncio", soak=CONCURRENT)
def asyncio_cancels(case: Case) -> None:
    """A queued task as by `cancel()`; a running one learns of it. The executor goes on."""

    async def main(run: Run) -> None:
        running = run.submit(until_asked)
        queued = run.submit(acts.innocent, case.log("never"), 1)
        assert await asyncio.to_thread(acts.until, running.running)
        waiters = [asyncio.ensure_future(wait_for(future)) for future in (queued, running)]
        await asyncio.sleep(0.01)
        for waiter in waiters:
            waiter.cancel()
        for outcome in await asyncio.gather(*waiters, return_exceptions=True):
            assert isinstance(outcome, asyncio.CancelledError)
        assert queued.cancelled()
        assert await asyncio.to_thread(running.result, PATIENCE) == "asked"

    with case.executor(workers=1) as run:
        asyncio.run(main(run))
        run.innocents(3)
    assert not os.path.exists(case.log("never"))


async def wait_for(future: taskrun.Future[Any]) -> Any:
    return await future


@fault("process", "pool", soak=PROCESSES[:-1])
def stopped_workers_are_asked_for_more(case: Case) -> None:
    """SIGSTOP to one idle worker, or to all: what they were sent runs elsewhere, on as many workers as there were."""
    with case.executor() as run:
        for turn in range(case.count(2, 10)):
            workers = {future.result(PATIENCE) for future in [run.submit(acts.pid) for _ in range(8)]}
            for worker in list(workers)[: 1 if turn % 2 else None]:
                stopped(worker)
            for future in run.innocents(6):
                future.result(PATIENCE)
            meeting = case.log(f"meeting{turn}")
            os.mkdir(meeting)
            both = [run.submit(acts.meet, meeting, number, 2, PATIENCE) for number in range(2)]
            assert [future.result(PATIENCE) for future in both] == [2, 2]


@fault("process", "pool", soak=PROCESSES[:-1])
def workers_that_are_stopped_are_to_end(case: Case) -> None:
    """Nothing of theirs is waited for."""
    with case.executor() as run:
        for worker in {future.result(PATIENCE) for future in [run.submit(acts.pid) for _ in range(8)]}:
            stopped(worker)
