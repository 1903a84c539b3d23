"""Every error and warning that taskrun raises itself, as one tree::

    TaskrunError
    ├── ConfigError (ValueError)                     a setting is wrong
    │   ├── UnknownBackendError (LookupError)        no backend has this name
    │   └── UnsupportedOptionError                   the backend, or the executor, has no such option
    ├── BackendUnavailableError (ImportError)        the backend is known, what it needs is not here
    ├── SerializationError (PicklingError, UnpicklingError)    a value could not travel
    ├── WorkerCrashedError (BrokenProcessPool)       the worker died while it ran the task
    ├── RemoteError                                  stands in for an exception that cannot be rebuilt here
    ├── InitializerError (BrokenExecutor)            `initializer` failed
    ├── TaskTimeoutError (TimeoutError)              an attempt ran longer than it may
    ├── TaskKilledError (CancelledError)             `Future.kill()` stopped the task
    ├── QueueFullError                               `max_pending` tasks wait and `submit` must not block here
    └── JournalError                                 the journal of a batch run cannot be used

    RemoteTraceback (Exception)                      a worker's traceback as text, hung below the error as `__cause__`

    UnsupportedOptionWarning (UserWarning), UnfinishedMapWarning, UnsafeForkWarning (RuntimeWarning)

All of them take the message first and their attributes by keyword (None: not known), and survive pickle, copy and
deepcopy with attributes, `args` and notes. They are rebuilt without their constructors, so a subclass may
have any constructor.
"""

from __future__ import annotations

import pickle
from concurrent.futures import BrokenExecutor, CancelledError
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from taskrun.hints import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures.process import BrokenProcessPool

__all__ = [
    "BackendUnavailableError",
    "ConfigError",
    "InitializerError",
    "JournalError",
    "QueueFullError",
    "RemoteError",
    "RemoteTraceback",
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
]


def _restore(cls: type[TaskrunError], args: tuple[Any, ...]) -> TaskrunError:
    """Make an error of *cls* without its constructor, whose keyword arguments pickle would not know."""
    error = cls.__new__(cls, *args)
    # Past TaskrunError: the bases with state in C (OSError, ImportError) get their args and nothing of ours runs.
    super(TaskrunError, error).__init__(*args)
    return error


class TaskrunError(Exception):
    """The base of all errors of taskrun itself; what a task raises is not wrapped in it."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)

    # Exceptions pickle as `cls(*args)`, which fails for required keywords and, in OSError's and ImportError's own
    # `__reduce__`, loses attributes; hence one way for the whole tree.
    def __reduce__(self) -> tuple[Callable[..., object], tuple[Any, ...], dict[str, Any]]:
        return _restore, (type(self), self.args), self._state()

    def _state(self) -> dict[str, Any]:
        return dict(self.__dict__)


# -- settings ------------------------------------------------------------------------------------------------------------------


class ConfigError(TaskrunError, ValueError):
    """A setting has a value that cannot be used; the message says which, where it came from and what is allowed."""

    def __init__(self, message: str, *, setting: str | None = None, origin: str | None = None, allowed: Any = None) -> None:
        super().__init__(message)
        self.setting = setting
        self.origin = origin
        """File and key, environment variable, or "argument"."""
        self.allowed = allowed
        """The allowed values, or a sentence that describes them."""


class UnknownBackendError(ConfigError, LookupError):
    """No backend has this name; lists those that there are and the one that was probably meant."""

    def __init__(self, name: str, known: Iterable[str], *, origin: str | None = None) -> None:
        known = tuple(sorted(known))
        suggestion = did_you_mean(str(name), known)
        source = f" (from {origin})" if origin else ""
        message = f"unknown backend {name!r}{source}; known backends: {', '.join(known) or 'none'}.{suggestion}"
        super().__init__(message, setting="backend", origin=origin, allowed=known)
        self.name = name
        self.known = known


class UnsupportedOptionError(ConfigError):
    """An option that the executor or its backend does not have or cannot honour."""

    def __init__(
        self,
        message: str,
        *,
        option: str | None = None,
        backend: str | None = None,
        origin: str | None = None,
        allowed: Any = None,
    ) -> None:
        super().__init__(message, setting=option, origin=origin, allowed=allowed)
        self.option = option
        self.backend = backend


class BackendUnavailableError(TaskrunError, ImportError):
    """The backend is known but what it needs is not on this machine; says what to install."""

    def __init__(
        self, message: str, *, backend: str | None = None, missing: str | None = None, install: str | None = None
    ) -> None:
        super().__init__(message)
        self.backend = backend
        self.missing = missing
        self.install = install
        """A command to type."""
        self.name = missing  # ImportError's own attribute: the module that was not found

    def _state(self) -> dict[str, Any]:
        # These live in C slots of ImportError, not in __dict__.
        return {**self.__dict__, "name": self.name, "path": self.path}


# -- travel --------------------------------------------------------------------------------------------------------------------


class SerializationError(TaskrunError, pickle.PicklingError, pickle.UnpicklingError):
    """A value could not be pickled or unpickled; `__cause__` is the original error, whatever it was.

    The task fails with it and nothing else is harmed; it is never retried.
    """

    def __init__(
        self,
        message: str,
        *,
        value: str | None = None,
        direction: Literal["pickling", "unpickling"] | None = None,
        side: Literal["parent", "worker"] | None = None,
        task: str | None = None,
        type_name: str | None = None,
    ) -> None:
        super().__init__(message)
        self.value = value
        """"argument 0", "argument 'x'", "result", "exception" or "function"."""
        self.direction = direction
        self.side = side
        self.task = task
        self.type_name = type_name
        """The type of the value, as module.qualname."""


class RemoteError(TaskrunError):
    """Stands in for an exception of a worker that cannot be rebuilt here.

    What is raised is a subclass that also derives from those bases of the original class that can be imported, so that
    ``except ValueError`` still catches what was a ValueError (`taskrun.exceptions` makes these subclasses).
    """

    def __init__(
        self, message: str, *, type_name: str | None = None, text: str | None = None, traceback: str | None = None
    ) -> None:
        # Not super(): in a subclass that would be the constructor of some user class, wanting who knows what.
        Exception.__init__(self, message)
        self.type_name = type_name
        """The original class as module.qualname."""
        self.text = text
        """str() of the original."""
        self.traceback = traceback
        """The worker's traceback."""

    def __str__(self) -> str:
        # Likewise: KeyError, OSError and UnicodeError format themselves in ways that fit their own arguments only.
        return str(self.args[0]) if self.args else ""


class RemoteTraceback(Exception):  # noqa: N818 (named after what it shows, as the standard library's)
    """A traceback of another process as text; hung as `__cause__` at the root of an error's chain."""

    def __init__(self, text: str) -> None:
        super().__init__(text)

    @property
    def text(self) -> str:
        """The traceback, unquoted."""
        return str(self.args[0]) if self.args else ""

    @property
    def tb(self) -> str:
        """The traceback as the standard library's class of this name has it."""
        return str(self)

    def __str__(self) -> str:
        # Quoted as in concurrent.futures.process, so that it reads as a foreign text in the middle of a traceback.
        return f'\n"""\n{self.text}"""'


# -- workers -------------------------------------------------------------------------------------------------------------------


class _CrashError(TaskrunError):
    """All of WorkerCrashedError but its standard base, which only exists once multiprocessing is imported."""

    def __init__(
        self,
        message: str,
        *,
        pid: int | None = None,
        exitcode: int | None = None,
        signal: int | None = None,
        oom: bool | None = None,
        stack: str | None = None,
        output: str | None = None,
        task: str | None = None,
        attempt: int | None = None,
        guilt: Literal["known", "unknown"] = "known",
        held_locks: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.pid = pid
        self.exitcode = exitcode
        self.signal = signal
        self.oom = oom
        """Whether the kernel killed it for want of memory; None when that cannot be known."""
        self.stack = stack
        """The Python stack at a fatal signal."""
        self.output = output
        """What the worker last wrote, if it was captured."""
        self.task = task
        self.attempt = attempt
        self.guilt = guilt
        """"unknown": the task was under way in the worker, but whether it was the one that ran is not known."""
        self.held_locks = tuple(held_locks)
        """Names of the locks given to the worker's tasks that were locked when it had died, perhaps by it."""

    def __str__(self) -> str:
        text = super().__str__()
        text = _with_evidence(text, "The stack of the dying worker", self.stack)
        text = _with_evidence(text, "Its last output", self.output)
        return _with_evidence(text, "Locks that are locked, perhaps by it", ", ".join(self.held_locks) or None)


if TYPE_CHECKING:

    class WorkerCrashedError(_CrashError, BrokenProcessPool):
        """The worker died while it ran this task; the other tasks are not harmed."""


class InitializerError(TaskrunError, BrokenExecutor):
    """`initializer` failed in every worker that was tried, so no task can run; `__cause__` is what it raised."""


class TaskTimeoutError(TaskrunError, TimeoutError):
    """An attempt ran longer than `timeout` (or `soft_timeout`) allows. Durations in seconds."""

    def __init__(
        self,
        message: str | None = None,
        *,
        limit: float | None = None,
        elapsed: float | None = None,
        task: str | None = None,
        attempt: int | None = None,
        stack: str | None = None,
        soft: bool = False,
    ) -> None:
        if message is None:
            message = _timeout_message(limit, elapsed, task, attempt, soft)
        super().__init__(message)
        self.limit = limit
        self.elapsed = elapsed
        self.task = task
        self.attempt = attempt
        self.stack = stack
        """Where the task stood when its time was up, where that can be had."""
        self.soft = soft
        """Raised inside the task by `soft_timeout`."""

    def __str__(self) -> str:
        return _with_evidence(super().__str__(), "The task's stack when its time was up", self.stack)


class TaskKilledError(TaskrunError, CancelledError):
    """`Future.kill()` stopped the task while it ran."""

    def __init__(self, message: str = "", *, task: str | None = None, attempt: int | None = None) -> None:
        super().__init__(message)
        self.task = task
        self.attempt = attempt


class QueueFullError(TaskrunError):
    """`max_pending` tasks are queued and `submit` was called where it must not block: in an event loop's thread."""

    def __init__(self, message: str, *, limit: int | None = None) -> None:
        super().__init__(message)
        self.limit = limit


class JournalError(TaskrunError):
    """The journal of a batch run cannot be read, written or used for this run."""


# -- warnings ------------------------------------------------------------------------------------------------------------------


class UnsupportedOptionWarning(UserWarning):
    """The backend cannot honour an option; an UnsupportedOptionError under ``strict=True``."""


class UnfinishedMapWarning(RuntimeWarning):
    """The executor was shut down before a `map` over an input without a length had submitted all of it."""


class UnsafeForkWarning(RuntimeWarning):
    """A forked child inherits locks that other threads hold; said once."""


# -- helpers -------------------------------------------------------------------------------------------------------------------


def _timeout_message(limit: float | None, elapsed: float | None, task: str | None, attempt: int | None, soft: bool) -> str:
    who = f"task {task!r}" if task else "the task"
    if attempt is not None:
        who += f" (attempt {attempt})"
    setting = "soft_timeout" if soft else "timeout"
    bound = f" of {limit:g} s" if limit is not None else ""
    ran = f"; it had run for {elapsed:.3g} s" if elapsed is not None else ""
    return f"{who} ran longer than its {setting}{bound}{ran}; allow it more with options({setting}=...)"


def _with_evidence(text: str, heading: str, evidence: str | None) -> str:
    """Append *evidence* unless the message quotes it already; backends add some after the error was made."""
    if not evidence or evidence in text:
        return text
    return f"{text}\n{heading}:\n{evidence.rstrip()}"


def _make_worker_crashed_error() -> type[_CrashError]:
    base: type[BrokenExecutor] = BrokenExecutor
    # While the interpreter shuts down it is too late for that module to be loaded; nobody can name the class then.
    with suppress(RuntimeError):
        from concurrent.futures.process import BrokenProcessPool

        base = BrokenProcessPool
    namespace = {
        "__module__": __name__,
        "__doc__": "The worker died while it ran this task; the other tasks are not harmed.",
    }
    return type("WorkerCrashedError", (_CrashError, base), namespace)


def __getattr__(name: str) -> Any:
    """Make WorkerCrashedError when it is first asked for: its base lives in a module that imports multiprocessing."""
    if name == "WorkerCrashedError":
        # setdefault: of two threads that get here at once both must see the same class.
        return globals().setdefault(name, _make_worker_crashed_error())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "WorkerCrashedError"})
