"""Runs `struck_anywhere` in an interpreter of its own.

In one that has run the other tests, Python 3.11.7 loops for ever (in C, in a frame whose call is traced) at the first strike.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PATIENCE = 300.0  # seconds; it takes about ten


@pytest.mark.timeout(PATIENCE)
@pytest.mark.parametrize("backend", ["serial", "thread", "process", "pool", "dummy", "fork", "asyncio", "adapter"])
def test_it_stays_sound_and_ends(backend: str) -> None:
    path = Path(__file__).with_name("struck_anywhere.py")
    command = [
        sys.executable,
        "-X",
        "dev",
        "-W",
        "error",
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        backend,
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
