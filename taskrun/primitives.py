"""multiprocessing's locks, queues, connections and shared values, its managers' proxies, and sockets, as arguments of tasks.

They refuse to be pickled but for a process that is being started, and then refer to descriptors that it inherits. To send them
to workers that run already each is a `Shipment`: pickled as for a new process, with a stand-in for that process which collects
the descriptors; these travel beside the pickle. What keeps its identity (a lock, a queue) is sent to each worker once and is
one object there however often it is sent, so that a task can acquire an RLock again that it was given twice, and a queue has
one feeder thread. A connection or a socket is each time a new duplicate, which is closed when the task drops it.
"""

from __future__ import annotations

import copyreg
import errno
import functools
import os
import sys
import threading
import time
import types
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from taskrun import shipping
from taskrun.importable import loaded
from taskrun.shipping import Shipment
from taskrun.threads import renew_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from taskrun.shipping import Arrival

__all__ = ["held", "is_primitive", "locks_among", "note_lock", "noted_locks", "reduce_primitive", "returned"]

_WITH_IDENTITY = {
    ("multiprocessing.synchronize", "SemLock"),
    ("multiprocessing.synchronize", "Condition"),
    ("multiprocessing.synchronize", "Event"),
    ("multiprocessing.synchronize", "Barrier"),
    ("multiprocessing.queues", "Queue"),
    ("multiprocessing.queues", "SimpleQueue"),
    ("multiprocessing.sharedctypes", "SynchronizedBase"),
    ("multiprocessing.heap", "Arena"),
    ("multiprocessing.managers", "BaseProxy"),
}
"""The classes, by name, since most programs never load them."""

_PROXY = {("multiprocessing.managers", "BaseProxy")}
_QUEUE = {("multiprocessing.queues", "Queue")}
_SIMPLE_QUEUE = {("multiprocessing.queues", "SimpleQueue")}
_LOCKS = {("multiprocessing.synchronize", "Lock"), ("multiprocessing.synchronize", "RLock")}
_WITH_LOCKS_OF_THEIR_OWN = {
    ("multiprocessing.synchronize", "Event"),
    ("multiprocessing.synchronize", "Barrier"),
    ("multiprocessing.queues", "Queue"),
    ("multiprocessing.queues", "SimpleQueue"),
}
"""A locked one within them is their own business: an idle reader holds a queue's."""

_NOT_OURS = (types.MethodType, types.BuiltinFunctionType, type(list.append), type(int.__add__), functools.partial)
"""multiprocessing has reducers for them, too."""


def is_primitive(obj: Any) -> bool:
    """Return whether *obj* is one of those."""
    return _is_one_of(_WITH_IDENTITY, obj) or _reducer(obj) is not None


def _is_one_of(classes: set[tuple[str, str]], obj: Any) -> bool:
    return any((base.__module__, base.__qualname__) in classes for base in type(obj).__mro__[:-1])


def _reducer(obj: Any) -> Callable[[Any], Any] | None:
    """Return multiprocessing's own reducer for the class of *obj*."""
    table = getattr(loaded("multiprocessing.reduction", "ForkingPickler"), "_extra_reducers", {})
    reducer: Callable[[Any], Any] | None = table.get(type(obj))
    if reducer is None or isinstance(obj, _NOT_OURS):
        return None
    if reducer.__name__ == "reduce_ctype" and not _in_shared_memory(obj):
        return None  # of the same type, but in memory of its own: it pickles as any object
    return reducer


def _in_shared_memory(obj: Any) -> bool:
    """Return whether a ctypes object lies in memory of multiprocessing's."""
    wrapper = getattr(obj, "__dict__", {}).get("_wrapper")  # a field of a structure may have that name
    return _is_one_of({("multiprocessing.heap", "BufferWrapper")}, wrapper)


# -- sending -------------------------------------------------------------------------------------------------------------------


class _Primitive(Shipment):
    """A primitive pickled; the object itself is not kept alive by it."""

    __slots__ = ("_descriptors", "_once", "_parts", "lock")

    def __init__(self, key: bytes, obj: Any, dumps: Callable[[Any], bytes], *, once: bool = False) -> None:
        super().__init__(key)
        self._once = once
        self._descriptors: list[int] = []
        self.lock: weakref.ref[Any] | None = weakref.ref(obj) if _is_one_of(_LOCKS, obj) else None
        """If it is a lock that its holder takes along when it dies."""
        with shipping.collecting() as needs, _as_if_spawning() as stand_in:
            data = dumps(_Opened(obj))
            self._descriptors += map(os.dup, stand_in.descriptors)
        self.needs = needs
        if _is_one_of(_WITH_LOCKS_OF_THEIR_OWN, obj):
            self._forget_locks()
        self._parts = shipping.pack(key, data)

    def _forget_locks(self) -> None:
        self.lock = None
        for one in self.needs:
            if isinstance(one, _Primitive):
                one._forget_locks()

    def parts(self) -> list[Any]:
        return self._parts

    @property
    def descriptors(self) -> Sequence[int]:
        return self._descriptors

    @property
    def awaited(self) -> bool:
        return self._once and bool(self._descriptors)

    def __del__(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())


class _Opened:
    """Pickles as *obj* would for a process that is being started; what is within it is looked at again."""

    def __init__(self, obj: Any) -> None:
        self._obj = obj

    def __reduce__(self) -> Any:
        reducer = _reducer(self._obj)
        reduced = self._obj.__reduce_ex__(5) if reducer is None else reducer(self._obj)
        # The pickler allows this function to objects of the class in question only.
        return (_new, *reduced[1:]) if reduced[0] is getattr(copyreg, "__newobj__", None) else reduced


def _new(cls: type, *args: Any) -> Any:
    return cls.__new__(cls, *args)


class _StandIn:
    """What multiprocessing takes for a process that is being started and will inherit descriptors."""

    def __init__(self) -> None:
        self.descriptors: list[int] = []

    def duplicate_for_child(self, fd: int) -> int:
        self.descriptors.append(fd)
        return len(self.descriptors) - 1

    def DupFd(self, number: int) -> _Descriptor:  # noqa: N802 - multiprocessing's name
        return _Descriptor(number)


@contextmanager
def _as_if_spawning() -> Iterator[_StandIn]:
    from multiprocessing import context

    before, stand_in = context.get_spawning_popen(), _StandIn()
    context.set_spawning_popen(cast("Any", stand_in))
    try:
        yield stand_in
    finally:
        context.set_spawning_popen(before)


def _inside_of_another() -> bool:
    """Return whether what is pickled now is a part of a primitive."""
    context = sys.modules.get("multiprocessing.context")
    return context is not None and isinstance(context.get_spawning_popen(), _StandIn)


class _Known:
    """A primitive with an identity that was sent from here, or came here."""

    __slots__ = ("came", "key", "ref", "shipment")

    def __init__(self, obj: Any, key: bytes, came: bool) -> None:
        number = id(obj)
        self.ref = weakref.ref(obj, lambda _: _forget(number, key))  # it may run anywhere, and does no more than this
        self.key = key
        self.came = came
        self.shipment: _Primitive | None = None


_registry = threading.RLock()  # a collector in the middle of it may forget some
renew_after_fork(globals(), "_registry", threading.RLock)
_known: dict[int, _Known] = {}
_by_key: dict[bytes, _Known] = {}


def _forget(number: int, key: bytes) -> None:
    _known.pop(number, None)
    _by_key.pop(key, None)


def _know(obj: Any, key: bytes, *, came: bool) -> _Known:
    known = _known[id(obj)] = _by_key[key] = _Known(obj, key, came)
    return known


def reduce_primitive(obj: Any, dumps: Callable[[Any], bytes]) -> Any:
    """Return the reduction of a primitive on its way to a worker; *dumps* pickles what it is made of.

    Raises what pickling it raises, RuntimeError where nobody collects.
    """
    found = shipping.collector()
    if found is None:
        raise _refused(obj)
    if not _is_one_of(_WITH_IDENTITY, obj) and not _in_shared_memory(obj):
        within = _inside_of_another()
        once = _Primitive(shipping.new_key(), obj, dumps, once=not within)
        found.append(once)
        return _another if within else _the_only, (once.key,)
    with _registry:
        known = _known.get(id(obj))
        if known is None or known.ref() is not obj:
            known = _know(obj, shipping.new_key(), came=False)
    if known.shipment is None:
        shipment = _Primitive(known.key, obj, dumps)  # the user's code: under no lock, so that two threads may make one
        with _registry:
            if known.shipment is None:
                known.shipment = shipment
    found.append(known.shipment)
    return _the_one, (known.key,)


def returned(obj: Any) -> Any:
    """Return the reduction of a primitive on its way back to the parent, if it came from there. Raises RuntimeError.

    A manager's proxy may come from anywhere: it says by itself where its manager is.
    """
    known = _known.get(id(obj))
    if known is not None and known.came and known.ref() is obj:
        return _original, (known.key,)
    if _is_one_of(_PROXY, obj):
        return obj.__reduce_ex__(5)
    raise _refused(obj)


def _refused(obj: Any) -> RuntimeError:
    return RuntimeError(
        f"{type(obj).__qualname__} objects should only be shared between processes through inheritance, or as arguments of the "
        "tasks of an executor: a task cannot return one that it has made (nor a connection, and none on fork), nor can it be "
        "written to a file"
    )


# -- receiving -----------------------------------------------------------------------------------------------------------------

_loading: list[Arrival] = []


class _Descriptor:
    """A descriptor in a pickle: the number of one of those that travel beside it."""

    def __init__(self, number: int) -> None:
        self._number = number

    def detach(self) -> int:
        """Return the descriptor, which is the caller's from now on."""
        descriptors = _loading[-1].descriptors
        if self._number >= len(descriptors):
            raise OSError(errno.EMFILE, "there were no descriptors left in the worker when this object came")
        return os.dup(descriptors[self._number])


def _load(arrival: Arrival) -> Any:
    _loading.append(arrival)
    try:
        return arrival.load()
    finally:
        _loading.pop()


def _the_one(key: bytes) -> Any:
    """Return the object under *key*; a queue that a task has closed is made anew for the next."""
    arrival: Arrival = shipping.arrived(key)
    if arrival.made is None or _is_closed_queue(arrival.made):
        arrival.made = _load(arrival)
        _know(arrival.made, key, came=True)
    return arrival.made


def _is_closed_queue(obj: Any) -> bool:
    if _is_one_of(_SIMPLE_QUEUE, obj):
        return bool(obj._writer.closed)
    return _is_one_of(_QUEUE, obj) and bool(obj._closed)


def _another(key: bytes) -> Any:
    """Return a duplicate, for an object that may be made again."""
    return _load(shipping.arrived(key))


def _the_only(key: bytes) -> Any:
    """Return a duplicate, for a task."""
    arrival = shipping.take(key)
    try:
        return _load(arrival)
    finally:
        arrival.close()


def _original(key: bytes) -> Any:
    known = _by_key.get(key)
    obj = None if known is None else known.ref()
    if obj is None:
        raise LookupError("a task returned a lock, queue or shared value of its parent, which does not exist any more")
    return obj


# -- what a dead worker holds --------------------------------------------------------------------------------------------------

_noted: weakref.WeakSet[Any] = weakref.WeakSet()


def note_lock(lock: Any) -> Any:
    """Remember a lock that every forked child inherits; returns it."""
    with _registry:
        _noted.add(lock)
    return lock


def noted_locks() -> list[Any]:
    """Return the locks that were noted and still exist."""
    with _registry:  # it must not grow while it is read
        return list(_noted)


def locks_among(shipments: Iterable[Shipment]) -> list[Any]:
    """Return the locks that a worker got as, or in, these arguments."""
    refs = (getattr(one, "lock", None) for one in shipments)
    return [lock for lock in (ref() for ref in refs if ref is not None) if lock is not None]


def held(locks: Iterable[Any]) -> tuple[str, ...]:
    """Return the names of those *locks* that are locked, and were not by this process, for five milliseconds on end.

    Who holds a lock, the kernel does not know: it may be another worker than the one that has died.
    """
    suspects = list(locks)
    for wait in (0.0, 0.001, 0.002, 0.002):
        if suspects:
            time.sleep(wait)
            suspects = [lock for lock in suspects if lock._semlock._is_zero() and not lock._semlock._count()]
    return tuple(f"{type(lock).__name__} {lock._semlock.name}" for lock in suspects)
