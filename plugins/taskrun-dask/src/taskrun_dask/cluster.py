"""How a cluster is found, or started and ended.

A cluster of our own lives in a process of its own: scheduler and nannies are not in the user's, whose GIL they would share, and
his `__main__` is not run in the workers, as multiprocessing would. That process ends with the one that started it, however
that died.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from taskrun.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed import Client

    from taskrun_dask.options import DaskOptions

__all__ = ["OwnCluster", "connect"]

T = TypeVar("T")

_FRIGHTS = 5  # times that it is tried again to connect, see `_insist`
_START_LIMIT = 60.0  # seconds for a scheduler and its workers, on a machine under load
_END_LIMIT = 10.0
_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from taskrun_dask.cluster import main; main()"


def connect(address: str, options: DaskOptions) -> Client:
    """Return a client of the scheduler at *address*. Raises BackendUnavailableError, within `connect_timeout` seconds or so."""
    from distributed import Client

    security = options.security
    try:
        if security is None and (options.tls_ca_file or options.tls_cert):
            from distributed import Security

            security = Security(
                tls_ca_file=options.tls_ca_file,
                tls_client_cert=options.tls_cert,
                tls_client_key=options.tls_key or options.tls_cert,
                require_encryption=True,
            )
        _insist(partial(_probe, address, options.connect_timeout, security))
        return _insist(partial(Client, address, timeout=options.connect_timeout, security=security, set_as_default=False))
    except Exception as error:  # of Dask, of TLS, of what is at that address instead
        raise BackendUnavailableError(
            f"no Dask scheduler answers at {address}, which was tried for {options.connect_timeout:g} s: {_reasons(error)}. "
            "Is it running there, and reachable from here? A scheduler with TLS has an address that begins with tls:// and "
            "wants tls_ca_file, tls_cert and tls_key",
            backend="dask",
        ) from error


def _insist(connect: Callable[[], T]) -> T:
    """Call *connect*, and again where Dask's client takes fright.

    A scheduler tells all clients of what becomes of a task that it has forgotten (`Scheduler.report`). One that connects just
    then finds that in its first message, and asserts that there is nothing but the welcome (`Client._ensure_connected`).
    """
    for _ in range(_FRIGHTS):
        with suppress(AssertionError):
            return connect()
    return connect()


def _probe(address: str, timeout: float, security: Any) -> None:
    """Connect and part again. Raises what Dask raises.

    A client that runs in a thread of its own leaves that thread behind when it cannot connect, and nobody can close it; one
    that runs on a loop of ours can be closed.
    """
    from distributed import Client

    async def ask() -> None:
        client = Client(address, timeout=timeout, security=security, set_as_default=False, asynchronous=True)
        connecting = asyncio.ensure_future(client)
        try:
            # Something that takes the connection and says nothing is waited for longer than Dask is told to.
            if not (await asyncio.wait({connecting}, timeout=timeout + 1))[0]:
                raise TimeoutError("it takes connections and does not speak as a scheduler does")
            connecting.result()
        finally:
            connecting.cancel()
            with suppress(Exception):
                await client.close(timeout=1)

    failed: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(ask())
        except BaseException as error:  # for the caller to raise
            failed.append(error)

    thread = threading.Thread(target=run, name="taskrun-dask-probe")  # the caller may be in a running event loop
    thread.start()
    thread.join()
    if failed:
        raise failed.pop()


def _reasons(error: BaseException | None) -> str:
    """Return what went wrong, and what that came from: the certificate that was refused is at the end of the chain."""
    texts: list[str] = []
    while error is not None and len(texts) < 10:
        text = f"{type(error).__name__}: {error}"
        if text not in texts:
            texts.append(text)
        error = error.__cause__ or error.__context__
    return "; from ".join(texts)


class OwnCluster:
    """A scheduler and its workers on this machine, reached by no other, one task at a time in each worker."""

    def __init__(self, workers: int, options: DaskOptions) -> None:
        told, tell = os.pipe()
        about = {
            "workers": workers,
            "memory_limit": options.memory_limit,
            "resources": dict(options.resources or {}),
            "tell": tell,
            "parent": os.getpid(),
        }
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, json.dumps(list(map(str, sys.path))), json.dumps(about)],
                stdin=subprocess.PIPE,
                pass_fds=(tell,),
                start_new_session=True,  # a Ctrl-C at the terminal is the parent's to hear
            )
        except BaseException:
            os.close(told)
            raise
        finally:
            os.close(tell)
        self._told = os.fdopen(told, "rb")

    def address(self) -> str:
        """Wait until its workers are there; return the scheduler's address. Raises RuntimeError."""
        deadline = time.monotonic() + _START_LIMIT
        while not select.select([self._told], [], [], 0.1)[0]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the local cluster was not there after {_START_LIMIT:g} s")
        line = self._told.readline().decode().strip()
        if not line:
            raise RuntimeError(f"the process of the local cluster ended with {self._process.wait()}; it said why on stderr")
        return line

    def end(self) -> None:
        """End it in order, and wait for that."""
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        with suppress(OSError):
            self._process.stdin.write(b"end\n")
        with suppress(OSError):
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_LIMIT)
        self.kill()
        self._process.wait()
        self._told.close()

    def kill(self) -> None:
        """End it at once: scheduler, nannies and workers. Does not wait."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


# -- in that process -----------------------------------------------------------------------------------------------------------


def main() -> None:
    """Be a cluster until the parent says so or is gone."""
    # From a server that has imported distributed: a worker that was killed is replaced in a tenth of the time.
    os.environ.setdefault("DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD", "forkserver")
    # So long after each death of a worker it would be given up for ever, if it happened to be away again just then.
    os.environ["DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT"] = "365 days"
    # One that keeps much in memory would get nothing more until it has less, and it has no results to part with.
    os.environ["DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE"] = "False"
    from distributed import LocalCluster

    about = json.loads(sys.argv[2])
    with LocalCluster(
        n_workers=about["workers"],
        threads_per_worker=1,
        processes=True,
        memory_limit=about["memory_limit"],
        resources=about["resources"],
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",  # else the second cluster on a machine warns that 8787 is taken
        silence_logs=logging.CRITICAL,  # what becomes of tasks is told by their futures
        scheduler_kwargs={"allowed_failures": 0},
    ) as cluster:
        os.write(about["tell"], f"{cluster.scheduler_address}\n".encode())
        os.close(about["tell"])
        in_order = _wait_for_the_end(about["parent"])
        if not in_order:
            os.killpg(0, signal.SIGKILL)


def _wait_for_the_end(parent: int) -> bool:
    """Return True when the parent says that it is over, False when the parent is gone."""
    watched: list[Any] = [sys.stdin.fileno()]
    with suppress(OSError):
        watched.append(os.pidfd_open(parent))  # what the parent has forked may hold the pipe open after its death
    ready = select.select(watched, [], [])[0]
    return sys.stdin.fileno() in ready and os.read(sys.stdin.fileno(), 4) == b"end\n"
