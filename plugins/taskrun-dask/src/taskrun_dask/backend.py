"""Runs tasks on a Dask cluster: that at `address`, or one that the executor starts on this machine."""

from __future__ import annotations

import importlib.util
import os
import signal
import uuid
from contextlib import nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from taskrun import cpus
from taskrun.backends.remote import Failure, RemoteBackend
from taskrun.errors import BackendUnavailableError, WorkerCrashedError
from taskrun.task import function_name
from taskrun_dask.capabilities import OWN, THEIRS
from taskrun_dask.cluster import OwnCluster, connect
from taskrun_dask.inbox import LOST, Inbox
from taskrun_dask.options import EXECUTOR, TASK, find_own, read_executor, read_task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from distributed import Client, Future

    from taskrun.backends import Capabilities
    from taskrun.backends.remote import Answer, Flight, Payload
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler
    from taskrun.task import Task

__all__ = ["DaskBackend"]

_LARGE = 1_000_000  # bytes of a call
_QUIET = {"distributed.admin.large-graph-warning-threshold": "1 PB"}  # the user has not made a graph
_KINDS = 100  # of tasks, for each executor; the others count as one
_PATIENCE = 10.0  # seconds for the scheduler to answer


class DaskBackend(RemoteBackend):
    """Each attempt is a task of Dask's that it is told never to run again."""

    name: ClassVar[str] = "dask"
    capabilities: Capabilities = THEIRS
    option_names: ClassVar[Mapping[str, str]] = EXECUTOR
    task_option_names: ClassVar[Mapping[str, str]] = TASK
    reports_starts = reports_each_start = True

    @classmethod
    def unavailable(cls) -> str | None:
        missing = importlib.util.find_spec("distributed") is None
        return "the package distributed is not installed: pip install distributed" if missing else None

    def __init__(self) -> None:
        self._client: Client | None = None
        self._own: OwnCluster | None = None
        self._severed = False
        self._kinds: set[str] = set()

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
        self._inbox = Inbox(self, self._wants)
        self._killed: set[tuple[str, int]] = set()  # workers: address, pid
        address = self._given.address
        try:
            if address is not None:
                self._use(self._client or connect(address, self._given))
            super().start(scheduler, settings)
        except BaseException:
            self._close_client()
            raise

    def _use(self, client: Client) -> None:
        from taskrun_dask.arbiter import TOPIC, Arbiter

        self._client = client
        try:
            client.subscribe_topic(TOPIC, self._inbox.reported)
            client.register_plugin(Arbiter(passes_on=self._own is None))
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
        own = self._own = OwnCluster(self._settings.max_workers, self._given)
        if self._severed:
            own.kill()
        self._use(connect(own.address(), self._given))

    def send(self, flight: Flight, call: Payload) -> Future:
        import dask
        from distributed.client import done_callback

        from taskrun_dask.arbiter import PREFIX, SPAN
        from taskrun_dask.worker import VERSIONS, Large, run

        client = self._client
        assert client is not None  # noqa: S101 - connected
        told = read_task(self._given, flight.task.options.backend)
        if not self.answers():
            raise ConnectionError(f"the scheduler at {self._where()} does not answer any more")
        if self._own is not None and (told["resources"] or told["workers"]):
            find_own(self._given, told, client.scheduler_info()["workers"] if told["workers"] else {})
        # The key is unique, and nothing is `pure`: no call is taken for another. The user's keywords are in the payload.
        key = f"{PREFIX}{self._kind(flight.task)}-{uuid.uuid4().hex}"
        large = flight.size > _LARGE
        sharers = 1 if self._own is None else self._settings.max_workers * cpus.outer_workers
        self._inbox.expect(key, flight)
        with dask.annotate(span=SPAN), dask.config.set(_QUIET) if large else nullcontext():
            sent = Large(call) if large else call
            try:
                future = client.submit(run, VERSIONS, key, sent, sharers, key=key, pure=False, retries=0, **told)
            except BaseException:
                self._inbox.dismiss(key)
                raise
        # Not `future.add_done_callback`: it has one thread for all clients of the process, where others' callbacks may wait.
        client.loop.add_callback(done_callback, future, partial(self._inbox.done, flight))
        return future

    def _wants(self, flight: Flight) -> bool:
        with self._lock:
            return self._flights.get(flight.task) is flight

    def _kind(self, task: Task) -> str:
        """Return what Dask shall take a task for, which goes by how long others of its kind took; it remembers each kind."""
        kind = "".join(filter(str.isalpha, function_name(task.fn).rpartition(".")[2]))
        if kind not in self._kinds:
            if not kind or len(self._kinds) >= _KINDS:
                return "task"
            self._kinds.add(kind)
        return kind

    def answers(self) -> bool:
        return self._client is not None and self._client.status == "running"

    def collect(self, flights: Sequence[Flight]) -> list[Answer | Failure | None]:
        found = [self._found(flight) for flight in flights]
        for flight in flights:
            self._unlist(flight)
            flight.handle.release()
        return found

    def _found(self, flight: Flight) -> Answer | Failure | None:
        saved = self._inbox.saved(flight.handle.key)
        return self._failure(flight) if saved is None else self._read(flight, saved)

    def _read(self, flight: Flight, answer: Answer | str) -> Answer | Failure | None:
        """Return what a worker has answered: a task that was not to run there has a word for that."""
        from taskrun_dask.arbiter import DIED, OVER, WITHDRAWN

        if not isinstance(answer, str):
            return answer
        if answer == WITHDRAWN or (answer == DIED and self._killed_before(flight)):
            return None
        why = {
            LOST: "the worker that had its result died before that was fetched:",
            DIED: "the worker died, perhaps before it began what it had been sent:",
            OVER: "the worker was taken from the cluster while it ran",
        }
        return self._crashed(flight, why[answer], None)

    def _killed_before(self, flight: Flight) -> bool:
        """Return whether it was sent to a worker that we had killed for the one before, which was over just then."""
        return flight.where in self._killed and flight.stopped is None

    def _failure(self, flight: Flight) -> Answer | Failure | None:
        """Return why a task of Dask's has no result."""
        from distributed.scheduler import KilledWorker

        client, future = self._client, flight.handle
        assert client is not None  # noqa: S101 - connected
        if future.status != "error":  # cancelled or lost
            if client.status != "running":
                return self.gone(flight, f"the scheduler at {self._where()} went away", None)
            return self._crashed(flight, f"Dask says that it was {future.status}, perhaps by somebody else's client:", None)
        error = future.exception(_PATIENCE)
        if not isinstance(error, KilledWorker):
            wrong = BackendUnavailableError(
                f"the cluster at {self._where()} could not run task {flight.task.name!r}: {type(error).__name__}: {error}. "
                "The same Python and the same taskrun-executor and taskrun-dask have to be on the scheduler and the workers",
                backend="dask",
            )
            wrong.__cause__ = error
            return Failure(wrong, "initializer")
        # What had not begun there has gone to another worker by itself.
        worker = error.last_worker
        if self._killed_before(flight):
            return None
        known = flight.started is not None and worker.nthreads == 1
        return self._crashed(flight, f"the worker {worker.address} died or was lost while it ran", error, known)

    def _crashed(self, flight: Flight, what: str, error: BaseException | None, known: bool = False) -> Failure:
        task = flight.task
        pid = flight.where[1] if flight.where is not None else None
        crash = WorkerCrashedError(
            f"{what} task {task.name!r} (attempt {task.number}). Dask does not say what it died of; the log of "
            "the worker or of its nanny may. taskrun.Retry(on_crash=True) runs such tasks again",
            task=task.name,
            attempt=task.number,
            pid=pid,
            guilt="known" if known else "unknown",
        )
        crash.__cause__ = error
        return Failure(crash, "crashed")

    def _unlist(self, flight: Flight) -> None:
        if flight.handle is not None:
            self._inbox.dismiss(flight.handle.key)

    # -- taking back -----------------------------------------------------------------------------------------------------------

    def withdraw(self, flights: Sequence[Flight]) -> Sequence[Flight]:
        from taskrun_dask.arbiter import WITHDRAW

        client = self._client
        sent = {flight.handle.key: flight for flight in flights if flight.handle is not None}
        if client is None or not sent or not self.answers():
            return ()
        try:
            keys = client.sync(getattr(client.scheduler, WITHDRAW), keys=list(sent), callback_timeout=_PATIENCE)
        except Exception:  # the scheduler is silent or has gone: nothing is certain
            return ()
        return [sent[key] for key in keys or ()]

    # -- stopping --------------------------------------------------------------------------------------------------------------

    def interrupt(self, flight: Flight) -> None:
        """Kill the worker of our own cluster that runs it, if it still does: nothing begins there before we hear of that."""
        if flight.where is None or flight not in self._busy or flight.handle.done() or flight.where in self._killed:
            return  # if it has not begun, `started` asks again
        self._killed.add(flight.where)
        with suppress(ProcessLookupError):
            os.kill(flight.where[1], signal.SIGKILL)  # its nanny starts another

    def forget(self, flights: Sequence[Flight]) -> None:
        client = self._client
        for flight in flights:
            self._unlist(flight)
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
