"""Programs with client libraries, each on every backend."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

import taskrun

if TYPE_CHECKING:
    from collections.abc import Iterator

EVERY_BACKEND = ("serial", "thread", "process", "pool", "dummy", "fork", "asyncio")
PRIVATE = ("process", "pool", "fork")
"""Those whose tasks run in another process: on copies of their arguments."""


@pytest.fixture(params=EVERY_BACKEND)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def private(backend: str) -> bool:
    return backend in PRIVATE


@pytest.fixture
def collected() -> Iterator[None]:
    """Collect what joblib leaves: Python 3.12.1 warns when semaphores are found while its resource tracker is at work."""
    yield
    gc.collect()


@pytest.fixture
def ex(backend: str) -> Iterator[taskrun.Executor]:
    with taskrun.Executor(backend, max_workers=2) as ex:
        yield ex
