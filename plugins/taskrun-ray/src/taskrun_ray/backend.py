"""Runs tasks on a Ray cluster: that at `address`, that of this process, or one that is started on this machine."""

from __future__ import annotations

import importlib.util
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from taskrun import cpus
from taskrun.backends.remote import Failure, RemoteBackend
from taskrun.errors import BackendUnavailableError, WorkerCrashedError
from taskrun_ray.capabilities import RAY
from taskrun_ray.cluster import Connection, answers, connect, connection, disconnect, is_ours
from taskrun_ray.options import EXECUTOR, TASK, read_executor, read_task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Future

    from taskrun.backends import Capabilities
    from taskrun.backends.remote import Answer, Flight, Payload
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler

__all__ = ["RayBackend"]

_WATCH = 1.0  # seconds between two looks whether the cluster is there
_LEFT = "this process has ended its connection (ray.shutdown)"


class RayBackend(RemoteBackend):
    """Each attempt is a task of Ray's that it is told never to run again."""

    name: ClassVar[str] = "ray"
    capabilities: Capabilities = RAY
    option_names: ClassVar[Mapping[str, str]] = EXECUTOR
    task_option_names: ClassVar[Mapping[str, str]] = TASK
    reports_starts = True

    @classmethod
    def unavailable(cls) -> str | None:
        missing = importlib.util.find_spec("ray") is None
        return "the package ray is not installed: pip install ray" if missing else None

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._using: Connection | None = None  # the same, if it is for us to end

    def configure(self, options: Mapping[str, Any]) -> None:
        self._given = read_executor(options)

    def slots(self) -> int | None:
        """Return how many tasks the CPUs of the cluster are enough for, where there is a cluster already."""
        import ray

        if self._given.address is None and not ray.is_initialized():
            return None
        self._join_cluster(None)
        there = ray.cluster_resources().get("CPU", 0.0)
        return int(there // self._given.num_cpus) or None if self._given.num_cpus else None

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        """Connect to the cluster that has an address; one of our own is started when there is work."""
        try:
            if self._given.address is not None:
                self._join_cluster(None)
            super().start(scheduler, settings)
        except BaseException:
            self.disconnect()
            raise

    def _join_cluster(self, workers: int | None) -> None:
        import ray

        if self._connection is None:
            self._using = connect(self._given, workers)
            self._gcs = ray.get_runtime_context().gcs_address
            self._connection = connection()

    # -- the feeder ------------------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        import ray

        from taskrun_ray.worker import run, run_telling

        self._join_cluster(self._settings.max_workers)
        self._sharers = self._settings.max_workers * cpus.outer_workers if is_ours() else None
        # Run once, whatever happens: what is to be tried again is for the retry policy to say.
        once = ray.remote(max_retries=0, retry_exceptions=False)
        self._run, self._run_telling = once(run), once(run_telling)
        self._watch()

    def _watch(self) -> None:
        """Look now and then: Ray itself waits for a cluster that is gone, and ends the program after a minute of that."""
        if self._lost is None and not self._closing:
            if not self._is_connected():
                self.lose(_LEFT, None)
                return
            if not answers(self._gcs, self._given.connect_timeout):
                self.lose(self._nobody(), None)
                return
            self._scheduler.timer.call_at(time.monotonic() + _WATCH, self._tell, self._watch)

    def _is_connected(self) -> bool:
        return self._connection is not None and connection() == self._connection

    def _nobody(self) -> str:
        return f"nobody answers at {self._gcs} any more"

    def send(self, flight: Flight, call: Payload) -> Any:
        from taskrun_ray.worker import VERSIONS

        task = flight.task
        told = read_task(self._given, task.options.backend)
        if not self._is_connected():
            raise ConnectionError(_LEFT)  # Ray would connect to another by itself, or start one
        ref: Any
        if task.options.timeout is None:
            ref = self._run.options(name=task.name, **told).remote(VERSIONS, self._sharers, call)
            begun, future, number = None, ref.future(), ref.task_id()
        else:  # of a stream Ray says when each part has come, of a task by itself only when it is over
            ref = self._run_telling.options(name=task.name, num_returns="streaming", **told).remote(
                VERSIONS, self._sharers, call
            )
            begun, future = (part.future() for part in ref._get_next_ref_n(2))  # what is public would block a thread for each
            number = ref.completed().task_id()
            ref.completed().future()  # looked at: else Ray logs an error of the stream's as one that nobody has handled
        flight.worker = task.worker = f"Ray task {number.hex()}"
        flight.handle = ref, future, begun
        if begun is not None:
            begun.add_done_callback(partial(self._begun, flight))
        future.add_done_callback(lambda _: self.ended(flight))
        return flight.handle

    def _begun(self, flight: Flight, begun: Future[str]) -> None:
        if begun.exception() is None:  # else it never will
            self.started(flight, begun.result())

    def collect(self, flights: Sequence[Flight]) -> list[Answer | Failure | None]:
        return [self._found(flight) for flight in flights]

    def _found(self, flight: Flight) -> Answer | Failure:
        from ray import exceptions as of_ray

        _, future, begun = flight.handle
        flight.handle = None  # it leads back to the flight, and would keep the answer in Ray's store
        error = future.exception()
        if begun is not None and isinstance(error, of_ray.ObjectRefStreamEndOfStreamError):
            error = begun.exception() or error
        if error is None:
            flight.worker = None  # the answer says who it was
            return future.result()  # type: ignore[no-any-return]
        crashes = (
            of_ray.WorkerCrashedError,
            of_ray.NodeDiedError,
            of_ray.LocalRayletDiedError,
            of_ray.OutOfMemoryError,
            of_ray.TaskCancelledError,
            of_ray.ObjectLostError,
        )
        if isinstance(error, crashes):
            if not answers(self._gcs, self._given.connect_timeout):
                return self.gone(flight, self._nobody(), error)
            return Failure(self._crashed(flight, error, isinstance(error, of_ray.OutOfMemoryError)), "crashed")
        wrong = BackendUnavailableError(
            f"the cluster at {self._gcs} could not run task {flight.task.name!r}: {type(error).__name__}: {error}. The same "
            "Python and the same taskrun-executor and taskrun-ray have to be on all of its nodes",
            backend="ray",
        )
        wrong.__cause__ = error
        return Failure(wrong, "initializer")

    def _crashed(self, flight: Flight, error: BaseException, oom: bool) -> WorkerCrashedError:
        task = flight.task
        crash = WorkerCrashedError(
            f"the worker died, was lost or was cancelled while it ran task {task.name!r} (attempt {task.number}), "
            f"{flight.worker}: {error}. taskrun.Retry(on_crash=True) runs such tasks again",
            task=task.name,
            attempt=task.number,
            oom=True if oom else None,
        )
        crash.__cause__ = error
        return crash

    # -- stopping --------------------------------------------------------------------------------------------------------------

    def interrupt(self, flight: Flight) -> None:
        import ray

        if flight.handle is not None and not flight.handle[1].done() and self._is_connected():
            ray.cancel(flight.handle[0], force=True, recursive=True)

    def forget(self, flights: Sequence[Flight]) -> None:
        for flight in flights:
            if self._lost is None:
                with suppress(Exception):  # of Ray: it has ended, or the cluster has
                    self.interrupt(flight)
            flight.handle = None

    # -- ending ----------------------------------------------------------------------------------------------------------------

    def disconnect(self) -> None:
        using, self._using, self._connection = self._using, None, None
        if using is not None:
            disconnect(using)

    def workers(self) -> list[str]:
        return sorted({flight.worker for flight in list(self._flights.values()) if flight.worker is not None})
