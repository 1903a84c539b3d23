"""What an exception says, whatever its class does to be in the way: none of this raises."""

from __future__ import annotations

import traceback
from typing import Any

__all__ = ["said", "text_of", "traceback_text", "type_name", "without_frames_of"]

_LONGEST_TEXT = 100_000


def traceback_text(error: BaseException) -> str:
    try:
        text = "".join(traceback.format_exception(error))
    except BaseException:  # an exception class can break the module that formats it
        text = "".join(traceback.format_tb(vars(BaseException)["__traceback__"].__get__(error))) + said(error) + "\n"
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
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_globals is ours and traceback.tb_next is not None:
        traceback = traceback.tb_next
    BaseException.with_traceback(error, traceback)  # an assignment would run the user's __setattr__
