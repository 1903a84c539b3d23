"""Pools of every kind: on each backend, and the original on threads, which proves that a test asks for what it does."""

from __future__ import annotations

from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING, Any

import pytest

import taskrun
from taskrun.plugins import BUILTIN, describe_backends

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROBLEMS = {info.name: info.problem for info in describe_backends() if info.name in BUILTIN}
OURS = [pytest.param(n, marks=pytest.mark.skipif(p is not None, reason=str(p))) for n, p in PROBLEMS.items()]
CONCURRENT = [param for param in OURS if param.values != ("serial",)]


@pytest.fixture(params=["original", *OURS])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["original", *CONCURRENT])
def concurrent(request: pytest.FixtureRequest) -> str:
    """Those kinds whose tasks run beside the caller."""
    return str(request.param)


@pytest.fixture(params=OURS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=CONCURRENT)
def concurrent_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make() -> Iterator[Callable[..., Any]]:
    """Make pools of a kind, of 2 workers if not told otherwise; at the end they are terminated."""
    made: list[Any] = []

    def pool(kind: str, processes: Any = 2, *args: Any, **options: Any) -> Any:
        cls: Any = ThreadPool if kind == "original" else taskrun.Pool
        made.append(cls(processes, *args, **options, **({} if kind == "original" else {"backend": kind})))
        return made[-1]

    yield pool
    while made:
        each = made.pop()
        each.terminate()
        each.join()
        del each  # the original keeps a pipe open as long as it lives
