"""Runs `struck_pool` in an interpreter of its own, as `tests/unit/test_struck_anywhere.py` does and for its reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PATIENCE = 300.0  # seconds; it takes about ten
EVERY_MOMENT = os.environ.get("STRIKE_STEP") == "1"  # `make strikes`


@pytest.mark.timeout(PATIENCE)
@pytest.mark.parametrize("backend", ["serial", "thread", "process"] if EVERY_MOMENT else ["thread"])
def test_it_stays_sound_and_ends(backend: str) -> None:
    path = Path(__file__).with_name("struck_pool.py")
    options = ["-X", "dev", "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", backend]
    done = subprocess.run([sys.executable, *options, str(path)], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
