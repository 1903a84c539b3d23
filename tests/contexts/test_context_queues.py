"""Queues, asked for what CPython's own tests ask of them."""

from __future__ import annotations

import os
import queue
from typing import TYPE_CHECKING, Any

import pytest
from contexts_support import Took
from patience import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def make(context: Any) -> Iterator[Callable[..., Any]]:
    """Make queues; at the end they are closed, which ends their threads."""
    made: list[Any] = []

    def make_queue(name: str = "Queue", *args: Any) -> Any:
        made.append(getattr(context, name)(*args))
        return made[-1]

    yield make_queue
    for each in made:
        each.close()
        if hasattr(each, "join_thread"):
            each.join_thread()


@pytest.mark.parametrize("name", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_what_was_put_comes_out_in_its_order(make: Any, name: str, beside: Any) -> None:
    q = make(name)
    assert q.empty() is True
    getter = beside(lambda: [q.get() for _ in range(100)])  # it waits
    for number in range(100):
        q.put(number)
    assert getter.result() == list(range(100))
    for item in (None, "", [1, {"two": (3,)}], b"x" * 10_000):
        q.put(item)
        assert q.get() == item
    assert q.empty() is True


@pytest.mark.parametrize("name", ["Queue", "JoinableQueue"])
def test_a_full_queue_takes_no_more(make: Any, name: str, beside: Any) -> None:
    q = make(name, 2)
    assert (q.empty(), q.full()) == (True, False)
    q.put(1)
    q.put(2, True, None)
    assert q.full() is True
    for arguments, seconds in (((False,), 0), ((False, 5), 0), ((True, 0.1), 0.1), ((True, 0), 0), ((True, -1), 0)):
        with Took() as took, pytest.raises(queue.Full):
            q.put(3, *arguments)
        assert took.about(seconds)
    with pytest.raises(queue.Full):
        q.put_nowait(3)
    with pytest.raises(queue.Full):
        q.put(3, block=True, timeout=0.01)
    with pytest.raises(queue.Full):
        q.put(obj=3, block=False)
    with pytest.raises(queue.Full):
        q.put_nowait(obj=3)
    with pytest.raises(TypeError):
        q.put()
    putter = beside(q.put, 3)
    assert [q.get(timeout=PATIENCE) for _ in range(3)] == [1, 2, 3]
    putter.result()
    assert q.full() is False


@pytest.mark.parametrize("name", ["Queue", "JoinableQueue"])
def test_an_empty_queue_gives_nothing(make: Any, name: str) -> None:
    q = make(name)
    for arguments, seconds in (((False,), 0), ((False, 5), 0), ((True, 0.1), 0.1), ((True, 0), 0), ((True, -1), 0)):
        with Took() as took, pytest.raises(queue.Empty):
            q.get(*arguments)
        assert took.about(seconds)
    with pytest.raises(queue.Empty):
        q.get_nowait()
    with pytest.raises(queue.Empty):
        q.get(block=True, timeout=0.01)
    q.put_nowait("there")
    assert eventually(lambda: not q.empty())
    assert q.get_nowait() == "there"


def test_its_size_is_what_was_put_and_not_taken(make: Any) -> None:
    q = make("Queue")
    sizes = [q.qsize()]
    for number in range(2):
        q.put(number)
        sizes.append(q.qsize())
    q.get(timeout=PATIENCE)
    assert [*sizes, q.qsize()] == [0, 1, 2, 1]


def test_join_returns_when_each_job_was_told_to_be_done(make: Any, beside: Any) -> None:
    q = make("JoinableQueue")
    q.join()
    for job in range(5):
        q.put(job)
    joining = [beside(q.join) for _ in range(2)]

    def work() -> None:
        for _ in range(2):
            q.get(timeout=PATIENCE)
            q.task_done()

    for worker in [beside(work) for _ in range(2)]:
        worker.result()
    assert not any(each.over() for each in joining)
    q.get(timeout=PATIENCE)
    assert not any(each.over() for each in joining)
    q.task_done()
    for each in joining:
        each.result()


def test_a_job_is_not_done_more_often_than_it_was_put(make: Any) -> None:
    q = make("JoinableQueue")
    with pytest.raises(ValueError, match="task_done"):
        q.task_done()
    q.put(1)
    q.get(timeout=PATIENCE)
    q.task_done()
    with pytest.raises(ValueError, match="task_done"):
        q.task_done()


@pytest.mark.parametrize("name", ["Queue", "JoinableQueue"])
def test_a_closed_queue_is_used_no_more(context: Any, name: str) -> None:
    q = getattr(context, name)()
    q.put(1)
    with pytest.raises(AssertionError):
        q.join_thread()
    q.close()
    q.close()
    q.join_thread()
    for use in (lambda: q.put(2), lambda: q.put_nowait(2), q.get, q.get_nowait):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_nobody_waits_for_what_is_still_in_the_buffer_if_told_so(context: Any, between_processes: bool) -> None:
    q = context.Queue()
    reader = os.dup(q._reader.fileno()) if between_processes else None
    q.put(b"x" * 1_000_000)  # more than a pipe takes, and nobody reads it
    q.cancel_join_thread()
    q.close()
    with Took() as took:
        q.join_thread()
    assert took.about(0)
    if reader is not None:
        with open(reader, "rb") as rest:
            assert len(rest.read()) > 1_000_000  # which ends the thread that writes


def test_a_closed_simple_queue_is_used_no_more(context: Any) -> None:
    q = context.SimpleQueue()
    q.put(1)
    q.close()
    q.close()
    for use in (lambda: q.put(2), q.get, q.empty):
        with pytest.raises((OSError, ValueError), match=r"closed|handle"):
            use()


def test_many_threads_lose_and_double_nothing(make: Any, beside: Any) -> None:
    q, done = make("Queue", 10), make("Queue")

    def put(first: int) -> None:
        for number in range(first, first + 50):
            q.put(number)

    def take() -> None:
        for _ in range(50):
            done.put(q.get(timeout=PATIENCE))

    sides = [*(beside(put, 50 * i) for i in range(3)), *(beside(take) for _ in range(3))]
    for side in sides:
        side.result()
    assert sorted(done.get(timeout=PATIENCE) for _ in range(150)) == list(range(150))
