"""Faults on purpose: a backend that lets some tasks crash, fail or take longer, chosen by a seed.

::

    with taskrun.Executor(chaos("process", crash=0.01, delay=0.05, seed=7), retry=3) as ex:
        application(ex)

It stands between the scheduler and a real backend: tasks are handed over with another function in the place of theirs, and what
is reported of a crash that could only be played is made into the error of a real one.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import signal
import time
from concurrent import futures as standard
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal

from taskrun.backends.base import Backend
from taskrun.plugins import load_backend
from taskrun.task import derive_seed, function_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Outcome, Scheduler
    from taskrun.task import Cause, Task

__all__ = ["ChaosError", "chaos"]

_ORIGINAL = "_taskrun_chaos_original"


class ChaosError(OSError):
    """What `chaos(error=...)` raises in the place of a task."""


def chaos(
    backend: str | Backend | standard.Executor,
    *,
    crash: float = 0.0,
    error: float = 0.0,
    delay: float | tuple[float, float] = 0.0,
    seed: int = 0,
) -> Backend:
    """Return a backend that runs tasks on *backend* and injects faults, for ``Executor(chaos(...))``.

    *crash*: how likely an attempt takes its worker down, before or after its work (0 to 1). Where workers are processes of
    taskrun's they are really killed; elsewhere, where that would be the program, the attempt fails with the same
    WorkerCrashedError and the worker lives on. *error*: how likely an attempt raises ChaosError, an OSError, in the place of
    its work. *delay*: seconds by which each attempt begins later, a number for 0 to that, or a pair. Which attempts are struck
    depends on *seed*, the task's index and the number of the attempt alone: not on the backend, nor on timing.
    Raises ValueError for numbers that make no sense, and what `Executor` raises for a backend that cannot be used.
    """
    low, high = delay if isinstance(delay, tuple) else (0.0, delay)
    for name, value in (("crash", crash), ("error", error)):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"chaos({name}=) must be between 0 and 1, not {value!r}")
    if not 0.0 <= low <= high:
        raise ValueError(f"chaos(delay=) must be seconds, or a pair of them in order, not {delay!r}")
    inner = _backend_of(backend)
    # The options it takes are looked up at the class.
    kind = type(type(inner).__name__, (_Chaos,), {name: getattr(inner, name) for name in _OF_THE_CLASS})
    made: Backend = kind(inner, _Dice(crash, error, low, high, seed))
    return made


_OF_THE_CLASS = ("name", "option_names", "task_option_names", "shares_context")


def _backend_of(backend: str | Backend | standard.Executor) -> Backend:
    if isinstance(backend, str):
        return load_backend(backend)()
    if isinstance(backend, standard.Executor):
        from taskrun.backends.adapter import AdapterBackend

        return AdapterBackend(backend)
    return backend


# -- what happens to an attempt ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Fate:
    """What happens to one attempt."""

    delay: float
    what: Literal["crash before", "crash after", "error", "nothing"]
    really: bool
    """A crash kills the process."""
    name: str

    def before(self) -> None:
        """Meet it, as far as it comes before the work."""
        if self.what == "error":
            raise ChaosError(f"chaos: task {self.name!r} fails on purpose")
        if self.what == "crash before":
            self._crash()

    def after(self) -> None:
        """Meet it, as far as it comes after the work."""
        if self.what == "crash after":
            self._crash()

    def _crash(self) -> None:
        if self.really:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # it may take a moment
        raise _PlayedCrash(self.name)


class _PlayedCrash(BaseException):
    """Stands for the death of a worker; a BaseException, so that the task's own code does not take it for an error."""


@dataclass(frozen=True, slots=True)
class _Dice:
    crash: float
    error: float
    low: float
    high: float
    seed: int

    def fate_of(self, task: Task, *, really: bool) -> _Fate | None:
        """Return what happens to this attempt; None: nothing."""
        dice = random.Random(derive_seed(self.seed, task.index) + task.number)
        struck, after, delay = dice.random(), dice.random() < 0.5, dice.uniform(self.low, self.high)
        what: Literal["crash before", "crash after", "error", "nothing"] = "nothing"
        if struck < self.crash:
            what = "crash after" if after else "crash before"
        elif struck < self.crash + self.error * (1.0 - self.crash):
            what = "error"
        return None if what == "nothing" and not delay else _Fate(delay, what, really, task.options.name or "")


class _Struck:
    """A task's function, and what happens to the attempt."""

    def __init__(self, fn: Callable[..., Any], fate: _Fate) -> None:
        self.fn = fn
        self.fate = fate
        self.__qualname__ = function_name(fn)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        time.sleep(self.fate.delay)
        self.fate.before()
        value = self.fn(*args, **kwargs)
        self.fate.after()
        return value


def _struck_coroutine(fn: Callable[..., Any], fate: _Fate) -> Callable[..., Any]:
    """Return a coroutine function in the place of *fn*: backends look whether it is one."""

    async def struck(*args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(fate.delay)
        fate.before()
        value = await fn(*args, **kwargs)
        fate.after()
        return value

    struck.__qualname__ = struck.__name__ = function_name(fn)
    setattr(struck, _ORIGINAL, fn)
    return struck


def _original(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return the user's function: an attempt is made from the one before it."""
    if type(fn) is _Struck:
        return fn.fn
    original: Callable[..., Any] = fn.__dict__.get(_ORIGINAL, fn) if type(fn) is FunctionType else fn
    return original


# -- between the scheduler and the backend -------------------------------------------------------------------------------------


class _Between:
    """The scheduler, as the backend sees it: what it pulls is struck, and what it reports of a played crash is one."""

    def __init__(self, scheduler: Scheduler, dice: _Dice, *, really: bool) -> None:
        self._scheduler = scheduler
        self._dice = dice
        self._really = really

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    def _strike(self, task: Task) -> Task:
        fn = _original(task.fn)
        fate = self._dice.fate_of(task, really=self._really)
        if fate is None:
            task.fn = fn
        else:
            task.fn = _struck_coroutine(fn, fate) if inspect.iscoroutinefunction(fn) else _Struck(fn, fate)
        return task

    def pull(self, limit: int) -> list[Task]:
        return [self._strike(task) for task in self._scheduler.pull(limit)]

    def pull_while(self, limit: int, suits: Callable[[Task], bool]) -> list[Task]:
        return self._scheduler.pull_while(limit, lambda task: suits(self._strike(task)))

    def pull_one(self) -> Task | None:
        task = self._scheduler.pull_one()
        return None if task is None else self._strike(task)

    def take_one(self) -> Task | None:
        task = self._scheduler.take_one()
        return None if task is None else self._strike(task)

    def succeed(self, task: Task, value: Any, run: Any = None) -> None:
        self.settle(((task, True, value, None, run),))

    def fail(self, task: Task, error: BaseException, cause: Cause, run: Any = None) -> None:
        self.settle(((task, False, error, cause, run),))

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        self._scheduler.settle([_played(outcome) for outcome in outcomes])

    def settle_ours(self, outcomes: Sequence[Outcome]) -> None:
        self._scheduler.settle_ours([_played(outcome) for outcome in outcomes])


def _played(outcome: Outcome) -> Outcome:
    task, succeeded, error, _, run = outcome
    if succeeded or not isinstance(error, _PlayedCrash):
        return outcome
    from taskrun.errors import WorkerCrashedError

    text = f"chaos: the worker that ran task {task.name!r} (attempt {task.number}) crashed on purpose"
    return task, False, WorkerCrashedError(text, task=task.name, attempt=task.number), "crashed", run


class _Chaos(Backend):
    """Hands everything on to the backend inside."""

    combines_items = False  # the dice are thrown for each item

    def __init__(self, inner: Backend, dice: _Dice) -> None:
        self._inner = inner
        self._dice = dice
        self.capabilities = inner.capabilities

    @property
    def pickles_arguments(self) -> bool:
        return self._inner.pickles_arguments

    def default_max_workers(self, cpus: int) -> int:  # type: ignore[override]  # asked of an instance
        return self._inner.default_max_workers(cpus)

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        between: Any = _Between(scheduler, self._dice, really=self.capabilities.crash_isolation)
        self._inner.start(between, settings)

    def wake(self) -> None:
        self._inner.wake()

    def revoke(self, task: Task) -> bool:
        return self._inner.revoke(task)

    def refresh(self, task: Task) -> None:
        self._inner.refresh(task)

    def recall(self) -> None:
        self._inner.recall()

    def stop(self, task: Task, error: BaseException, cause: Literal["timeout", "killed"]) -> bool:
        return self._inner.stop(task, error, cause)

    def notice_cancel(self, task: Task) -> None:
        self._inner.notice_cancel(task)

    def owns_current_thread(self) -> bool:
        return self._inner.owns_current_thread()

    def waiting(self) -> AbstractContextManager[None]:
        return self._inner.waiting()

    def waiting_elsewhere(self) -> AbstractContextManager[None]:
        return self._inner.waiting_elsewhere()

    def one_more(self) -> AbstractContextManager[None]:
        return self._inner.one_more()

    def shutdown(self) -> None:
        self._inner.shutdown()

    def abort(self, *, force: bool) -> None:
        self._inner.abort(force=force)

    def join(self, timeout: float | None = None) -> bool:
        return self._inner.join(timeout)

    def allow(self, extra: int) -> None:
        self._inner.allow(extra)

    def held_back(self) -> int:
        return self._inner.held_back()

    def workers(self) -> list[str]:
        return self._inner.workers()
