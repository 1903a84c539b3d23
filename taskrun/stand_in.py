"""RemoteErrors that can be caught as what they stand in for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from taskrun.errors import RemoteError
from taskrun.importable import importable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["base_names", "stand_in"]

_UNFIT = (object, BaseException, Exception)
"""Bases that add nothing to a RemoteError."""


def base_names(cls: type[BaseException]) -> tuple[str, ...]:
    """Return the classes among *cls* and its bases that another process can import, as "module:qualname", nearest first."""
    return tuple(
        f"{base.__module__}:{base.__qualname__}"
        for base in cls.__mro__
        # Groups are nothing without their members.
        if base not in _UNFIT
        and not issubclass(base, BaseExceptionGroup)
        and importable(base.__module__)
        and "<" not in base.__qualname__
    )


def stand_in(
    type_name: str,
    text: str,
    bases: tuple[str, ...],
    *,
    traceback: str | None = None,
    task: str | None = None,
    notes: Sequence[str] = (),
    problem: str = "",
) -> RemoteError:
    """Return a RemoteError for an exception of class *type_name*, which also is each of *bases* that can be imported."""
    whose = f" of task {task!r}" if task else ""
    reason = f" ({problem})" if problem else ""
    message = f"{type_name}: {text}\nThe exception{whose} cannot be rebuilt in this process{reason}; this stands in for it."
    error = _bare(_class(bases), (message,))
    # Not by setting attributes: that may be code of a base.
    error.__dict__.update(type_name=type_name, text=text, traceback=traceback)
    if notes:
        error.__dict__["__notes__"] = [*notes]
    return error


_classes: dict[tuple[str, ...], type[RemoteError]] = {}


def _class(bases: tuple[str, ...]) -> type[RemoteError]:
    """Return the subclass of RemoteError with these bases; one for each set of bases."""
    cls = _classes.get(bases)
    if cls is None:
        cls = _classes.setdefault(bases, _make_class(bases))
    return cls


def _make_class(names: tuple[str, ...]) -> type[RemoteError]:
    namespace = {
        "__module__": RemoteError.__module__,
        "__doc__": RemoteError.__doc__,
        "__reduce__": _reduce,
        "_base_names": names,
    }
    bases: tuple[type, ...] = ()
    made: type[RemoteError] = RemoteError
    for name in names:
        base = _find(name)
        if base is None or issubclass(made, base):
            continue
        try:
            # Some cannot be combined: a class has room for the C fields of one built-in class only.
            made = type("RemoteError", (RemoteError, *bases, base), dict(namespace))
        except Exception:  # noqa: S112 - a metaclass or __init_subclass__ of anybody's
            continue
        bases += (base,)
    return made


def _find(name: str) -> type[BaseException] | None:
    module_name, _, qualname = name.partition(":")
    try:
        __import__(module_name)
        found: Any = sys.modules[module_name]
        for part in qualname.split("."):
            found = getattr(found, part)
    except BaseException:  # importing runs anybody's code
        return None
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def _bare(cls: type[RemoteError], args: tuple[Any, ...]) -> RemoteError:
    """Make an instance without the constructors of its bases, which want who knows what."""
    native: Any = cls
    while native.__flags__ & (1 << 9):  # Py_TPFLAGS_HEAPTYPE: made by a class statement
        native = native.__base__
    error: RemoteError = native.__new__(cls)
    BaseException.__init__(error, *args)
    error.__dict__.update(type_name=None, text=None, traceback=None)
    return error


def _rebuild(names: tuple[str, ...], args: tuple[Any, ...]) -> RemoteError:
    return _bare(_class(names), args)


def _reduce(error: Any) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    return _rebuild, (error._base_names, error.args), dict(error.__dict__)
