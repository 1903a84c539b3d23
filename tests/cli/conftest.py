"""Running the real command, in a working directory of its own and without the user's configuration."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from patience import said

ROOT = Path(__file__).parents[2]

JOBS = '''
import datetime, os, sys, time

def double(x):
    print("printed by double")
    return x * 2

def odd(text):
    if int(text) % 2 == 0:
        raise ValueError(f"{text} is even")
    return int(text)

def area(width, height=1):
    return int(width) * int(height)

def pid(x):
    return os.getpid()

def tell_and_wait(x, seconds=60):
    """Tell the test that it runs, then take its time."""
    with open("started", "w") as fifo:
        fifo.write(f"{x}\\\\n")
    with open("go") as fifo:
        fifo.read()
    return x

def today(x):
    return {"day": datetime.date(2024, 1, 2)}

def flaky(path):
    with open(path, "a") as log:
        log.write("x")
    if os.path.getsize(path) < 3:
        raise OSError("not yet")
    return os.path.getsize(path)

def sleep(seconds):
    time.sleep(float(seconds))

if __name__ == "__main__":
    sys.exit("the main part of the script ran")
'''


@dataclass
class Command:
    """The command line as a user starts it."""

    directory: Path
    env: dict[str, str] = field(default_factory=dict)

    def write(self, name: str, content: str) -> str:
        (self.directory / name).write_text(content)
        return name

    def start(self, *arguments: str, redirected: str = "", **options) -> subprocess.Popen:
        """Start it; *redirected*: as the shell writes that, such as "2>&-"."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, "text": True} | options
        # Warnings are errors in the command too; a group of its own, so that a Ctrl-C can be sent to it alone.
        command = [sys.executable, "-W", "error", "-X", "dev", "-m", "taskrun", *arguments]
        if redirected:
            command = ["/bin/sh", "-c", f"exec {shlex.join(command)} {redirected}"]
        return subprocess.Popen(command, cwd=self.directory, env=self.env, start_new_session=True, **options)

    def __call__(self, *arguments: str, **options) -> subprocess.CompletedProcess:
        process = self.start(*arguments, **options)
        try:
            out, err = process.communicate(timeout=50)
        finally:
            process.kill()
            process.wait()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err and said(err))


@pytest.fixture
def command(tmp_path) -> Command:
    (tmp_path / ".git").mkdir()  # the search for configuration files ends here
    (tmp_path / "jobs.py").write_text(JOBS.replace("\\\\n", "\\n"))
    env = {name: value for name, value in os.environ.items() if not name.startswith("TASKRUN_")}
    env |= {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "COLUMNS": "200"}
    return Command(tmp_path, env)
