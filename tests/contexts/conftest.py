"""Contexts of every backend, and the originals, which prove that a test asks for what multiprocessing does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from contexts_support import BETWEEN_PROCESSES, KINDS, NAMES, Side, context_of
from patience import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=NAMES)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def context(kind: str) -> Any:
    return context_of(kind)


@pytest.fixture
def between_processes(kind: str) -> bool:
    return kind in BETWEEN_PROCESSES


@pytest.fixture
def beside() -> Iterator[Callable[..., Side]]:
    """Run functions in threads of their own; all of them have to end."""
    sides: list[Side] = []

    def run(fn: Callable[..., Any], *args: Any) -> Side:
        sides.append(Side(fn, args))
        return sides[-1]

    yield run
    while sides:  # which holds what they were given
        side = sides.pop()
        side.thread.join(PATIENCE)
        assert side.over(), "it hangs"
