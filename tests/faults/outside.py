"""Runs a case in an interpreter of its own, and looks from outside at what it leaves: no process of its tree, no hang."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from patience import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["HERE", "environment", "run_case", "tree_of"]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MARK = "FAULT_CASE"
"""In the environment of a case and so of everything it starts, however that came loose from it."""


def environment(mark: str) -> dict[str, str]:
    """Return the environment of a case: nothing of the user's configuration, our code first."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("TASKRUN_")}
    path = os.pathsep.join(map(str, (ROOT, HERE, ROOT / "tests")))
    return env | {MARK: mark, "PYTHONPATH": path, "XDG_CONFIG_HOME": "/nonexistent"}


def tree_of(mark: str) -> dict[int, str]:
    """Return the living processes of a case, by pid, with their commands; zombies are somebody else's to reap."""
    sought, found = f"{MARK}={mark}".encode(), {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if sought in Path("/proc", name, "environ").read_bytes().split(b"\0"):
                found[int(name)] = Path("/proc", name, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found


def run_case(theme: str, configuration: str, directory: Path, scale: str, names: Sequence[str] = (), limit: float = 400) -> str:
    """Run faults; return what was said of them. Raises AssertionError with the evidence when anything is wrong."""
    mark = uuid.uuid4().hex
    command = [sys.executable, "-W", "error", str(HERE / "case.py"), theme, configuration, str(directory), scale]
    case = subprocess.Popen(
        [*command, *names],
        env=environment(mark),
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        out, err = case.communicate(timeout=limit)
        said = f"{out}\n{err}"
        assert case.returncode == 0, f"exit code {case.returncode}\n{said}"
        assert err == "", said  # nothing is complained of, by threads of ours or at exit
        deadline = time.monotonic() + PATIENCE
        while left := tree_of(mark):
            assert time.monotonic() < deadline, f"still there: {left}\n{said}"
            time.sleep(0.01)
    except BaseException:
        for pid in tree_of(mark):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        case.kill()
        case.communicate()
        raise
    return out
