"""What runs in the scheduler of the cluster, by whose leave each task begins. It needs this package there.

A worker asks before it runs a task (`begin`), and whoever has submitted it may ask to have it back (`withdraw`). Both are
decided in one place, so that a task is run once or withdrawn, never both; and it is known of each whether it had begun when
its worker died. A task that is sent to a worker of one thread which is sure to be free has leave to begin at once, on its way
(`GRANTED`): to ask would double what a task costs.

What is private to Dask is used here only; it is that of 2026.8.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dask.utils import key_split
from distributed.diagnostics.plugin import SchedulerPlugin

if TYPE_CHECKING:
    from collections.abc import Iterable

    from distributed import Scheduler
    from distributed.scheduler import TaskState, WorkerState

__all__ = ["BEGIN", "BEGUN", "DIED", "GO", "GRANTED", "OVER", "PREFIX", "SPAN", "TOPIC", "WITHDRAW", "WITHDRAWN", "Arbiter"]

PREFIX = "taskrun-"
"""What the keys of our tasks begin with."""

BEGIN, WITHDRAW = "taskrun_begin", "taskrun_withdraw"
"""What the scheduler is asked by a worker, and by a client."""

BEGUN = "taskrun-begun"
"""What a worker says, without waiting, of a task that need not ask."""

GO, WITHDRAWN, OVER = "go", "withdrawn", "over"
"""Answers to a worker; the last: it has begun elsewhere, or nobody wants it any more."""

DIED = "died"
"""What a client is told in the place of an answer: the worker is dead, and it is not known whether it had begun the task."""

GRANTED = "taskrun-granted"
"""The annotation of a task that need not ask, but says that it has begun (`BEGUN`): the worker that may run it."""

TOPIC = "taskrun"
"""Of the events that a client is sent: (key, (label, worker, pid), None) when a task begins, (key, None, None) when it has to
wait, (key, None, answer) when another is to begin where its result is, (key, None, OVER) when its worker was retired,
(key, None, DIED)."""

SPAN = {"name": ("taskrun",), "ids": ("taskrun",)}
"""Of all our tasks, so that Dask does not make one, kept for ever, each time that it has nothing else to do."""

_KEYS = 5_000  # of tasks that are over, in the cache of what Dask has read out of keys: it would keep 100,000, 30 MB
_APPEARS_WITHIN = 1.0  # seconds: a graph is read in another thread, so what follows it may be heard before


class Arbiter(SchedulerPlugin):  # type: ignore[misc]  # distributed has no types
    """Sees to it that Dask runs no task of ours a second time by itself, and that none is blamed which had not begun.

    Dask would run a task again whose worker died, up to `allowed-failures` times; one whose result was still there, as often as
    that happens; and one whose worker was retired. What is to be tried again is for the retry policy to say.
    """

    name = "taskrun-arbiter"
    idempotent = True

    def __init__(self, *, passes_on: bool) -> None:
        """*passes_on*: answers of finished tasks are, so that the next begin; else these wait until the answers were fetched.

        So it has to be where a worker is killed for what it runs: nothing else has begun there before the client knows.
        """
        self._passes_on = passes_on

    async def start(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._begun: dict[str, str] = {}
        """Key -> worker that may run it or has, until the task is forgotten; "": it was withdrawn."""
        self._at: dict[str, set[str]] = {}
        """Worker -> keys of those that are not forgotten."""
        self._silent: set[str] = set()
        """Keys that had leave on their way and whose worker has not said that they have begun."""
        self._free: dict[str, tuple[str, int]] = {}
        """Workers of one thread that run nothing but what the scheduler knows of: worker -> label, pid."""
        self._over = 0
        self._change = asyncio.Event()
        scheduler.handlers |= {BEGIN: self.begin, WITHDRAW: self.withdraw}
        scheduler.stream_handlers[BEGUN] = self.begun

    async def begin(self, key: str, worker: str, label: str, pid: int, before: tuple[str, Any] | None) -> str | None:
        """Say to a *worker* whether it may run a task, which the worker may die of.

        What it has of the same client is saved first: *before*, the key and the answer of the last one there if that is small,
        is passed on; others are waited for until the client has fetched them.
        """
        if self._scheduler.plugins.get(self.name) is not self:
            return None  # somebody has removed it: it hears of nothing any more
        if self._passes_on and before is not None and (last := self._scheduler.tasks.get(before[0])) is not None:
            self._at.get(worker, set()).discard(last.key)
            self._tell(last, None, before[1])
        while True:
            task = self._scheduler.tasks.get(key)
            if self._begun.get(key) == "":
                return WITHDRAWN
            if task is None or task.processing_on is None or task.processing_on.address != worker:
                return OVER
            if key in self._begun and GRANTED not in (task.annotations or {}):
                return OVER  # else it was stolen from the worker that need not ask, which had not begun it
            if task.processing_on.nthreads > 1 or not self._keeps_results(task.processing_on, task):
                break
            await self._change.wait()
        if task.processing_on.nthreads == 1:
            self._free[worker] = label, pid
        self._grant(task, worker, label, pid)
        self._silent.discard(key)
        if task.annotations:
            task.annotations.pop(GRANTED, None)
        return GO

    def begun(self, key: str, worker: str) -> None:
        """Hear that a task is under way which had not to ask."""
        if self._begun.get(key) == worker:
            self._silent.discard(key)

    def _grant(self, task: TaskState, worker: str, label: str, pid: int) -> None:
        self._at.get(self._begun.get(task.key, ""), set()).discard(task.key)
        self._begun[task.key] = worker
        self._at.setdefault(worker, set()).add(task.key)
        task.suspicious = self._scheduler.allowed_failures  # the first death is one too many
        self._tell(task, (label, worker, pid), None)

    def _keeps_results(self, worker: WorkerState, task: TaskState) -> bool:
        others = (self._scheduler.tasks[key] for key in self._at.get(worker.address, ()))
        return any(
            other.who_wants and task.who_wants and other.who_wants & task.who_wants
            for other in others
            if other not in worker.long_running
        )

    async def withdraw(self, keys: Iterable[str]) -> list[str]:
        """Return those of *keys* that have not begun: they never will, and are the client's to release."""
        until = time.monotonic() + _APPEARS_WITHIN
        free = []
        for key in keys:
            while key not in self._scheduler.tasks and (left := until - time.monotonic()) > 0:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._change.wait(), left)
            if key in self._scheduler.tasks and not self._begun.setdefault(key, ""):
                free.append(key)
        self._stir()
        return free

    # -- what the scheduler calls ----------------------------------------------------------------------------------------------

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        if not (isinstance(key, str) and key.startswith(PREFIX)):
            if (start, finish) == ("processing", "released"):
                self._free.clear()  # somebody has cancelled it, and one of them may be running it
            return
        task = self._scheduler.tasks[key]  # one that is forgotten, too
        if finish == "processing":
            self._sent(task, task.processing_on)
        elif finish == "no-worker":
            self._tell(task, None, None)
        elif finish == "memory":
            task.run_spec = None  # data, as if it had been scattered: what is lost stays lost
        elif (start, finish) == ("processing", "released"):
            self._free.pop(self._begun.get(key, ""), None)  # it may go on there
            if task.annotations:
                task.annotations.pop(GRANTED, None)
        elif finish == "erred" and key in self._silent and kwargs.get("worker") not in self._scheduler.workers:
            self._tell(task, None, DIED)  # before Dask blames it
        elif finish == "forgotten":
            self._silent.discard(key)
            self._at.get(self._begun.pop(key, ""), set()).discard(key)
            self._tidy(task)
        self._stir()

    def _sent(self, task: TaskState, worker: WorkerState) -> None:
        """A task goes to a worker."""
        if task.key in self._begun:
            return  # for the second time: it will ask
        free = self._free.get(worker.address)
        if free is not None and task.annotations and len(worker.processing) == 1 and not self._at.get(worker.address):
            task.annotations[GRANTED] = worker.address
            self._grant(task, worker.address, *free)
            self._silent.add(task.key)
            return
        task.suspicious = -1  # it will not have been to blame if its worker dies: it goes to another
        if _waits_for(task, worker):
            self._tell(task, None, None)

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        self._free.pop(worker, None)
        for task in map(scheduler.tasks.__getitem__, self._at.pop(worker, ())):
            # One that is no failure of Dask's, since its worker was retired, waits for another, which may never come.
            if task.state not in ("memory", "erred") and GRANTED not in (task.annotations or {}):
                self._tell(task, None, OVER)

    def update_graph(self, scheduler: Scheduler, *, keys: Iterable[Any], **kwargs: Any) -> None:
        """Take away the note on each submission that the span of our tasks keeps for ever."""
        if all(isinstance(key, str) and key.startswith(PREFIX) for key in keys):
            span = self._span()
            if span is not None and span.metadata:
                span.metadata["collections"].clear()

    # ------------------------------------------------------------------------------------------------------------------------

    def _tell(self, task: TaskState, begun: tuple[str, str, int] | None, answer: Any) -> None:
        """Send an event to whom it concerns; an event by `log_event` would be kept as well."""
        event = (0.0, (task.key, begun, answer))
        for client in task.who_wants or ():
            self._scheduler.client_send(client.client_key, {"op": "event", "topic": TOPIC, "event": event})

    def _stir(self) -> None:
        """Wake who waits for something to change."""
        self._change.set()
        self._change = asyncio.Event()

    def _tidy(self, task: TaskState) -> None:
        """Have nothing remember a task that is forgotten; nor its group, if it was the last of it: the next makes another."""
        self._over += 1
        if self._over % _KEYS == 0:
            key_split.cache_clear()
        group = task.group
        if any(count for state, count in group.states.items() if state != "forgotten"):
            return
        span = self._span()
        if span is not None:
            span.groups.discard(group)
        for computation in self._scheduler.computations:
            computation.groups.discard(group)

    def _span(self) -> Any:
        spans = self._scheduler.extensions.get("spans")
        return spans.spans.get(SPAN["ids"][0]) if spans is not None else None


def _waits_for(task: TaskState, worker: WorkerState) -> bool:
    """Return whether a task that may run there only, or on few, has to wait for others to end."""
    needs = task.resource_restrictions or {}
    if any(worker.used_resources.get(name, 0) > worker.resources.get(name, 0) for name in needs):
        return True
    pinned = (task.worker_restrictions or task.host_restrictions) and not task.loose_restrictions
    return bool(pinned) and len(worker.processing) > worker.nthreads
