"""Shipments: who has to be sent what, in which order, and what is kept."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from taskrun import shipping
from taskrun.shipping import Arrival, Shipment, Shipped, collecting, collector, forget, not_collecting, pack, receive, take

if TYPE_CHECKING:
    from collections.abc import Iterator


class Parcel(Shipment):
    """Needs others."""

    __slots__ = ("asked", "later")

    def __init__(self, *needs: Shipment) -> None:
        super().__init__(shipping.new_key())
        self.later = needs
        self.asked = 0

    def parts(self) -> list[Any]:
        self.asked += 1
        self.needs = self.later  # known from now on
        return pack(self.key, pickle.dumps("content"))


@pytest.fixture(autouse=True)
def nothing_received() -> Iterator[None]:
    yield
    shipping._kept.clear()


def test_keys_are_never_the_same() -> None:
    assert len({shipping.new_key() for _ in range(100)}) == 100


def test_what_is_needed_goes_first_and_once() -> None:
    inner = Parcel()
    middle = [Parcel(inner), Parcel(inner)]
    outer = Parcel(*middle)
    shipped = Shipped()
    assert shipped.lacking([outer, inner, outer]) == [inner, *middle, outer]
    for one in (inner, *middle):
        shipped.note(one)
    assert shipped.lacking([outer]) == [outer]
    shipped.note(outer)
    asked = outer.asked
    assert shipped.lacking([outer, inner]) == []
    assert outer.asked == asked, "what is there is not pickled again"
    assert set(shipped) == {inner, *middle, outer}


def test_what_was_let_go_is_told_once() -> None:
    shipped, kept, parcel = Shipped(), Parcel(), Parcel()
    key = parcel.key
    for one in (kept, parcel):
        shipped.note(one)
    assert shipped.gone() == []
    del parcel, one
    assert shipped.gone() == [key]
    shipped.let_go(shipped.gone())
    assert (shipped.gone(), list(shipped)) == ([], [kept])


def test_each_collecting_has_a_list_of_its_own() -> None:
    assert collector() is None
    with collecting() as outer:
        assert collector() is outer
        with collecting() as inner:
            assert collector() is inner is not outer
            with not_collecting():
                assert collector() is None
        assert collector() is outer
    assert collector() is None


def test_what_was_packed_is_unpacked_with_its_buffers_aligned() -> None:
    buffers = [memoryview(bytes([n]) * n) for n in (5, 16, 1)]
    data = pickle.dumps([pickle.PickleBuffer(each) for each in buffers], 5, buffer_callback=lambda _: None)
    parts = pack(b"key", data, buffers)
    blob = b"".join(parts)
    assert sum(map(len, parts)) == len(blob)
    arrival = Arrival(blob)
    loaded = arrival.load()
    assert (arrival.key, [bytes(each) for each in loaded]) == (b"key", [bytes(each) for each in buffers])
    assert all(each.readonly for each in loaded)


def descriptor() -> int:
    return os.open(os.devnull, os.O_RDONLY)


def is_open(fd: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{fd}")


def test_its_descriptors_are_open_until_it_is_forgotten() -> None:
    fds = [descriptor(), descriptor()]
    receive(b"".join(pack(b"key", pickle.dumps(1))), fds)
    assert shipping.received(b"key")
    assert all(map(is_open, fds))
    forget([b"key", b"no such key"])
    assert not any(map(is_open, fds))
    assert not shipping.received(b"key")


def test_what_was_taken_is_the_takers() -> None:
    fd = descriptor()
    receive(b"".join(pack(b"key", pickle.dumps(1))), [fd])
    arrival = take(b"key")
    forget([b"key"])
    assert is_open(fd)
    arrival.close()
    arrival.close()
    assert not is_open(fd)
    with pytest.raises(LookupError, match="another worker"):
        take(b"key")


def test_a_descriptor_that_is_closed_already_does_no_harm() -> None:
    fds = [descriptor(), descriptor()]
    arrival = Arrival(b"".join(pack(b"key", pickle.dumps(1))), fds)
    os.close(fds[1])
    arrival.close()
    assert not is_open(fds[0])
