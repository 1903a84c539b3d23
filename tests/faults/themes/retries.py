"""Line 7: retries. A back-off holds no worker, can be cancelled, and ends with the executor."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

import acts
from patience import PATIENCE
from table import CONCURRENT, EVERY, PROCESSES, fault

import taskrun

if TYPE_CHECKING:
    from case import Case, Run

LONG = taskrun.Retry(max_attempts=2, on=OSError, wait="fixed", initial=60, max_wait=60, jitter=False)
EACH = ("process", "pool", "fork", "thread", "dummy", "asyncio")


def fail(*_: object) -> None:
    raise OSError("not yet")


def in_backoff(run: Run, count: int) -> list[taskrun.Future[None]]:
    """Submit tasks that have failed once and wait for a minute."""
    futures = [run.submit(fail, retry=LONG) for _ in range(count)]
    assert acts.until(lambda: run.ex.stats()["retried"] == count)
    return futures


@fault(*EACH, soak=CONCURRENT)
def a_backoff_holds_no_worker_and_can_be_cancelled(case: Case) -> None:
    """Many wait, one worker is enough for the others."""
    with case.executor(workers=1) as run:
        waiting = in_backoff(run, 10)
        for future in run.innocents(5):
            future.result(PATIENCE)
        assert not any(future.running() or future.done() for future in waiting)
        assert all(future.cancel() for future in waiting)
        for future in waiting:
            try:
                future.result(0)
            except CancelledError:
                continue
            raise AssertionError("cancelled, and it has a result")


@fault(*EACH, soak=CONCURRENT)
def the_executor_ends_during_a_backoff(case: Case) -> None:
    """By `shutdown(cancel_futures=True)`, `kill()`, `terminate_workers`, `kill_workers`, Ctrl-C: the future is resolved."""
    for end in (
        lambda run: run.ex.shutdown(cancel_futures=True),
        lambda run: [future.kill() for future in run.futures],
        lambda run: run.ex.terminate_workers(),
        lambda run: run.ex.kill_workers(),
    ):
        with case.executor(workers=1, whole=False) as run:
            futures = in_backoff(run, 3)
            end(run)
            for future in futures:
                assert future.cancelled(), future


@fault(*EACH, soak=CONCURRENT)
def the_executor_is_shut_down_during_a_backoff(case: Case) -> None:
    """What waits makes its attempts, and `shutdown` waits for them."""
    retry = taskrun.Retry(max_attempts=3, on=OSError, wait="fixed", initial=0.05, jitter=False)
    with case.executor(workers=1, whole=False) as run:
        futures = [run.submit(work_at, 3, retry=retry) for _ in range(3)]
        run.ex.shutdown()
        assert [future.result(0) for future in futures] == [3, 3, 3]
        for future in futures:
            assert [type(attempt.error) for attempt in future.attempts] == [OSError, OSError, type(None)]
            assert [attempt.number for attempt in future.attempts] == [1, 2, 3]


@fault(*EACH, soak=CONCURRENT)
def a_map_ends_while_its_items_fail(case: Case) -> None:
    """What has not started does not start, a further attempt no more than a first one: nobody could have its result."""
    with case.executor(workers=2) as run:
        for end in ("closed", "error"):
            begun, go = case.log(f"begun {end}"), case.log(f"go {end}")
            items = run.ex.options(retry=LONG).map(fail_when_told, [begun] * 20, [go] * 20, [end] * 20, range(20))
            assert acts.until(lambda begun=begun: len(acts.lines(begun)) >= 2)
            if end == "closed":
                items.close()
            else:
                try:
                    next(items)
                except KeyError:
                    pass
                else:
                    raise AssertionError("there was no error")
            acts.write(go, "")
            assert acts.until(lambda: not run.ex.stats()["unfinished"]), run.ex.stats()
            assert len(acts.lines(begun)) == len(set(acts.lines(begun)))


def fail_when_told(begun: str, go: str, end: str, number: int) -> None:
    acts.write(begun, number)
    if end == "error" and number == 0:
        acts.until(lambda: len(acts.lines(begun)) >= 2, 60)
        raise KeyError("the end of the map")
    acts.until(lambda: os.path.exists(go), 60)
    raise OSError("not yet")


def work_at(attempt: int) -> int:
    task = taskrun.current_task()
    assert task is not None
    if task.attempt < attempt:
        raise OSError("not yet")
    return task.attempt


@fault(*EACH, "serial", soak=EVERY)
def jitter_depends_on_the_seed_alone(case: Case) -> None:
    """The same waits for the same seed and index, others for others."""
    retry = taskrun.Retry(max_attempts=3, on=OSError, wait="fixed", initial=0.1, jitter=True)

    def waits(seed: int) -> list[float]:
        with case.executor(seed=seed, whole=False) as run:
            futures = [run.submit(work_at, 3, retry=retry) for _ in range(2)]
            for future in futures:
                assert future.result(PATIENCE) == 3
            return [
                future.attempts[i + 1].queued - (future.attempts[i].started or 0) - (future.attempts[i].duration or 0)
                for future in futures
                for i in range(2)
            ]

    # Nothing comes early, and each at some time not late, however busy the machine is: the shortest of several runs tell.
    shortest, again = waits(7), waits(7)
    for _ in range(30):
        if max(abs(a - b) for a, b in zip(shortest, again, strict=True)) < 0.01:
            break
        shortest, again = [*map(min, shortest, waits(7))], [*map(min, again, waits(7))]
    else:
        raise AssertionError(f"other waits for the same seed: {shortest}, {again}")
    others = waits(8)
    for _ in range(30):
        others = [*map(min, others, waits(8))]
        if max(abs(a - b) for a, b in zip(shortest, others, strict=True)) > 0.01:
            break
        shortest = [*map(min, shortest, waits(7))]
    else:
        raise AssertionError(f"the same waits for another seed: {shortest}, {others}")


@fault("process", "pool", "fork", soak=PROCESSES)
def crashes_and_timeouts_have_switches_of_their_own(case: Case) -> None:
    """`on` is asked about neither; each says which errors there were."""
    with case.executor() as run:
        plain = taskrun.Retry(max_attempts=3, on=BaseException, on_crash=False, on_timeout=False, wait="none")
        both = taskrun.Retry(max_attempts=3, on=KeyError, on_crash=True, on_timeout=True, wait="none")
        for fn, kind, limit in (
            (crash_until_3, taskrun.WorkerCrashedError, None),
            (hang_until_3, taskrun.TaskTimeoutError, 1.0),
        ):
            once = run.submit(fn, retry=plain, timeout=limit)
            thrice = run.submit(fn, retry=both, timeout=limit)
            run.innocents(3)
            assert isinstance(once.exception(PATIENCE), kind)
            assert len(once.attempts) == 1
            assert thrice.result(PATIENCE) == 3
            assert [type(attempt.error) for attempt in thrice.attempts] == [kind, kind, type(None)]


def crash_until_3() -> int:
    task = taskrun.current_task()
    assert task is not None
    if task.attempt < 3:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    return task.attempt


def hang_until_3() -> int:
    task = taskrun.current_task()
    assert task is not None
    if task.attempt < 3:
        time.sleep(60)
    return task.attempt
