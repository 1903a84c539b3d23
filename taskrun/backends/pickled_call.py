"""One attempt as bytes, for wherever it runs: what backends on foreign workers, and `serial` with check_pickle, share.

`dump_call` here, `run_pickled_call` there, `load_answer` here again. Only bytes and numbers travel, so that whatever carries
them cannot fail on the user's objects.
"""

from __future__ import annotations

import os
import pickle
import threading
import time
from contextvars import copy_context
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from taskrun.backends.soft_timeout import SoftTimeout
from taskrun.coroutines import CoroutineRunner
from taskrun.engine.sent import Packed, Piece, Received, pack_whole
from taskrun.errors import TaskTimeoutError
from taskrun.exceptions import dump_exception, explain_lack, load_exception
from taskrun.reach import new_moment
from taskrun.serialization import dump_result, load_outcome
from taskrun.task import Cause, CurrentTask, entered
from taskrun.timer import Timer

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import ContextVar

    from taskrun.engine.sent import Sent
    from taskrun.scheduler import Outcome
    from taskrun.task import Task

__all__ = ["Answer", "Payload", "Place", "dump_call", "load_answer", "run_in", "run_pickled_call"]

Payload = tuple[bytes, Packed]
"""Pickled: what identifies the attempt; the call."""
Answer = tuple[bool, bytes, Cause, tuple[str, float, float, float, int | None]]
"""Succeeded; the pickled value or exception; the cause of a failure; what a `Run` says of it."""


class Place:
    """Where calls run: what they find there. This one is for a call by itself, which nothing can reach while it runs."""

    seeded = False
    """The global generators are seeded for each call: nobody else uses them."""
    alone = False
    """They may be: this process runs one call at a time."""
    workers = 1
    """How many calls share the CPUs."""

    def __init__(self) -> None:
        self.runner = CoroutineRunner()
        self.received = Received(_duplicates)

    @property
    def cancel_requested(self) -> bool:
        """Whether the call that runs was asked to cancel."""
        return False

    def rss(self) -> int | None:
        """Return how many bytes the process holds, where it is a worker."""
        return None

    def ends_by(self, error: BaseException) -> bool:
        """Return whether *error* is how this place is ended while a call runs, and not an outcome of the call."""
        return False


class _Process(Place):
    """A process of somebody's engine."""

    def __init__(self, alone: bool, workers: int, ends_by: Callable[[BaseException], bool] | None) -> None:
        super().__init__()
        self.alone = alone
        self.workers = workers
        self._ends_by = ends_by

    def rss(self) -> int | None:
        from taskrun.engine.resident import resident_now

        return resident_now()

    def ends_by(self, error: BaseException) -> bool:
        return self._ends_by is not None and self._ends_by(error)


def _duplicates(piece: Piece) -> list[int]:
    """Return descriptors of this process, who has sent them: only another interpreter of it is sent any."""
    return [os.dup(fd) for fd in piece.descriptors]


def dump_call(
    task: Task,
    context_vars: list[tuple[str, ContextVar[Any]]],
    expires: float | None = None,
    sent: Sent | None = None,
    *,
    seeded: bool = False,
) -> Payload:
    """Return *task* as bytes, with the values of *context_vars*. Raises SerializationError.

    It is not run any more after *expires*, a time of `time.monotonic` that the receiver shares; *sent* is what he has.
    *seeded*: the executor has a `seed`; the global generators are seeded where they are the call's alone.
    """
    from taskrun.engine.surroundings import context_payload

    new_moment()
    name = task.name
    values = None if task.context is None else context_payload(task.context, context_vars, name)
    options = task.options
    limits = (options.timeout, options.soft_timeout, expires)
    about = pickle.dumps((name, task.index, task.number, limits, task.seed_root, seeded, values), 5)
    return about, pack_whole(task) if sent is None else sent.pack(task)


def run_pickled_call(
    payload: Payload, *, alone: bool | None = None, workers: int = 1, ends_by: Callable[[BaseException], bool] | None = None
) -> Answer:
    """Run a call in the process of a worker. Raises nothing but what *ends_by* says is how that process is ended.

    *alone*: the process runs one at a time (default: whether this is its main thread). *workers*: how many share the CPUs, of
    which an executor that the task makes takes its part only.
    """
    if alone is None:
        alone = threading.current_thread() is threading.main_thread()
    place = _Process(alone, workers, ends_by)
    try:
        return run_in(place, payload)
    finally:
        place.runner.close()


def run_in(place: Place, payload: Payload) -> Answer:
    """Run a call in *place*. Raises nothing but what that ends by."""
    from taskrun.engine.surroundings import set_context_vars

    about, packed = payload
    name, index, number, (limit, soft, expires), seed_root, seeded, values = pickle.loads(about)
    runner, alarm, me = place.runner, None, os.getpid()
    started, cpu = time.monotonic(), time.thread_time()
    pickling = True
    if expires is not None and started > expires:  # its future has failed, while it waited for a worker here
        late = TaskTimeoutError(limit=limit, elapsed=started - expires + limit, task=name, attempt=number)
        return False, dump_exception(late, task=name), "timeout", _cost(place, started, cpu)
    try:
        place.received.take(packed)
        fn, args, kwargs = place.received.load(packed, name)
        pickling = False
        started, cpu = time.monotonic(), time.thread_time()
        deadline = None if limit is None else started + limit
        current = CurrentTask(name, index, number, deadline, seed_root, place, place.workers)

        def enter() -> Any:
            entered.set(current)
            if values is not None:
                set_context_vars(values)
            value = fn(*args, **kwargs)
            return runner.run(value) if type(value) is CoroutineType else value

        if place.seeded or (seeded and place.alone):
            from taskrun.engine.generators import seed_generators

            seed_generators(current.seed)
        if soft is not None:
            alarm = _Alarm(runner, soft, name, number)
        try:
            value = copy_context().run(enter)
        finally:
            if alarm is not None:
                alarm.disarm()
        cost = _cost(place, started, cpu)
        pickling = True
        return True, dump_result(value, task=name), "raised", cost
    except BaseException as error:  # SystemExit and its like are outcomes of the task, too
        if place.ends_by(error):
            raise
        timed_out = alarm.public(error) if alarm is not None else None
        if not pickling:
            explain_lack(error)
        cause: Cause = "serialization" if pickling else "raised" if timed_out is None else "timeout"
        return False, dump_exception(timed_out or error, task=name), cause, _cost(place, started, cpu)
    finally:
        if os.getpid() != me:  # a process that the task has forked came back from it: it must not answer as well
            from taskrun.engine.ending import end_a_copy

            end_a_copy()


class _Alarm(SoftTimeout):
    """A soft timeout with a timer of its own: there is no scheduler where the call runs."""

    def __init__(self, runner: CoroutineRunner, limit: float, name: str, attempt: int) -> None:
        self._timer = Timer("taskrun-soft-timeout")
        super().__init__(self._timer, runner, limit, name, attempt)

    def disarm(self) -> None:
        super().disarm()
        self._timer.stop()
        self._timer.join()


def _cost(place: Place, started: float, cpu: float) -> tuple[str, float, float, float, int | None]:
    worker = f"pid {os.getpid()}, {threading.current_thread().name}"
    return worker, started, time.monotonic() - started, time.thread_time() - cpu, place.rss()


def load_answer(task: Task, answer: Answer) -> Outcome:
    """Return what `run_pickled_call` answered as an outcome. Raises nothing."""
    succeeded, data, cause, run = answer
    return load_outcome(task, data, run) if succeeded else (task, False, load_exception(data), cause, run)
