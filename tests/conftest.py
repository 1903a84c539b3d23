"""After every test: nothing left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from leftovers import Inventory

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No thread, child process or descriptor more than before; fixtures of wider scope were set up by then."""
    before = Inventory()
    yield
    left = before.left_for_good()
    assert not left, "left behind: " + "; ".join(left)
