"""Real clusters on this machine, for the tests: processes of Ray's command line, and what they leave behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["PATIENCE", "Cluster", "descendants", "eventually", "free_port", "running"]

PATIENCE = 90.0
"""Seconds after which something is believed to hang: Ray takes half a minute to start on a busy machine."""
STORE = 100_000_000


def free_port() -> int:
    """Return a port that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def eventually(condition: Callable[[], object]) -> bool:
    """Wait for something that nobody announces; False when it does not come."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def descendants(parent: int) -> dict[int, str]:
    """Return pid -> command line of the children of a process, theirs, and so on."""
    table: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                table.setdefault(int(fields[1]), []).append(int(entry))
    found: dict[int, str] = {}
    waiting = [parent]
    while waiting:
        for pid in table.get(waiting.pop(), []):
            with suppress(OSError):
                found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            waiting.append(pid)
    return found


class Cluster:
    """A head node with two CPUs, as an administrator would start it."""

    def __init__(self, directory: Path, *arguments: str, program: str = "", path: str = "") -> None:
        for _ in range(3):
            self._start(directory, arguments, program, path)
            assert eventually(lambda: b"Ray runtime started" in self.log.read_bytes() or self.process.poll() is not None)
            if self.process.poll() is None:
                return
            self.kill()  # on a busy machine `ray start` loses patience with what it has started itself
        raise AssertionError(self.log.read_text())

    def _start(self, directory: Path, arguments: tuple[str, ...], program: str, path: str) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        code = f"{program}\nimport sys; sys.argv[0] = 'ray'; from ray.scripts.scripts import main; main()"
        self.log = directory / "ray.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", code, "start", "--head", "--block", "--node-ip-address", "127.0.0.1",
                 "--port", str(port), "--num-cpus", "2", "--include-dashboard", "false", "--disable-usage-stats",
                 "--object-store-memory", str(STORE), *arguments],
                stdout=log,
                stderr=log,
                cwd=directory,
                env={**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{path}"},  # of the tasks' functions
                start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """Kill all of it."""
        there = descendants(self.process.pid)
        # That which others ask first: a raylet that dies while it answers is a node that was lost, not the cluster.
        first = [pid for pid in there if "gcs_server" in there[pid]]
        pids = [*first, *(pid for pid in there if pid not in first), self.process.pid]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            assert pid not in first or eventually(lambda: not self._answers())
        self.process.wait()
        assert eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))

    def _answers(self) -> bool:
        host, _, port = self.address.partition(":")
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0


@contextmanager
def running(directory: Path, *arguments: str, program: str = "", path: str = "") -> Iterator[Cluster]:
    cluster = Cluster(directory, *arguments, program=program, path=path)
    try:
        yield cluster
    finally:
        cluster.kill()
