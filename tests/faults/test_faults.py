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

SOAK_ONLY = {
    # By other start methods: the same engine, but for how a worker is made.
    *((theme, each) for theme in THEMES for each in EVERY if ":" in each and (theme, each) != ("crashes", "process:fork")),
    # Each of its workers takes a tenth of a second of CPU to start; and here nothing depends on what a worker is.
    *((theme, "pool") for theme in THEMES if theme not in ("crashes", "stops", "parents")),
    *((theme, "dummy") for theme in THEMES if theme not in ("stops", "deadlocks")),
}
"""What costs more than `make test` can afford."""

ROWS = [
    (theme, configuration)
    for theme in THEMES
    for configuration in EVERY
    if (theme, configuration) not in SOAK_ONLY and any(configuration in fault.on for fault in faults_of(theme))
]


@pytest.mark.timeout(420)
@pytest.mark.parametrize(("theme", "configuration"), ROWS)
def test_only_the_guilty_suffer(theme: str, configuration: str, tmp_path: Path) -> None:
    said = run_case(theme, configuration, tmp_path, "short")
    tried = [fault.name for fault in faults_of(theme) if configuration in fault.on]
    found = [line.split()[:2] for line in said.splitlines() if not line.startswith("not tried:")]  # a permission is missing
    assert found == [["ok", name] for name in tried]
