"""Around every test: nothing left behind, and no time lost on what all tests share."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
from leftovers import Inventory

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_collection_finish() -> None:
    """Keep the collector from the thousands of tests, fixtures and modules; what a fork's child touches is copied, too."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No thread, child process or descriptor more than before; fixtures of wider scope were set up by then."""
    before = Inventory()
    yield
    left = before.left_for_good()
    assert not left, "left behind: " + "; ".join(left)
