"""How `by_value` sends what the standard library makes around a user's functions and types.

`functools.cache`, `singledispatch`, `NewType` and their like give objects that pickle only by name, or not at all. Each
function here returns what `object.__reduce__` would, or None: "by name, as usual". The receiving half is in `rebuild`.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
import typing
from typing import TYPE_CHECKING, Any

from taskrun import rebuild
from taskrun.importable import importable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["reduce_wrapper"]

Reduced = tuple[Any, ...] | str


def reduce_wrapper(obj: Any) -> Reduced | None:
    """Return the reduction of an object of one of the kinds below; None for all others and for what can be imported."""
    reducer = _REDUCERS.get(type(obj))
    return None if reducer is None else reducer(obj)


def found_by_name(obj: Any, name: str) -> bool:
    """Return whether a fresh process would find *obj* under *name* (dotted) in its module."""
    module = getattr(obj, "__module__", None)
    if not importable(module):
        return False
    found: Any = sys.modules.get(str(module))
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is obj


def _cached_function(obj: Any) -> Reduced | None:
    if found_by_name(obj, obj.__qualname__):
        return None
    parameters = obj.cache_parameters()
    attributes = {name: value for name, value in vars(obj).items() if name not in ("__wrapped__", "cache_parameters")}
    return rebuild.make_cached, (obj.__wrapped__, parameters["maxsize"], parameters["typed"]), attributes


def _cached_property(obj: functools.cached_property[Any]) -> Reduced | None:
    # Python 3.11 keeps a lock in it.
    return rebuild.make_cached_property, (obj.func, obj.attrname)


def _function(obj: types.FunctionType) -> Reduced | None:
    # Of a `singledispatch` function the closure holds weak references that nobody could pickle.
    if obj.__code__ is not _GENERIC_CODE or found_by_name(obj, obj.__qualname__):
        return None
    registry = dict(obj.registry)  # type: ignore[attr-defined]
    return rebuild.make_generic, (registry.pop(object),), registry, None, None, rebuild.register_all


def _new_type(obj: Any) -> Reduced | None:
    if found_by_name(obj, obj.__qualname__):
        return None
    return rebuild.make_new_type, (obj.__name__, obj.__qualname__, obj.__module__, obj.__supertype__)


def _param_spec(obj: Any) -> Reduced | None:
    if found_by_name(obj, obj.__name__):
        return None
    options = {"bound": obj.__bound__, "covariant": obj.__covariant__, "contravariant": obj.__contravariant__}
    return rebuild.make_tracked, (rebuild.tracker_id(obj), type(obj), obj.__name__, options)


def _type_var_tuple(obj: Any) -> Reduced | None:
    if found_by_name(obj, obj.__name__):
        return None
    return rebuild.make_tracked, (rebuild.tracker_id(obj), type(obj), obj.__name__, {})


def _type_alias(obj: Any) -> Reduced | None:
    if found_by_name(obj, obj.__name__):
        return None
    return rebuild.make_type_alias, (obj.__name__, obj.__value__, obj.__type_params__)


def _sentinel(obj: Any) -> Reduced | None:
    """Dataclasses ask for them with `is`; pickled as they are, each message would bring another one."""
    return next(name for name, value in vars(dataclasses).items() if value is obj)


@functools.singledispatch
def _any_generic(_: object) -> None:
    """Show the code that all `singledispatch` functions share."""


_GENERIC_CODE = _any_generic.__code__  # type: ignore[attr-defined]

_REDUCERS: dict[type, Callable[[Any], Reduced | None]] = {
    type(functools.lru_cache(print)): _cached_function,
    functools.cached_property: _cached_property,
    types.FunctionType: _function,
    typing.NewType: _new_type,
    typing.ParamSpec: _param_spec,
    typing.TypeVarTuple: _type_var_tuple,
    **{type(vars(dataclasses)[name]): _sentinel for name in ("MISSING", "KW_ONLY", "_HAS_DEFAULT_FACTORY")},
}
if sys.version_info >= (3, 12):
    _REDUCERS[typing.TypeAliasType] = _type_alias
