"""Locks and semaphores, asked for what CPython's own tests ask of them (lock_tests.py, _test_multiprocessing.py)."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from contexts_support import Took

import taskrun

UNHELD = (RuntimeError, ValueError, AssertionError)
"""Raised by threading's, multiprocessing's Lock and multiprocessing's RLock."""


@pytest.fixture(params=["Lock", "RLock"])
def lock(context: Any, request: pytest.FixtureRequest) -> Any:
    return getattr(context, request.param)()


def test_what_is_held_is_had_by_nobody_else(lock: Any, beside: Any) -> None:
    assert lock.acquire() is True
    assert beside(lock.acquire, False).result() is False
    lock.release()
    assert beside(lambda: (lock.acquire(), lock.release())[0]).result() is True


def test_who_waits_gets_it_when_it_is_released(lock: Any, beside: Any) -> None:
    order: list[str] = []

    def take() -> None:
        with lock:
            order.append("the other")

    with lock:
        others = [beside(take) for _ in range(3)]
        others[0].thread.join(0.05)
        order.append("first")
    for other in others:
        other.result()
    assert order == ["first", *["the other"] * 3]


def test_a_timeout_ends_the_waiting_and_takes_nothing(lock: Any, beside: Any) -> None:
    with lock:
        with Took() as took:
            assert beside(lock.acquire, True, 0.1).result() is False
        assert took.about(0.1)
        for timeout in (0, -3.5):
            assert beside(lock.acquire, True, timeout).result() is False
    assert beside(lambda: (lock.acquire(True, 0.1), lock.release())[0]).result() is True


def test_it_is_released_when_the_block_ends_in_an_error(lock: Any, beside: Any) -> None:
    with pytest.raises(ZeroDivisionError), lock:
        1 / 0  # noqa: B018
    assert beside(lambda: (lock.acquire(False), lock.release())[0]).result() is True


def test_the_keywords_of_multiprocessing_are_understood(context: Any, beside: Any) -> None:
    for name in ("Lock", "RLock", "Semaphore", "BoundedSemaphore"):
        lock = getattr(context, name)()
        assert lock.acquire(block=True, timeout=None) is True
        for how in ({"block": False}, {"block": False, "timeout": 5}, {"block": True, "timeout": 0.01}, {"timeout": 0.01}):
            assert beside(lambda how=how, lock=lock: lock.acquire(**how)).result() is False
        lock.release()
        assert lock.acquire(timeout=None) is True
        lock.release()


def test_threadings_keywords_are_understood_between_threads(backend: str) -> None:
    context = taskrun.get_context(backend)
    if hasattr(context, "get_start_method"):
        with pytest.raises(TypeError, match="blocking"):  # as the original
            context.Lock().acquire(blocking=False)
        return
    for lock in (context.Lock(), context.Semaphore(), context.BoundedSemaphore()):
        assert lock.acquire(blocking=True, timeout=-1 if lock.__class__.__name__ == "ThreadLock" else None)
        assert lock.acquire(blocking=False) is False
        lock.release()
        assert lock.acquire(False)


def test_an_rlock_is_taken_again_by_its_holder_and_by_nobody_else(context: Any, beside: Any) -> None:
    lock = context.RLock()
    for _ in range(3):
        assert lock.acquire()
    for _ in range(3):
        assert beside(lock.acquire, False).result() is False
        lock.release()
    assert beside(lambda: (lock.acquire(False), lock.release())[0]).result() is True


def test_an_rlock_is_not_released_by_another_thread(context: Any, beside: Any) -> None:
    lock = context.RLock()
    with lock, pytest.raises((AssertionError, RuntimeError)):
        beside(lock.release).result()


def test_a_lock_is_released_by_any_thread(context: Any, beside: Any) -> None:
    lock = context.Lock()
    lock.acquire()
    beside(lock.release).result()
    assert lock.acquire(False)


def test_a_lock_is_not_taken_twice(context: Any) -> None:
    lock = context.Lock()
    lock.acquire()
    assert lock.acquire(False) is False
    assert lock.acquire(True, 0.01) is False


def test_releasing_what_is_not_held_is_the_originals_error(context: Any, between_processes: bool) -> None:
    lock, again = context.Lock(), context.RLock()
    with pytest.raises(ValueError if between_processes else RuntimeError):
        lock.release()
    with pytest.raises(AssertionError if between_processes else RuntimeError):
        again.release()
    lock.acquire()
    lock.release()
    with pytest.raises(UNHELD):
        lock.release()
    assert lock.acquire(False), "an error has changed it"


def test_locks_can_be_shown_and_are_gone_when_nobody_holds_them(context: Any) -> None:
    for name in ("Lock", "RLock"):
        lock = getattr(context, name)()
        assert name in repr(lock)
        with lock:
            assert name in repr(lock)
        gone = weakref.ref(lock)
        del lock
        gc.collect(0)
        assert gone() is None


@pytest.mark.parametrize("name", ["Semaphore", "BoundedSemaphore"])
def test_a_semaphore_counts(context: Any, name: str, beside: Any) -> None:
    semaphore = getattr(context, name)(2)
    assert semaphore.get_value() == 2
    assert [semaphore.acquire(False) for _ in range(3)] == [True, True, False]
    assert semaphore.get_value() == 0
    with Took() as took:
        assert semaphore.acquire(True, 0.1) is False
    assert took.about(0.1)
    waiting = [beside(semaphore.acquire) for _ in range(2)]
    semaphore.release()
    semaphore.release()
    assert [each.result() for each in waiting] == [True, True]
    semaphore.release()
    with semaphore:
        assert semaphore.get_value() == 0
    assert semaphore.get_value() == 1
    assert getattr(context, name)().get_value() == 1


def test_only_a_bounded_semaphore_has_a_bound(context: Any) -> None:
    semaphore, bounded = context.Semaphore(0), context.BoundedSemaphore(1)
    semaphore.release()
    semaphore.release()
    assert semaphore.get_value() == 2
    with pytest.raises(ValueError, match="too many"):
        bounded.release()
    bounded.acquire()
    bounded.release()
    with pytest.raises(ValueError, match="too many"):
        bounded.release()
    assert bounded.get_value() == 1


@pytest.mark.parametrize("name", ["Semaphore", "BoundedSemaphore"])
def test_a_semaphore_does_not_begin_below_zero(context: Any, name: str) -> None:
    with pytest.raises((ValueError, OSError)):
        getattr(context, name)(-1)
