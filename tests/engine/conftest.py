"""What the engine's tests share: executors that are surely ended, a wire to running tasks."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from patience import PATIENCE

import taskrun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]


class Wire:
    """Two named pipes between a test and its tasks: `jobs.tell` is heard here, `jobs.hold` waits for `release`."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._ends = []
        for name in (self.path + ".told", self.path + ".go"):
            os.mkfifo(name)
            self._ends.append(os.open(name, os.O_RDWR | os.O_NONBLOCK))  # both ends: nobody's open blocks
        self._heard = b""

    def hear(self) -> str:
        """Return the next line that a task told."""
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self._heard:
            if not select.select([self._ends[0]], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AssertionError("nothing was told")
            self._heard += os.read(self._ends[0], 4096)
        line, self._heard = self._heard.split(b"\n", 1)
        return line.decode()

    def release(self, count: int = 1) -> None:
        """Let *count* tasks go on that hold, now or later."""
        os.write(self._ends[1], b"x" * count)

    def close(self) -> None:
        for fd in self._ends:
            os.close(fd)


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    wire = Wire(tmp_path / "wire")
    yield wire
    wire.close()


@pytest.fixture
def wires(tmp_path: Path) -> Iterator[list[Wire]]:
    """Six of them."""
    wires = [Wire(tmp_path / f"wire{number}") for number in range(6)]
    yield wires
    for each in wires:
        each.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of a module that names its BACKENDS on each of them."""
    backends = getattr(metafunc.module, "BACKENDS", None)
    own = any("make" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if backends is not None and "make" in metafunc.fixturenames and not own:
        metafunc.parametrize("make", backends, indirect=True)


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., taskrun.Executor]]:
    """Make executors on the backend asked for; those still open at the end are killed."""
    made: list[taskrun.Executor] = []
    backend = getattr(request, "param", "process")

    def executor(**options: Any) -> taskrun.Executor:
        made.append(taskrun.Executor(backend, **{"max_workers": 2, **options}))
        return made[-1]

    yield executor
    for each in made:
        each.kill_workers()


class Script:
    """Runs a program that uses taskrun, in an interpreter of its own."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "script.py"
        self.env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'engine'}"}

    def start(self, code: str, *args: str, **options: Any) -> subprocess.Popen[str]:
        self._file.write_text(code)
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": self.env, **options}
        return subprocess.Popen([sys.executable, "-X", "dev", "-W", "error", str(self._file), *args], **options)

    def run(self, code: str, *args: str, **options: Any) -> str:
        """Return what it prints; it must end well and silently."""
        process = self.start(code, *args, **options)
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        assert (process.returncode, err) == (0, ""), err
        return out


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)
