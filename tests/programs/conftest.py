"""Each program runs in a directory of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from running import program_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from running import Program


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    yield from program_in(tmp_path)
