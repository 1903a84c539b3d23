"""A type checker finds wrong arguments: `calls.py` beside this file holds right ones and wrong ones, each marked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def mypy(file: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    # Without -X dev: mypy's own warnings are not ours to mend.
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=HERE.parents[1], check=False)


@pytest.mark.timeout(300)  # two runs of mypy from nothing
def test_right_calls_pass_and_each_wrong_one_is_found(tmp_path: Path) -> None:
    checked = mypy(HERE / "calls.py", tmp_path / "cache")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    # An ignored error that is none is an error (`warn_unused_ignores`), so the marks are tested; here that they matter.
    lines = (HERE / "calls.py").read_text().splitlines()
    unmarked = tmp_path / "unmarked.py"
    unmarked.write_text("\n".join(line.partition("  # type: ignore")[0] for line in lines))
    wrong = sum("# type: ignore" in line for line in lines)
    found = {line.split(":")[1] for line in mypy(unmarked, tmp_path / "cache").stdout.splitlines() if ": error:" in line}
    assert wrong >= 8
    assert len(found) == wrong
