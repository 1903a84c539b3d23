"""The table of faults: what can go wrong, and on which configurations of which backends it is tried.

A configuration is the name of a backend, with a start method behind a colon where that is not the default.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from case import Case

__all__ = ["CONCURRENT", "ENGINE", "EVERY", "POOL", "PROCESSES", "THEMES", "THREADS", "Fault", "fault", "faults_of"]

INTERPRETER = ("interpreter",) if sys.version_info >= (3, 14) else ()

ENGINE = ("process", "process:spawn", "process:fork")
POOL = ("pool", "pool:spawn", "pool:fork")
PROCESSES = (*ENGINE, *POOL, "fork")
THREADS = ("thread", "dummy", "asyncio", *INTERPRETER)
CONCURRENT = (*PROCESSES, *THREADS)
EVERY = (*CONCURRENT, "serial")

THEMES = (
    "crashes",
    "starts",
    "pickling",
    "outcomes",
    "stops",
    "parents",
    "recycling",
    "retries",
    "deadlocks",
    "nesting",
    "counts",
    "shortages",
    "privacy",
)


@dataclass(frozen=True)
class Fault:
    """One row of the table."""

    theme: str
    name: str
    on: tuple[str, ...]
    """Where `make test` tries it."""
    everywhere: tuple[str, ...]
    """Where `make soak` does, each in an interpreter of its own."""
    run: Callable[[Case], None]


_FAULTS: list[Fault] = []


def fault(*on: str, soak: tuple[str, ...] = ()) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Enter a function of a `Case` in the table: tried *on* these configurations, on those of *soak* by `make soak` alone."""

    def enter(run: Callable[[Case], None]) -> Callable[[Case], None]:
        theme = run.__module__.rpartition(".")[2]
        _FAULTS.append(Fault(theme, run.__name__, on, tuple(dict.fromkeys((*on, *soak))), run))
        return run

    return enter


def faults_of(theme: str) -> list[Fault]:
    """Return the rows of one theme."""
    importlib.import_module(f"themes.{theme}")
    return [each for each in _FAULTS if each.theme == theme]
