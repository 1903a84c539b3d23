"""What an exception says, whatever its class does to be in the way: none of this raises."""

from __future__ import annotations

import traceback

__all__ = ["said", "text_of", "traceback_text", "type_name"]

_LONGEST_TEXT = 100_000


def traceback_text(error: BaseException) -> str:
    try:
        text = "".join(traceback.format_exception(error))
    except BaseException:  # an exception class can break the module that formats it
        text = "".join(traceback.format_tb(error.__traceback__)) + said(error) + "\n"
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
