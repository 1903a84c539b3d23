"""What a function or class that travels by value is made of, and whether that has changed since it was sent.

Workers keep functions and classes. A helper defined anew in a notebook, a global bound to something else, an attribute set on
a class, an item put into a small table: all of that has to reach them with the next task. So what was sent is remembered as
a list of places (a global, a cell, a default, an attribute) with a witness of what was there.

Nothing is kept alive but plain data: functions, classes and other objects are held weakly. A value that is pickled in no more
than 64 KiB is told apart by a digest of its pickle, so a change in place is seen; of a larger one only that something else
was bound.
"""

from __future__ import annotations

import functools
import itertools
import pickle
import types
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from taskrun.importable import importable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Reach", "digest", "is_cached_function", "may_change", "new_moment"]

_MOST_PLACES = 2000
_MOST_ITEMS = 200  # of a container that is searched for functions
_MOST_BYTES = 1 << 16
_MISSING = object()

_PLAIN = frozenset({bool, int, float, complex, str, bytes, type(None), type(...), type(NotImplemented), types.CodeType})
"""Nothing can change in them, and they refer to nothing of the user's."""

_CACHED = type(functools.lru_cache(_MISSING.__eq__))


def is_cached_function(obj: object) -> bool:
    """Return whether *obj* was made by `functools.cache` or `functools.lru_cache`."""
    return type(obj) is _CACHED


_moments = itertools.count(1)  # its `next` is atomic
_moment = 0


def new_moment() -> None:
    """Have every reach looked at again. To be called after a task was taken from its queue and before it is pickled.

    To look takes some 0.1 us a place: what is asked for again and again in one moment, for a batch of tasks, is looked at once.
    """
    global _moment
    _moment = next(_moments)


def may_change(obj: Any) -> bool:
    """Return whether *obj* travels by value, so that what it is made of has to be watched."""
    return bool(_places(obj))


class Reach:
    """The places that a function or class reads, each with a witness of its value."""

    def __init__(self, root: Any) -> None:
        self._looked = _moment
        self._owners: list[_Owner] = []
        with suppress(Exception):  # objects may lie about themselves in any way; what was found counts
            self._search(root)

    def _search(self, root: Any) -> None:
        places = 0
        pending, seen = [root], {id(root)}
        while pending and places < _MOST_PLACES:
            here = pending.pop()
            for read, names in _places(here):
                owner = _Owner(here, read, names)
                self._owners.append(owner)
                places += len(owner.witnesses)
                for value in owner.values():
                    for each in _parts(value):
                        if id(each) not in seen:
                            seen.add(id(each))
                            pending.append(each)

    def unchanged(self) -> bool:
        """Return whether every place holds what it held."""
        now = _moment
        if self._looked == now:
            return True
        try:
            for owner in self._owners:  # for each task: `all` would take twice as long
                if not owner.unchanged():
                    return False
        except Exception:  # as above
            return False
        self._looked = now
        return True


class _Owner:
    """One function or class, held weakly, and what stood in one of its tables of names."""

    __slots__ = ("_read", "_ref", "_size", "witnesses")

    def __init__(self, owner: Any, read: Callable[[Any], Any], names: Any) -> None:
        self._ref = weakref.ref(owner)
        self._read = read
        table = read(owner)
        # None: the whole table counts, so that a new name shows; else only the names that are read.
        self._size = len(table) if names is None else None
        names = list(table) if names is None else names
        self.witnesses = [(name, _witness(name, table.get(name, _MISSING))) for name in names]

    def values(self) -> Iterator[Any]:
        table = self._read(self._ref())
        return (table[name] for name, _ in self.witnesses if name in table)

    def unchanged(self) -> bool:
        owner = self._ref()
        if owner is None:
            return False
        table = self._read(owner)
        if self._size is not None and len(table) != self._size:
            return False
        get = table.get
        for name, witness in self.witnesses:  # noqa: SIM110 - as above
            if not witness(get(name, _MISSING)):
                return False
        return True


# -- places --------------------------------------------------------------------------------------------------------------------


def _places(obj: Any) -> list[tuple[Callable[[Any], Any], Any]]:
    """Return the tables of names that *obj* has, if it travels by value: how to read each, and which names (None: all)."""
    kind = type(obj)
    if kind is types.FunctionType:
        if importable(obj.__module__) and "<locals>" not in obj.__qualname__ and obj.__name__ != "<lambda>":
            return []
        return [(_globals, _names_read(obj.__code__)), (_definition, None)]
    if is_cached_function(obj):
        return [(vars, None)] if may_change(obj.__wrapped__) else []
    if issubclass(kind, type) and (not importable(obj.__module__) or "<locals>" in obj.__qualname__):
        return [(vars, None), (_bases, None)]
    return []


def _globals(fn: types.FunctionType) -> dict[str, Any]:
    return fn.__globals__


def _definition(fn: types.FunctionType) -> dict[Any, Any]:
    table: dict[Any, Any] = {"(code)": fn.__code__, "(defaults)": fn.__defaults__, "(kwdefaults)": fn.__kwdefaults__}
    for number, cell in enumerate(fn.__closure__ or ()):
        try:
            table[number] = cell.cell_contents
        except ValueError:  # empty as yet
            table[number] = _MISSING
    table.update(fn.__dict__)
    return table


def _bases(cls: type) -> dict[int, Any]:
    return dict(enumerate(cls.__bases__))


def _names_read(code: types.CodeType) -> list[str]:
    names: dict[str, None] = {}
    codes = [code]
    while codes:
        here = codes.pop()
        codes += [item for item in here.co_consts if isinstance(item, types.CodeType)]
        names.update(dict.fromkeys(here.co_names))
    return list(names)


def _parts(value: Any) -> Iterator[Any]:
    """Yield the functions and classes that *value* is, wraps, or is an instance of."""
    pending, left = [value], _MOST_ITEMS
    while pending and left:
        here = pending.pop()
        left -= 1
        kind = type(here)
        if kind in _PLAIN:
            continue
        if kind is types.FunctionType or issubclass(kind, type) or is_cached_function(here):
            yield here
        elif kind in (staticmethod, classmethod):
            pending.append(here.__func__)
        elif kind is property:
            pending += (here.fget, here.fset, here.fdel)
        elif issubclass(kind, functools.partial):
            pending += (here.func, *here.args, *here.keywords.values())
        elif kind is types.MethodType:
            pending += (here.__func__, here.__self__)
        elif kind is functools.cached_property:
            pending.append(here.func)
        elif kind in (tuple, list, set, frozenset):
            pending += list(here)[:left]
        elif kind is dict:
            pending += list(here.values())[:left]
        elif kind is not types.ModuleType:
            yield kind


# -- witnesses -----------------------------------------------------------------------------------------------------------------


def _witness(name: Any, value: Any) -> Callable[[Any], bool]:
    """Return what tells whether a value is still this one, without keeping alive what may refer to its owner."""
    kind = type(value)
    if kind in _PLAIN or value is _MISSING:
        return functools.partial(_is, value)
    if kind in (staticmethod, classmethod):
        return functools.partial(_wraps, kind, ("__func__",), (_witness(name, value.__func__),))
    if kind is property:
        parts = tuple(_witness(name, part) for part in (value.fget, value.fset, value.fdel))
        return functools.partial(_wraps, kind, ("fget", "fset", "fdel"), parts)
    by_name = kind in (types.FunctionType, types.ModuleType, _CACHED) or issubclass(kind, type)  # pickled by reference
    # `Shared` says of its objects that they do not change: to look would pickle them.
    if not by_name and not _dunder(name) and not getattr(kind, "_unchanging", False):
        seen = digest(value)
        if seen is not None:
            return functools.partial(_has_digest, kind, seen)
    try:
        ref = weakref.ref(value)
    except TypeError:
        # A container too large or too strange to be pickled, or a descriptor that Python made: it may refer to its owner, so
        # it is not held. Another one at the same place in memory would be taken for it.
        return functools.partial(_has_id, kind, id(value))
    return functools.partial(_refers_to, ref)


def _is(known: Any, value: Any) -> bool:
    return value is known or (type(value) is type(known) and value == known)


def _wraps(kind: type, names: tuple[str, ...], witnesses: tuple[Callable[[Any], bool], ...], value: Any) -> bool:
    return type(value) is kind and all(w(getattr(value, name)) for name, w in zip(names, witnesses, strict=True))


def _has_digest(kind: type, known: bytes, value: Any) -> bool:
    return type(value) is kind and digest(value) == known


def _has_id(kind: type, number: int, value: Any) -> bool:
    return type(value) is kind and id(value) == number


def _refers_to(ref: weakref.ref[Any], value: Any) -> bool:
    return ref() is value


def _dunder(name: Any) -> bool:
    """Return whether Python or a decorator sets it when it makes the class (`__dataclass_fields__`), and nobody afterwards."""
    return isinstance(name, str) and name.startswith("__") and name.endswith("__")


class _TooLargeError(Exception):
    """There is more than `_MOST_BYTES` of it."""


class _Digest:
    """A file that only hashes what is written to it."""

    def __init__(self, limit: int | None) -> None:
        import hashlib  # not at the top: it loads OpenSSL, and most workers never need one

        self.hash = hashlib.blake2b(digest_size=16)
        self.left = limit

    def write(self, data: Any) -> int:
        if self.left is not None:
            self.left -= len(data)
            if self.left < 0:
                raise _TooLargeError
        self.hash.update(data)
        return len(data)


def digest(value: Any, limit: int | None = _MOST_BYTES) -> bytes | None:
    """Return a digest of the pickle of *value*; None if it does not pickle, or if that would be more than *limit* bytes."""
    file = _Digest(limit)
    try:
        pickle.Pickler(file, 5).dump(value)
    except Exception:  # whatever a user's __reduce__ raises: sending it will tell
        return None
    return file.hash.digest()
