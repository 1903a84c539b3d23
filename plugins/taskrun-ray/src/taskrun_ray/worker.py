"""What runs on the cluster: a task in a worker. It needs this package there."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import taskrun
from taskrun.backends.remote import run_pickled_call

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskrun.backends.remote import Answer, Payload

__all__ = ["VERSIONS", "run", "run_telling"]

VERSIONS = (f"Python {sys.version_info.major}.{sys.version_info.minor}", f"taskrun {taskrun.__version__}")
"""What has to be the same at both ends: code travels by value."""


def run(versions: tuple[str, ...], payload: Payload) -> Answer:
    """Run a task."""
    return _run(_label(), versions, payload)


def run_telling(versions: tuple[str, ...], payload: Payload) -> Iterator[str | Answer]:
    """Run a task; tell first that it has begun, and where."""
    label = _label()
    yield label
    yield _run(label, versions, payload)


def _label() -> str:
    import ray

    return f"node {ray.get_runtime_context().get_node_id()[:8]}, pid {os.getpid()}"


def _run(label: str, versions: tuple[str, ...], payload: Payload) -> Answer:
    if versions != VERSIONS:
        ours, theirs = ", ".join(versions), ", ".join(VERSIONS)
        raise RuntimeError(f"the worker on {label} has {theirs}; the program that submits has {ours}")
    succeeded, data, cause, (_, *cost) = run_pickled_call(payload)
    return succeeded, data, cause, (label, *cost)  # type: ignore[return-value]
