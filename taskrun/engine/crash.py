"""The evidence after a worker's death, made into the error of the task that ran in it."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING, Protocol

from taskrun.engine import posix

if TYPE_CHECKING:
    from taskrun.engine.stopping import Stop
    from taskrun.errors import WorkerCrashedError
    from taskrun.task import Cause, Task

__all__ = ["SILENT_FOR", "OutOfMemoryWatch", "crash_error", "get_ready", "how_it_ended", "line_closed", "verdict"]

SILENT_FOR = 0.5
"""Seconds that a worker may live on once its end of the line to its parent is closed: nothing can come from it any more."""


_log = logging.getLogger("taskrun")


class Dead(Protocol):
    """What is known of a worker process that has died."""

    pid: int | None
    exit_status: int | None
    stop: Stop | None
    trouble: BaseException | None

    def stack(self) -> str | None: ...

    def held_locks(self) -> tuple[str, ...]: ...


class OutOfMemoryWatch:
    """Tells whether the kernel killed a process of this control group since it was last asked."""

    def __init__(self) -> None:
        self._seen = posix.memory_events()

    def killed(self, exit_status: int | None) -> bool | None:
        """Return whether a worker that ended so was killed for want of memory; None: the system does not say."""
        if exit_status is not None and exit_status != -signal.SIGKILL:
            return False
        before, self._seen = self._seen, posix.memory_events()
        if before is None or self._seen is None:
            return None
        return self._seen > before


def how_it_ended(exit_status: int | None) -> str:
    """Return an exit status in words."""
    if exit_status is None:
        return "ended in an unknown way (something else in this program reaped it)"
    if exit_status < 0:
        try:
            name = signal.Signals(-exit_status).name
        except ValueError:
            name = f"signal {-exit_status}"
        return f"was killed by {name}"
    return f"exited with code {exit_status}"


def line_closed() -> ConnectionError:
    """Return the trouble of a worker that nothing can come from any more, and that lives on."""
    return ConnectionError("its end of the line was closed: by its task, or by becoming another program (os.exec)")


def get_ready() -> None:
    """Load what a crash will need: there may be no descriptor left to load it with by then."""
    from taskrun.errors import WorkerCrashedError  # noqa: F401 - made at first use


def verdict(worker: Dead, task: Task, oom: bool | None, template_died: bool = False) -> tuple[BaseException, Cause]:
    """Return the error of *task*, which was running when *worker* died, and its cause: it was stopped, or has crashed."""
    stop = worker.stop
    error = None if stop is None else stop.error_for(task)
    if stop is None or error is None:
        crash = crash_error(worker, task, oom, template_died)
        if worker.trouble is not None:
            crash.add_note(f"it was killed because its answer could not be read: {worker.trouble!r}")
        return crash, "crashed"
    stack = worker.stack()
    if stack and getattr(error, "stack", "") is None:
        error.stack = stack  # type: ignore[attr-defined]
    return error, stop.cause


def crash_error(handle: Dead, task: Task, oom: bool | None, template_died: bool) -> WorkerCrashedError:
    """Return the error for *task*, which was running when the worker of *handle* died."""
    from taskrun.errors import WorkerCrashedError

    status = handle.exit_status
    name = task.name
    held = handle.held_locks()
    if held:
        _log.warning(
            "worker pid %s died, and locks that its tasks were given are locked: %s. If it held them, nobody will release "
            "them: acquire(timeout=...) does not wait for ever",
            handle.pid,
            ", ".join(held),
        )
    if template_died:
        how = "ended because the template process, which all workers come from, was killed; the task is not to blame"
        advice = "Run it again, or let options(retry=taskrun.Retry(...)) do so."
    elif oom:
        how = "was killed by the kernel because memory ran out"
        advice = (
            "Use fewer workers or smaller tasks, or raise the memory limit; max_memory_per_child= replaces workers that grow."
        )
    else:
        how = how_it_ended(status)
        advice = "The other tasks are not harmed. If it may run again after a crash, say options(retry=taskrun.Retry(...))."
        if status is not None and status >= 0:
            advice = "Something in the task called os._exit or ended the process. " + advice
    label = f"pid {handle.pid}" if handle.pid is not None else "not started yet"
    return WorkerCrashedError(
        f"the worker process ({label}) that ran task {name!r} (attempt {task.number}) {how}. {advice}",
        pid=handle.pid,
        exitcode=status,
        signal=-status if status is not None and status < 0 else None,
        oom=oom,
        stack=handle.stack(),
        task=name,
        attempt=task.number,
        held_locks=held,
    )
