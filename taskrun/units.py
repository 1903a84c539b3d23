"""Durations, sizes and truth values written as text: "30s", "512MB", "yes"."""

from __future__ import annotations

import math
import re

__all__ = ["DURATIONS", "SIZES", "parse_boolean", "parse_duration", "parse_size"]

DURATIONS = 'seconds as a number, or text such as "250ms", "30s", "5m", "1.5h", "1h30m", "2d"'
SIZES = 'bytes as a whole number, or text such as "512MB", "2G" (powers of 1000) or "1GiB" (powers of 1024)'

_SECONDS = {"us": 1e-6, "ms": 1e-3, "": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_PREFIXES = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_BINARY = {"ki": 1024, "mi": 1024**2, "gi": 1024**3, "ti": 1024**4}
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}

_NUMBER = r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_PART = re.compile(_NUMBER + r"\s*([a-z]*)\s*")
_SIZE = re.compile(_NUMBER + r"\s*([a-z]*)")


def parse_duration(text: str) -> float:
    """Return the seconds that *text* means: "30s", "5m", "1.5h", "250ms", "1h30m"; a bare number is seconds.

    Raises ValueError for anything else.
    """
    rest = text.strip().lower()
    if not rest:
        raise ValueError("the text is empty")
    total, position, units = 0.0, 0, []
    while position < len(rest):
        match = _PART.match(rest, position)
        if match is None or match[2] not in _SECONDS:
            raise ValueError(f"{text!r} is no duration")
        units.append(match[2])
        total += float(match[1]) * _SECONDS[match[2]]
        position = match.end()
    # "1 30" or "5m 3" would leave it to the reader what the bare number is.
    if len(units) > 1 and ("" in units or len(set(units)) < len(units)):
        raise ValueError(f"{text!r} is no duration")
    if not math.isfinite(total):
        raise ValueError(f"{text!r} is too long a duration")
    return total


def parse_size(text: str) -> int:
    """Return the bytes that *text* means: "512MB", "1GiB", "2G", "1024"; fractions of a byte are rounded.

    Raises ValueError for anything else.
    """
    match = _SIZE.fullmatch(text.strip().lower())
    if match is not None:
        unit = match[2].removesuffix("b")
        factor = _PREFIXES.get(unit) or _BINARY.get(unit)
        if factor is not None:
            # Whole numbers stay exact whatever their length.
            return int(match[1]) * factor if match[1].isdigit() else round(float(match[1]) * factor)
    raise ValueError(f"{text!r} is no size")


def parse_boolean(text: str) -> bool:
    """Return the truth value that *text* means: true/yes/on/1 or false/no/off/0, in any case; else ValueError."""
    try:
        return _BOOLEANS[text.strip().lower()]
    except KeyError:
        raise ValueError(f"{text!r} is neither true nor false") from None
