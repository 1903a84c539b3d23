"""Bare children for the floors: what the operating system alone would cost."""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Ballast", "forked"]

_OBJECT = 1_000  # bytes of each of the small objects


def forked(run: Callable[[], object]) -> int:
    """Run *run* in a forked child and return its number; the child ends with it."""
    pid = os.fork()
    if pid:
        return pid
    try:
        run()
    except BaseException:  # nobody else would tell
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


class Ballast:
    """So many bytes of small objects, as a program holds them that has read its data."""

    def __init__(self, size: int) -> None:
        self._objects = [bytes(_OBJECT) for _ in range(size // _OBJECT)]
