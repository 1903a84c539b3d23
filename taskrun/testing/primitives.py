"""Locks, queues and shared values: those of an executor's context are arguments of its tasks."""

from __future__ import annotations

import functools
import os
import queue
import signal
from typing import TYPE_CHECKING, Any

import pytest

import taskrun
from taskrun.testing.base import Behaviours

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PrimitiveBehaviours"]

LEAST = "Lock RLock Semaphore BoundedSemaphore Condition Event Barrier JoinableQueue SimpleQueue Pipe Value Array Manager"
"""What a context without primitives refuses, as examples."""


def count(lock: Any, value: Any, times: int) -> None:
    """Add one, again and again, in the way that loses some without the lock."""
    for _ in range(times):
        with lock:
            value.value = value.value + 1


def fill(value: Any, array: Any, raw: Any, raw_array: Any) -> None:
    with value.get_lock():
        value.value += 1
    array[1] = 2.5
    raw.value = 3
    raw_array[0] = 4


def answer(numbers: Any, results: Any, patience: float) -> None:
    """Take a number, put its double."""
    results.put(2 * numbers.get(timeout=patience))


def work_off(jobs: Any, patience: float) -> list[Any]:
    """Take three things from a JoinableQueue, each as done."""
    taken = []
    for _ in range(3):
        taken.append(jobs.get(timeout=patience))
        jobs.task_done()
    return taken


def say_and_close(connection: Any, *words: str) -> None:
    for word in words:
        connection.send(word)
    connection.close()


def acquire_twice(locks: list[Any], lock: Any) -> bool:
    """Return whether the lock could be acquired again, by its other name."""
    with locks[0]:
        return bool(lock.acquire(timeout=1)) and lock.release() is None


def try_to_enter(semaphore: Any) -> bool:
    return bool(semaphore.acquire(False))


def meet(barrier: Any, patience: float) -> int:
    return int(barrier.wait(patience))


def wait_to_be_told(condition: Any, started: Any, patience: float) -> bool:
    with condition:
        started.set()
        return bool(condition.wait(patience))


def note(table: Any, numbers: Any, key: str) -> None:
    table[key] = len(key)
    numbers.append(key)


def same(obj: Any) -> Any:
    return obj


_given: list[Any] = []


def give(*objects: Any) -> None:
    """Be an initializer."""
    _given[:] = objects


def put_into_what_was_given(item: Any) -> None:
    _given[0].put(item)


def die_with(lock: Any) -> None:
    lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


class PrimitiveBehaviours(Behaviours):
    """What `Executor.context` makes is one and the same thing in the parent and in all tasks."""

    def test_a_lock_excludes_all_other_tasks(self) -> None:
        with self.executor() as ex:
            if self.context_lacks(ex):
                return
            for lock in (ex.context.Lock(), ex.context.RLock()):
                value = ex.context.RawValue("q")
                for future in [ex.submit(count, lock, value, 200) for _ in range(4)]:
                    future.result(self.patience)
                assert value.value == 800

    def test_an_rlock_is_one_lock_however_often_it_is_passed(self) -> None:
        with self.executor() as ex:
            if self.context_lacks(ex):
                return
            lock = ex.context.RLock()
            for _ in range(2):
                assert ex.submit(acquire_twice, [lock], lock).result(self.patience)

    def test_shared_values_are_changed_for_all(self) -> None:
        with self.executor() as ex:
            if self.context_lacks(ex):
                return
            context = ex.context
            value, array = context.Value("i", 5), context.Array("d", 3)
            raw, raw_array = context.RawValue("i"), context.RawArray("i", [7, 8])
            for _ in range(3):
                ex.submit(fill, value, array, raw, raw_array).result(self.patience)
            assert (value.value, list(array), raw.value, list(raw_array)) == (8, [0, 2.5, 0], 3, [4, 8])

    def test_queues_carry_objects_both_ways(self) -> None:
        with self.executor() as ex:
            if ex.capabilities.primitives == "no":
                with pytest.raises(NotImplementedError, match="get_context"):
                    ex.context.Queue()
                return
            numbers, results = ex.context.Queue(), ex.context.Queue(10)
            for number in range(3):
                numbers.put(number)
            for future in [ex.submit(answer, numbers, results, self.patience) for _ in range(3)]:
                future.result(self.patience)
            assert sorted(results.get(timeout=self.patience) for _ in range(3)) == [0, 2, 4]
            with pytest.raises(queue.Empty):
                results.get(timeout=0.01)

    def test_simple_and_joinable_queues(self) -> None:
        with self.executor() as ex:
            if self.context_lacks(ex):
                return
            simple, jobs = ex.context.SimpleQueue(), ex.context.JoinableQueue()
            ex.submit(simple.put, "there").result(self.patience)
            assert simple.get() == "there"
            for job in "abc":
                jobs.put(job)
            assert ex.submit(work_off, jobs, self.patience).result(self.patience) == ["a", "b", "c"]
            jobs.join()

    def test_a_pipe_carries_objects_until_its_end_is_closed(self) -> None:
        with self.executor() as ex:
            if self.context_lacks(ex):
                return
            for _ in range(2):
                here, there = ex.context.Pipe(duplex=False)
                ex.submit(say_and_close, there, "one", "two").result(self.patience)
                there.close()
                assert here.poll(self.patience)
                assert (here.recv(), here.recv()) == ("one", "two")
                with pytest.raises(EOFError):
                    here.recv()
                here.close()

    def test_events_conditions_barriers_and_semaphores(self) -> None:
        with self.executor() as ex:
            if self.context_lacks(ex):
                return
            context = ex.context
            semaphore = context.BoundedSemaphore(2)
            entered = [ex.submit(try_to_enter, semaphore).result(self.patience) for _ in range(3)]
            assert entered == [True, True, False]
            for _ in range(2):
                semaphore.release()
            with pytest.raises(ValueError, match="released too many times"):
                semaphore.release()
            event = context.Event()
            ex.submit(event.set).result(self.patience)
            assert event.is_set()
            if not ex.capabilities.concurrent:
                return
            barrier = context.Barrier(2)
            arrived = [ex.submit(meet, barrier, self.patience) for _ in range(2)]
            assert sorted(future.result(self.patience) for future in arrived) == [0, 1]
            condition, started = context.Condition(), context.Event()
            told = ex.submit(wait_to_be_told, condition, started, self.patience)
            assert started.wait(self.patience)
            with condition:
                condition.notify()
            assert told.result(self.patience)

    def test_a_manager_has_lists_and_tables(self) -> None:
        with self.executor() as ex:
            if self.context_lacks(ex):
                return
            with ex.context.Manager() as manager:
                table, keys = manager.dict(), manager.list()
                for key in ("a", "bb"):
                    ex.submit(note, table, keys, key).result(self.patience)
                assert (dict(table), list(keys)) == ({"a": 1, "bb": 2}, ["a", "bb"])

    def test_they_travel_in_closures_and_as_initargs_and_come_back_as_themselves(self) -> None:
        with self.executor() as ex:
            if self.context_lacks(ex):
                return
            context, able = ex.context, ex.capabilities
            results, lock = context.Queue(), context.Lock()

            def put(item: Any) -> None:
                with lock:
                    results.put(item)

            bound: Callable[..., Any] = functools.partial(put, "bound")
            ex.submit(bound).result(self.patience)
            assert results.get(timeout=self.patience) == "bound"
            if able.pickles != "results":  # a child that has inherited it cannot send it
                assert ex.submit(same, lock).result(self.patience) is lock
        if able.initializer != "no":
            with self.executor(initializer=give, initargs=(results,)) as ex:
                ex.submit(put_into_what_was_given, "given").result(self.patience)
                assert results.get(timeout=self.patience) == "given"

    def test_a_lock_that_a_dead_worker_has_left_locked_is_reported(self) -> None:
        with self.executor() as ex:
            if self.see_refused(ex, "crash_isolation") or self.context_lacks(ex):
                return
            lock, other = ex.context.Lock(), ex.context.RLock()
            ex.submit(acquire_twice, [other], other).result(self.patience)
            error = ex.submit(die_with, lock).exception(self.patience)
            assert isinstance(error, taskrun.WorkerCrashedError)
            assert [name.split()[0] for name in error.held_locks] == ["Lock"]
            assert error.held_locks[0] in str(error)
            assert ex.submit(acquire_twice, [other], other).result(self.patience)

    def test_a_lock_of_a_value_or_a_condition_left_locked_is_reported_too(self) -> None:
        with self.executor() as ex:
            if self.see_refused(ex, "crash_isolation") or self.context_lacks(ex):
                return
            seen: set[str] = set()
            for made in (ex.context.Value("i", 0), ex.context.Array("i", 1), ex.context.Condition()):
                error = ex.submit(die_with, made).exception(self.patience)
                assert isinstance(error, taskrun.WorkerCrashedError)
                new = set(error.held_locks) - seen  # where all are inherited, those before are named again
                assert [name.split()[0] for name in new] == ["RLock"]
                seen |= new

    def context_lacks(self, ex: taskrun.Executor) -> bool:
        """Return whether the backend has no primitives, or queues only; then see that the others are refused."""
        if ex.capabilities.primitives == "yes":
            return False
        for name in LEAST.split():
            with pytest.raises(NotImplementedError, match="get_context"):
                getattr(ex.context, name)
        with pytest.raises(AttributeError):
            _ = ex.context.no_such_name
        return True
