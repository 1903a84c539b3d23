"""Each program runs in a directory of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from running import Program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    (tmp_path / ".git").mkdir()  # the search for configuration files ends here
    program = Program(tmp_path)
    yield program
    program.kill()
