"""The `process` backend: long-lived worker processes of taskrun's own engine (`taskrun.engine`, from `supervisor` on)."""

from __future__ import annotations

import os
import threading
import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING, ClassVar, Literal

from taskrun.backends.base import Backend, Capabilities, refuse_waiting_in
from taskrun.errors import ConfigError, UnsafeForkWarning
from taskrun.threads import threads_of_others

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from taskrun.engine.launch import StartMethod
    from taskrun.engine.supervisor import Supervisor
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler
    from taskrun.task import Cause, Task

__all__ = ["ProcessBackend"]

_METHODS: tuple[StartMethod, ...] = ("forkserver", "spawn", "fork")


class ProcessBackend(Backend):
    """Runs tasks in worker processes; a dying worker fails only the task it ran."""

    name = "process"
    capabilities = Capabilities(
        crash_isolation=True,
        kill="yes",
        recycle_by_count=True,
        recycle_by_state=True,
        pickles="yes",
        processes=True,
    )
    option_names: ClassVar[Mapping[str, str]] = {
        "start_method": 'how workers are made: "forkserver" (default: from a small template process), "spawn" or "fork"',
        "mp_context": "the standard executors' synonym: a multiprocessing context, or the name of its start method",
    }

    def __init__(self) -> None:
        self._supervisor: Supervisor | None = None
        self._pid = os.getpid()

    @classmethod
    def unavailable(cls) -> str | None:
        from taskrun.engine.posix import supported

        missing = supported()
        return None if missing is None else f'the process backend needs {missing}; use backend="thread" here'

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        from taskrun.engine.supervisor import Supervisor
        from taskrun.engine.surroundings import locate_context_vars

        method = _start_method(settings)
        context_vars = locate_context_vars(settings.context_vars)
        if method == "fork":
            _warn_of_threads()
        self._pid = os.getpid()
        self._supervisor = Supervisor(scheduler, settings, method, context_vars)

    def wake(self) -> None:
        supervisor = self._supervisor
        if supervisor is not None:
            supervisor.wake()

    def revoke(self, task: Task) -> bool:
        return self._supervisor is not None and self._supervisor.revoke(task)

    def refresh(self, task: Task) -> None:
        if self._supervisor is not None:
            self._supervisor.refresh(task)

    def recall(self) -> None:
        if self._supervisor is not None:
            self._supervisor.recall()

    def stop(self, task: Task, error: BaseException, cause: Literal["timeout", "killed"]) -> bool:
        if self._supervisor is None:
            return False
        why: Cause = cause
        self._supervisor.stop(task, error, why)
        return True

    def notice_cancel(self, task: Task) -> None:
        if self._supervisor is not None:
            self._supervisor.notice_cancel(task)

    def owns_current_thread(self) -> bool:
        return self._supervisor is not None and self._supervisor.thread is threading.current_thread()

    def waiting(self) -> AbstractContextManager[None]:
        if self._supervisor is not None:
            refuse_waiting_in(self._supervisor.thread)
        return nullcontext()

    def shutdown(self) -> None:
        if self._supervisor is not None:
            self._supervisor.shutdown()

    def abort(self, *, force: bool) -> None:
        if self._supervisor is not None:
            self._supervisor.abort(force)

    def join(self, timeout: float | None = None) -> bool:
        if self._supervisor is None or os.getpid() != self._pid:
            return True  # in a forked child there is nobody to wait for
        thread = self._supervisor.thread
        if thread is threading.current_thread():
            return False
        thread.join(timeout)
        return not thread.is_alive()

    def workers(self) -> list[str]:
        return [] if self._supervisor is None else self._supervisor.labels()


def _start_method(settings: WorkerSettings) -> StartMethod:
    """Return the start method that the options name. Raises ConfigError."""
    options = settings.backend_options
    chosen = options.get("start_method")
    synonym = options.get("mp_context")
    if synonym is not None and not isinstance(synonym, str):
        ask = getattr(synonym, "get_start_method", None)
        if ask is None:
            raise ConfigError(
                f"mp_context={synonym!r} is not a multiprocessing context; allowed: one from "
                f"multiprocessing.get_context(), or one of {', '.join(_METHODS)}",
                setting="mp_context",
                allowed=_METHODS,
            )
        synonym = ask()
    if chosen is not None and synonym is not None and chosen != synonym:
        raise ConfigError(
            f"start_method={chosen!r} and mp_context ({synonym!r}) contradict each other; give one of them",
            setting="start_method",
            allowed=_METHODS,
        )
    method = chosen if chosen is not None else synonym if synonym is not None else "forkserver"
    for known in _METHODS:
        if method == known:
            return known
    setting = "start_method" if chosen is not None else "mp_context"
    raise ConfigError(f"{setting}={method!r} is unknown; allowed: {', '.join(_METHODS)}", setting=setting, allowed=_METHODS)


def _warn_of_threads() -> None:
    others = threads_of_others()
    if others:
        warnings.warn(
            f'start_method="fork" with other threads running ({", ".join(others[:5])}): locks they hold at that moment stay '
            'locked in the workers; use the default start_method="forkserver"',
            UnsafeForkWarning,
            stacklevel=5,
        )
