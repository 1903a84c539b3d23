"""What a worker takes over from its parent: path, directory, environment, affinity, context variables.

The parent's half (`describe`) and the worker's (`apply`) stand side by side.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any

from taskrun import cpus
from taskrun.engine import generators
from taskrun.errors import ConfigError
from taskrun.importable import loaded
from taskrun.serialization import dump_arguments, dump_function, load_arguments

if TYPE_CHECKING:
    from taskrun.options import WorkerSettings

__all__ = ["apply", "apply_in_interpreter", "apply_settings", "context_payload", "describe", "locate_context_vars"]

# The variables by which the common BLAS and OpenMP libraries are told how many threads to use.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
_STRUCTLOG = "structlog_"


# -- in the parent -------------------------------------------------------------------------------------------------------------


def describe(settings: WorkerSettings, number: int, cpu_count: int, context_vars: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return what worker *number* has to know, all of it picklable by the plain pickler.

    Raises SerializationError when the initializer, its arguments or the finalizer cannot travel.
    """
    threads = inner_threads(settings, cpu_count)
    affinity = settings.cpu_affinity
    initializer, finalizer = settings.initializer, settings.finalizer
    return {
        "path": list(map(str, sys.path)),
        "cwd": _working_directory(),
        "environ": _environ(settings, threads),
        "affinity": affinity[number % len(affinity)] if affinity else None,
        "threads": threads,
        "workers": settings.max_workers * cpus.outer_workers,
        "seeded": settings.seed is not None,
        "spins": cpu_count > 1,
        "weighed": settings.max_memory_per_child is not None,
        "argv": [str(arg) for arg in getattr(sys, "argv", [])],
        "authkey": authkey(),
        "initializer": None if initializer is None else dump_function(initializer, task="initializer"),
        "initargs": dump_arguments(settings.initargs, {}, task="initializer"),
        "finalizer": None if finalizer is None else dump_function(finalizer, task="finalizer"),
        "context_vars": [reference for reference, _ in context_vars],
    }


def inner_threads(settings: WorkerSettings, cpu_count: int) -> int:
    """Return how many threads libraries may use in a worker."""
    return settings.inner_max_num_threads or max(1, cpu_count // settings.max_workers)


def _environ(settings: WorkerSettings, threads: int) -> dict[str, str]:
    environ = dict(os.environ)
    environ.update(_changes(settings, threads))
    return environ


def _changes(settings: WorkerSettings, threads: int) -> dict[str, str]:
    """Return the environment variables that a worker has otherwise than its parent."""
    changes = dict.fromkeys(_THREAD_VARIABLES, str(threads))
    for name in _THREAD_VARIABLES:
        if name in os.environ:
            del changes[name]
    changes.update({str(key): str(value) for key, value in (settings.env or {}).items()})
    return changes


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # removed under our feet; the worker keeps the one it was born in
        return None


def locate_context_vars(given: tuple[Any, ...]) -> list[tuple[str, ContextVar[Any]]]:
    """Return each of `context_vars=` as ("module:attribute", variable). Raises ConfigError for what cannot be found."""
    return [_locate(item) for item in given]


def _locate(item: Any) -> tuple[str, ContextVar[Any]]:
    allowed = 'ContextVar objects that are attributes of an importable module, or "module:attribute"'
    if isinstance(item, str):
        try:
            variable = _resolve(item)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(
                f"context_vars: {item!r} cannot be found ({error}); allowed: {allowed}", setting="context_vars", allowed=allowed
            ) from error
        if isinstance(variable, ContextVar):
            return item, variable
    elif isinstance(item, ContextVar):
        for name, module in sys.modules.copy().items():
            for attribute, value in getattr(module, "__dict__", {}).copy().items():
                if value is item and name != "__main__":
                    return f"{name}:{attribute}", item
    raise ConfigError(
        f"context_vars: {item!r} is not a context variable that a worker can import; allowed: {allowed}",
        setting="context_vars",
        allowed=allowed,
    )


def context_payload(context: Context, variables: list[tuple[str, ContextVar[Any]]], task: str) -> bytes | None:
    """Pickle the values that *variables*, and structlog's bound ones, have in *context*; None when there are none.

    Raises SerializationError.
    """
    found = [(reference, context[variable]) for reference, variable in variables if variable in context]
    if "structlog.contextvars" in sys.modules:
        bound = {var.name[len(_STRUCTLOG) :]: context[var] for var in context if var.name.startswith(_STRUCTLOG)}
        bound = {key: value for key, value in bound.items() if value is not Ellipsis}  # Ellipsis: unbound again
        if bound:
            found.append(("structlog", bound))
    return dump_arguments((found,), {}, task=task) if found else None


# -- in the worker -------------------------------------------------------------------------------------------------------------


def apply(setup: dict[str, Any]) -> None:
    """Make this process like its parent, as *setup* (from `describe`) says."""
    apply_in_interpreter(setup)
    if setup["cwd"] is not None:
        with contextlib.suppress(OSError):
            os.chdir(setup["cwd"])
    _take_environ(setup["environ"])
    _adjust(setup["affinity"], setup["threads"])
    if setup["authkey"] is not None:
        take_authkey(setup["authkey"])


def authkey() -> bytes | None:
    """Return what this process and its children know each other by; None before multiprocessing is loaded, which makes it."""
    process = loaded("multiprocessing.process", "_current_process")  # `current_process` is there before that
    return None if process is None else bytes(process.authkey)


def take_authkey(key: bytes) -> None:
    """Take the parent's key: else its managers and listeners would refuse this process."""
    import multiprocessing

    multiprocessing.current_process().authkey = key


def apply_in_interpreter(setup: dict[str, Any]) -> None:
    """Do the part of `apply` that concerns this interpreter only: directory, environment and affinity are the process's."""
    cpus.outer_workers = setup["workers"]
    sys.path[:] = setup["path"]
    sys.argv[:] = setup["argv"]


def apply_settings(settings: WorkerSettings, number: int, threads: int) -> None:
    """Do as `apply` in a child that has inherited its parent's surroundings, and lacks only what *settings* change.

    *threads*: `inner_threads`, looked up by the parent, since it opens files of the kernel's.
    """
    affinity = settings.cpu_affinity
    zone = os.environ.get("TZ")
    os.environ.update(_changes(settings, threads))
    _follow(zone)
    _adjust(affinity[number % len(affinity)] if affinity else None, threads)
    cpus.outer_workers *= settings.max_workers


def _take_environ(environ: dict[str, str]) -> None:
    """Change what is different: a few of many variables, in a process whose every touch of memory is a copy."""
    own = dict(os.environ)
    if own != environ:
        for name in own.keys() - environ.keys():
            del os.environ[name]
        for name, value in environ.items() - own.items():  # `update` looks at more
            os.environ[name] = value
        _follow(own.get("TZ"))


def _follow(zone: str | None) -> None:
    """Have the C library notice that the time zone is *zone* no longer."""
    if os.environ.get("TZ") != zone:
        time.tzset()


def _adjust(cpu: int | None, threads: int) -> None:
    if cpu is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cpu})
    limit = loaded("threadpoolctl", "threadpool_limits")
    if limit is not None:  # libraries loaded before a fork have read their variables already
        limit(threads)
    generators.renew()


def set_context_vars(payload: bytes) -> None:
    """Set the variables that `context_payload` pickled, in the current context."""
    (found,), _ = load_arguments(payload, task="context_vars")
    for reference, value in found:
        if reference == "structlog":
            import structlog

            structlog.contextvars.bind_contextvars(**value)
        else:
            _resolve(reference).set(value)


def _resolve(reference: str) -> Any:
    import importlib

    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)
