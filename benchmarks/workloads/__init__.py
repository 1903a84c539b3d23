"""The workloads by name. A new one is a class in the file of its theme and an entry in that file's `WORKLOADS`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.workloads import at_rest, buffers, fresh, mapping, round_trip, startup, stream, submit

if TYPE_CHECKING:
    from benchmarks.workloads.base import Workload

__all__ = ["WORKLOADS"]

_THEMES = (submit, round_trip, mapping, stream, buffers, fresh, startup, at_rest)
WORKLOADS: dict[str, Workload] = {workload.name: workload for theme in _THEMES for workload in theme.WORKLOADS}
