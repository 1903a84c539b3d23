"""`taskrun.shared`: an object that the user promises not to change, which goes to each worker once.

Where a task's function gets it as an argument, it gets the object itself: as a positional or keyword argument, or bound by
`functools.partial`. Anywhere else (in a list, in a global that the function reads) it stays a `Shared`, whose `.value` is the
object.

Its pickle is made once, the buffers of arrays out of band, not copied. A backend that knows what its workers have pickles
calls inside `collecting`: then a `Shared` goes as its key alone, and the backend sees to it that the worker gets `parts` first.
In any other pickle it goes whole.
"""

from __future__ import annotations

import functools
import itertools
import os
import pickle
import struct
import threading
import weakref
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from taskrun.serialization import dump_out_of_band

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["Shared", "Shipped", "collecting", "forget", "receive", "shared", "unwrapped"]

in_use = False
"""Whether there is or was any in this process: else nobody has to look for one."""

_ALIGN = 16
_SIZE = struct.Struct("<Q")

_keys = (f"{number}".encode() for number in itertools.count())
_token = os.urandom(8).hex()
_collector = threading.local()
_loaded = threading.Lock()
_received: dict[bytes, Shared] = {}
_latest: deque[Shared] = deque(maxlen=4)
"""Keeps the last ones that came whole: the next task will want them, too."""
_whole: weakref.WeakValueDictionary[bytes, Shared] = weakref.WeakValueDictionary()


def shared(obj: Any) -> Any:
    """Return a stand-in for *obj* that, as an argument of tasks, is shipped to each worker once.

    The task gets the object itself, arrays as read-only views; who changes it all the same changes it for other tasks, or for
    none. Where tasks run in this process, and on `fork`, it is not shipped at all. Workers keep it as long as the stand-in
    lives. An error in pickling it is an error of the tasks that it is an argument of.
    """
    return obj if type(obj) is Shared else Shared(obj)


class Shared:
    """What `shared` returns."""

    __slots__ = ("__weakref__", "_blob", "_parts", "_value", "key")
    _unchanging = True  # see `reach`

    def __init__(self, value: Any) -> None:
        global in_use
        in_use = True
        self.key = f"{os.getpid()}-{_token}-".encode() + next(_keys)
        self._value = value
        self._parts: list[Any] | None = None
        self._blob: memoryview | None = None  # in a worker, before the value is asked for

    @property
    def value(self) -> Any:
        """The object; an array as a read-only view."""
        blob = self._blob
        if blob is not None:
            value = _load(blob)  # the user's code: under no lock, so that two threads may do it at once
            with _loaded:
                if self._blob is not None:
                    self._value = value
                    self._blob = None
        return _read_only(self._value)

    def parts(self) -> list[Any]:
        """Return what `receive` takes, in pieces. Raises what pickling the object raises."""
        if self._parts is None:
            found = getattr(_collector, "found", None)
            _collector.found = None  # what is shared within goes whole: who is sent this may lack that
            try:
                self._parts = _dump(self.key, self.value)
            finally:
                _collector.found = found
        return self._parts

    def __reduce__(self) -> Any:
        found = getattr(_collector, "found", None)
        parts = self.parts()
        if found is None:
            return _from_whole, (self.key, b"".join(parts))
        found.append(self)
        return _from_key, (self.key,)

    def __repr__(self) -> str:
        return f"<taskrun.shared {type(self._value).__qualname__}>" if self._blob is None else "<taskrun.shared, not looked at>"


def _read_only(value: Any) -> Any:
    """Return a read-only view of an array, anything else as it is."""
    view, flags = getattr(value, "view", None), getattr(value, "flags", None)
    if view is None or not getattr(flags, "writeable", False) or not hasattr(value, "setflags"):
        return value
    seen = view()
    seen.setflags(write=False)
    return seen


# -- in the parent -------------------------------------------------------------------------------------------------------------


@contextmanager
def collecting() -> Iterator[list[Shared]]:
    """A context whose pickles hold only the keys of what is shared; gives the list of what they name."""
    before = getattr(_collector, "found", None)
    found: list[Shared] = []
    _collector.found = found
    try:
        yield found
    finally:
        _collector.found = before


class Shipped:
    """What one worker has of what is shared. One thread's, but for what the collector does."""

    def __init__(self) -> None:
        self._there: dict[bytes, weakref.ref[Shared]] = {}
        self._gone: deque[bytes] = deque()

    def lacks(self, one: Shared) -> bool:
        """Return whether *one* has to be sent."""
        return one.key not in self._there

    def note(self, one: Shared) -> None:
        """Note that *one* is sent."""
        key, gone = one.key, self._gone
        self._there[key] = weakref.ref(one, lambda _: gone.append(key))  # it may run anywhere, and does no more than this

    def gone(self) -> list[bytes]:
        """Return the keys of what it need not keep any more."""
        return list(self._gone)

    def let_go(self, keys: list[bytes]) -> None:
        """Note that it is told to let go of *keys*, the first of `gone`."""
        for key in keys:
            self._gone.popleft()
            del self._there[key]


def unwrapped(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], Any]:
    """Return the call with each argument that is shared in the place of its stand-in."""
    if any(type(arg) is Shared for arg in args):
        args = tuple(map(_value_of, args))
    if any(type(arg) is Shared for arg in kwargs.values()):
        kwargs = {name: _value_of(arg) for name, arg in kwargs.items()}
    if type(fn) is functools.partial:
        inner, bound, named = unwrapped(fn.func, fn.args, fn.keywords)
        if inner is not fn.func or bound is not fn.args or named is not fn.keywords:
            fn = functools.partial(inner, *bound, **named)
    return fn, args, kwargs


def _value_of(arg: Any) -> Any:
    return arg.value if type(arg) is Shared else arg


def _dump(key: bytes, value: Any) -> list[Any]:
    """Return [head, pickle, buffers...]: in the head, the sizes of what follows; buffers begin at multiples of 16 bytes."""
    data, buffers = dump_out_of_band(value)
    head = pickle.dumps((key, len(data), [buffer.nbytes for buffer in buffers]), 5)
    parts: list[Any] = [_SIZE.pack(len(head)), head, data]
    at = sum(map(len, parts))
    for buffer in buffers:
        gap = -at % _ALIGN
        parts += [bytes(gap), buffer]
        at += gap + buffer.nbytes
    return parts


# -- in the worker -------------------------------------------------------------------------------------------------------------


def receive(blob: bytes | bytearray) -> None:
    """Keep what *blob*, the parts put together, stands for, until `forget`."""
    one = _from_blob(blob)
    _received[one.key] = one


def forget(keys: list[bytes]) -> None:
    """Let go of what the parent has let go of."""
    for key in keys:
        _received.pop(key, None)


def _from_blob(blob: bytes | bytearray) -> Shared:
    one = Shared(None)
    view = memoryview(blob).toreadonly()
    (key, _, _), _ = _head(view)
    one.key, one._blob = key, view
    return one


def _head(view: memoryview) -> tuple[tuple[bytes, int, list[int]], int]:
    (size,) = _SIZE.unpack_from(view)
    at = _SIZE.size + size
    return pickle.loads(view[_SIZE.size : at]), at


def _load(view: memoryview) -> Any:
    (_, size, sizes), at = _head(view)
    data, at = view[at : at + size], at + size
    buffers = []
    for length in sizes:
        at += -at % _ALIGN
        buffers.append(view[at : at + length])
        at += length
    return pickle.loads(data, buffers=buffers)


def _from_key(key: bytes) -> Shared:
    try:
        return _received[key]
    except KeyError:
        raise LookupError("a shared object was pickled for another worker than this one") from None


def _from_whole(key: bytes, blob: bytes) -> Shared:
    one = _received.get(key) or _whole.get(key)
    if one is None:
        one = _whole[key] = _from_blob(blob)
        _latest.append(one)
    return one
