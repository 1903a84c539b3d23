"""How the line of answers is read: whatever piece of it has come."""

from __future__ import annotations

import os
import pickle
import struct
import threading
from multiprocessing import Pipe
from typing import TYPE_CHECKING, Any

import pytest

from taskrun.engine.pool_line import Answers

if TYPE_CHECKING:
    from collections.abc import Iterator

VALUES = [None, 1, "text", bytes(70_000), b"", bytes(16_380), list(range(5000)), bytes(3_000_000), "end"]


@pytest.fixture
def line() -> Iterator[Any]:
    ends = Pipe(duplex=True)
    yield ends
    for end in ends:
        end.close()


def read_all(line: Any, data: bytes, piece: int) -> list[Any]:
    """Write *data* in pieces of that size and close; return what is read."""
    reader, writer = line

    def write() -> None:
        for at in range(0, len(data), piece):
            rest = memoryview(data)[at : at + piece]
            while rest:
                rest = rest[os.write(writer.fileno(), rest) :]
        writer.close()

    thread = threading.Thread(target=write)
    thread.start()
    answers, found = Answers(reader, pytest.fail), []
    try:
        while True:
            found.append(answers.recv())
    except EOFError:
        return found
    finally:
        thread.join()


def message(value: Any) -> bytes:
    data = pickle.dumps(value)
    return struct.pack("!i", len(data)) + data


@pytest.mark.parametrize("piece", [7, 1000, 65_536, 1_000_000])
def test_each_answer_is_read_once_and_in_order(line: Any, piece: int) -> None:
    values = VALUES if piece > 7 else [value for value in VALUES if value is None or len(pickle.dumps(value)) < 20_000]
    assert read_all(line, b"".join(map(message, values)), piece) == values


def test_what_connection_writes_is_understood(line: Any) -> None:
    reader, writer = line
    answers = Answers(reader, pytest.fail)
    for value in VALUES[:-2]:
        writer.send(value)
        assert answers.recv() == value


def test_a_size_that_needs_eight_bytes_is_understood(line: Any) -> None:
    data = pickle.dumps("long")
    assert read_all(line, struct.pack("!iQ", -1, len(data)) + data + message(2), 1000) == ["long", 2]


@pytest.mark.parametrize("left", [1, 4, 5, 50_000])
def test_an_answer_that_breaks_off_is_the_end(line: Any, left: int) -> None:
    assert read_all(line, message(1) + message(bytes(100_000))[:left], 1 << 20) == [1]


def test_junk_is_told(line: Any) -> None:
    with pytest.raises(ValueError, match="written into the line"):
        read_all(line, struct.pack("!i", -5) + bytes(10), 100)


def test_a_size_that_is_junk_costs_no_memory(line: Any) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_all(line, struct.pack("!i", 0x7FFFFFF0) + bytes(100_000), 1000) == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
