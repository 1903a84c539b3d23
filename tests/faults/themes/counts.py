"""Line 10: exact counts. Each task runs once, whoever submits it and whoever kills the workers."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import acts
from patience import PATIENCE
from table import CONCURRENT, PROCESSES, fault

import taskrun

if TYPE_CHECKING:
    from case import Case, Run


@fault("process", "pool", "fork", "thread", "dummy", "asyncio", soak=CONCURRENT)
def tasks_come_from_16_threads(case: Case) -> None:
    """20,000 of them; on `fork` and `pool`, where each costs a process or two switches, fewer."""
    slow = case.backend in ("fork", "pool")
    many = case.count(160 if slow else 1600, 4000 if case.backend == "fork" else 20_000)
    futures: list[list[Any]] = [[] for _ in range(16)]
    log = case.log("ran")
    with case.executor() as run:
        start = threading.Barrier(16)

        def submit(mine: list[Any], first: int) -> None:
            start.wait(PATIENCE)
            mine.extend(run.ex.submit(acts.innocent, log, first + i) for i in range(many // 16))

        threads = [threading.Thread(target=submit, args=(mine, i * many)) for i, mine in enumerate(futures)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for i, mine in enumerate(futures):
            assert [future.result(10 * PATIENCE) for future in mine] == [acts.product(i * many + n) for n in range(many // 16)]
    ran = Counter(acts.lines(log))
    assert len(ran) == many // 16 * 16
    assert set(ran.values()) == {1}


class Killer:
    """Kills random workers, so many in all, as long as there is work."""

    def __init__(self, run: Run, kills: int) -> None:
        self._run, self._kills = run, kills
        self.killed: set[int] = set()
        self.over = threading.Event()
        self._thread = threading.Thread(target=self._kill_some)

    def _kill_some(self) -> None:
        dice = random.Random(11)
        while len(self.killed) < self._kills and not self.over.is_set():
            workers = [int(label.split()[1]) for label in self._run.ex.stats()["workers"]]
            if workers:
                victim = dice.choice(workers)
                try:
                    os.kill(victim, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                self.killed.add(victim)
            time.sleep(dice.uniform(0.0, 0.02))

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._thread.join()


def work(log: str, number: int, seconds: float) -> int:
    task = taskrun.current_task()
    assert task is not None
    acts.write(log, f"{number}:{os.getpid()}:{task.attempt}")
    time.sleep(seconds)
    return number


def under_fire(case: Case, retry: taskrun.Retry | None) -> tuple[list[Any], Killer, list[tuple[int, int, int]]]:
    many, kills = case.count(300, 5000), case.count(12, 200)
    if case.backend == "fork":
        many = case.count(120, 3000)
    log = case.log("ran")
    with case.executor(workers=3, retry=retry) as run:
        with Killer(run, kills) as killer:
            futures = [run.ex.submit(work, log, i, 0.004 if i % 4 == 0 else 0.0) for i in range(many)]
            taskrun.wait(futures, timeout=20 * PATIENCE)
        assert all(future.done() for future in futures)
    ran = [tuple(map(int, line.split(":"))) for line in acts.lines(log)]
    assert killer.killed
    return futures, killer, ran  # type: ignore[return-value]


@fault("process", "pool", "fork", soak=PROCESSES)
def random_workers_are_killed(case: Case) -> None:
    """Without a retry policy nothing runs twice, and what fails was running in one that was killed."""
    futures, killer, ran = under_fire(case, None)
    failed = {i for i, future in enumerate(futures) if future.exception() is not None}
    for i in failed:
        error = futures[i].exception()
        assert isinstance(error, taskrun.WorkerCrashedError), error
        assert error.pid in killer.killed
    assert len({futures[i].exception().pid for i in failed}) == len(failed)  # one for each worker, at the most
    assert max(Counter(number for number, _, _ in ran).values()) == 1
    assert all(futures[i].result() == i for i in range(len(futures)) if i not in failed)
    assert {number for number, _, _ in ran} | failed == set(range(len(futures)))


@fault("process", "pool", "fork", soak=PROCESSES)
def random_workers_are_killed_and_tasks_may_run_again(case: Case) -> None:
    """Every future has its result, and only what was running in a worker that was killed ran again."""
    retry = taskrun.Retry(max_attempts=50, on=(), on_crash=True, wait="none")
    futures, killer, ran = under_fire(case, retry)
    assert [future.result() for future in futures] == list(range(len(futures)))
    runs = Counter(number for number, _, _ in ran)
    pid_of = {(number, attempt): pid for number, pid, attempt in ran}
    for i, future in enumerate(futures):
        crashes = [attempt for attempt in future.attempts if attempt.error is not None]
        assert len(crashes) == len(future.attempts) - 1
        assert runs[i] <= len(future.attempts), (i, future.attempts)
        for crash in crashes:
            assert crash.error.pid in killer.killed
            assert pid_of.get((i, crash.number), crash.error.pid) == crash.error.pid
