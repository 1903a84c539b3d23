"""Real clusters on this machine, for the tests: processes of Dask's command line, and what they leave behind."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CLUSTERS: set[int] = set()

__all__ = ["PATIENCE", "Cluster", "at_the_scheduler", "descendants", "eventually", "free_port", "running"]

PATIENCE = 40.0
"""Seconds after which something is believed to hang."""


def free_port() -> int:
    """Return a port that nobody listens on at this moment."""
    import socket

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
    """Return pid -> command line of the children of a process, theirs, and so on; but not of what a `Cluster` has started.

    Its workers outlive tests, with what tasks leave in them.
    """
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
            if pid in _CLUSTERS:
                continue
            with suppress(OSError):
                found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            waiting.append(pid)
    return found


class Cluster:
    """A scheduler and workers, each a process of its own, as an administrator would start them."""

    def __init__(self, directory: Path, *, protocol: str = "tcp", tls: tuple[str, ...] = (), program: str = "") -> None:
        self.address = f"{protocol}://127.0.0.1:{free_port()}"
        self._directory, self._tls = directory, tls
        self._processes: list[subprocess.Popen[bytes]] = []
        port = self.address.rpartition(":")[2]
        self.scheduler = self._start(
            "dask scheduler", "--host", f"{protocol}://127.0.0.1", "--port", port, "--no-dashboard", program=program
        )

    def worker(self, *arguments: str, nanny: bool = False, program: str = "") -> subprocess.Popen[bytes]:
        """Start a worker; return its process."""
        kind = "--nanny" if nanny else "--no-nanny"
        rest = ("--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1", kind, *arguments)
        return self._start("dask worker", self.address, *rest, program=program)

    def _start(self, command: str, *arguments: str, program: str = "") -> subprocess.Popen[bytes]:
        code = f"{program}\nfrom dask.__main__ import main; main()"
        log = open(self._directory / f"{command.split()[1]}-{len(self._processes)}.log", "wb")  # noqa: SIM115
        with log:
            process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", code, command.split()[1], *arguments, *self._tls],
                stdout=log,
                stderr=log,
                cwd=self._directory,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},  # tasks are functions of the tests' modules
                start_new_session=True,
            )
        self._processes.append(process)
        _CLUSTERS.add(process.pid)
        return process

    def log(self) -> str:
        return "\n".join(file.read_text(errors="replace") for file in sorted(self._directory.glob("*.log")))

    def wait_for_workers(self, count: int) -> None:
        """Return once *count* workers have said that they are registered."""
        assert eventually(lambda: self.log().count("Registered to:") >= count), self.log()

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a process and all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        fd = os.pidfd_open(process.pid) if process.poll() is None else None
        if fd is not None:
            select.select([fd], [], [], PATIENCE)
            os.close(fd)
        process.wait()
        _CLUSTERS.discard(process.pid)

    def close(self) -> None:
        for process in self._processes:
            self.kill(process)


@contextmanager
def running(directory: Path, workers: int = 2, **arguments: object) -> Iterator[Cluster]:
    cluster = Cluster(directory, **arguments)  # type: ignore[arg-type]
    try:
        for _ in range(workers):
            cluster.worker()
        cluster.wait_for_workers(workers)
        yield cluster
    finally:
        cluster.close()


def at_the_scheduler(cluster: Cluster) -> Counter[str]:
    """Return how many tasks of ours the scheduler has in each of its states.

    Without a Client: one that connects while others' tasks end may find more than its welcome in the first message, which it
    asserts not to (distributed 2026.8, `Client._ensure_connected`).
    """
    from distributed.core import rpc
    from distributed.protocol.pickle import dumps

    def states(dask_scheduler: object) -> list[str]:
        return [task.state for key, task in dask_scheduler.tasks.items() if str(key).startswith("taskrun-")]  # type: ignore[attr-defined]

    async def ask() -> list[str]:
        async with rpc(cluster.address) as scheduler:
            answer = await scheduler.run_function(function=dumps(states), args=dumps(()), kwargs=dumps({}), wait=True)
        assert answer["status"] == "OK", answer
        return answer["result"]  # type: ignore[no-any-return]

    return Counter(asyncio.run(ask()))
