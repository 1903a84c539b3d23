"""The backend's own options, read and checked: of an executor, and of a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from taskrun.errors import ConfigError
from taskrun.units import DURATIONS, SIZES, parse_duration, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EXECUTOR", "TASK", "RayOptions", "read_executor", "read_task"]

TASK = {
    "num_cpus": "CPUs that a task takes (default 1)",
    "num_gpus": "GPUs that a task takes",
    "memory": 'bytes, or "2GB", that a task takes, as far as Ray counts them',
    "resources": 'what else it takes of what nodes declare (`ray start --resources`), such as {"LICENCE": 1}',
    "scheduling_strategy": 'where it runs: "DEFAULT", "SPREAD", or an object of Ray\'s; objects not from a file',
}
EXECUTOR = {
    "address": 'of the cluster, host:port, or "auto": that of this machine; without it one on this machine is started',
    "connect_timeout": 'seconds, or "30s", to wait for the cluster to answer (default 5)',
    "object_store_memory": 'bytes, or "2GB", for the object store of a cluster of its own (default: a third of the memory)',
    "runtime_env": "a table for Ray: packages, working_dir, env_vars of the workers",
    "namespace": "str: Ray's, for named actors",
    **TASK,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RayOptions:
    """The options of an executor, checked."""

    address: str | None = None
    connect_timeout: float = 5.0
    object_store_memory: int | None = None
    runtime_env: Mapping[str, Any] | None = None
    namespace: str | None = None
    num_cpus: float = 1.0
    num_gpus: float | None = None
    memory: float | None = None
    resources: Mapping[str, float] | None = None
    scheduling_strategy: Any = None


def read_executor(given: Mapping[str, Any]) -> RayOptions:
    """Return *given* checked; raises ConfigError."""
    return RayOptions(**{name: _CHECKS[name](name, value) for name, value in given.items() if value is not None})


def read_task(options: RayOptions, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a remote function is to be told about a task: its own options, else the executor's. Raises ConfigError."""
    told: dict[str, Any] = {name: getattr(options, name) for name in TASK}
    told |= {name: _CHECKS[name](name, value) for name, value in given.items() if value is not None}
    return {name: value for name, value in told.items() if value is not None}


def _wrong(name: str, allowed: str, value: Any) -> ConfigError:
    return ConfigError(f"{name} must be {allowed}, not {value!r}", setting=name, allowed=allowed)


def _address(name: str, value: Any) -> str:
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if value != "auto" and not (host and port.isdigit() and "://" not in value):
        raise _wrong(name, 'host:port of a head node, or "auto"', value)
    return str(value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _wrong(name, "a text that is not empty", value)
    return value


def _seconds(name: str, value: Any) -> float:
    seconds = _parsed(parse_duration, value)
    if not _is_amount(seconds) or not 0 < seconds < float("inf"):
        raise _wrong(name, f"a time of more than 0: {DURATIONS}", value)
    return float(seconds)


def _size(name: str, value: Any) -> int:
    size = _parsed(parse_size, value)
    if not isinstance(size, int) or isinstance(size, bool) or size <= 0:
        raise _wrong(name, f"a size of more than 0: {SIZES}", value)
    return size


def _memory(name: str, value: Any) -> float:
    amount = _parsed(parse_size, value)
    if not _is_amount(amount):
        raise _wrong(name, SIZES, value)
    return float(amount)


def _parsed(parse: Callable[[str], float], value: Any) -> Any:
    """Return what a text means; anything else as it is, and a text that means nothing as None."""
    try:
        return parse(value) if isinstance(value, str) else value
    except ValueError:
        return None


def _amount(name: str, value: Any) -> float:
    if not _is_amount(value):
        raise _wrong(name, "a number of at least 0", value)
    return float(value)


def _amounts(name: str, value: Any) -> Mapping[str, float]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) and _is_amount(amount) for key, amount in value.items()):
        raise _wrong(name, 'a table of names and amounts, such as {"LICENCE": 1}', value)
    if {"CPU", "GPU", "memory"} & value.keys():
        raise _wrong(name, "without CPU, GPU and memory: these are num_cpus, num_gpus and memory", value)
    return {key: float(amount) for key, amount in value.items()}


def _table(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(name, "a table", value)
    return value


def _strategy(name: str, value: Any) -> Any:
    if isinstance(value, str) and value not in ("DEFAULT", "SPREAD"):
        raise _wrong(name, '"DEFAULT", "SPREAD" or an object of ray.util.scheduling_strategies', value)
    return value


def _is_amount(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "address": _address,
    "connect_timeout": _seconds,
    "object_store_memory": _size,
    "runtime_env": _table,
    "namespace": _text,
    "num_cpus": _amount,
    "num_gpus": _amount,
    "memory": _memory,
    "resources": _amounts,
    "scheduling_strategy": _strategy,
}
if _CHECKS.keys() != {field.name for field in fields(RayOptions)} or EXECUTOR.keys() != _CHECKS.keys():
    raise AssertionError("each option has a field, a check and a line of help")
