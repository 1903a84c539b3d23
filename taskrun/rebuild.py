"""The receiving half of pickling by value: what the messages of `by_value` call in the process that loads them.

Loads cloudpickle; nothing imports this module but a message that needs it.
"""

from __future__ import annotations

import pickle
import sys
import types
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import cloudpickle.cloudpickle as cp  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "came_from_elsewhere",
    "class_by_id",
    "make_class",
    "make_code",
    "make_function",
    "open_message",
    "set_class",
    "set_function",
]

IMPORT = "import "
"""Begins the key of a namespace that is to be imported, not copied."""

# -- classes -------------------------------------------------------------------------------------------------------------------

_UNFINISHED = -1
_versions: weakref.WeakKeyDictionary[type, int | None] = weakref.WeakKeyDictionary()
"""The classes that came from another process, and in which version; a class not in it was made here."""


def came_from_elsewhere(cls: type) -> bool:
    """Return whether another process sent the class, so that its sender knows it."""
    return cls in _versions


def open_message(known: tuple[tuple[str, int | None], ...], blob: bytes | None, payload: bytes) -> Any:
    """Load *payload*, and before it the definitions of its classes if one of them is not here in that version."""
    # Held until the payload is loaded: cloudpickle's table of classes is weak.
    classes = [_up_to_date(tracker_id, version) for tracker_id, version in known]
    if blob is not None and any(cls is None for cls in classes):
        classes = pickle.loads(blob)
    return pickle.loads(payload)


def class_by_id(tracker_id: str) -> type:
    """Return the class that has come before, or was sent from here."""
    cls: type | None = cp._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker_id)
    if cls is None:
        raise pickle.UnpicklingError("a class that travelled by value no longer exists in the process it came from")
    return cls


def _up_to_date(tracker_id: str, version: int | None) -> type | None:
    """Return the class if it is here and needs no definition; version None: any will do."""
    cls: type | None = cp._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker_id)
    if cls is None or cls not in _versions:
        return cls
    here = _versions[cls]
    return cls if here != _UNFINISHED and (version is None or version == here) else None


def make_class(tracker_id: str, maker: Callable[..., type], args: tuple[Any, ...]) -> type:
    """Return the class with this id, a new and empty one if it is not here."""
    cls: type | None = cp._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker_id)
    if cls is None:
        cls = maker(*args)
        # setdefault: of two threads that read the same class at once, cloudpickle lets one win.
        _versions.setdefault(cls, _UNFINISHED)
    return cls


def set_class(cls: type, state: tuple[Callable[..., Any], Any, int | None]) -> type:
    """Fill a new class, or bring one that was received to a newer version; one made here knows better itself."""
    setter, attributes, version = state
    if cls in _versions:
        here = _versions[cls]
        if here == _UNFINISHED or (version is not None and version != here):
            setter(cls, attributes)
            _versions[cls] = version
    return cls


# -- functions -----------------------------------------------------------------------------------------------------------------

_MOST_NAMESPACES = 256
_namespaces: OrderedDict[str, tuple[dict[str, Any], dict[str, Any]]] = OrderedDict()
"""Key to the globals shared by the functions of one module of the sender, and the tokens of the values copied in."""


def make_code(maker: Callable[..., types.CodeType], args: tuple[Any, ...], filename: str) -> types.CodeType:
    """Return a code object that says which file it is from: tracebacks have its lines then."""
    return maker(*args).replace(co_filename=filename)


def make_function(
    maker: Callable[..., types.FunctionType],
    code: types.CodeType,
    base: dict[str, Any],
    rest: tuple[Any, ...],
    key: str | None,
    origin: tuple[str, str] | None,
) -> types.FunctionType:
    """Return a function without its state; or, for a copy that comes home, the original."""
    if origin is not None:
        original = _original(*origin, code)
        if original is not None:
            return original
    if key is None:
        return maker(code, base, *rest)
    if key.startswith(IMPORT):
        # Not by cloudpickle's maker: it sets __builtins__, and a module has them.
        return types.FunctionType(code, vars(cp.subimport(key.removeprefix(IMPORT))), *rest)
    return maker(code, _namespace(key, base)[0], *rest)


def set_function(fn: types.FunctionType, state: tuple[Any, ...]) -> types.FunctionType:
    """Give a function its globals, closure, defaults and attributes."""
    setter, attributes, slots, key, tokens = state
    if key is None and _original(fn.__module__, fn.__qualname__, fn.__code__) is fn:
        return fn  # it came home
    if tokens is not None:
        namespace, received = _namespace(key, fn.__globals__)
        names = slots["__globals__"]
        for name, token in tokens.items():
            if token is not None and name in namespace and received.get(name) == token:
                del names[name]  # unchanged since it was last sent: what the worker made of it stays
            received[name] = token
    setter(fn, (attributes, slots))
    return fn


def _namespace(key: str, base: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    found = _namespaces.get(key)
    if found is None:
        found = _namespaces[key] = (base, {})
        if len(_namespaces) > _MOST_NAMESPACES:
            _namespaces.popitem(last=False)  # its functions live on; later ones begin afresh
    else:
        _namespaces.move_to_end(key)
    return found


def _original(module_name: str | None, qualname: str, code: types.CodeType) -> types.FunctionType | None:
    """Return our own function of that name if it has the same code."""
    found: Any = sys.modules.get(module_name or "")
    for name in qualname.split("."):
        found = getattr(found, "__dict__", {}).get(name)
    if isinstance(found, types.FunctionType) and found.__code__ == code:
        return found
    return None
