"""A module that cannot be imported in a sub-interpreter."""

from __future__ import annotations

import faulthandler


def answer() -> bool:
    return faulthandler.is_enabled()
