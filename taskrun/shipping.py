"""What goes to a worker once and is kept there: who has to be sent what, and what has arrived.

A pickle that is made while somebody collects (`collecting`) names such an object by its key alone. The backend then sees to it
that the worker gets what was collected before it loads that pickle: of each `Shipment` first what it `needs`, then its `parts`
and its `descriptors`.
"""

from __future__ import annotations

import itertools
import os
import pickle
import struct
import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = [
    "Arrival",
    "Shipment",
    "Shipped",
    "arrived",
    "collect_for_good",
    "collecting",
    "collector",
    "forget",
    "new_key",
    "not_collecting",
    "pack",
    "receive",
    "received",
    "replace",
    "take",
]

_ALIGN = 16
_SIZE = struct.Struct("<Q")

_numbers = itertools.count()
_token = os.urandom(8).hex()
_here = threading.local()


def new_key() -> bytes:
    """Return a key that nothing else has, in any process."""
    return f"{os.getpid()}-{_token}-{next(_numbers)}".encode()


# -- in the parent -------------------------------------------------------------------------------------------------------------


class Shipment(ABC):
    """What a pickle refers to by a key. Whoever holds this sees to it that workers keep what they were sent."""

    __slots__ = ("__weakref__", "key", "needs")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.needs: Sequence[Shipment] = ()
        """What it refers to in its turn; complete once `parts` was called."""

    @abstractmethod
    def parts(self) -> list[Any]:
        """Return what `receive` takes, in pieces. Raises what pickling the object raises."""

    @property
    def descriptors(self) -> Sequence[int]:
        """What the worker gets duplicates of; open as long as this object lives."""
        return ()

    @property
    def awaited(self) -> bool:
        """Whether somebody may wait for the last of its descriptors to be closed: it must not lie unread in a socket."""
        return False


@contextmanager
def collecting() -> Iterator[list[Shipment]]:
    """A context whose pickles, in this thread, hold only the keys of what is shipped; gives the list of what they name."""
    before = collector()
    found: list[Shipment] = []
    _here.found = found
    try:
        yield found
    finally:
        _here.found = before


def collect_for_good() -> list[Shipment]:
    """Do as `collecting` until this thread ends; whoever reads the list clears it."""
    found: list[Shipment] = []
    _here.found = found
    return found


@contextmanager
def not_collecting() -> Iterator[None]:
    """A context whose pickles hold everything that they refer to."""
    before = collector()
    _here.found = None
    try:
        yield
    finally:
        _here.found = before


def collector() -> list[Shipment] | None:
    """Return the list of the innermost `collecting`, or None."""
    return getattr(_here, "found", None)


class Shipped:
    """What one worker has. One thread's, but for what the collector does."""

    def __init__(self) -> None:
        self._there: dict[bytes, weakref.ref[Shipment]] = {}
        self._gone: deque[tuple[bytes, weakref.ref[Shipment]]] = deque()

    def lacking(self, wanted: Iterable[Shipment]) -> list[Shipment]:
        """Return what has to be sent so that the worker has all that is *wanted*, in the order in which it needs it."""
        missing: dict[bytes, Shipment] = {}
        self._look(wanted, missing)
        return list(missing.values())

    def _look(self, wanted: Iterable[Shipment], missing: dict[bytes, Shipment]) -> None:
        for one in wanted:
            there = self._there.get(one.key)
            if (there is None or there() is None) and one.key not in missing:
                one.parts()  # only then it is known what it needs
                self._look(one.needs, missing)
                missing[one.key] = one

    def note(self, one: Shipment) -> None:
        """Note that *one* is sent."""
        key, gone = one.key, self._gone
        self._there[key] = weakref.ref(one, lambda ref: gone.append((key, ref)))  # it may run anywhere, and does only this

    def __iter__(self) -> Iterator[Shipment]:
        """Yield what the worker has and somebody here still holds."""
        for ref in list(self._there.values()):
            one = ref()
            if one is not None:
                yield one

    def gone(self) -> list[bytes]:
        """Return the keys of what it need not keep any more. It has to be told so before anything else is sent."""
        gone, there = self._gone, self._there
        while gone and there.get(gone[0][0]) is not gone[0][1]:
            gone.popleft()  # it was told
        return [key for key, ref in list(gone) if there.get(key) is ref]

    def let_go(self, keys: list[bytes]) -> None:
        """Note that it is told to let go of *keys*, which `gone` returned."""
        for key in keys:
            del self._there[key]


def pack(key: bytes, data: bytes, buffers: Sequence[memoryview] = ()) -> list[Any]:
    """Return [head, pickle, buffers...]: in the head, the sizes of what follows; buffers begin at multiples of 16 bytes."""
    head = pickle.dumps((key, len(data), [buffer.nbytes for buffer in buffers]), 5)
    parts: list[Any] = [_SIZE.pack(len(head)), head, data]
    at = sum(map(len, parts))
    for buffer in buffers:
        gap = -at % _ALIGN
        parts += [bytes(gap), buffer]
        at += gap + buffer.nbytes
    return parts


# -- in the worker -------------------------------------------------------------------------------------------------------------


class Arrival:
    """Parts that were put together again, and the descriptors that came with them."""

    __slots__ = ("_at", "_sizes", "_view", "descriptors", "key", "made")

    def __init__(self, blob: bytes | bytearray | memoryview, descriptors: Iterable[int] = ()) -> None:
        self._view = view = memoryview(blob).toreadonly()
        (size,) = _SIZE.unpack_from(view)
        self._at = _SIZE.size + size
        self.key, *self._sizes = pickle.loads(view[_SIZE.size : self._at])
        self.descriptors = list(descriptors)
        """Open until `close`."""
        self.made: Any = None
        """What was made of it, if it may be made again."""

    def load(self) -> Any:
        """Unpickle it, which runs the user's code; buffers as read-only views."""
        size, sizes = self._sizes
        at = self._at + size
        data = self._view[self._at : at]
        buffers = []
        for length in sizes:
            at += -at % _ALIGN
            buffers.append(self._view[at : at + length])
            at += length
        return pickle.loads(data, buffers=buffers)

    def close(self) -> None:
        """Close the descriptors."""
        while self.descriptors:
            with suppress(OSError):
                os.close(self.descriptors.pop())


_kept: dict[bytes, Any] = {}
"""What has come under each key: an `Arrival`, or what was made of it."""


def receive(blob: bytes | bytearray, descriptors: Iterable[int] = ()) -> None:
    """Keep what *blob*, the parts put together, stands for, until `forget`."""
    arrival = Arrival(blob, descriptors)
    _kept[arrival.key] = arrival


def forget(keys: Iterable[bytes]) -> None:
    """Let go of what the parent has let go of."""
    for key in keys:
        kept = _kept.pop(key, None)
        if type(kept) is Arrival:
            kept.close()


def received(key: bytes) -> bool:
    """Return whether anything is kept under *key*."""
    return key in _kept


def arrived(key: bytes) -> Any:
    """Return what is kept under *key*: an `Arrival`, or what took its place. Raises LookupError."""
    try:
        return _kept[key]
    except KeyError:
        raise LookupError("an object was pickled for another worker than this one") from None


def replace(key: bytes, made: Any) -> Any:
    """Keep *made* in the place of the arrival that it was made of; returns it."""
    _kept[key] = made
    return made


def take(key: bytes) -> Arrival:
    """Return what has come under *key*, for which nobody will ask again. Raises LookupError."""
    arrival: Arrival = arrived(key)
    del _kept[key]
    return arrival
