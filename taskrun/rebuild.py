"""The receiving half of pickling by value: what the messages of `by_value` call in the process that loads them.

Loads cloudpickle; nothing imports this module but a message that needs it.
"""

from __future__ import annotations

import functools
import pickle
import sys
import types
import typing
import weakref
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import cloudpickle.cloudpickle as cp  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "all_classes",
    "came_from_elsewhere",
    "class_by_id",
    "make_cached",
    "make_cached_property",
    "make_class",
    "make_code",
    "make_function",
    "make_generic",
    "make_new_type",
    "make_skeleton",
    "make_tracked",
    "make_type_alias",
    "open_message",
    "register_all",
    "set_class",
    "set_function",
    "tracker_id",
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


def all_classes() -> dict[int, type]:
    """Return all classes of this process by where they are in memory."""
    found: dict[int, type] = {}
    pending: list[type] = [object]
    while pending:
        cls = pending.pop()
        if id(cls) not in found:
            found[id(cls)] = cls
            pending += type.__subclasses__(cls)
    return found


def open_message(
    known: tuple[tuple[str, int | None], ...],
    blob: bytes | None,
    payload: bytes,
    origins: tuple[tuple[str, int, str], ...] = (),
) -> Any:
    """Load *payload*, and before it the definitions of its classes if one of them is not here in that version.

    *origins*: a forked child of this process sends them, and tells where in memory they were when it was made: here they are
    there still, if they are at all.
    """
    unknown = [origin for origin in origins if origin[0] not in cp._DYNAMIC_CLASS_TRACKER_BY_ID]
    if unknown:
        ours = all_classes()
        for tracker_id, place, qualname in unknown:
            original = ours.get(place)
            if original is not None and original.__qualname__ == qualname:
                cp._lookup_class_or_track(tracker_id, original)
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


def make_skeleton(
    metaclass: type, name: str, bases: tuple[Any, ...], namespace: dict[str, Any], tracker_id: str, _: Any
) -> type:
    """Return an empty class to be filled. What its definition ran when it was made (hooks of the user's) does not run again."""
    resolved = types.resolve_bases(bases)
    if resolved is not bases:
        namespace["__orig_bases__"] = bases
    with _without_hooks(resolved):
        if metaclass in _versions:
            # Of a metaclass that travelled only what it inherits from an importable one, the real making of a class, is run.
            maker = next(each for each in metaclass.__mro__ if each not in _versions)
            cls: type = maker.__new__(metaclass, name, resolved, namespace)
        else:
            cls = metaclass(name, resolved, namespace)
    return cp._lookup_class_or_track(tracker_id, cls)  # type: ignore[no-any-return]


@contextmanager
def _without_hooks(bases: tuple[type, ...]) -> Iterator[None]:
    """Pass over the `__init_subclass__` of classes that travelled: it ran when the class was defined, perhaps with keywords."""
    owners = {cls for base in bases for cls in base.__mro__ if cls in _versions and "__init_subclass__" in vars(cls)}
    hooks = {cls: vars(cls)["__init_subclass__"] for cls in owners}
    for owner in owners:
        type.__setattr__(owner, "__init_subclass__", classmethod(_next_hook(owner)))
    try:
        yield
    finally:
        for owner, hook in hooks.items():
            type.__setattr__(owner, "__init_subclass__", hook)


def _next_hook(owner: type) -> Callable[[type], None]:
    def hook(cls: type) -> None:
        super(owner, cls).__init_subclass__()  # type: ignore[arg-type] # mypy takes it for a method

    return hook


def set_class(cls: type, state: tuple[Callable[..., Any], Any, int | None]) -> type:
    """Fill a new class, or bring one that was received to a newer version; one made here knows better itself."""
    setter, attributes, version = state
    if cls in _versions:
        here = _versions[cls]
        if here == _UNFINISHED or (version is not None and version != here):
            setter(cls, attributes)
            _versions[cls] = version
    return cls


# -- what the standard library makes around functions and types ----------------------------------------------------------------


def make_cached(fn: Callable[..., Any], maxsize: int | None, typed: bool) -> Callable[..., Any]:
    """Return *fn* with an empty cache."""
    return functools.lru_cache(maxsize, typed)(fn)


def make_cached_property(fn: Callable[..., Any], name: str | None) -> functools.cached_property[Any]:
    """Return a property that knows its name: nobody tells it, as its class exists already."""
    made = functools.cached_property(fn)
    made.attrname = name
    return made


def make_generic(default: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `singledispatch` function without its registered ones."""
    return functools.singledispatch(default)


def register_all(generic: Any, registry: dict[type, Callable[..., Any]]) -> None:
    """Register what the original has."""
    for cls, fn in registry.items():
        generic.register(cls, fn)


def make_new_type(name: str, qualname: str, module: str, supertype: Any) -> Any:
    """Return a `NewType`."""
    made = typing.NewType(name, supertype)  # type: ignore[misc] # the name is not known before
    made.__qualname__, made.__module__ = qualname, module
    return made


def make_type_alias(name: str, value: Any, parameters: tuple[Any, ...]) -> Any:
    """Return what ``type name = value`` makes."""
    return typing.TypeAliasType(name, value, type_params=parameters)  # type: ignore[attr-defined] # Python 3.12 and later


def tracker_id(obj: Any) -> str:
    """Return the id under which *obj* is the same object in every message."""
    return cp._get_or_create_tracker_id(obj)  # type: ignore[no-any-return]


def make_tracked(tracker_id: str, kind: Callable[..., Any], name: str, options: dict[str, Any]) -> Any:
    """Return the type parameter with this id, a new one if it is not here."""
    known = cp._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker_id)
    return known if known is not None else cp._lookup_class_or_track(tracker_id, kind(name, **options))


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
