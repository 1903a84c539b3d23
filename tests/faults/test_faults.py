"""Faults, on each backend that can have them: no task is lost, none runs twice, nothing hangs, nothing is left.

The table is in `themes/`, a file for each theme; `case.py` runs its rows, `outside.py` looks at the interpreter that did.
Here the faults of a theme share one interpreter for each configuration, at short counts; `make soak` gives each its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from outside import run_case
from table import EVERY, THEMES, faults_of

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [
    (theme, configuration)
    for theme in THEMES
    for configuration in EVERY
    if any(configuration in fault.on for fault in faults_of(theme))
]


@pytest.mark.timeout(420)
@pytest.mark.parametrize(("theme", "configuration"), ROWS)
def test_only_the_guilty_suffer(theme: str, configuration: str, tmp_path: Path) -> None:
    said = run_case(theme, configuration, tmp_path, "short")
    tried = [fault.name for fault in faults_of(theme) if configuration in fault.on]
    assert [line.split()[:2] for line in said.splitlines()] == [["ok", name] for name in tried]
