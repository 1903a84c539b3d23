"""What an exception is and says, whatever its class does to be in the way: none of this raises."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = [
    "add_note",
    "attributes_of",
    "is_a",
    "said",
    "text_of",
    "traceback_text",
    "type_name",
    "without_first_frame",
    "without_frames_of",
]

T = TypeVar("T")

_LONGEST_TEXT = 100_000

# The base's own descriptors: a class may say something else, or raise.
_traceback: Callable[[BaseException], TracebackType | None] = vars(BaseException)["__traceback__"].__get__
attributes_of: Callable[[BaseException], dict[str, Any]] = vars(BaseException)["__dict__"].__get__


def traceback_text(error: BaseException) -> str:
    try:
        text = "".join(traceback.format_exception(error))
    except BaseException:  # an exception class can break the module that formats it
        text = "".join(traceback.format_tb(_traceback(error))) + said(error) + "\n"
    if len(text) > _LONGEST_TEXT:
        half = _LONGEST_TEXT // 2
        text = f"{text[:half]}\n[... {len(text) - 2 * half} characters ...]\n{text[-half:]}"
    # Half a surrogate pair, from a file name perhaps, could not be pickled.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def type_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def text_of(error: BaseException) -> str:
    try:
        return str(error).encode("utf-8", "backslashreplace").decode("utf-8")
    except BaseException:  # a user's __str__
        return "<its str() failed>"


def said(error: BaseException) -> str:
    return f"{type_name(type(error))}: {text_of(error)}"


def without_frames_of(ours: dict[str, Any], error: BaseException) -> None:
    """Cut the frames of the file with these globals from the top of the traceback, unless it has no others."""
    found = _traceback(error)
    while found is not None and found.tb_frame.f_globals is ours and found.tb_next is not None:
        found = found.tb_next
    BaseException.with_traceback(error, found)  # an assignment would run the user's __setattr__


def without_first_frame(error: BaseException) -> BaseException:
    """Return *error*, without the frame of the caller, which caught it, in its traceback."""
    found = _traceback(error)
    return BaseException.with_traceback(error, found and found.tb_next)


def is_a(value: Any, cls: type[T] | tuple[type[T], ...]) -> TypeGuard[T]:
    """Do as `isinstance`, which asks the value for its `__class__`: any code may answer."""
    return issubclass(type(value), cls)


def add_note(error: BaseException, text: str) -> None:
    """Do as its own `add_note`."""
    notes = attributes_of(error).setdefault("__notes__", [])
    if type(notes) is list:  # else somebody has other ideas of them
        notes.append(text)
