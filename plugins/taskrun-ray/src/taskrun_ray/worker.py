"""What runs on the cluster: a task in a worker. It needs this package there."""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import TYPE_CHECKING

import taskrun
from taskrun.backends.remote import run_pickled_call
from taskrun.cpus import cpu_count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskrun.backends.remote import Answer, Payload

__all__ = ["VERSIONS", "run", "run_telling"]

VERSIONS = (f"Python {sys.version_info.major}.{sys.version_info.minor}", f"taskrun {taskrun.__version__}")
"""What has to be the same at both ends: code travels by value."""


def run(versions: tuple[str, ...], sharers: int | None, payload: Payload) -> Answer:
    """Run a task; *sharers* run at a time on this machine, None: as many of its kind as its CPUs are enough for."""
    return _run(_label(), versions, sharers, payload)


def run_telling(versions: tuple[str, ...], sharers: int | None, payload: Payload) -> Iterator[str | Answer]:
    """Run a task; tell first that it has begun, and where."""
    label = _label()
    yield label
    yield _run(label, versions, sharers, payload)


def _label() -> str:
    import ray

    return f"node {ray.get_runtime_context().get_node_id()[:8]}, pid {os.getpid()}"


def _run(label: str, versions: tuple[str, ...], sharers: int | None, payload: Payload) -> Answer:
    if versions != VERSIONS:
        ours, theirs = ", ".join(versions), ", ".join(VERSIONS)
        raise RuntimeError(f"the worker on {label} has {theirs}; the program that submits has {ours}")
    workers = _like_this() if sharers is None else sharers
    succeeded, data, cause, (_, *cost) = run_pickled_call(payload, alone=True, workers=workers, ends_by=_is_rays)
    return succeeded, data, cause, (label, *cost)  # type: ignore[return-value]


def _is_rays(error: BaseException) -> bool:
    """Return whether Ray is ending this worker: its handler of SIGTERM raises a SystemExit in whatever runs, marked by this.

    (`raise_sys_exit_with_custom_error_message`, ray/_private/worker.py.) Ray says of such a task that its worker has died.
    """
    return isinstance(error, SystemExit) and hasattr(error, "ray_terminate_msg")


def _like_this() -> int:
    """Return how many tasks that take as many CPUs as this one the CPUs of this machine are enough for."""
    import ray

    taken = ray.get_runtime_context().get_assigned_resources().get("CPU", 0.0)
    return max(1, int(_cpus() // taken)) if taken else _cpus()


_cpus = cache(cpu_count)
