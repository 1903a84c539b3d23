"""One Executor over every way Python runs work concurrently; the concurrency model is a setting.

A name is imported from its module when it is first asked for, as `concurrent.futures` does with its executors. Only what every
executor and every worker needs is loaded at once: most of it is the standard library's, which `concurrent.futures` loads too.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from taskrun import errors, threads  # noqa: F401  # every executor and every worker needs these

if TYPE_CHECKING:
    from typing import Any

    import taskrun.backends  # noqa: F401  # as below, used through `import taskrun`
    from taskrun.backends.base import Capabilities
    from taskrun.config import using
    from taskrun.context import get_context
    from taskrun.default_executor import get_executor
    from taskrun.errors import (
        BackendUnavailableError,
        ConfigError,
        InitializerError,
        JournalError,
        QueueFullError,
        RemoteError,
        RemoteTraceback,
        SerializationError,
        TaskKilledError,
        TaskrunError,
        TaskTimeoutError,
        UnfinishedMapWarning,
        UnknownBackendError,
        UnsafeForkWarning,
        UnsupportedOptionError,
        UnsupportedOptionWarning,
        WorkerCrashedError,
    )
    from taskrun.executor import Executor
    from taskrun.future import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, Future
    from taskrun.pool import Pool
    from taskrun.retry import Retry
    from taskrun.sharing import shared
    from taskrun.task import current_task
    from taskrun.waiting import as_completed, wait

__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "BackendUnavailableError",
    "Capabilities",
    "ConfigError",
    "Executor",
    "Future",
    "InitializerError",
    "JournalError",
    "Pool",
    "QueueFullError",
    "RemoteError",
    "RemoteTraceback",
    "Retry",
    "SerializationError",
    "TaskKilledError",
    "TaskTimeoutError",
    "TaskrunError",
    "UnfinishedMapWarning",
    "UnknownBackendError",
    "UnsafeForkWarning",
    "UnsupportedOptionError",
    "UnsupportedOptionWarning",
    "WorkerCrashedError",
    "as_completed",
    "current_task",
    "get_context",
    "get_executor",
    "shared",
    "using",
    "wait",
]

__version__ = "0.1.0"

_HOME = {
    "ALL_COMPLETED": "future",
    "FIRST_COMPLETED": "future",
    "FIRST_EXCEPTION": "future",
    "Capabilities": "backends.base",
    "Executor": "executor",
    "Future": "future",
    "Pool": "pool",
    "Retry": "retry",
    "as_completed": "waiting",
    "current_task": "task",
    "get_context": "context",
    "get_executor": "default_executor",
    "shared": "sharing",
    "using": "config",
    "wait": "waiting",
}
"""Where a name lives that is not an error's or warning's."""

if not TYPE_CHECKING:  # seen by a type checker, it would make every name right

    def __getattr__(name: str) -> Any:
        if name in __all__:
            value = globals()[name] = getattr(import_module(f"taskrun.{_HOME.get(name, 'errors')}"), name)
            return value
        if name == "backends":  # used through `import taskrun`, without an import of its own
            return import_module("taskrun.backends")
        raise AttributeError(f"module 'taskrun' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
