"""The contract between the executor and a way to run calls.

A backend knows how to run a call somewhere and nothing else. It never sees a future, a retry policy or a queue of its own:
it *pulls* tasks from the `Scheduler` it was started with and reports what became of each. Everything that must be the same
on every backend (results exactly once, cancellation, retry, deadlines, back-pressure, callbacks, seeds) is the scheduler's.

The life of a task as a backend sees it::

    scheduler.pull(n)   the task is the backend's; its future is still pending and may yet be cancelled (-> `revoke`)
    scheduler.begin(t)  it starts to run now; False: it was cancelled meanwhile, forget it
    scheduler.succeed(t, value, run)  or  scheduler.fail(t, error, cause, run)      exactly one of them for each task begun
    scheduler.give_back(tasks)        instead of the two above: they did not run; back to the head of the queue, no blame
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler
    from taskrun.task import Task

__all__ = ["Backend", "Capabilities", "refuse_waiting_in"]


class Capabilities(NamedTuple):
    """What a backend can do, as data: tests, documentation, `require=` and error messages read it; nobody asks for a name.

    A field that is false (False, "no") means "cannot". The words are those of the table of backends in the documentation.
    """

    cancel_queued: bool = True
    """A queued task can be cancelled (False where nothing queues)."""
    cancel_running: bool = True
    """A running task learns through `current_task().cancelled` that it was asked to cancel."""
    closures: bool = True
    """Lambdas, closures, local and `__main__` functions and classes can be submitted without a guard."""
    retry: Literal["yes", "in the caller"] = "yes"
    """Retries with back-off; "in the caller": the submitting thread sleeps."""
    crash_isolation: bool = False
    """A dying worker fails only the task it ran; the rest goes on at full strength."""
    names_guilty: bool = True
    """The task that ran when a worker died is known, not guessed."""
    timeout: Literal["yes", "after the call"] = "yes"
    """The future fails on time; "after the call": once the call has returned."""
    kill: Literal["yes", "slot only", "coroutines", "no"] = "no"
    """A timeout really stops the work; "slot only": it goes on, its slot is replaced; "coroutines": it stops those."""
    initializer: Literal["yes", "in each child", "no"] = "yes"
    """`initializer` runs in each worker before its first task; "in each child": before each task."""
    recycle_by_count: bool = False
    """`max_tasks_per_child` replaces workers (False also where each task has a new one)."""
    recycle_by_state: bool = False
    """`max_memory_per_child`, `max_age_per_child` and `idle_timeout` replace workers (likewise)."""
    original_exceptions: bool = True
    """Errors arrive as the original exception: type, args, notes, cause and context."""
    pickles: Literal["yes", "results", "with check_pickle", "no"] = "no"
    """Arguments and results (or "results" alone) are pickled: they arrive as copies; what cannot travel fails its own task."""
    base_exceptions: bool = True
    """SystemExit, KeyboardInterrupt and their like come back as themselves and kill nothing."""
    primitives: Literal["yes", "Queue", "no"] = "yes"
    """Locks, queues and shared values of its context can be task arguments; "Queue": queues only."""
    processes: bool = False
    """Tasks run in processes other than the caller's: beyond the GIL, with memory of their own."""
    concurrent: bool = True
    """Tasks run beside the caller (False: `submit` returns when the task is over)."""

    def lacks(self, names: tuple[str, ...]) -> list[str]:
        """Return those of *names* that this backend cannot do; an unknown field name raises ValueError."""
        unknown = [name for name in names if name not in self._fields]
        if unknown:
            raise ValueError(f"require= names unknown capabilities {unknown}; known: {sorted(self._fields)}")
        return [name for name in names if getattr(self, name) in (False, "no")]


class Backend(ABC):
    """A way to run calls; one instance serves one executor.

    The executor calls the methods in this order: `configure`, `slots` (where the user gives no `max_workers`) and `start` once;
    then any of `wake`, `revoke`, `stop` and `notice_cancel` from any thread at any time; then `shutdown` or `abort` (or both,
    or `abort` several times) and at last `join`. None of the methods is called with a lock of the executor held. None may raise
    but the first three, and `waiting` and `one_more` where they say so; a worker that cannot be started is no reason to:
    the others do the work, and where there are none `scheduler.break_down` says so on every future. None but `start` (and, on a
    backend whose capabilities say ``concurrent=False``, `wake`) may run the user's code or wait for it.

    A backend whose workers are its own, and that does not say ``initializer="no"``, runs `settings.initializer` in each before
    its first task (`thread_like.initialize` does it in a thread, and reports to `scheduler.initializer_ok` and
    `initializer_failed`, which says how long to wait before the next try), `settings.finalizer` when one ends in order, and
    replaces a worker after `settings.max_tasks_per_child` tasks, or says ``recycle_by_count=False``. The other settings of
    workers (`env`, `cpu_affinity`, ...) are for backends that say ``processes=True``.
    """

    name: ClassVar[str]
    """The registered name, for messages and `repr`."""
    capabilities: Capabilities
    """What it can do on this machine."""
    option_names: ClassVar[Mapping[str, str]] = {}
    """The options of its own that `Executor(**backend_options)` accepts: name -> one line that says what it takes."""
    task_option_names: ClassVar[Mapping[str, str]] = {}
    """The options of its own that `Executor.options(...)` accepts, likewise."""

    tiny: float = 10e-6
    """Seconds; items of a `map` that take less travel together: about what a task costs, whatever it does."""
    cold: float = 0.0
    """Seconds that a tiny task takes longer than in a run, since it finds nothing in the caches of its CPU."""
    combines_items: bool = True
    """Tiny items of a `map` may come several as one task (see `taskrun.runs`); False where a task has a process of its own, or
    runs on somebody else's executor."""

    shares_context: bool = False
    """Tasks run in this process: each attempt runs in a copy of `task.context`, the submitter's context variables."""

    @property
    def pickles_arguments(self) -> bool:
        """Whether the arguments of tasks are pickled: then what is `shared` is taken out at the other end, else at `submit`."""
        return self.capabilities.pickles == "yes"

    @classmethod
    def unavailable(cls) -> str | None:
        """Return what is missing on this machine and how to get it, or None when the backend can be used."""
        return None

    @classmethod
    def default_max_workers(cls, cpus: int) -> int:
        """Return how many workers to use when the user does not say; *cpus* is what this process may really use."""
        return cpus

    def configure(self, options: Mapping[str, Any]) -> None:
        """Take the options of its own that the user gave; called once, before `capabilities` is read.

        For a backend whose capabilities depend on them: it may set `self.capabilities`. It starts nothing. Raises ConfigError
        for a value it cannot use. `start` gets the same options in its settings.
        """
        return

    def slots(self) -> int | None:
        """Return how many workers there are, where somebody else has decided that; None: it is for us to say.

        Asked after `configure` and right before `start`, if the user gives no `max_workers`. It may connect to find out; what
        it opens is for `start` to use, or to close when that raises. Raises BackendUnavailableError when nobody is there.
        """
        return None

    def get_ready(self, settings: WorkerSettings) -> None:
        """Begin with what takes long and all executors have in common, while the rest of this one is loaded. Does not wait.

        Called once, before `start`, which may not follow.
        """
        return

    @abstractmethod
    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        """Get ready to pull from *scheduler*; called once, before any other method.

        Guarantees wanted: cheap (workers start when there is work); no worker thread or process is left when it raises.
        Raises ConfigError for an option value it cannot use, BackendUnavailableError when what it runs on cannot be reached.
        """

    @abstractmethod
    def wake(self) -> None:
        """Tasks were queued (or given back): see to it that a free or new worker pulls them.

        Called after every `submit`, so it has to be quick and never blocks; called in the submitting thread, from callbacks,
        from signal handlers and destructors. A wake-up may be spurious, none is lost.
        """

    def revoke(self, task: Task) -> bool:
        """Take back a pulled task that has not begun. True: it will not run and its outcome will not be reported.

        Only a backend that pulls ahead of its workers needs it. After True the task is the scheduler's again.
        """
        return False

    def refresh(self, task: Task) -> None:
        """Look whether a pulled task has begun, and `begin` it if so: somebody asks `Future.running()`.

        Only a backend that pulls ahead of its workers needs it.
        """
        return

    def recall(self) -> None:
        """Give back (`scheduler.give_back`) everything pulled that has not begun: it will be cancelled. Does not wait."""
        return

    @abstractmethod
    def stop(self, task: Task, error: BaseException, cause: Literal["timeout", "killed"]) -> bool:
        """Stop a task that has begun: its time is up or the user killed it.

        True: the backend will report ``fail(task, error, cause)`` itself, within about a second, once the work is gone (it
        may add evidence to *error* first); or whatever outcome came first. False: it cannot stop work; the scheduler fails
        the future, and for "timeout" the backend has given the slot to a fresh worker. Never blocks.
        """

    def notice_cancel(self, task: Task) -> None:
        """The user asked to cancel a task that runs: pass it on to `current_task().cancelled`.

        The default does nothing: thread-like backends share `task.cancel_requested` with the running code.
        """
        return

    def owns_current_thread(self) -> bool:
        """Return True in a thread that this backend's tasks depend on: waiting there for all of them would never end."""
        return False

    def waiting(self) -> AbstractContextManager[None]:
        """Return the context in which the current thread waits for a task of this backend.

        A backend whose workers are threads of this process makes up for a worker that waits (`one_more`). One that
        pickles in a thread of its own raises RuntimeError there (`refuse_waiting_in`): pickling runs the user's code.
        """
        return nullcontext()

    def waiting_elsewhere(self) -> AbstractContextManager[None]:
        """Return the context in which a worker, in whose thread this is called, waits for a task of another executor.

        That one may wait in turn for a task of ours, so a backend whose workers are threads of this process makes up for it.
        """
        return nullcontext()

    def one_more(self) -> AbstractContextManager[None]:
        """Return the context in which one of the workers waits for tasks of this backend, and is made up for; in any thread.

        Entering it raises RuntimeError where nobody would be left to run what is waited for.
        """
        return nullcontext()

    def allow(self, extra: int) -> None:
        """From now on there may be *extra* workers beside `max_workers`: as many are stuck, and what would free them waits.

        Only a backend that gives items of runs back (`Feeder.rest_given_back`) needs it. Never blocks.
        """
        return

    @abstractmethod
    def shutdown(self) -> None:
        """No further task will come: end each worker in order once it is idle (finalizers run). Does not wait.

        Called again if Ctrl-C tore it the first time.
        """

    @abstractmethod
    def abort(self, *, force: bool) -> None:
        """Stop every worker now; *force* False asks (SIGTERM where there are processes), True kills.

        The outcome of each task that runs is reported as ``fail(task, TaskKilledError, "killed")``; where the backend cannot
        stop work it abandons its workers and reports the same. Does not wait.
        """

    @abstractmethod
    def join(self, timeout: float | None = None) -> bool:
        """Wait until every worker is gone, abandoned ones excepted; False when *timeout* (seconds) ran out first."""

    def held_back(self) -> int:
        """Return how many tasks, pulled and taken back from their worker, wait for another. Under the scheduler's lock."""
        return 0

    def workers(self) -> list[str]:
        """Return the names of the live workers, for `Executor.stats` (pids on process-like backends)."""
        return []

    def __repr__(self) -> str:
        return f"<taskrun backend {self.name!r} in process {os.getpid()}>"


def refuse_waiting_in(thread: threading.Thread | None) -> None:
    """Raise RuntimeError in *thread*, which pickles and unpickles for an executor and so runs the user's code."""
    if thread is threading.current_thread():
        raise RuntimeError(
            "waiting for a task of the same executor while something is pickled or unpickled for it would never end: the "
            "thread that runs the executor does both; wait before the object is submitted, or in the task"
        )
