"""Tasks that wait for one another: what can go on does, what cannot is refused by name."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from patience import eventually

import taskrun
from taskrun import cycles

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 40
BACKENDS = ["thread", "dummy", "asyncio"]


class Told:
    """Futures that tasks find once they were submitted."""

    def __init__(self) -> None:
        self._there = threading.Event()
        self._futures: list[taskrun.Future[Any]] = []

    def tell(self, *futures: taskrun.Future[Any]) -> None:
        self._futures[:] = futures
        self._there.set()

    def __getitem__(self, number: int) -> taskrun.Future[Any]:
        assert self._there.wait(PATIENCE)
        return self._futures[number]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_task_that_waits_for_itself_is_refused(backend: str) -> None:
    told = Told()

    def wait_for_myself() -> Any:
        return told[0].result()

    with taskrun.Executor(backend, max_workers=2) as ex:
        told.tell(ex.submit(wait_for_myself))
        with pytest.raises(RuntimeError, match=r"would never end: task '.*wait_for_myself' waits for task '.*wait_for_myself'"):
            told[0].result(PATIENCE)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("number", [2, 3])
def test_tasks_that_wait_in_a_circle_are_refused(backend: str, number: int) -> None:
    told = Told()

    def wait_for(other: int) -> Any:
        return told[other].result()

    with taskrun.Executor(backend, max_workers=number) as ex:
        told.tell(*[ex.options(name=f"no {i}").submit(wait_for, (i + 1) % number) for i in range(number)])
        for i in range(number):  # the last to wait is told, and the others get its error
            with pytest.raises(RuntimeError, match=r"would never end: task 'no .' waits for task 'no .'"):
                told[i].result(PATIENCE)


def wait_for_all(*futures: taskrun.Future[Any]) -> object:
    return taskrun.wait(futures)


def wait_for_one_after_the_other(*futures: taskrun.Future[Any]) -> object:
    return list(taskrun.as_completed(futures))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wait", [wait_for_all, wait_for_one_after_the_other])
def test_so_are_those_that_wait_for_several(backend: str, wait: Callable[..., object]) -> None:
    told = Told()

    def first() -> Any:
        return wait(told[1], told[2])

    def second() -> Any:
        return told[0].result()

    with taskrun.Executor(backend, max_workers=1) as ex:
        told.tell(*(ex.options(name=f"no {i}").submit(fn) for i, fn in enumerate((first, second, int))))
        errors = [future.exception(PATIENCE) for future in (told[0], told[1])]
        assert any("would never end: task 'no" in str(error) for error in errors), errors  # the other may have what it wants
        assert told[2].result(PATIENCE) == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_who_waits_for_one_of_several_may_go_on_without_the_others(backend: str) -> None:
    told, go = Told(), threading.Event()

    def first() -> int:
        return len(taskrun.wait([told[1], told[2]], return_when=taskrun.FIRST_COMPLETED).done)

    def second() -> Any:
        go.set()
        return told[0].result()

    with taskrun.Executor(backend, max_workers=3) as ex:
        told.tell(*(ex.submit(fn) for fn in (first, second, lambda: go.wait(PATIENCE))))
        assert [told[i].result(PATIENCE) for i in range(3)] == [1, 1, True]


def wait_for_the_first(ex: taskrun.Executor, fn: Callable[[int], Any]) -> Any:
    return taskrun.wait([ex.submit(fn, i) for i in range(3)], return_when=taskrun.FIRST_COMPLETED)


def wait_for_an_error(ex: taskrun.Executor, fn: Callable[[int], Any]) -> Any:
    return taskrun.wait([ex.submit(fn, i) for i in range(3)], return_when=taskrun.FIRST_EXCEPTION)


def take_them_as_they_end(ex: taskrun.Executor, fn: Callable[[int], Any]) -> Any:
    return [future.result() for future in taskrun.as_completed([ex.submit(fn, i) for i in range(3)])]


def map_without_order(ex: taskrun.Executor, fn: Callable[[int], Any]) -> Any:
    return list(ex.map_unordered(fn, range(3)))


WAYS_FOR_ONE = [wait_for_the_first, wait_for_an_error, take_them_as_they_end, map_without_order]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wait", WAYS_FOR_ONE)
def test_who_waits_for_one_of_several_that_all_wait_for_him_is_refused(backend: str, wait: Callable[..., Any]) -> None:
    """Or one of them, if they come to wait later: then he has that one."""
    told, refused = Told(), []

    def noting(fn: Callable[[], Any]) -> Any:
        try:
            return fn()
        except RuntimeError as error:
            refused.append(str(error))
            raise

    with taskrun.Executor(backend, max_workers=2) as ex:
        parent = ex.options(name="parent").submit(noting, lambda: wait(ex, lambda _: noting(lambda: told[0].result())))
        told.tell(parent)
        parent.exception(PATIENCE)
    assert any("would never end" in text and text.count("waits for task") == 2 and "'parent'" in text for text in refused)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wait", WAYS_FOR_ONE)
def test_he_is_not_while_one_of_them_waits_for_another_that_can_end(backend: str, wait: Callable[..., Any]) -> None:
    """Nobody is refused before it has ended; then he has that one, and his second wait may be for himself."""
    told, go = Told(), threading.Event()
    with taskrun.Executor(backend, max_workers=2) as ex:
        last = ex.submit(go.wait, PATIENCE)

        def child(number: int) -> Any:
            return last.result() if number == 1 else told[0].result()

        parent = ex.submit(lambda: wait(ex, child))
        told.tell(parent)
        assert eventually(lambda: len(cycles._waits) == 4)  # all of them wait, and have looked
        time.sleep(0.1)
        assert not parent.done()
        go.set()
        if wait is wait_for_the_first:
            assert len(parent.result(PATIENCE).done) == 1
        else:
            with pytest.raises(RuntimeError, match="would never end"):
                parent.result(PATIENCE)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_attempt_that_was_given_up_closes_no_circle(backend: str) -> None:
    """It waits on for a task that waits for the next attempt, which comes to its end."""
    told, second_runs = Told(), threading.Event()

    def first() -> Any:
        if taskrun.current_task().attempt == 1:  # type: ignore[union-attr]
            return told[1].result()
        second_runs.set()
        assert eventually(lambda: len(cycles._waits) == 2)
        return "done"

    def second() -> Any:
        assert second_runs.wait(PATIENCE)
        return told[0].result()

    with taskrun.Executor(backend, max_workers=3) as ex:
        again = taskrun.Retry(on_timeout=True, initial=0.01, max_attempts=2)
        told.tell(ex.options(timeout=1.0, retry=again).submit(first), ex.submit(second))
        assert told[1].result(PATIENCE) == "done"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_wait_with_a_timeout_ends_by_itself(backend: str) -> None:
    told = Told()

    def wait_for_myself() -> Any:
        assert not taskrun.wait([told[0]], timeout=0.01).done
        return told[0].result(0.01)

    with taskrun.Executor(backend, max_workers=1) as ex:
        told.tell(ex.submit(wait_for_myself))
        with pytest.raises(TimeoutError):
            told[0].result(PATIENCE)


@pytest.mark.parametrize("second", BACKENDS)
@pytest.mark.parametrize("first", BACKENDS)
def test_executors_whose_tasks_wait_for_those_of_each_other_go_on(first: str, second: str) -> None:
    """One worker each: it is made up for while it waits, for whomever that is."""
    with taskrun.Executor(first, max_workers=1) as one, taskrun.Executor(second, max_workers=1) as other:

        def down(depth: int) -> int:
            if not depth:
                return 0
            return (other if depth % 2 else one).submit(down, depth - 1).result() + 1

        assert one.submit(down, 6).result(PATIENCE) == 6


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_worker_that_waits_for_several_executors_is_made_up_for_once(backend: str) -> None:
    running, most, lock = 0, 0, threading.Lock()
    go = threading.Event()

    def count() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        go.wait(0.05)
        with lock:
            running -= 1

    with (
        taskrun.Executor(backend, max_workers=1) as ex,
        taskrun.Executor("thread", max_workers=1) as a,
        taskrun.Executor("thread", max_workers=1) as b,
    ):
        gates = [a.submit(go.wait, PATIENCE), b.submit(go.wait, PATIENCE)]
        waiting = ex.submit(lambda: len(taskrun.wait([*gates, ex.submit(abs, 1)], timeout=PATIENCE).done))
        counted = [ex.submit(count) for _ in range(6)]
        for future in counted:
            future.result(PATIENCE)
        go.set()
        assert waiting.result(PATIENCE) == 3
    assert most == 1
