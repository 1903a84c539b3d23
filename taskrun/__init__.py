"""One Executor over every way Python runs work concurrently; the concurrency model is a setting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
)
from taskrun.executor import Executor
from taskrun.future import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, Future
from taskrun.pool import Pool
from taskrun.retry import Retry
from taskrun.sharing import shared
from taskrun.task import current_task
from taskrun.waiting import as_completed, wait

if TYPE_CHECKING:
    from taskrun.errors import WorkerCrashedError

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


def __getattr__(name: str) -> Any:
    if name == "WorkerCrashedError":  # its base lives in a module that imports multiprocessing
        from taskrun import errors

        return errors.WorkerCrashedError
    raise AttributeError(f"module 'taskrun' has no attribute {name!r}")
