"""What messages to the user have in common: the word that was probably meant, and the place where taskrun was called from."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["did_you_mean", "warn_outside"]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ' Did you mean "x"?' for the known word closest to *word*, or an empty string when none is close."""
    import difflib

    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f' Did you mean "{by_lower[close[0]]}"?' if close else ""


def warn_outside(text: str, category: type[Warning]) -> None:
    """Warn of *text* where taskrun was called from, so that Python shows it once for each such place."""
    import warnings

    depth, frame = 1, sys._getframe(0)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "taskrun":
        depth, frame = depth + 1, frame.f_back
    warnings.warn(text, category, stacklevel=depth)
