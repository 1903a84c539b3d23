"""Ctrl-C at every single moment of an operation: the executor stays sound, and ends."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from patience import PATIENCE, eventually
from striking import at_each_moment

import taskrun
from taskrun.engine import channel
from taskrun.engine.batch import Batch, Claims, claim_of
from taskrun.engine.handle import Handle

if TYPE_CHECKING:
    from collections.abc import Callable

# What is struck before it is iterated is dropped.
pytestmark = pytest.mark.filterwarnings("ignore::taskrun.errors.UnfinishedMapWarning")

FEWEST = 15
"""Moments that each of these operations has at the least: fewer, and the strikes did not reach it."""


def check(ex: taskrun.Executor, where: str) -> None:
    """Check that *ex* still runs tasks, and that nothing is left of what was struck."""
    assert ex.submit(abs, -3).result(PATIENCE) == 3, where
    assert eventually(lambda: ex.stats()["unfinished"] == 0), (where, ex.stats())
    assert ex.stats()["queued"] == 0, (where, ex.stats())


def submit(ex: taskrun.Executor) -> None:
    ex.submit(abs, -1)


def result(ex: taskrun.Executor) -> None:
    assert ex.submit(abs, -1).result(PATIENCE) == 1


def failure(ex: taskrun.Executor) -> None:
    assert isinstance(ex.submit(int, "x").exception(PATIENCE), ValueError)


def callback(ex: taskrun.Executor) -> None:
    called = threading.Event()
    future = ex.submit(abs, -1)
    future.add_done_callback(lambda _: called.set())
    future.result(PATIENCE)


def cancel(ex: taskrun.Executor) -> None:
    for future in [ex.submit(abs, -1) for _ in range(3)]:
        future.cancel()


def timeout(ex: taskrun.Executor) -> None:
    ex.options(timeout=PATIENCE).submit(abs, -1).result(PATIENCE)


def ordered(ex: taskrun.Executor) -> None:
    assert list(ex.map(abs, range(5))) == list(range(5))


def from_generator(ex: taskrun.Executor) -> None:
    assert sorted(ex.map_unordered(abs, iter(range(3)))) == [0, 1, 2]


def closed_map(ex: taskrun.Executor) -> None:
    results = ex.map(abs, range(30), buffersize=3)
    next(results)
    results.close()


def wait(ex: taskrun.Executor) -> None:
    taskrun.wait([ex.submit(abs, -1) for _ in range(2)], PATIENCE)


def as_completed(ex: taskrun.Executor) -> None:
    list(taskrun.as_completed([ex.submit(abs, -1) for _ in range(2)], PATIENCE))


OPERATIONS = [submit, result, failure, callback, cancel, timeout, ordered, from_generator, closed_map, wait, as_completed]


# What a backend adds of its own is in these; maps and waiting are the same everywhere.
OF_THE_BACKEND = [submit, result, cancel]
WHOLE = ("serial", "thread", "process", "adapter")

CASES = [
    pytest.param(backend, operation, id=f"{backend}-{operation.__name__}")
    for backend in ("serial", "thread", "process", "pool", "dummy", "fork", "asyncio", "adapter")
    for operation in OPERATIONS
    if backend in WHOLE or operation in OF_THE_BACKEND
]


@pytest.mark.parametrize(("backend", "operation"), CASES)
def test_the_executor_stays_sound(backend: str, operation: Callable[[taskrun.Executor], None]) -> None:
    with ThreadPoolExecutor(2) as pool, taskrun.Executor(pool if backend == "adapter" else backend, retry=1) as ex:
        assert at_each_moment(lambda: ex, operation, check) >= FEWEST


def test_what_is_asked_back_from_a_worker_process_is_there_or_had_and_the_others_are_there() -> None:
    """What `process` does where one of several that were sent to a worker is cancelled."""
    handle = Handle(0)

    def before() -> list[Any]:
        tasks: list[Any] = [object() for _ in range(4)]
        handle.take_back()
        handle.flight = dict(enumerate(tasks))
        handle.put_tokens(channel.tokens_of(0, 4))
        handle.assigned = 4
        assert os.read(handle.tokens_out, channel.TOKEN) == channel.tokens_of(0)  # as the worker does
        return tasks

    def check(tasks: list[Any], where: str) -> None:
        had = tasks[2] not in handle.flight.values()
        assert handle.assigned == len(handle.flight) == 4 - had, where
        assert handle.unclaimed() == 3 - had, where
        assert handle.take_back() == ([tasks[1], tasks[3]] if had else tasks[1:]), where

    try:
        assert at_each_moment(before, lambda tasks: handle.take_back_one(tasks[2]), check, step=1) >= 3
    finally:
        handle.close()


@pytest.mark.parametrize("sent", [False, True], ids=["packed", "sent"])
def test_what_is_asked_back_from_a_batch_on_pool_is_there_or_had_and_the_others_are_there(sent: bool) -> None:
    """What `pool` does where one of several that it has sent together is cancelled; what is torn is had at the end of these."""
    claims = Claims()

    def before() -> tuple[Batch, list[Any]]:
        tasks: list[Any] = [object() for _ in range(4)]
        batch = Batch(claims, tasks)
        if sent:
            batch.send(7, tasks)
            assert os.read(claims.fd, 1) == claim_of(7)
        return batch, tasks

    def check(subject: tuple[Batch, list[Any]], where: str) -> None:
        batch, tasks = subject
        back = batch.take_back(1 if sent else None)
        others = [tasks[1], tasks[3]] if sent else [tasks[0], tasks[1], tasks[3]]
        assert [task for task in back if task is not tasks[2]] == others, where
        assert claims.left() == 0, where

    assert at_each_moment(before, lambda subject: subject[0].ask_back(subject[1][2]), check, step=1) >= 3
    claims.close()


@pytest.mark.parametrize("watched", [False, True], ids=["unwatched", "watched"])
@pytest.mark.parametrize("backend", ["thread", "process", "dummy", "asyncio"])
def test_a_cancel_leaves_no_lock_held_and_nobody_waiting(backend: str, watched: bool) -> None:
    """At each single moment: they are few, and a lock of all futures that stays held stops the whole program."""
    go = threading.Event()
    with taskrun.Executor(backend, max_workers=1) as ex:
        held = None if backend == "process" else ex.submit(go.wait, PATIENCE)
        if held is None:  # nothing starts, once its thread has looked for the first time
            assert eventually(lambda: ex._backend._supervisor._asleep)
            ex._backend.wake = lambda: None  # type: ignore[method-assign]
        else:
            assert eventually(held.running)

        def before() -> tuple[taskrun.Future[int], list[object]]:
            future = ex.submit(abs, -1)
            called: list[object] = []
            future.add_done_callback(called.append)
            if watched:
                assert not taskrun.wait([future], 0).done
            return future, called

        def after(subject: tuple[taskrun.Future[int], list[object]], where: str) -> None:
            future, called = subject
            by_hand: taskrun.Future[int] = taskrun.Future()
            other = threading.Thread(target=by_hand.set_result, args=(1,), daemon=True)
            other.start()
            other.join(PATIENCE)
            assert not other.is_alive(), where
            if future._task is None:
                assert eventually(future.cancelled), where
                assert "FutureState._call " in where or eventually(lambda: called), where  # that one is torn itself
            else:
                assert future.cancel(), where
            assert ex.stats()["unfinished"] == (held is not None), where

        try:
            assert at_each_moment(before, lambda subject: subject[0].cancel(), after, step=1) >= FEWEST
        finally:
            go.set()


# Not `pool`, which takes a tenth of a second to start: what it does in the caller's thread is what `fork` does.
@pytest.mark.parametrize("how", ["shutdown", "with", "cancelling", "terminating"])
@pytest.mark.parametrize("backend", ["serial", "thread", "process", "dummy", "fork", "asyncio"])
def test_it_ends_where_it_was_told_to_end(backend: str, how: str) -> None:
    def before() -> tuple[taskrun.Executor, list[taskrun.Future[int]]]:
        ex = taskrun.Executor(backend, max_workers=1)
        return ex, [ex.submit(abs, i) for i in range(3)]

    def act(subject: tuple[taskrun.Executor, list[taskrun.Future[int]]]) -> None:
        ex, _ = subject
        if how == "with":
            with ex:
                pass
        elif how == "terminating":
            ex.terminate_workers()
        else:
            ex.shutdown(cancel_futures=how == "cancelling")

    def ended(subject: tuple[taskrun.Executor, list[taskrun.Future[int]]], where: str) -> None:
        ex, futures = subject
        if how == "terminating":
            ex.terminate_workers()
        ex.shutdown()  # what was given up is not waited for, and ends all the same
        assert eventually(lambda: all(future.done() for future in futures)), where

    assert at_each_moment(before, act, ended) >= FEWEST


@pytest.mark.parametrize("backend", ["thread", "process", "fork", "asyncio"])
def test_a_second_ctrl_c_while_the_first_ends_everything_loses_nothing(backend: str) -> None:
    def before() -> tuple[taskrun.Executor, list[taskrun.Future[int]]]:
        ex = taskrun.Executor(backend, max_workers=1)
        return ex, [ex.submit(abs, i) for i in range(3)]

    def act(subject: tuple[taskrun.Executor, list[taskrun.Future[int]]]) -> None:
        ex, _ = subject
        try:
            with ex:
                raise KeyboardInterrupt("the first")
        except KeyboardInterrupt as error:
            if error.args != ("the first",):
                raise  # the second

    def ended(subject: tuple[taskrun.Executor, list[taskrun.Future[int]]], where: str) -> None:
        ex, futures = subject
        if not ex.closed:  # at the very entry of `__exit__`, before its first instruction
            ex.kill_workers()
        assert eventually(lambda: all(future.done() for future in futures)), where
        assert eventually(lambda: ex._scheduler._ended), where
        ex.shutdown()
        assert ex._backend.join(PATIENCE), where

    assert at_each_moment(before, act, ended) >= FEWEST
