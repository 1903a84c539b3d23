"""The systems by name. A new one is an adapter class and a line here."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.systems import clusters, ours, peers, standard

if TYPE_CHECKING:
    from benchmarks.systems.base import System

__all__ = ["OURS", "PROCESS_PEERS", "STANDARD", "SYSTEMS", "missing"]


def _variant(base: type[System], **attributes: Any) -> type[System]:
    return type(base.__name__, (base,), attributes)


OURS: dict[str, type[System]] = {
    "process": _variant(ours.ProcessLike, backend="process"),
    "process-fork": _variant(ours.ProcessLike, backend="process", settings={"start_method": "fork"}),
    "process-options": _variant(ours.WithAllOptions, backend="process"),
    "thread": _variant(ours.ThreadLike, backend="thread"),
    "thread-options": _variant(ours.WithAllOptions, backend="thread", kind="thread"),
    "pool": _variant(ours.ProcessLike, backend="pool"),
    "dummy": _variant(ours.ThreadLike, backend="dummy"),
    "fork": _variant(ours.ProcessLike, backend="fork"),
    "asyncio": _variant(ours.ThreadLike, backend="asyncio"),
    "interpreter": _variant(ours.ThreadLike, backend="interpreter", can=ours.ThreadLike.can),
    "serial": _variant(ours.Taskrun, backend="serial", kind="thread", can=ours.ThreadLike.can - {"queue"}),
}
"""taskrun's backends, and some of them with other than default options."""

STANDARD: dict[str, type[System]] = {
    "ThreadPoolExecutor": standard.ThreadPool,
    "ProcessPoolExecutor-fork": standard.ProcessPool,
    "ProcessPoolExecutor-forkserver": _variant(
        standard.ProcessPool, method="forkserver", can=standard.ProcessPool.can | {"fresh"}
    ),
    "mp.Pool": standard.Pool,
    "mp.dummy": standard.Dummy,
}
_PEERS: dict[str, type[System]] = {
    "loky": peers.Loky,
    "joblib": peers.Joblib,
    "pebble": peers.Pebble,
    "mpire": peers.Mpire,
    "billiard": peers.Billiard,
    "deadpool": peers.Deadpool,
    "dask": clusters.Dask,
    "ray": clusters.Ray,
}
SYSTEMS: dict[str, type[System]] = {**OURS, **STANDARD, **_PEERS}

PROCESS_PEERS = tuple(name for name, system in {**STANDARD, **_PEERS}.items() if system.kind == "process")


def missing(name: str) -> str | None:
    """Return why the system cannot run here, or None."""
    system = SYSTEMS[name]
    if system.needs and importlib.util.find_spec(system.needs) is None:
        return f"{system.needs} is not installed"
    if name == "interpreter" and sys.version_info < (3, 14):
        return "needs Python 3.14"
    return None
