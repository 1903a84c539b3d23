"""Pipes, asked for what CPython's own tests ask of them."""

from __future__ import annotations

import array
import multiprocessing
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from contexts_support import Took
from patience import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def make(context: Any) -> Iterator[Callable[..., Any]]:
    """Make pipes; at the end they are closed."""
    made: list[Any] = []

    def make_pipe(duplex: bool = True) -> Any:
        ends = context.Pipe(duplex)
        made.extend(ends)
        return ends

    yield make_pipe
    for each in made:
        each.close()


def test_both_ends_of_a_pipe_send_and_receive(make: Any) -> None:
    a, b = make()
    for end in (a, b):
        assert (end.readable, end.writable, end.closed) == (True, True, False)
    for message in ([1, 2.5, None, "x" * 10], {"key": [()]}, b"bytes", None):
        a.send(message)
        assert b.recv() == message
        b.send(message)
        assert a.recv() == message
    for number in range(5):
        a.send(number)
    assert [b.recv() for _ in range(5)] == list(range(5))


def test_who_receives_waits_for_what_is_sent(make: Any, beside: Any) -> None:
    a, b = make()
    receiver = beside(b.recv)
    a.send("there")
    assert receiver.result() == "there"


def test_without_duplex_one_end_receives_and_the_other_sends(make: Any) -> None:
    reader, writer = make(False)
    assert [(end.readable, end.writable) for end in (reader, writer)] == [(True, False), (False, True)]
    writer.send(1)
    assert reader.poll(PATIENCE)
    assert reader.recv() == 1
    for use in (lambda: reader.send(2), lambda: reader.send_bytes(b"2"), writer.recv, writer.recv_bytes, writer.poll):
        with pytest.raises(OSError, match="only"):
            use()


def test_poll_says_whether_something_is_there(make: Any, beside: Any) -> None:
    a, b = make()
    for arguments, seconds in (((), 0), ((0,), 0), ((-1,), 0), ((0.1,), 0.1)):
        with Took() as took:
            assert a.poll(*arguments) is False
        assert took.about(seconds)
    waiting = beside(a.poll, None)
    b.send(1)
    assert waiting.result() is True
    assert a.poll() is True
    assert a.recv() == 1
    assert a.poll() is False


def test_bytes_are_sent_as_they_are(make: Any) -> None:
    a, b = make()
    data = bytes(range(10))
    for arguments, found in (
        ((data,), data),
        ((data, 3), data[3:]),
        ((data, 3, 4), data[3:7]),
        ((data, 10), b""),
        ((data, 10, 0), b""),
        ((bytearray(data), 0, 1), data[:1]),
        ((array.array("i", [1, 2]),), array.array("i", [1, 2]).tobytes()),
        ((memoryview(data)[::1], 8), data[8:]),
    ):
        a.send_bytes(*arguments)
        assert b.recv_bytes() == found
    for arguments in ((data, 11), (data, 5, 6), (data, -1), (data, 0, -1)):
        with pytest.raises(ValueError):
            a.send_bytes(*arguments)
    assert b.poll() is False


def test_objects_and_bytes_are_the_same_thing_pickled(make: Any) -> None:
    a, b = make()
    a.send({"key": 1})
    assert pickle.loads(b.recv_bytes()) == {"key": 1}
    a.send_bytes(pickle.dumps("text"))
    assert b.recv() == "text"


def test_bytes_are_received_into_a_buffer(make: Any) -> None:
    a, b = make()
    buffer = array.array("i", [0] * 5)
    size = buffer.itemsize
    a.send_bytes(array.array("i", [7, 8]))
    assert b.recv_bytes_into(buffer) == 2 * size
    a.send_bytes(array.array("i", [9]))
    assert b.recv_bytes_into(buffer, 3 * size) == size
    assert list(buffer) == [7, 8, 0, 9, 0]
    for offset in (-1, 6 * size):
        with pytest.raises(ValueError, match="offset"):
            b.recv_bytes_into(buffer, offset)
    a.send_bytes(b"x" * 100)
    with pytest.raises(multiprocessing.BufferTooShort) as caught:
        b.recv_bytes_into(bytearray(40))
    assert caught.value.args == (b"x" * 100,)
    a.send("still here")
    assert b.recv() == "still here"


@pytest.mark.parametrize("duplex", [True, False])
def test_after_more_bytes_than_the_receiver_allows_it_receives_no_more(make: Any, duplex: bool) -> None:
    b, a = make(duplex)
    a.send_bytes(b"x" * 10)
    assert b.recv_bytes(10) == b"x" * 10
    with pytest.raises(ValueError, match="maxlength"):
        b.recv_bytes(-1)
    a.send_bytes(b"x" * 11)
    with pytest.raises(OSError, match="bad message"):
        b.recv_bytes(10)
    assert b.closed is not duplex
    if duplex:
        assert b.readable is False
        with pytest.raises(OSError, match="write-only"):
            b.recv()
        b.send("still here")
        assert a.recv() == "still here"


@pytest.mark.parametrize("duplex", [True, False])
def test_what_was_sent_is_received_and_then_comes_the_end(make: Any, duplex: bool) -> None:
    reader, writer = make(duplex)
    writer.send("last")
    writer.close()
    assert reader.poll() is True
    assert reader.recv() == "last"
    for _ in range(2):
        assert reader.poll() is True
        with pytest.raises(EOFError):
            reader.recv()
        with pytest.raises(EOFError):
            reader.recv_bytes()


def test_who_waits_learns_that_the_other_end_was_closed(make: Any, beside: Any) -> None:
    reader, writer = make(False)
    receiver = beside(reader.recv)
    receiver.thread.join(0.05)
    writer.close()
    with pytest.raises(EOFError):
        receiver.result()


@pytest.mark.parametrize("duplex", [True, False])
def test_nobody_sends_to_who_has_closed(make: Any, duplex: bool) -> None:
    reader, writer = make(duplex)
    reader.close()
    with pytest.raises(BrokenPipeError):
        writer.send(1)


def test_a_closed_end_is_used_no_more(make: Any) -> None:
    a, _ = make()
    with a as entered:
        assert entered is a
    assert a.closed
    a.close()
    for use in (lambda: a.send(1), lambda: a.send_bytes(b"1"), a.recv, a.recv_bytes, a.poll, a.fileno):
        with pytest.raises((OSError, NotImplementedError)):
            use()


def test_what_cannot_be_pickled_is_refused_only_where_it_would_be(make: Any, between_processes: bool) -> None:
    a, b = make()

    def local() -> str:
        return "called"

    if between_processes:
        with pytest.raises((AttributeError, pickle.PicklingError)):
            a.send(local)
        a.send("still here")
        assert b.recv() == "still here"
    else:
        a.send(local)
        assert b.recv()() == "called"


def test_between_threads_there_is_nothing_to_select_on(make: Any, between_processes: bool) -> None:
    a, _ = make()
    if between_processes:
        assert isinstance(a.fileno(), int)
    else:
        with pytest.raises(NotImplementedError, match="poll"):
            a.fileno()
