"""Whole programs, as users write them, each in an interpreter and a directory of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patience import said

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PATIENCE = 40.0
"""Seconds after which a program is believed to hang."""

BACKENDS = ("serial", "thread", "process")
EVERY_BACKEND = (*BACKENDS, "pool", "dummy", "fork", "asyncio", *(["interpreter"] if sys.version_info >= (3, 14) else []))


class Program:
    """Runs a program in its directory, without the user's configuration, warnings as errors."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("TASKRUN_")}
        self.env |= {"PYTHONPATH": str(ROOT), "HOME": str(directory), "XDG_CONFIG_HOME": str(directory / "config")}
        self.env["PYTHONUNBUFFERED"] = "1"  # what tasks print and what the program prints come in the order of printing
        self.started: list[subprocess.Popen[str]] = []

    def write(self, name: str, text: str) -> str:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    def start(self, *arguments: str, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
        """Start Python with *arguments*, in a process group of its own."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "error", *arguments],
            cwd=self.directory,
            env=self.env | (env or {}),
            process_group=0,
            **options,
        )
        self.started.append(process)
        return process

    def end(self, process: subprocess.Popen[str], text: str | None = None, patience: float = PATIENCE) -> tuple[int, str, str]:
        """Wait for the end; return exit code, standard output, standard error."""
        out, err = process.communicate(text, timeout=patience)
        return process.returncode, out, err and said(err)

    def run(self, code: str, *arguments: str, **options: Any) -> tuple[int, str, str]:
        """Run *code* as a script."""
        return self.end(self.start(self.write("program.py", code), *arguments, **options))

    def prints(self, code: str, *arguments: str, **options: Any) -> str:
        """Run *code* as a script that has to end well and silently; return what it prints."""
        status, out, err = self.run(code, *arguments, **options)
        assert (status, err) == (0, ""), err
        return out

    def kill(self) -> None:
        for process in self.started:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.communicate()


def program_in(directory: Path) -> Iterator[Program]:
    """Give, for a fixture, what runs programs in *directory*, where the search for configuration files ends."""
    (directory / ".git").mkdir()
    program = Program(directory)
    yield program
    program.kill()
