"""Managers: their lists, tables and locks, and types of one's own, also from another process."""

from __future__ import annotations

import multiprocessing
import queue
from multiprocessing import AuthenticationError, managers
from typing import TYPE_CHECKING, Any

import context_jobs as jobs
import pytest
from contexts_support import KINDS, context_of
from patience import PATIENCE

import taskrun

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", params=KINDS)
def manager(request: pytest.FixtureRequest) -> Iterator[Any]:
    with jobs.not_running_main():
        made = context_of(request.param).Manager()
    with made as entered:
        assert entered is made
        yield made


def test_a_list_is_a_list(manager: Any) -> None:
    numbers = manager.list(range(4))
    numbers.append(10)
    numbers.extend([1, 2])
    numbers[0] = 5
    del numbers[1]
    assert (numbers[:], len(numbers), numbers.count(2), numbers.pop()) == ([5, 2, 3, 10, 1, 2], 6, 2, 2)
    numbers.sort()
    assert list(numbers) == [1, 2, 3, 5, 10]
    assert numbers + [1] == [1, 2, 3, 5, 10, 1]  # noqa: RUF005 - the operator is tested
    assert [3 in numbers, numbers.index(5)] == [True, 3]
    with pytest.raises(IndexError):
        numbers[20]
    with pytest.raises(ValueError):
        numbers.remove(99)


def test_a_dict_is_a_dict(manager: Any) -> None:
    table = manager.dict({"a": 1}, b=2)
    table["c"] = 3
    table.update(d=4)
    assert dict(table) == {"a": 1, "b": 2, "c": 3, "d": 4}
    assert sorted(table.keys()) == ["a", "b", "c", "d"]
    assert (table.get("x"), table.get("x", 7), table.pop("a"), table.setdefault("e", 5), "b" in table) == (None, 7, 1, 5, True)
    with pytest.raises(KeyError):
        table["nothing"]


def test_what_is_nested_is_shared_too(manager: Any) -> None:
    inner, outer = manager.list([1]), manager.list()
    outer.append(inner)
    inner.append(2)
    assert list(outer[0]) == [1, 2]
    table = manager.dict(jobs=manager.Queue())
    table["jobs"].put("a job")
    assert table["jobs"].get(timeout=PATIENCE) == "a job"


def test_a_namespace_has_attributes(manager: Any) -> None:
    space = manager.Namespace(name="Bob", _hidden="hi")
    space.job = "Builder"
    assert (space.name, space.job) == ("Bob", "Builder")
    del space.job
    assert not hasattr(space, "job")


def test_locks_events_and_barriers_of_a_manager(manager: Any, beside: Any) -> None:
    for name in ("Lock", "RLock"):
        lock = getattr(manager, name)()
        with lock:
            assert beside(lock.acquire, False).result() is False
        assert lock.acquire()
        lock.release()
    with pytest.raises(RuntimeError):
        manager.Lock().release()
    semaphore, bounded = manager.Semaphore(1), manager.BoundedSemaphore(1)
    assert [semaphore.acquire(False), semaphore.acquire(False)] == [True, False]
    with pytest.raises(ValueError):
        bounded.release()
    event, condition = manager.Event(), manager.Condition()
    waiting = beside(event.wait, PATIENCE)
    event.set()
    assert waiting.result() is True
    with condition:
        assert condition.wait(0.01) is False
    barrier = manager.Barrier(2)
    side = beside(barrier.wait)
    assert {barrier.wait(PATIENCE), side.result()} == {0, 1}


def test_queues_values_and_arrays_of_a_manager(manager: Any) -> None:
    for name in ("Queue", "JoinableQueue"):
        q = getattr(manager, name)(1)
        q.put("one")
        with pytest.raises(queue.Full):
            q.put_nowait("two")
        assert q.get() == "one"
        with pytest.raises(queue.Empty):
            q.get(timeout=0.01)
        q.task_done()
        q.join()
        with pytest.raises(ValueError, match="task_done"):
            q.task_done()
    value, numbers = manager.Value("i", 1), manager.Array("i", [0] * 3)
    value.value += 1
    assert value.get() == 2
    value.set(3)
    assert value.value == 3
    numbers[1] = 5
    assert (list(numbers), len(numbers)) == ([0, 5, 0], 3)


def test_a_pool_of_a_manager(manager: Any) -> None:
    with manager.Pool(1) as pool:
        assert pool.apply_async(pow, (2, 5)).get(timeout=PATIENCE) == 32


def test_every_kind_has_multiprocessings_base_manager(backend: str) -> None:
    assert taskrun.get_context(backend).BaseManager is managers.BaseManager


def test_types_of_ones_own_are_served_to_who_has_the_address_and_the_key() -> None:
    with jobs.not_running_main():
        offers = jobs.Offers(authkey=b"secret", ctx=multiprocessing.get_context("spawn"))
        with pytest.raises(AssertionError, match="not yet started"):
            offers.Counter()
        with offers:
            counter = offers.Counter(5)
            assert [counter.add(), counter.add(3)] == [6, 9]
            with pytest.raises(AttributeError):
                counter._hidden()
            with pytest.raises(ZeroDivisionError):
                counter.fail()
            there = jobs.Wants(offers.address, b"secret")
            there.connect()
            there.the_queue().put("for whom it is")
            assert offers.the_queue().get(timeout=PATIENCE) == "for whom it is"
            with pytest.raises(AuthenticationError):
                jobs.Wants(offers.address, b"another").connect()
            with taskrun.Executor("process", max_workers=1) as ex:
                ex.submit(jobs.put_by_address, offers.address, b"secret", "from a task").result(PATIENCE)
                assert ex.submit(counter.add).result(PATIENCE) == 10
            assert there.the_queue().get(timeout=PATIENCE) == "from a task"


# -- proxies that come back ----------------------------------------------------------------------------------------------------


def inner(outer: Any) -> Any:
    return outer["list"]


@pytest.mark.parametrize("kind", ["process", "pool", "fork", "thread"])
def test_a_task_can_return_a_proxy_wherever_it_got_it(kind: str) -> None:
    with taskrun.Executor(kind, max_workers=1) as ex, ex.context.Manager() as made:
        outer = made.dict()
        outer["list"] = made.list([4])
        found = ex.submit(inner, outer).result(PATIENCE)
        found.append(5)
        assert list(outer["list"]) == [4, 5]
        assert list(ex.submit(_copied, outer).result(PATIENCE)["list"]) == [4, 5]
        assert ex.submit(_itself, outer).result(PATIENCE)["list"][0] == 4


def _copied(outer: Any) -> Any:
    return outer.copy()


def _itself(outer: Any) -> Any:
    return outer
