"""The backend's own options, read and checked: of an executor, and of a task."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from taskrun.errors import ConfigError
from taskrun.units import DURATIONS, parse_duration, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["EXECUTOR", "TASK", "DaskOptions", "find_own", "read_executor", "read_task"]

TASK = {
    "workers": "the workers that may run it: addresses, host names or names of Dask's, one or a list",
    "allow_other_workers": "True: `workers` is a wish, others may run it when those are not there",
    "resources": 'what it needs of what workers declare (`dask worker --resources`), such as {"GPU": 1}',
}
EXECUTOR = {
    "address": "of the scheduler, such as tcp://host:8786 or tls://host:8786; without it a cluster on this machine is started",
    "connect_timeout": 'how long to wait for the scheduler to answer: seconds, or text such as "30s" (default 5)',
    "tls_ca_file": "the certificates by which the scheduler is known, a PEM file",
    "tls_cert": "the certificate by which the scheduler knows us, a PEM file",
    "tls_key": "its key, a PEM file (default: in `tls_cert`)",
    "security": "a distributed.Security, in the place of the three; not from a file",
    "memory_limit": 'of each worker of a cluster of its own: "2GiB", a fraction of what there is, "auto" (default), 0 for none',
    **TASK,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DaskOptions:
    """The options of an executor, checked."""

    address: str | None = None
    connect_timeout: float = 5.0
    tls_ca_file: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    security: Any = None
    memory_limit: str | int | float = "auto"
    workers: tuple[str, ...] | None = None
    allow_other_workers: bool = False
    resources: Mapping[str, float] | None = None


def read_executor(given: Mapping[str, Any]) -> DaskOptions:
    """Return *given* checked; raises ConfigError."""
    values = {name: _CHECKS[name](name, value) for name, value in given.items() if value is not None}
    options = DaskOptions(**values)
    tls = [name for name in ("tls_ca_file", "tls_cert", "tls_key") if getattr(options, name) is not None]
    if tls and options.address is None:
        raise _wrong(tls[0], "given together with address", given[tls[0]])
    if tls and options.security is not None:
        raise _wrong("security", f"left out where {tls[0]} is given", options.security)
    return options


def read_task(options: DaskOptions, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `Client.submit` is to be told about a task: its own options, else the executor's. Raises ConfigError."""
    told: dict[str, Any] = {name: getattr(options, name) for name in TASK}
    told |= {name: _CHECKS[name](name, value) for name, value in given.items() if value is not None}
    if told["workers"] is None:
        told["allow_other_workers"] = False
    return told


def find_own(options: DaskOptions, told: dict[str, Any], workers: Mapping[str, Mapping[str, Any]]) -> None:
    """Have *told* name *workers* of a cluster of our own, to which nobody adds others. Raises ConfigError if none is meant.

    *workers*: address -> what the scheduler says of each.
    """
    has = options.resources or {}
    if any(amount > has.get(name, 0) for name, amount in (told["resources"] or {}).items()):
        allowed = f"at most {has}, which each worker has of a cluster of the executor's own, by Executor(resources=...)"
        raise _wrong("resources", allowed, told["resources"])
    if told["workers"] is None:
        return
    names = [
        address
        for address, worker in workers.items()
        if not {address, worker["host"], str(worker["name"])}.isdisjoint(told["workers"])
    ]
    if not names and not told["allow_other_workers"]:
        there = ", ".join(sorted(f"{worker['name']} ({address})" for address, worker in workers.items()))
        raise _wrong("workers", f"among those of the executor's own cluster: {there}", told["workers"])
    told["workers"] = tuple(names) or None
    told["allow_other_workers"] = bool(names) and told["allow_other_workers"]


def _wrong(name: str, allowed: str, value: Any) -> ConfigError:
    return ConfigError(f"{name} must be {allowed}, not {value!r}", setting=name, allowed=allowed)


def _file(name: str, value: Any) -> str:
    if not isinstance(value, (str, os.PathLike)) or not os.path.isfile(value):
        raise _wrong(name, "the path of a file that is there", value)
    return os.fspath(value)


def _address(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value or value.startswith("inproc:"):
        raise _wrong(name, 'the address of a scheduler, such as "tcp://host:8786"', value)
    return value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, "True or False", value)
    return value


def _seconds(name: str, value: Any) -> float:
    try:
        seconds = parse_duration(value) if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        seconds = 0.0
    if isinstance(value, bool) or not 0 < seconds < float("inf"):
        raise _wrong(name, f"{DURATIONS}, more than 0", value)
    return seconds


def _security(name: str, value: Any) -> Any:
    from distributed import Security

    if not isinstance(value, Security):
        raise _wrong(name, "a distributed.Security", value)
    return value


def _memory(name: str, value: Any) -> Any:
    limit = value
    if isinstance(value, str) and value != "auto":
        with suppress(ValueError):
            limit = parse_size(value) or (0 if value.strip() == "0" else value)
    if limit != "auto" and (isinstance(limit, (bool, str)) or not isinstance(limit, (int, float)) or limit < 0):
        raise _wrong(name, 'a size such as "2GiB", a fraction, "auto" or 0', value)
    return limit


def _names(name: str, value: Any) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else value
    if (
        not isinstance(names, (list, tuple, set, frozenset))
        or not names
        or not all(isinstance(one, str) and one for one in names)
    ):
        raise _wrong(name, "the name of a worker, or a list of names", value)
    return tuple(names)


def _amounts(name: str, value: Any) -> Mapping[str, float]:
    from collections.abc import Mapping

    if not isinstance(value, Mapping) or not all(isinstance(key, str) and _is_amount(amount) for key, amount in value.items()):
        raise _wrong(name, 'a table of names and amounts, such as {"GPU": 1}', value)
    return {key: float(amount) for key, amount in value.items()}


def _is_amount(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "address": _address,
    "connect_timeout": _seconds,
    "tls_ca_file": _file,
    "tls_cert": _file,
    "tls_key": _file,
    "security": _security,
    "memory_limit": _memory,
    "workers": _names,
    "allow_other_workers": _flag,
    "resources": _amounts,
}
if _CHECKS.keys() != {field.name for field in fields(DaskOptions)} or EXECUTOR.keys() != _CHECKS.keys():
    raise AssertionError("each option has a field, a check and a line of help")
