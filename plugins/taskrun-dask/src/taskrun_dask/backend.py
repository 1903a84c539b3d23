"""Runs tasks on a Dask cluster: that at `address`, or one that the executor starts on this machine."""

from __future__ import annotations

import importlib.util
import itertools
import os
import signal
import uuid
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from taskrun.backends.remote import Failure, RemoteBackend
from taskrun.errors import BackendUnavailableError, WorkerCrashedError
from taskrun_dask.capabilities import OWN, THEIRS
from taskrun_dask.cluster import OwnCluster, connect
from taskrun_dask.options import EXECUTOR, TASK, read_executor, read_task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from distributed import Client, Future

    from taskrun.backends import Capabilities
    from taskrun.backends.remote import Answer, Flight, Payload
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler

__all__ = ["DaskBackend"]

_LARGE = 1_000_000  # bytes: a larger call goes to a worker as data, not through the scheduler's graph of tasks
_PATIENCE = 10.0  # seconds for the scheduler to answer


class DaskBackend(RemoteBackend):
    """Each attempt is a task of Dask's that it is told never to run again."""

    name: ClassVar[str] = "dask"
    capabilities: Capabilities = THEIRS
    option_names: ClassVar[Mapping[str, str]] = EXECUTOR
    task_option_names: ClassVar[Mapping[str, str]] = TASK
    reports_starts = True

    @classmethod
    def unavailable(cls) -> str | None:
        missing = importlib.util.find_spec("distributed") is None
        return "the package distributed is not installed: pip install distributed" if missing else None

    def __init__(self) -> None:
        self._client: Client | None = None
        self._own: OwnCluster | None = None
        self._severed = False

    def configure(self, options: Mapping[str, Any]) -> None:
        self._given = read_executor(options)
        self.capabilities = OWN if self._given.address is None else THEIRS

    def slots(self) -> int | None:
        """Return how many threads the workers of the cluster have, when there are any."""
        if self._given.address is None:
            return None
        if self._client is None:
            self._client = connect(self._given.address, self._given)
        try:
            workers = self._client.scheduler_info()["workers"].values()
        except Exception as error:  # the scheduler has gone again
            self._close_client()
            raise BackendUnavailableError(f"the Dask scheduler at {self._given.address} went away: {error}") from error
        return sum(worker["nthreads"] for worker in workers) or None

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        """Connect to the cluster that has an address; one of our own is started when there is work."""
        self._numbers = itertools.count()
        self._topic = f"taskrun-{uuid.uuid4().hex}"
        self._reporting: dict[int, Flight] = {}
        self._killed: set[str] = set()  # addresses of workers
        address = self._given.address
        try:
            if address is not None:
                self._use(self._client or connect(address, self._given))
            super().start(scheduler, settings)
        except BaseException:
            self._close_client()
            raise

    def _use(self, client: Client) -> None:
        from taskrun_dask.worker import OnlyOnce

        self._client = client
        try:
            client.subscribe_topic(self._topic, self._reported)
            client.register_plugin(OnlyOnce())
        except Exception as error:  # what the scheduler raised where it could not load it
            raise BackendUnavailableError(
                f"the Dask scheduler at {client.scheduler.address} does not take taskrun's plugin ({type(error).__name__}: "
                f"{error}): taskrun-executor and taskrun-dask have to be installed there and on the workers",
                backend="dask",
            ) from error

    # -- the feeder ------------------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        if self._client is not None:
            return
        own = self._own = OwnCluster(self._settings.max_workers, self._given.memory_limit)
        if self._severed:
            own.kill()
        self._use(connect(own.address(), self._given))

    def send(self, flight: Flight, call: Payload) -> Future:
        from taskrun_dask.worker import PREFIX, VERSIONS, run

        client = self._client
        assert client is not None  # noqa: S101 - connected
        task = flight.task
        told = read_task(self._given, task.options.backend)
        if client.status != "running":
            raise ConnectionError(f"the scheduler at {self._where()} does not answer any more")
        number, topic = next(self._numbers), None
        if task.options.timeout is not None or self._own is not None:
            topic = self._topic
            self._reporting[number] = flight
            flight.where = (number, None, None)
        sent: Any = call
        if sum(map(len, (call[1].function or b"", call[1].arguments))) > _LARGE:
            sent = client.scatter(call, hash=False)
        # The key is unique, and nothing is `pure`: no call is taken for another. The user's keywords are in the payload.
        future = client.submit(
            run, VERSIONS, topic, number, sent, key=f"{PREFIX}{uuid.uuid4().hex}", pure=False, retries=0, **told
        )
        future.add_done_callback(partial(self._done, flight))
        return future

    def _done(self, flight: Flight, future: Future) -> None:
        self.ended(flight)

    def _reported(self, event: tuple[float, tuple[int, str, str, int]]) -> None:
        number, label, address, pid = event[1]
        flight = self._reporting.get(number)
        if flight is not None:
            self.started(flight, label, (number, address, pid))

    def collect(self, flights: Sequence[Flight]) -> list[Answer | Failure | None]:
        client = self._client
        assert client is not None  # noqa: S101 - connected
        found: dict[Flight, Answer | Failure | None] = {}
        done = {flight.handle.key: flight for flight in flights if flight.handle.status == "finished"}
        while done:
            answer = client.sync(client.scheduler.gather, keys=list(done))
            if answer["status"] == "OK":
                found |= {done[key]: value for key, value in answer["data"].items()}
                break
            for key in answer["keys"]:
                lost = done.pop(key)
                found[lost] = self._crashed(lost, "the worker that had its result died before that was fetched", None)
        for flight in flights:
            if flight not in found:
                found[flight] = self._failure(flight, flights)
        for flight in flights:
            self._let_go(flight)
        return [found[flight] for flight in flights]

    def _failure(self, flight: Flight, ended: Sequence[Flight]) -> Failure | None:
        """Return why a task of Dask's has no result."""
        from distributed.scheduler import KilledWorker

        client, future = self._client, flight.handle
        assert client is not None  # noqa: S101 - connected
        if future.status != "error":  # cancelled or lost
            if client.status != "running":
                return self.gone(flight, f"the scheduler at {self._where()} went away", None)
            return self._crashed(flight, f"Dask says that it was {future.status}, perhaps by somebody else's client", None)
        error = future.exception(_PATIENCE)
        if not isinstance(error, KilledWorker):
            wrong = BackendUnavailableError(
                f"the cluster at {self._where()} could not run task {flight.task.name!r}: {type(error).__name__}: {error}. "
                "The same Python and the same taskrun-executor and taskrun-dask have to be on the scheduler and the workers",
                backend="dask",
            )
            wrong.__cause__ = error
            return Failure(wrong, "initializer")
        address = error.last_worker.address
        if self._own is not None and flight.started is None and self._was_busy(address, flight, ended):
            return None
        return self._crashed(flight, f"the worker {address} died or was lost", error, error.last_worker.nthreads == 1)

    def _was_busy(self, address: str, flight: Flight, ended: Sequence[Flight]) -> bool:
        """Return whether a worker that died was killed by us for another task, or ran another one: it runs one at a time."""
        others = [other for other in (*ended, *self._busy) if other is not flight and other.started is not None]
        return address in self._killed or any(other.where[1] == address for other in others)

    def _crashed(self, flight: Flight, what: str, error: BaseException | None, known: bool = False) -> Failure:
        task = flight.task
        pid = flight.where[2] if flight.where is not None else None
        crash = WorkerCrashedError(
            f"{what} while it ran task {task.name!r} (attempt {task.number}). Dask does not say what it died of; the log of "
            "the worker or of its nanny may. taskrun.Retry(on_crash=True) runs such tasks again",
            task=task.name,
            attempt=task.number,
            pid=pid,
            guilt="known" if known else "unknown",
        )
        crash.__cause__ = error
        return Failure(crash, "crashed")

    def _let_go(self, flight: Flight) -> None:
        if flight.where is not None:
            self._reporting.pop(flight.where[0], None)
        if flight.handle is not None:
            flight.handle.release()

    # -- stopping --------------------------------------------------------------------------------------------------------------

    def interrupt(self, flight: Flight) -> None:
        """Kill the worker of our own cluster that runs it, if it still does: nothing is sent there before we hear of that."""
        _, address, pid = flight.where
        if pid is None or flight not in self._busy or flight.handle.done() or address in self._killed:
            return  # if it has not begun, `started` asks again
        self._killed.add(address)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # its nanny starts another

    def forget(self, flights: Sequence[Flight]) -> None:
        client = self._client
        for flight in flights:
            if flight.where is not None:
                self._reporting.pop(flight.where[0], None)
        futures = [flight.handle for flight in flights if flight.handle is not None]
        if client is not None and futures and client.status == "running":
            with suppress(Exception):  # the scheduler may go away at this very moment
                client.cancel(futures, force=True)

    def sever(self) -> None:
        self._severed = True
        if self._own is not None:
            self._own.kill()

    # -- ending ----------------------------------------------------------------------------------------------------------------

    def disconnect(self) -> None:
        self._close_client()
        if self._own is not None:
            self._own.end()

    def _close_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):  # of a connection that is gone
                client.close(timeout=2)

    def workers(self) -> list[str]:
        client = self._client
        if client is None or client.status != "running":
            return []
        try:
            return sorted(client.scheduler_info()["workers"])
        except Exception:  # the scheduler has gone
            return []

    def _where(self) -> str:
        return self._given.address or "this machine"
