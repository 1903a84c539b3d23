"""What is loaded, as far as it is: another thread may be in the middle of it."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING

import pytest

import taskrun
from taskrun.importable import loaded

if TYPE_CHECKING:
    from collections.abc import Iterator

HALF_LOADED = ["asyncio", "multiprocessing.process", "tenacity", "threadpoolctl", "numpy.random", "cloudpickle"]


@pytest.fixture
def half_loaded(request: pytest.FixtureRequest) -> Iterator[str]:
    """Have a module look as it does while a thread begins to load it."""
    name = request.param
    before = sys.modules.get(name)
    sys.modules[name] = types.ModuleType(name)
    yield name
    if before is None:
        del sys.modules[name]
    else:
        sys.modules[name] = before


def test_what_is_there_is_found_and_nothing_else() -> None:
    assert loaded("sys", "modules") is sys.modules
    assert loaded("sys", "no such name") is None
    assert loaded("no_such_module", "name") is None


@pytest.mark.parametrize("half_loaded", HALF_LOADED, indirect=True)
@pytest.mark.parametrize("backend", ["process", "fork", "thread"])
def test_a_module_that_is_only_half_loaded_disturbs_nothing(half_loaded: str, backend: str) -> None:
    with taskrun.Executor(backend, max_workers=1, seed=1, retry=2, max_pending=5) as ex:
        assert ex.submit(abs, -1).result() == 1
