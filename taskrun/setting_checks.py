"""The checks of setting values: each takes the setting's name and a value and returns the value in its proper form.

Python values and values of a TOML file go through the same checks. What is wrong is told by raising `WrongValueError`.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from taskrun.errors import ConfigError
from taskrun.hints import did_you_mean
from taskrun.units import DURATIONS, parse_duration, parse_size

__all__ = ["Check", "WrongValueError", "show"]

Check = Callable[[str, Any], Any]

LONGEST = 1e9
"""Seconds, about 31 years: beyond it the clocks and waits of the platform overflow."""
_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_CPU_RANGE = re.compile(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?")


class WrongValueError(Exception):
    """A value that its setting does not take; never leaves the configuration."""

    def __init__(self, problem: str, *, allowed: str | None = None, exact: type[Exception] | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.allowed = allowed
        """In place of the setting's own sentence; "" when the problem says it."""
        self.exact = exact
        """The class that the standard library raises for this mistake in an argument."""


def show(value: object) -> str:
    """Return value and type for a message, short, whatever the value's `repr` does."""
    try:
        text = repr(value)
    except Exception:
        return f"an object of type {type(value).__name__}"
    if len(text) > 80:
        text = f"{text[:60]}...{text[-15:]}"
    return text if isinstance(value, (bool, int, float)) else f"{text} ({type(value).__name__})"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _unquote(value: object, right: str) -> str:
    """Return a hint when what matches *right* was written as text."""
    if isinstance(value, str) and re.fullmatch(right, value.strip(), re.IGNORECASE):
        return " (write it without quotes)"
    return ""


def integer(minimum: int | None = None, *, too_small: str = "", exact: type[Exception] | None = None) -> Check:
    """Make the check of a whole number; *too_small* and *exact* are the standard library's words and class, if any."""

    def check(name: str, value: Any) -> int:
        article = "must be an integer"
        if isinstance(value, bool):
            raise WrongValueError(f"{name} {article}, not {show(value)}", exact=exact)
        try:
            number = operator.index(value)  # takes NumPy's integers too
        except TypeError:
            raise WrongValueError(f"{name} {article}, not {show(value)}{_unquote(value, '-?[0-9]+')}", exact=exact) from None
        if minimum is not None and number < minimum:
            raise WrongValueError(f"{name} {too_small or f'must be at least {minimum}'}, not {number}")
        return number

    return check


def duration(name: str, value: Any) -> float:
    """Check a duration: a number of seconds or text such as "30s"; more than 0, finite."""
    seconds = value
    if isinstance(value, str):
        try:
            seconds = parse_duration(value)
        except ValueError:
            raise WrongValueError(f"{name} is no duration: {show(value)}") from None
    elif not _is_number(value):
        raise WrongValueError(f"{name} must be a duration, not {show(value)}")
    if not math.isfinite(seconds):
        raise WrongValueError(f'{name} must be a finite number of seconds, not {seconds} (write "none" for no limit)')
    if not 0 < seconds <= LONGEST:
        raise WrongValueError(f"{name} must be greater than 0 and at most {LONGEST:.0f} seconds, not {show(value)}")
    return float(seconds)


def size(name: str, value: Any) -> int:
    """Check a size: a whole number of bytes or text such as "512MB"; more than 0."""
    number = value
    if isinstance(value, str):
        try:
            number = parse_size(value)
        except (ValueError, OverflowError):
            raise WrongValueError(f"{name} is no size: {show(value)}") from None
    elif isinstance(value, bool) or not isinstance(value, int):
        raise WrongValueError(f"{name} must be a size, not {show(value)}")
    if number <= 0:
        raise WrongValueError(f"{name} must be greater than 0, not {show(value)}")
    return int(number)


def boolean(name: str, value: Any) -> bool:
    """Check a truth value; nothing but True and False is one."""
    if not isinstance(value, bool):
        raise WrongValueError(f"{name} must be true or false, not {show(value)}{_unquote(value, 'true|false')}")
    return value


def text(name: str, value: Any) -> str:
    """Check a text that is not empty."""
    if not isinstance(value, str):
        raise WrongValueError(f"{name} must be a string, not {show(value)}")
    if not value.strip():
        raise WrongValueError(f"{name} must not be empty")
    return value


def backend(name: str, value: Any) -> Any:
    """Check a backend: a name, an instance, or a standard executor; whether the name is known is asked later."""
    import concurrent.futures

    from taskrun.backends.base import Backend

    if isinstance(value, (Backend, concurrent.futures.Executor)):
        return value
    if isinstance(value, type) and issubclass(value, (Backend, concurrent.futures.Executor)):
        raise WrongValueError(f"{name} must be a name or an instance, not the class {value.__name__} itself")
    if not isinstance(value, str):
        raise WrongValueError(f"{name} must be a name or an instance, not {show(value)}")
    return text(name, value)


def function(name: str, value: Any) -> Any:
    """Check a callable given as a Python object."""
    if not callable(value):
        raise WrongValueError(f"{name} must be a callable, not {show(value)}", exact=TypeError)
    return value


def reference(name: str, value: Any) -> str:
    """Check "module:attribute" as files and variables write a function; nothing is imported."""
    if not isinstance(value, str) or not _REFERENCE.fullmatch(value.strip()):
        raise WrongValueError(f'{name} must be written as "module:function", not {show(value)}')
    return value.strip()


def sequence(name: str, value: Any) -> tuple[Any, ...]:
    """Check positional arguments for a call."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise WrongValueError(f"{name} must be a tuple or list, not {show(value)}")
    return tuple(value)


def _names(name: str, value: Any) -> tuple[Any, ...]:
    """Return the items of a list of names, or those of one text with commas."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return sequence(name, value)


def context_vars(name: str, value: Any) -> tuple[Any, ...]:
    """Check ContextVar objects and "module:attribute" references."""
    from contextvars import ContextVar

    if isinstance(value, ContextVar):
        return (value,)
    return tuple(item if isinstance(item, ContextVar) else reference(name, item) for item in _names(name, value))


def capability_names(name: str, value: Any) -> tuple[str, ...]:
    """Check names of fields of `Capabilities`."""
    from taskrun.backends.base import Capabilities

    known = Capabilities._fields
    wanted = _names(name, value)
    for item in wanted:
        if item not in known:
            hint = did_you_mean(item, known) if isinstance(item, str) else ""
            raise WrongValueError(f"{name} names the unknown capability {show(item)}{hint and '.'}{hint}")
    return wanted


def cpus(name: str, value: Any) -> tuple[int, ...]:
    """Check CPU numbers: a list of them, or text such as "0,2,4-7"."""
    if isinstance(value, str):
        numbers: list[int] = []
        for part in value.split(","):
            match = _CPU_RANGE.fullmatch(part)
            if match is None or int(match[2] or match[1]) < int(match[1]):
                raise WrongValueError(f"{name} is no list of CPU numbers: {show(value)}")
            numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    else:
        number = integer(0)
        numbers = [number(f"{name}[{place}]", item) for place, item in enumerate(sequence(name, value))]
    if not numbers:
        raise WrongValueError(f"{name} must not be empty")
    # The order is the user's: worker i is pinned to the i-th of them.
    return tuple(dict.fromkeys(numbers))


def variables(name: str, value: Any) -> dict[str, str]:
    """Check environment variables: a table of texts; numbers become text."""
    if not isinstance(value, Mapping):
        raise WrongValueError(f"{name} must be a table of variables, not {show(value)}")
    checked: dict[str, str] = {}
    problems: list[str] = []
    for key, item in value.items():
        if not isinstance(key, str) or not key or "=" in key or "\0" in key:
            problems.append(f"{name} has {show(key)}, which cannot be the name of a variable")
        elif not (isinstance(item, str) or _is_number(item)) or "\0" in str(item):
            # Not the value: variables hold passwords.
            problems.append(f"{name}.{key} must be a string without NUL, not of type {type(item).__name__}")
        else:
            checked[key] = str(item)
    if problems:
        raise WrongValueError("; ".join(problems))
    return checked


RETRY_DURATIONS = ("initial", "max_wait", "max_time")


def retry(name: str, value: Any) -> Any:
    """Check a retry policy: a table stays a table, so that sources can add keys to it; all else becomes a `Retry`."""
    from taskrun.retry import Retry

    if isinstance(value, Mapping):
        return retry_table(name, value)
    try:
        return Retry.of(value)
    except ConfigError as error:
        raise WrongValueError(str(error), allowed="") from None


def retry_table(name: str, table: Mapping[Any, Any]) -> dict[str, Any]:
    """Check each key of a table by itself; all its mistakes are told at once."""
    from taskrun.retry import Retry

    checked: dict[str, Any] = {}
    problems: list[str] = []
    for key, value in table.items():
        item = value
        try:
            if key in ("max_attempts", "max_time") and isinstance(value, str) and value.strip().lower() == "none":
                item = None  # TOML has no null
            elif key in RETRY_DURATIONS and isinstance(value, str):
                item = parse_duration(value)
            Retry.of({key: item})
        except ConfigError as error:
            problems.append(str(error))
        except ValueError:
            problems.append(f"{name}.{key} is no duration: {show(value)}; allowed: {DURATIONS}")
        checked[str(key)] = item
    if problems:
        raise WrongValueError("; ".join(problems), allowed="")
    return checked
