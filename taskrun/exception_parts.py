"""One exception by itself: taken apart and put together without its constructor, as bytes in between.

Pickle rebuilds an exception by calling its class with `args`. That fails for constructors that want something else, and changes
the message of those that make `args` themselves. So here an exception is its class, `args`, `__dict__` (notes included), slots
and the fields that built-in classes keep in C. A class that brings a `__reduce__` of its own is pickled with it, if what comes
back says the same. What cannot travel among the parts is replaced by its `repr`.
"""

from __future__ import annotations

import copyreg
import pickle
import types
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from taskrun.exception_text import attributes_of, is_a, text_of, type_name
from taskrun.serialization import dump_upward

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Other",
    "args_of",
    "cause_of",
    "context_of",
    "dump_one",
    "is_suppressed",
    "load_one",
    "mapped",
    "members_of",
    "set_field",
]

_LONGEST_REPR = 1_000
_CONTAINERS = frozenset((list, tuple, dict))
_DEEPEST, _LONGEST_CONTAINER = 5, 10_000
"""Of containers among the parts of an exception that are searched for others."""
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement


class _Parts(NamedTuple):
    """What an exception is put together from without its constructor."""

    cls: type[BaseException]
    args: tuple[Any, ...]
    fields: dict[str, Any]
    """Slots, and what built-in classes keep in C."""
    attributes: dict[str, Any]


_MEMBERS = "\0members"
"""Stands in the `args` of a group for its list of exceptions."""


class Other(NamedTuple):
    """Stands, among the parts of an exception, for another one."""

    number: int


# The base's own descriptors: a class may say something else, or raise.
args_of: Callable[[BaseException], tuple[Any, ...]] = vars(BaseException)["args"].__get__
cause_of: Callable[[BaseException], BaseException | None] = vars(BaseException)["__cause__"].__get__
context_of: Callable[[BaseException], BaseException | None] = vars(BaseException)["__context__"].__get__
is_suppressed: Callable[[BaseException], bool] = vars(BaseException)["__suppress_context__"].__get__


def set_field(error: BaseException, name: str, value: Any) -> None:
    """Set an attribute, whatever the class of *error* makes of that."""
    field = vars(BaseException).get(name)
    if field is not None:
        field.__set__(error, value)  # past a property of the user's
    else:
        object.__setattr__(error, name, value)  # past a __setattr__


def members_of(error: BaseException) -> tuple[BaseException, ...]:
    """Return the exceptions of a group, by the base's own descriptor too; of any other, none."""
    return BaseExceptionGroup.exceptions.__get__(error) if is_a(error, BaseExceptionGroup) else ()


def mapped(value: Any, one: Callable[[Any], Any], memo: dict[int, Any], depth: int = 0) -> Any:
    """Return *value* with *one* applied to it, or to what is in it if it is a list, tuple or dict: itself if nothing changes.

    *memo* holds what became of containers, by their identity: those that are shared stay so, cycles are left as they are.
    """
    kind = type(value)
    if kind not in _CONTAINERS:
        return one(value)
    known = memo.get(id(value))
    if known is not None:
        return known
    memo[id(value)] = value
    if depth < _DEEPEST and len(value) < _LONGEST_CONTAINER:
        if kind is dict:
            new: Any = {key: mapped(each, one, memo, depth + 1) for key, each in value.items()}
            changed = any(each is not value[key] for key, each in new.items())
        else:
            new = [mapped(each, one, memo, depth + 1) for each in value]
            changed = any(each is not old for each, old in zip(new, value, strict=True))
        if changed:
            memo[id(value)] = new if kind is dict else kind(new)
    return memo[id(value)]


# -- taking it apart -----------------------------------------------------------------------------------------------------------


def dump_one(error: BaseException, numbers: dict[int, int]) -> bytes | None:
    """Pickle *error* with *numbers*, by identity, in the places of others; None if only its text can travel."""
    cls = type(error)
    if _pickles_itself(cls) and not is_a(error, BaseExceptionGroup):
        data = _checked(error, lambda copy: type(copy) is cls and text_of(copy) == text_of(error))
        if data is not None:
            return data
    parts = _take_apart(error, numbers)
    harmless = all(_is_plain(value) for value in (*parts.args, *parts.fields.values(), *parts.attributes.values()))
    check = None if harmless else _anything
    data = _checked(tuple(parts), check)
    if data is None:
        data = _checked(tuple(_with_text(parts, error)), _anything)
    return data


def _checked(obj: Any, check: Callable[[Any], bool] | None) -> bytes | None:
    """Return the pickle of *obj*, or None if it does not pickle, or does not come back and pass the check."""
    try:
        data = dump_upward(obj)
        return data if check is None or check(pickle.loads(data)) else None
    except BaseException:  # a user's pickling code may raise anything, SystemExit included
        return None


def _anything(_: Any) -> bool:
    return True


def _pickles_itself(cls: type[BaseException]) -> bool:
    """Return whether somebody took care of how this class is pickled, beyond what built-in exceptions do."""
    own = {"__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs__", "__getnewargs_ex__"}
    return cls in copyreg.dispatch_table or any(
        base.__flags__ & _HEAP_TYPE and not own.isdisjoint(vars(base)) for base in cls.__mro__
    )


def _take_apart(error: BaseException, numbers: dict[int, int]) -> _Parts:
    args = args_of(error)
    memo: dict[int, Any] = {}
    members = members_of(error)
    if members and len(args) > 1 and is_a(args[1], (list, tuple)) and _same(args[1], members):
        args = (args[0], _MEMBERS, *args[2:])
    fields: dict[str, Any] = {}
    for base in type(error).__mro__:
        if base in (BaseException, BaseExceptionGroup, object):
            continue
        for name, descriptor in vars(base).items():
            if isinstance(descriptor, types.MemberDescriptorType) and name != "__weakref__":
                with suppress(AttributeError):  # a slot without a value
                    value = descriptor.__get__(error)
                    # None is what a field in C reads as when it is not set, and OSError prints a file name set to None.
                    if value is not None or base.__flags__ & _HEAP_TYPE:
                        fields.setdefault(name, value)
    if is_a(error, AttributeError):
        fields.pop("obj", None)  # any object at all, large or not; pickle leaves it out too

    def other(value: Any) -> Any:
        number = numbers.get(id(value)) if is_a(value, BaseException) else None
        return value if number is None else Other(number)

    attributes = {name: mapped(value, other, memo) for name, value in attributes_of(error).items()}
    return _Parts(type(error), tuple(mapped(value, other, memo) for value in args), fields, attributes)


def _same(listed: Any, members: tuple[BaseException, ...]) -> bool:
    return len(listed) == len(members) and all(a is b for a, b in zip(listed, members, strict=True))


def _with_text(parts: _Parts, error: BaseException) -> _Parts:
    """Replace what does not travel by its repr."""
    args = args_of(error)
    return _Parts(
        parts.cls,
        tuple(_or_repr(value, whole) for value, whole in zip(parts.args, args, strict=True)),
        {name: _or_repr(value, value) for name, value in parts.fields.items()},
        {name: _or_repr(value, attributes_of(error).get(name, value)) for name, value in parts.attributes.items()},
    )


def _or_repr(value: Any, whole: Any) -> Any:
    """Return *value* if it travels, else the repr of *whole*: the same, with other exceptions where *value* has numbers."""
    if _is_plain(value) or _checked(value, _anything) is not None:
        return value
    try:
        return repr(whole)[:_LONGEST_REPR]
    except BaseException:  # a user's __repr__
        return f"<{type_name(type(value))} object>"


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Return whether *value* is sure to travel; to try out the others costs time."""
    if type(value) is list or type(value) is tuple:
        return len(value) < 100 and depth < _DEEPEST and all(_is_plain(item, depth + 1) for item in value)
    return value is None or type(value) in (str, int, float, bool, bytes, Other)


# -- putting it together -------------------------------------------------------------------------------------------------------


def load_one(data: bytes, members: list[BaseException]) -> Any:
    """Undo `dump_one`; *members* are those of a group. Raises what the user's code raises; what comes may be no exception."""
    loaded = pickle.loads(data)
    return _put_together(_Parts(*loaded), members) if type(loaded) is tuple else loaded


def _put_together(parts: _Parts, members: list[BaseException]) -> BaseException:
    cls, args, fields, attributes = parts
    native: Any = cls
    while native.__flags__ & _HEAP_TYPE:
        native = native.__base__
    if issubclass(cls, BaseExceptionGroup):
        error = native.__new__(cls, str(args[0]) if args else "", members)
        args = tuple(members if type(item) is str and item == _MEMBERS else item for item in args)
    else:
        try:
            error = native.__new__(cls, *args)
        except TypeError:  # one that is strict about its arguments
            error = native.__new__(cls)
    for name, value in fields.items():
        with suppress(AttributeError, TypeError):  # read-only
            set_field(error, name, value)
    set_field(error, "args", args)
    attributes_of(error).update(attributes)
    return error  # type: ignore[no-any-return]
