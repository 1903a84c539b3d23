"""`taskrun.shared`: what it is in a pickle and in a call, and how long a worker keeps it."""

from __future__ import annotations

import functools
import gc
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import taskrun
from taskrun import sharing, shipping
from taskrun.sharing import Shared, unwrapped
from taskrun.shipping import Shipped, collecting, forget, receive

if TYPE_CHECKING:
    from collections.abc import Iterator


class Block:
    """Pickles its bytes out of band, as arrays do."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce__(self) -> Any:
        return Block, (pickle.PickleBuffer(self.data),)


class View:
    """Has of an array what makes it read-only."""

    def __init__(self, writeable: bool = True) -> None:
        self.flags = self
        self.writeable = writeable

    def view(self) -> View:
        return View(self.writeable)

    def setflags(self, *, write: bool) -> None:
        self.writeable = write


@pytest.fixture(autouse=True)
def nothing_received() -> Iterator[None]:
    yield
    shipping._kept.clear()
    sharing._latest.clear()


def sent(one: Shared) -> Any:
    """Return what a worker makes of *one* that it was sent by its key."""
    with collecting() as found:
        data = pickle.dumps([one, one])
    assert found == [one]  # a pickle names what it holds twice but once
    receive(b"".join(one.parts()))
    first, second = pickle.loads(data)
    assert first is second
    return first


def test_large_buffers_travel_beside_the_pickle_and_are_read_only_there() -> None:
    data = bytearray(range(256)) * 10
    one = taskrun.shared([Block(data), Block(bytearray(b"more"))])
    assert any(part.obj is data for part in one.parts() if isinstance(part, memoryview))  # not copied
    first, second = sent(one).value
    assert (bytes(first.data), bytes(second.data)) == (bytes(data), b"more")
    assert memoryview(first.data).readonly
    data[0] = 99
    assert bytes(first.data)[0] == 0  # the worker's own


def test_it_is_unpickled_once() -> None:
    there = sent(taskrun.shared({"a": [1]}))
    assert there.value is there.value


def test_in_any_other_pickle_it_goes_whole_and_is_recognized() -> None:
    one = taskrun.shared([1, 2])
    data = pickle.dumps(one)
    first = pickle.loads(data)
    assert first.value == [1, 2]
    assert pickle.loads(data) is first


def test_an_array_is_seen_read_only_where_it_is_and_stays_as_it_was() -> None:
    array = View()
    assert not taskrun.shared(array).value.writeable
    assert array.writeable
    assert taskrun.shared(View(writeable=False)).value.writeable is False


def test_shared_twice_is_shared_once() -> None:
    one = taskrun.shared("x")
    assert taskrun.shared(one) is one


def test_a_call_gets_the_objects_themselves() -> None:
    one = taskrun.shared([7])

    def fn(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    bound = functools.partial(functools.partial(fn, one), 2, named=one)
    call, args, kwargs = unwrapped(bound, (one, [one]), {"key": one})
    assert call(*args, **kwargs) == (([7], 2, [7], [one]), {"named": [7], "key": [7]})
    assert unwrapped(fn, (1,), {}) == (fn, (1,), {})


def test_what_the_parent_lets_go_the_worker_can_forget() -> None:
    shipped, one = Shipped(), taskrun.shared("x")
    assert shipped.lacking([one, one]) == [one]
    shipped.note(one)
    assert shipped.lacking([one]) == []
    assert shipped.gone() == []
    there, key = sent(one), one.key
    del one
    gc.collect()
    assert shipped.gone() == [key]
    shipped.let_go([key])
    assert shipped.gone() == []
    forget([key])
    assert key not in shipping._kept
    assert there.value == "x"  # whoever holds it still has it


@pytest.mark.parametrize("backend", ["process", "pool"])
def test_a_worker_keeps_it_no_longer_than_the_parent(backend: str) -> None:
    with taskrun.Executor(backend, max_workers=1) as ex:
        one = taskrun.shared([1])
        assert ex.submit(len, one).result() == 1
        assert ex.submit(received).result() == 1
        del one
        gc.collect()
        ex.submit(int).result()
        assert ex.submit(received).result() == 0


def received() -> int:
    return len(shipping._kept)


@pytest.mark.parametrize("backend", ["process", "pool"])
def test_one_that_does_not_pickle_is_its_tasks_error(backend: str) -> None:
    with taskrun.Executor(backend, max_workers=1) as ex:
        error = ex.submit(len, taskrun.shared(iter_forever())).exception()
        assert isinstance(error, taskrun.SerializationError)
        assert "generator" in str(error)
        assert ex.submit(len, taskrun.shared([1])).result() == 1


def iter_forever() -> Any:
    yield 1


class Unpicklable:
    def __reduce__(self) -> Any:
        raise LookupError("stays here")


@pytest.mark.parametrize("backend", ["process", "pool"])
class TestOnWorkers:
    def test_what_a_function_reads_comes_with_it_even_if_its_first_call_was_not_sent(self, backend: str) -> None:
        one = taskrun.shared([1, 2])

        def read(_: Any) -> list[int]:
            return one.value

        with taskrun.Executor(backend, max_workers=1) as ex:
            assert isinstance(ex.submit(read, Unpicklable()).exception(), taskrun.SerializationError)
            assert ex.submit(read, 1).result() == [1, 2]

    def test_one_within_another_comes_with_it_to_each_worker(self, backend: str) -> None:
        outer = taskrun.shared({"inner": taskrun.shared([1, 2])})
        with taskrun.Executor(backend, max_workers=1, max_tasks_per_child=1) as ex:
            assert [ex.submit(read_inner, outer).result() for _ in range(3)] == [[1, 2]] * 3

    def test_what_is_let_go_is_forgotten_even_if_the_task_that_says_so_fails(self, backend: str) -> None:
        with taskrun.Executor(backend, max_workers=1) as ex:
            one = taskrun.shared([1])
            assert ex.submit(len, one).result() == 1
            del one
            gc.collect()
            assert isinstance(ex.submit(len, Unloadable()).exception(), taskrun.SerializationError)
            assert ex.submit(received).result() == 0


def read_inner(outer: dict[str, Any]) -> Any:
    return outer["inner"].value


class Unloadable:
    def __reduce__(self) -> Any:
        return int, ("not a number",)


def test_threads_that_look_at_once_see_the_same() -> None:
    there = sent(taskrun.shared(list(range(50_000))))
    with ThreadPoolExecutor(8) as pool:
        seen = [pool.submit(lambda: there.value) for _ in range(50)]
        assert len({id(future.result()) for future in seen}) == 1
