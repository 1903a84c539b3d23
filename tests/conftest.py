"""Around every test: nothing left behind, and no time lost on what all tests share."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from leftovers import Inventory
from patience import hear_ctrl_c

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_configure() -> None:
    """Here, and in each of the processes that share the tests among them."""
    hear_ctrl_c()


def pytest_collection_finish() -> None:
    """Keep the collector from the thousands of tests, fixtures and modules; what a fork's child touches is copied, too."""
    gc.collect()
    gc.freeze()


# A semaphore of multiprocessing's that the collector finds while one is being made is lost there, with a warning.
COLLECTS_BADLY = (3, 12) <= sys.version_info < (3, 14)


# How long it takes to make an input, and to try it, says how busy the machine is.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No thread, child process or descriptor more than before; fixtures of wider scope were set up by then."""
    before = Inventory()
    yield
    left = before.left_for_good()
    assert not left, "left behind: " + "; ".join(left)
    if COLLECTS_BADLY and "multiprocessing.synchronize" in sys.modules:
        gc.collect()
