"""The `process` backend: long-lived worker processes of taskrun's own engine (`taskrun.engine`, from `supervisor` on)."""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from taskrun.backends.base import Backend, Capabilities, refuse_waiting_in
from taskrun.backends.start_methods import MP_CONTEXT, chosen_method, warn_of_threads
from taskrun.threads import call_soon

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from taskrun.engine.supervisor import Supervisor
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler
    from taskrun.task import Cause, Task

__all__ = ["ProcessBackend"]


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
        **MP_CONTEXT,
    }

    def __init__(self) -> None:
        self._supervisor: Supervisor | None = None
        self._pid = os.getpid()

    @classmethod
    def unavailable(cls) -> str | None:
        from taskrun.engine.posix import supported

        missing = supported()
        return None if missing is None else f'the process backend needs {missing}; use backend="thread" here'

    def configure(self, options: Mapping[str, Any]) -> None:
        chosen_method(options)  # raises

    def get_ready(self, settings: WorkerSettings) -> None:
        from taskrun.engine.launch import get_ready

        call_soon(partial(get_ready, chosen_method(settings.backend_options)))

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        from taskrun.engine.supervisor import Supervisor
        from taskrun.engine.surroundings import locate_context_vars

        method = chosen_method(settings.backend_options)
        context_vars = locate_context_vars(settings.context_vars)
        if method == "fork":
            warn_of_threads('start_method="fork"', 'the default start_method="forkserver"')
        self._pid = os.getpid()
        self._supervisor = Supervisor(scheduler, settings, method, context_vars)

    # -- getting workers to work -----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        supervisor = self._supervisor
        if supervisor is not None:
            supervisor.wake()

    # -- taking back -----------------------------------------------------------------------------------------------------------

    def revoke(self, task: Task) -> bool:
        return self._supervisor is not None and self._supervisor.revoke(task)

    def refresh(self, task: Task) -> None:
        if self._supervisor is not None:
            self._supervisor.refresh(task)

    def recall(self) -> None:
        if self._supervisor is not None:
            self._supervisor.recall()

    # -- stopping --------------------------------------------------------------------------------------------------------------

    def stop(self, task: Task, error: BaseException, cause: Literal["timeout", "killed"]) -> bool:
        if self._supervisor is None:
            return False
        why: Cause = cause
        self._supervisor.stop(task, error, why)
        return True

    def notice_cancel(self, task: Task) -> None:
        if self._supervisor is not None:
            self._supervisor.notice_cancel(task)

    # -- waiting ---------------------------------------------------------------------------------------------------------------

    def owns_current_thread(self) -> bool:
        return self._supervisor is not None and self._supervisor.thread is threading.current_thread()

    def waiting(self) -> AbstractContextManager[None]:
        if self._supervisor is not None:
            refuse_waiting_in(self._supervisor.thread)
        return nullcontext()

    def allow(self, extra: int) -> None:
        if self._supervisor is not None:
            self._supervisor.allow(extra)

    # -- ending ----------------------------------------------------------------------------------------------------------------

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
