"""What a context makes, used inside of tasks: ordering, timeouts, being taken again, waking up."""

from __future__ import annotations

import queue
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import context_jobs as jobs
import pytest
from contexts_support import NAMES, Took
from patience import PATIENCE, eventually

import taskrun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module", params=[param for param in NAMES if param.values[0] != "serial"])
def ex(request: pytest.FixtureRequest) -> Iterator[taskrun.Executor]:
    """An executor whose two workers are there, for all tests of a backend."""
    with taskrun.Executor(request.param, max_workers=2) as executor:
        list(executor.map(time.sleep, [0.1] * 2))
        yield executor


@pytest.fixture
def made(ex: taskrun.Executor) -> Iterator[Callable[..., Any]]:
    """Make queues; at the end they are closed, which ends their threads here."""
    queues: list[Any] = []

    def make(name: str = "Queue", *args: Any) -> Any:
        queues.append(getattr(ex.context, name)(*args))
        return queues[-1]

    yield make
    while queues:
        each = queues.pop()
        each.close()
        if hasattr(each, "join_thread"):
            each.join_thread()


def test_a_task_waits_for_a_lock_until_it_is_released(ex: taskrun.Executor, made: Any) -> None:
    said = made()
    for name in ("Lock", "RLock"):
        lock = getattr(ex.context, name)()
        with lock:
            task = ex.submit(jobs.take_and_say, lock, said)
            assert said.get(timeout=PATIENCE) == "not at once"
            with pytest.raises(queue.Empty):
                said.get(timeout=0.05)
        assert said.get(timeout=PATIENCE) == "now"
        task.result(PATIENCE)


def test_a_task_waits_for_a_lock_no_longer_than_it_says(ex: taskrun.Executor) -> None:
    for lock in (ex.context.Lock(), ex.context.RLock(), ex.context.Semaphore(1)):
        lock.acquire()
        with Took() as took:
            assert ex.submit(jobs.acquire, lock, True, 0.1).result(PATIENCE) is False
        assert took.about(0.1)
        assert ex.submit(jobs.acquire, lock, False).result(PATIENCE) is False
        lock.release()


def test_an_rlock_is_taken_again_within_a_task_and_kept_from_the_others(ex: taskrun.Executor, made: Any) -> None:
    lock, said, go_on = ex.context.RLock(), made(), ex.context.Event()
    task = ex.submit(jobs.take_thrice, lock, said, go_on)
    assert said.get(timeout=PATIENCE) == 3
    assert lock.acquire(False) is False
    with pytest.raises((AssertionError, RuntimeError)):
        lock.release()
    assert ex.submit(jobs.acquire, lock, False).result(PATIENCE) is False
    go_on.set()
    task.result(PATIENCE)
    assert lock.acquire(True, PATIENCE)
    lock.release()


def test_a_lock_that_the_parent_held_as_the_task_began_is_free_after_it(ex: taskrun.Executor, made: Any) -> None:
    said = made()
    for make in (ex.context.RLock, ex.context.Condition, partial(ex.context.Value, "i")):
        lock = make()
        lock.acquire()
        task = ex.submit(jobs.hold_and_say, lock, said)
        assert said.get(timeout=PATIENCE) == "begun"
        lock.release()
        task.result(PATIENCE)
        assert lock.acquire(True, PATIENCE)
        lock.release()


def test_a_plain_lock_is_released_by_another_task_than_took_it(ex: taskrun.Executor) -> None:
    lock = ex.context.Lock()
    assert ex.submit(jobs.acquire, lock).result(PATIENCE)
    assert lock.acquire(False) is False
    ex.submit(jobs.release, lock).result(PATIENCE)
    assert lock.acquire(False)


def test_wrong_use_in_a_task_is_the_same_error(ex: taskrun.Executor, made: Any) -> None:
    context = ex.context
    other = ValueError if ex.capabilities.processes else RuntimeError
    full, jobs_, (reader, writer) = made("Queue", 1), made("JoinableQueue"), context.Pipe(False)
    full.put(1)
    for call, error in (
        ((jobs.release, context.Lock()), other),
        ((jobs.release, context.BoundedSemaphore(1)), ValueError),
        ((full.put, 2, False), queue.Full),
        ((full.put, 2, True, 0.01), queue.Full),
        ((jobs_.task_done,), ValueError),
        ((jobs_.get_nowait,), queue.Empty),
        ((reader.send, 1), OSError),
        ((writer.recv,), OSError),
        ((context.Condition().notify,), AssertionError if ex.capabilities.processes else RuntimeError),
    ):
        raised = ex.submit(*call).exception(PATIENCE)
        assert isinstance(raised, error)
    assert full.get(timeout=PATIENCE) == 1
    reader.close()
    writer.close()


def test_a_condition_wakes_as_many_tasks_as_it_says(ex: taskrun.Executor, made: Any) -> None:
    condition, said = ex.context.Condition(), made()
    tasks = [ex.submit(jobs.wait_to_be_told, condition, said) for _ in range(2)]
    assert [said.get(timeout=PATIENCE) for _ in range(2)] == ["asleep"] * 2
    with condition:
        condition.notify()
    assert eventually(lambda: any(task.done() for task in tasks))
    assert not all(task.done() for task in tasks)
    with condition:
        condition.notify_all()
    assert [task.result(PATIENCE) for task in tasks] == [True] * 2
    assert ex.submit(jobs.wait_to_be_told, condition, said, 0.01).result(PATIENCE) is False
    said.get(timeout=PATIENCE)


def test_an_event_wakes_all_tasks_that_wait(ex: taskrun.Executor) -> None:
    event, back = ex.context.Event(), ex.context.Event()
    tasks = [ex.submit(event.wait, PATIENCE), ex.submit(jobs.answer_event, event, back)]
    assert back.wait(0.02) is False
    event.set()
    assert [task.result(PATIENCE) for task in tasks] == [True, True]
    assert back.wait(PATIENCE)


def test_tasks_and_the_parent_meet_at_a_barrier(ex: taskrun.Executor) -> None:
    barrier = ex.context.Barrier(3)
    for _ in range(3):
        tasks = [ex.submit(barrier.wait, PATIENCE) for _ in range(2)]
        assert sorted([barrier.wait(PATIENCE), *(task.result(PATIENCE) for task in tasks)]) == [0, 1, 2]
    task = ex.submit(barrier.wait, 0.05)
    assert isinstance(task.exception(PATIENCE), threading.BrokenBarrierError)
    assert barrier.broken


def test_a_queue_keeps_the_order_of_each_task_and_loses_nothing(ex: taskrun.Executor, made: Any) -> None:
    q = made("Queue", 5)
    tasks = [ex.submit(jobs.put_all, q, name, 100) for name in "ab"]
    got = [q.get(timeout=PATIENCE) for _ in range(200)]
    assert all([number for who, number in got if who == name] == list(range(100)) for name in "ab")
    for task in tasks:
        task.result(PATIENCE)


def test_a_queue_that_the_parent_has_used_takes_what_a_task_puts(ex: taskrun.Executor, made: Any) -> None:
    for name in ("Queue", "JoinableQueue", "SimpleQueue"):
        q = made(name)
        q.put("from the parent")
        assert q.get() == "from the parent"
        ex.submit(q.put, "from the task").result(PATIENCE)
        assert (q.get() if name == "SimpleQueue" else q.get(timeout=PATIENCE)) == "from the task"


def test_a_queue_that_a_task_has_closed_is_open_to_the_next_and_to_the_parent(ex: taskrun.Executor, made: Any) -> None:
    for name in ("Queue", "JoinableQueue", "SimpleQueue"):
        q = made(name)
        for item in range(4):
            ex.submit(jobs.put_and_close, q, item).result(PATIENCE)
        assert sorted(q.get() for _ in range(4)) == [0, 1, 2, 3]


def test_join_waits_for_what_tasks_work_off(ex: taskrun.Executor, made: Any) -> None:
    q, go_on = made("JoinableQueue"), ex.context.Event()
    for number in range(10):
        q.put(number)
    tasks = [ex.submit(jobs.work_off, q, 5, go_on) for _ in range(2)]
    joining = threading.Thread(target=q.join)
    joining.start()
    joining.join(0.05)
    assert joining.is_alive()
    go_on.set()
    joining.join(PATIENCE)
    assert not joining.is_alive()
    assert sorted(number for task in tasks for number in task.result(PATIENCE)) == list(range(10))


def test_two_tasks_talk_through_a_pipe(ex: taskrun.Executor) -> None:
    here, there = ex.context.Pipe()
    tasks = [ex.submit(jobs.count_down, here, 20), ex.submit(jobs.count_down, there, None)]
    assert [task.result(PATIENCE) for task in tasks] == [10, 11]
    here.close()
    there.close()


def test_a_processs_lock_and_queue_are_those_of_the_tasks(ex: taskrun.Executor, made: Any) -> None:
    q, lock, value = made(), ex.context.Lock(), ex.context.Value("i")
    with jobs.not_running_main():
        process = ex.context.Process(target=jobs.add_and_say, args=(lock, value, q))
        process.start()
    task = ex.submit(jobs.add_and_say, lock, value, q)
    assert [q.get(timeout=PATIENCE) for _ in range(2)] == ["added"] * 2
    task.result(PATIENCE)
    process.join(PATIENCE)
    process.close()
    assert value.value == 400
