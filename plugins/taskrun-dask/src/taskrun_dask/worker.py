"""What runs on the cluster: a task in a worker, and a watch in the scheduler. Both need this package there."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from distributed import get_worker
from distributed.diagnostics.plugin import SchedulerPlugin

import taskrun
from taskrun.backends.remote import run_pickled_call

if TYPE_CHECKING:
    from distributed import Scheduler

    from taskrun.backends.remote import Answer, Payload

__all__ = ["PREFIX", "VERSIONS", "OnlyOnce", "run"]

PREFIX = "taskrun-"
"""What the keys of our tasks begin with; the rest is a uuid, so that Dask counts all of them as one kind."""

VERSIONS = (f"Python {sys.version_info.major}.{sys.version_info.minor}", f"taskrun {taskrun.__version__}")
"""What has to be the same at both ends: code travels by value."""


def run(versions: tuple[str, ...], topic: str | None, number: int, payload: Payload) -> Answer:
    """Run a task; tell *topic*, if there is one, that the flight *number* has begun."""
    worker = get_worker()
    if versions != VERSIONS:
        ours, theirs = ", ".join(versions), ", ".join(VERSIONS)
        raise RuntimeError(f"the worker {worker.address} has {theirs}; the program that submits has {ours}")
    label = f"{worker.address}, pid {os.getpid()}, {threading.current_thread().name}"
    if topic is not None:
        worker.log_event(topic, (number, label, worker.address, os.getpid()))
    succeeded, data, cause, (_, *cost) = run_pickled_call(payload)
    return succeeded, data, cause, (label, *cost)  # type: ignore[return-value]


class OnlyOnce(SchedulerPlugin):  # type: ignore[misc]  # distributed has no types
    """Sees to it that Dask runs no task of ours a second time by itself.

    It would when a worker dies: the task that ran there up to `allowed-failures` times, and one whose result was still there as
    often as that happens. What is to be tried again is for the retry policy to say.
    """

    name = "taskrun-only-once"
    idempotent = True

    async def start(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        if not (isinstance(key, str) and key.startswith(PREFIX)):
            return
        task = self._scheduler.tasks.get(key)
        if task is not None and finish == "processing":
            task.suspicious = self._scheduler.allowed_failures  # the first death is one too many
        elif task is not None and finish == "memory":
            task.run_spec = None  # data, as if it had been scattered: what is lost stays lost
