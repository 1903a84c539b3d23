"""Line 8: deadlocks that users write. It works, or it is refused with an error that names the cycle; never silence."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import acts
from patience import PATIENCE
from table import CONCURRENT, EVERY, PROCESSES, fault

import taskrun

if TYPE_CHECKING:
    from collections.abc import Iterator

    from case import Case

EACH = ("process", "pool", "fork", "thread", "dummy", "asyncio")
SHARED = ("thread", "dummy", "asyncio")
"""Whose tasks can hold their executor: an executor does not pickle."""

_executors: dict[str, taskrun.Executor] = {}


def wait_for_own(key: str, depth: int) -> int:
    """Submit to the executor that this runs on, and wait, and so on."""
    if depth == 0:
        return 1
    return 1 + _executors[key].submit(wait_for_own, key, depth - 1).result(PATIENCE)


@fault(*SHARED)
def tasks_wait_for_tasks_of_their_own_executor(case: Case) -> None:
    """All workers do so, several deep, in every way of waiting."""
    with case.executor() as run:
        key = str(case.directory)
        _executors[key] = run.ex
        try:
            futures = [run.submit(wait_for_own, key, 5) for _ in range(4)]
            assert [future.result(PATIENCE) for future in futures] == [6] * 4
            waits = [run.submit(wait_all, key) for _ in range(4)] + [run.submit(map_own, key) for _ in range(4)]
            assert [future.result(PATIENCE) for future in waits] == [3] * 8
        finally:
            del _executors[key]


def wait_all(key: str) -> int:
    return len(taskrun.wait([_executors[key].submit(abs, -i) for i in range(3)], timeout=PATIENCE).done)


def map_own(key: str) -> int:
    return sum(_executors[key].map(abs, [-1, -1, -1], timeout=PATIENCE))


@fault("fork", "process:fork", soak=("pool:fork",))
def a_forked_worker_uses_its_copy_of_the_executor(case: Case) -> None:
    """It is told that it is one, at once."""
    with case.executor() as run:
        _executors["copy"] = run.ex
        try:
            for _ in range(2):
                error = run.submit(use_copy).exception(PATIENCE)
                assert isinstance(error, (RuntimeError, KeyError)), repr(error)
                assert "made before the fork" in str(error) or case.configuration != "fork", error
            run.innocents(3)
        finally:
            del _executors["copy"]


def use_copy() -> Any:
    return _executors["copy"].submit(abs, -1).result(PATIENCE)


@fault("process", "pool", soak=PROCESSES[:-1])
def a_task_carries_its_executor(case: Case) -> None:
    """An executor does not pickle, and says so, as argument and in a closure."""
    with case.executor() as run:
        for future in (run.submit(acts.give_back, run.ex), run.submit(lambda: run.ex.submit(abs, 1).result())):
            error = future.exception(PATIENCE)
            assert isinstance(error, taskrun.SerializationError), repr(error)
            assert "an executor cannot be pickled" in str(error)
        run.innocents(3)


@fault(*EACH, soak=CONCURRENT)
def callbacks_do_what_they_should_not(case: Case) -> None:
    """Raise, submit, wait for others, shut down: each works or raises there; no other future suffers."""
    import logging

    logging.getLogger("concurrent.futures").setLevel(logging.CRITICAL + 1)
    told: list[str] = []

    def wait_in_vain(_: object) -> None:
        for act in (lambda: run.submit(acts.tell_pid_and_hold, case.log("pid"), enough).result(PATIENCE), run.ex.shutdown):
            try:
                act()
            except RuntimeError as error:
                told.append(str(error))
        run.submit(acts.give_back, 2)

    with case.executor() as run:
        go, enough = case.log("go"), case.log("enough")
        held = run.submit(acts.tell_pid_and_hold, case.log("pid"), go)
        held.add_done_callback(lambda _: 1 / 0)
        held.add_done_callback(wait_in_vain)
        run.innocents(3)
        acts.write(go, "")
        assert acts.until(lambda: len(told) == 2), told
        acts.write(enough, "")
        assert all("callback" in text for text in told), told
    with case.executor(whole=False) as run:
        run.submit(acts.give_back, 1).add_done_callback(lambda _: run.ex.shutdown(wait=False))
        assert acts.until(lambda: run.ex.closed)


@fault(*EACH, "serial", soak=EVERY)
def consumers_abandon_their_maps(case: Case) -> None:
    """An endless input, a long one, one never asked for a value: nothing goes on for ever, nobody waits."""
    with case.executor() as run:
        results = run.ex.map(abs, itertools.count())
        assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
        del results
        results = run.ex.map_unordered(abs, itertools.count())
        next(results)
        results.close()
        for value in run.ex.map(abs, range(-3000, 0)):
            assert value == 3000
            break
        run.ex.map(acts.innocent, [case.log("unread")] * 5, range(5))
        run.innocents(3)
    assert sorted(acts.lines(case.log("unread"))) == ["0", "1", "2", "3", "4"]


def broken_input(good: int) -> Iterator[int]:
    yield from range(good)
    raise LookupError("the input is over too soon")


@fault(*EACH, "serial", soak=EVERY)
def the_input_of_a_map_raises(case: Case) -> None:
    """At once, midway: whoever iterates gets it, after the results before it; the executor goes on."""
    with case.executor() as run:
        for good in (0, 1, 50):
            got = []
            with contextlib.suppress(LookupError):
                got.extend(run.ex.map(abs, broken_input(good)))
                raise AssertionError("the error of the input was swallowed")
            assert got == list(range(len(got)))
            run.innocents(2)


@fault(*EACH, soak=CONCURRENT)
def the_input_of_a_map_blocks(case: Case) -> None:
    """It holds up nobody but its reader, and neither shutdown."""
    go = threading.Event()

    def blocking() -> Iterator[int]:
        yield 1
        go.wait(PATIENCE)
        yield 2

    with case.executor() as run:
        results = run.ex.map(abs, blocking(), buffersize=1)
        got: list[int] = []
        reader = threading.Thread(target=lambda: got.extend(results))
        reader.start()
        for future in run.innocents(5):
            future.result(PATIENCE)
        go.set()
        reader.join(PATIENCE)
        assert got == [1, 2]


@fault(*EACH, soak=CONCURRENT)
def a_signal_handler_submits(case: Case) -> None:
    """In the middle of anything, and waits for nothing."""
    caught: list[Any] = []
    with case.executor() as run:
        before = signal.signal(signal.SIGUSR1, lambda *_: caught.append(run.submit(acts.give_back, 5)))
        stop = threading.Event()

        def strike() -> None:
            while not stop.wait(0.001) and len(caught) < case.count(60, 2000):
                os.kill(os.getpid(), signal.SIGUSR1)

        striker = threading.Thread(target=strike)
        striker.start()
        try:
            while striker.is_alive() and len(run._innocents) < case.count(400, 8000):
                for future in run.innocents(5):
                    future.result(PATIENCE)
        finally:
            stop.set()
            striker.join()
            signal.signal(signal.SIGUSR1, before)
        assert [future.result(PATIENCE) for future in caught] == [5] * len(caught)
        assert caught


@fault(*EACH, soak=CONCURRENT)
def tasks_wait_for_each_other(case: Case) -> None:
    """Quick ones before them, so that several would travel together: they meet all the same."""
    with case.executor() as run:
        for i in range(case.count(4, 40)):
            run.innocents(20)
            meeting = case.directory / f"pair{i}"
            meeting.mkdir()
            pair = [run.submit(acts.meet, str(meeting), name, 2, PATIENCE) for name in range(2)]
            assert [future.result(PATIENCE) for future in pair] == [2, 2]


@fault("fork", "process:fork", soak=("pool:fork",))
def another_thread_holds_a_lock_at_the_fork(case: Case) -> None:
    """A lock of the user's stays held in the child, which nobody can change: its time limit ends the task, no more than that.

    Those of logging are seen to.
    """
    import logging

    lock, over = threading.Lock(), threading.Event()
    logger = logging.getLogger("a user's")
    handler = logging.NullHandler()
    logger.addHandler(handler)

    def hold() -> None:
        while not over.is_set():
            handler.acquire()
            time.sleep(0.001)
            handler.release()

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        with case.executor() as run, lock:
            for _ in range(3):
                assert run.submit(log_something, "a user's").result(PATIENCE) == "logged"
            if case.backend == "fork":
                error = run.submit(lambda: lock.acquire(timeout=60), timeout=0.3).exception(PATIENCE)
                assert isinstance(error, taskrun.TaskTimeoutError)
            run.innocents(3)
    finally:
        over.set()
        holder.join()


def log_something(name: str) -> str:
    import logging

    logging.getLogger(name).warning("said")
    for handler in logging.getLogger(name).handlers:
        handler.acquire()
        handler.release()
    return "logged"
