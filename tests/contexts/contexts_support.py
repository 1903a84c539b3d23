"""The kinds of contexts; threads whose outcome is asked for; how long something took."""

from __future__ import annotations

import multiprocessing
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from patience import PATIENCE

import taskrun
from taskrun.plugins import BUILTIN, describe_backends

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BETWEEN_PROCESSES", "KINDS", "NAMES", "Side", "Took", "context_of"]

INFOS = {info.name: info for info in describe_backends() if info.name in BUILTIN}
NAMES = [
    pytest.param(name, marks=pytest.mark.skipif(info.problem is not None, reason=str(info.problem)))
    for name, info in INFOS.items()
    if info.cls is None or info.cls.capabilities.primitives == "yes"
]
ORIGINALS = {"original": multiprocessing.get_context("spawn")}
BETWEEN_PROCESSES = {"original", *(name for name, info in INFOS.items() if info.cls and info.cls.capabilities.processes)}


KINDS = ["original", "thread", "process", "fork"]
"""Enough for what a context makes: `test_context_processes` sees that the others make the same."""


def context_of(kind: str) -> Any:
    return ORIGINALS.get(kind) or taskrun.get_context(kind)


class Side:
    """A function in a thread, and what it returned or raised."""

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._fn, self._args = fn, args
        self._found: Any = None
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._found = self._fn(*self._args)
        except BaseException as error:  # raised again where `result` is asked for
            self._error = error

    def over(self) -> bool:
        return not self.thread.is_alive()

    def result(self) -> Any:
        self.thread.join(PATIENCE)
        assert self.over(), "it hangs"
        if self._error is not None:
            raise self._error
        return self._found


class Took:
    """How long a block has taken."""

    def __enter__(self) -> Took:
        self._begun = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._begun

    def about(self, seconds: float) -> bool:
        """Return whether it was not less, as far as clocks agree, and not ten times as much."""
        return seconds - 0.02 <= self.seconds < 10 * seconds + 2
