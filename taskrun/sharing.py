"""`taskrun.shared`: an object that the user promises not to change, which goes to each worker once.

Where a task's function gets it as an argument, it gets the object itself: as a positional or keyword argument, or bound by
`functools.partial`. Anywhere else (in a list, in a global that the function reads) it stays a `Shared`, whose `.value` is the
object.

Its pickle is made once, the buffers of arrays out of band, not copied. Where somebody collects it is a `Shipment`; in any other
pickle it goes whole.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from taskrun import shipping
from taskrun.serialization import dump_out_of_band
from taskrun.shipping import Arrival, Shipment
from taskrun.threads import renew_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Shared", "shared", "unwrapped"]

in_use = False
"""Whether there is or was any in this process: else nobody has to look for one."""

_loaded = threading.Lock()
renew_after_fork(globals(), "_loaded", threading.Lock)
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


class Shared(Shipment):
    """What `shared` returns."""

    __slots__ = ("_arrival", "_parts", "_value")
    _unchanging = True  # see `reach`

    def __init__(self, value: Any, *, key: bytes | None = None, arrival: Arrival | None = None) -> None:
        global in_use
        in_use = True
        super().__init__(key or shipping.new_key())
        self._value = value
        self._parts: list[Any] | None = None
        self._arrival = arrival  # in a worker, before the value is asked for

    @property
    def value(self) -> Any:
        """The object; an array as a read-only view."""
        arrival = self._arrival
        if arrival is not None:
            value = arrival.load()  # the user's code: under no lock, so that two threads may do it at once
            with _loaded:
                if self._arrival is not None:
                    self._value = value
                    self._arrival = None
        return _read_only(self._value)

    def parts(self) -> list[Any]:
        if self._parts is None:
            with shipping.collecting() as needs:
                parts = shipping.pack(self.key, *dump_out_of_band(self.value))
            self.needs, self._parts = needs, parts
        return self._parts

    def __reduce__(self) -> Any:
        found = shipping.collector()
        parts = self.parts()
        if found is not None:
            found.append(self)
            return _from_key, (self.key,)
        if self.needs:  # they may be lacking where it goes
            with shipping.not_collecting():
                parts = shipping.pack(self.key, *dump_out_of_band(self.value))
        return _from_whole, (self.key, b"".join(parts))

    def __repr__(self) -> str:
        return "<taskrun.shared, not looked at>" if self._arrival else f"<taskrun.shared {type(self._value).__qualname__}>"


def _read_only(value: Any) -> Any:
    """Return a read-only view of an array, anything else as it is."""
    view, flags = getattr(value, "view", None), getattr(value, "flags", None)
    if view is None or not getattr(flags, "writeable", False) or not hasattr(value, "setflags"):
        return value
    seen = view()
    seen.setflags(write=False)
    return seen


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


def _from_key(key: bytes) -> Shared:
    kept = shipping.arrived(key)
    return shipping.replace(key, _not_looked_at(kept)) if type(kept) is Arrival else kept  # type: ignore[no-any-return]


def _not_looked_at(arrival: Arrival) -> Shared:
    return Shared(None, key=arrival.key, arrival=arrival)


def _from_whole(key: bytes, blob: bytes) -> Shared:
    one = _from_key(key) if shipping.received(key) else _whole.get(key)
    if one is None:
        one = _whole.setdefault(key, _not_looked_at(Arrival(blob)))  # a worker may have several threads: one is theirs
        _latest.append(one)
    return one
