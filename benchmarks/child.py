"""One measurement in this interpreter: ``python -m benchmarks.child WORKLOAD CONTESTANT SCALE SPEED``; JSON ends its output."""

from __future__ import annotations

import dataclasses
import json
import sys
import traceback
from typing import Any

from benchmarks.systems import SYSTEMS
from benchmarks.workloads import WORKLOADS
from benchmarks.workloads.base import SCALES, WORKERS, Scale, Skipped

__all__ = ["measure"]


def measure(workload: str, contestant: str, scale: Scale) -> dict[str, Any]:
    """Return {"values": ...}, or {"skipped": why} or {"failed": why}."""
    work = WORKLOADS[workload]
    try:
        floor = work.floors().get(contestant)
        if floor is not None:
            return {"values": floor(scale)}
        system = SYSTEMS[contestant]
        return {"values": work.run(lambda tasks_per_worker=None: system(WORKERS, tasks_per_worker), scale)}
    except Skipped as reason:
        return {"skipped": str(reason)}
    except Exception as error:  # a peer may fail in any way: that is a result, too
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    _workload, _contestant, _scale, _speed = sys.argv[1:]
    _measured = measure(_workload, _contestant, dataclasses.replace(SCALES[_scale], speed=float(_speed)))
    print("\n" + json.dumps(_measured), flush=True)
