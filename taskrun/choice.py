"""From what the user asked for to what an executor is made of: the backend, its settings, and the options of its tasks."""

from __future__ import annotations

import concurrent.futures
import itertools
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from taskrun import cpus
from taskrun.config import DEFAULT, import_object, options_for, report_unsupported
from taskrun.errors import ConfigError, UnsupportedOptionError
from taskrun.hints import did_you_mean
from taskrun.options import NO_OPTIONS, TaskOptions, WorkerSettings
from taskrun.plugins import load_backend
from taskrun.progress import bar_available
from taskrun.settings import check_setting
from taskrun.task import current_task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskrun.backends.base import Backend
    from taskrun.config_layers import Resolved

__all__ = ["Choice", "choose", "located", "merged_options"]

_names = itertools.count()
_TASK_OPTIONS = tuple(name for name in TaskOptions._fields if name != "backend")
_WORKER_SETTINGS = tuple(name for name in WorkerSettings._fields if name not in {"max_workers", "name", "backend_options"})
_ONLY_IN_PROCESSES = ("env", "cpu_affinity", "inner_max_num_threads")
_ONLY_WITH_INITIALIZER = ("initializer", "finalizer")


class Choice(NamedTuple):
    """What an executor is made of."""

    backend: Backend
    settings: WorkerSettings
    options: TaskOptions
    max_pending: int | None
    seed: int | None
    origins: Mapping[str, str]

    def located(self, error: ConfigError) -> ConfigError:
        """Return *error* of the backend, so that it tells where the value was written."""
        return located(error, self.origins)


def located(error: ConfigError, origins: Mapping[str, str]) -> ConfigError:
    """Return *error* of a backend, which knows no origins, so that it tells where the value was written."""
    origin = origins.get(error.setting or "")
    if error.origin is not None or origin in (None, "argument", DEFAULT):
        return error
    return ConfigError(f"{origin}: {error}", setting=error.setting, origin=origin, allowed=error.allowed)


def choose(resolved: Resolved) -> Choice:
    """Make the backend that *resolved* names, and what it is started with.

    Raises ConfigError, UnknownBackendError, BackendUnavailableError or UnsupportedOptionError.
    """
    values, origins = resolved.settings, resolved.origins
    backend = _make_backend(values["backend"], origins["backend"])
    own = options_for(type(backend), resolved)
    try:
        backend.configure(own)
    except ConfigError as error:
        raise located(error, origins) from error.__cause__
    _check_capabilities(backend)
    _refuse_lacking(backend, values["require"], origins["require"])
    _report_unsupported(backend, resolved)
    if backend.capabilities.processes and values["cpu_affinity"] is not None:
        _refuse_foreign_cpus(values["cpu_affinity"], origins["cpu_affinity"])
    for name in _ONLY_WITH_INITIALIZER:
        if isinstance(values[name], str):
            values[name] = import_object(values[name], name, origins[name])
    settings = WorkerSettings(
        max_workers=values["max_workers"] or _default_workers(backend),
        name=values["name"] or f"taskrun-{backend.name}-{next(_names)}",
        backend_options=own,
        **{name: values[name] for name in _WORKER_SETTINGS},
    )
    options = NO_OPTIONS._replace(**{name: values[name] for name in ("timeout", "soft_timeout", "retry")})
    return Choice(backend, settings, options, values["max_pending"], values["seed"], origins)


def _make_backend(asked: Any, origin: str) -> Backend:
    if isinstance(asked, str):
        return load_backend(asked, origin=None if origin in ("argument", DEFAULT) else origin)()
    if isinstance(asked, concurrent.futures.Executor):
        from taskrun.backends.adapter import AdapterBackend

        return AdapterBackend(asked)
    backend: Backend = asked
    if getattr(backend, "_taken", False):
        raise ConfigError("this Backend instance serves another executor already; make a new one", setting="backend")
    backend._taken = True  # type: ignore[attr-defined]  # whatever its class: one instance, one executor
    return backend


def _check_capabilities(backend: Backend) -> None:
    """Refuse a backend that does not say what it can do: everything else asks for that."""
    from taskrun.backends.base import Capabilities

    found = getattr(backend, "capabilities", None)
    if not isinstance(found, Capabilities):
        label = f"{type(backend).__module__}.{type(backend).__qualname__}"
        raise ConfigError(
            f"backend {backend.name!r} does not say what it can do: {label}.capabilities must be "
            f"taskrun.backends.Capabilities(...), set by the class or in configure(), not {found!r}",
            setting="backend",
        )


def _default_workers(backend: Backend) -> int:
    """Return how many workers there are elsewhere, or this process may really use; inside a worker, its part of that."""
    slots = backend.slots()
    if slots is not None:
        return slots
    task = current_task()
    sharers = cpus.outer_workers * (task.workers if task is not None else 1)
    return backend.default_max_workers(max(1, cpus.cpu_count() // sharers))


def _refuse_lacking(backend: Backend, required: tuple[str, ...], origin: str) -> None:
    try:
        lacking = backend.capabilities.lacks(tuple(required))
    except ValueError as error:
        raise ConfigError(str(error), setting="require") from None
    if lacking:
        raise UnsupportedOptionError(
            f"{_where(origin)}backend {backend.name!r} lacks what require= asks for: {', '.join(lacking)}",
            option="require",
            backend=backend.name,
            origin=origin,
        )


def _refuse_foreign_cpus(asked: tuple[int, ...], origin: str) -> None:
    if not hasattr(os, "sched_getaffinity"):
        return
    mine = os.sched_getaffinity(0)
    if not mine.issuperset(asked):
        wrong = ", ".join(str(cpu) for cpu in asked if cpu not in mine)
        allowed = ", ".join(map(str, sorted(mine)))
        text = f"{_where(origin)}cpu_affinity names CPUs that this process may not use: {wrong}; allowed: {allowed}"
        raise ConfigError(text, setting="cpu_affinity", origin=origin, allowed=allowed)


def _where(origin: str) -> str:
    return "" if origin in ("argument", DEFAULT) else f"{origin}: "


def _report_unsupported(backend: Backend, resolved: Resolved) -> None:
    """Warn of settings that this backend cannot honour, or refuse them under `strict`."""
    capabilities, strict = backend.capabilities, resolved.settings["strict"]
    reasons: dict[str, str] = {}
    if capabilities.initializer == "no":
        reasons |= dict.fromkeys((*_ONLY_WITH_INITIALIZER, *_ONLY_IN_PROCESSES), "it runs nothing but tasks in its workers")
    if not capabilities.processes:
        reasons |= dict.fromkeys(_ONLY_IN_PROCESSES, "its workers share this process")
    for name, reason in reasons.items():
        if resolved.settings[name] is not None:
            why = f"backend {backend.name!r} cannot honour {name}=: {reason}"
            report_unsupported(name, backend.name, resolved.origins[name], strict=strict, why=why)


def merged_options(base: TaskOptions, options: Mapping[str, Any], backend: Backend) -> TaskOptions:
    """Return *base* with *options* of a task changed; raises UnsupportedOptionError and ConfigError."""
    changes: dict[str, Any] = {}
    own = dict(base.backend)
    for option, value in options.items():
        if option in backend.task_option_names:
            own[option] = value
        elif option not in _TASK_OPTIONS:
            known = [*_TASK_OPTIONS, *backend.task_option_names]
            raise UnsupportedOptionError(
                f"tasks on backend {backend.name!r} have no option {option!r}.{did_you_mean(option, known)} "
                f"Known: {', '.join(known)}",
                option=option,
                backend=backend.name,
            )
        else:
            changes[option] = _checked_option(option, value)
    return base._replace(**changes, backend=own)


def _checked_option(option: str, value: Any) -> Any:
    if option == "retry":
        from taskrun.retry import Retry

        return Retry.of(value)
    if option in {"timeout", "soft_timeout", "name"}:
        return None if value is None else check_setting(option, value)
    if option == "priority":
        if not isinstance(value, int) or isinstance(value, bool):
            raise _wrong_option(option, "an integer", value)
    elif option == "chunksize":
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise _wrong_option(option, "a whole number of at least 1, or None", value)
    elif option == "return_exceptions":
        if not isinstance(value, bool):
            raise _wrong_option(option, "True or False", value)
    elif option == "progress":
        _check_progress(value)
    return value


def _check_progress(value: Any) -> None:
    if not isinstance(value, bool) and not callable(value):
        raise _wrong_option("progress", "True, False, or a function of (done, total)", value)
    if value is True and not bar_available():
        raise UnsupportedOptionError(
            "progress=True draws its bar with the library rich, which is not installed: install taskrun-executor[cli], or give "
            "a function of (done, total)",
            option="progress",
        )


def _wrong_option(option: str, allowed: str, value: Any) -> ConfigError:
    return ConfigError(f"option {option!r} must be {allowed}, not {value!r}", setting=option, allowed=allowed)
