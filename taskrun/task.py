"""A task on its way: what was asked for, which attempt this is, and what running code can ask about itself."""

from __future__ import annotations

import time
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from taskrun.options import NO_OPTIONS, TaskOptions

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping, Sequence

    from taskrun.future import Future

__all__ = [
    "Attempt",
    "Cause",
    "CurrentTask",
    "Entered",
    "Feeder",
    "Run",
    "Task",
    "current_task",
    "derive_seed",
    "entered",
    "function_name",
]

Cause = Literal["raised", "crashed", "timeout", "killed", "serialization", "initializer", "cancelled"]
"""Where an error came from. A retry policy's `on` is asked about "raised" only; "crashed" and "timeout" have switches of their
own; the rest is never retried."""

NO_KWARGS: Mapping[str, Any] = {}


class Run(NamedTuple):
    """What a worker tells about one attempt: who ran it and what it cost. Times in seconds, sizes in bytes."""

    worker: str
    started: float
    """`time.monotonic()` when the call began."""
    duration: float
    cpu_seconds: float | None = None
    worker_rss: int | None = None


class Attempt(NamedTuple):
    """The record of one attempt, as `Future.attempts` shows it."""

    number: int
    worker: str | None
    """Thread name or "pid N"; None when no worker took it up."""
    queued: float
    """`time.monotonic()` when it entered the queue."""
    started: float | None
    duration: float | None
    cpu_seconds: float | None
    worker_rss: int | None
    error: BaseException | None


class Feeder(Protocol):
    """Whoever submits more when a task of his is over (a `map` with items left)."""

    unread: bool
    """He has more to submit, and nobody was told that it will not happen."""

    @property
    def closed(self) -> bool:
        """Nobody will be handed what his tasks come to: what has not started is cancelled, and no attempt follows another."""

    def advance(self, ended: Sequence[Future[Any]]) -> None:
        """Take note that these futures of his are done. In any thread, with no lock held."""

    def executor_closed(self, error: BaseException | None) -> None:
        """Take note that the executor takes nothing new; *error*: why what is left is not done, None: it is.

        In any thread, with no lock held.
        """

    def rest_given_back(self, begun: int) -> None:
        """Take note that of the items of his run only *begun* are begun: the others are to be submitted anew.

        In any thread, with no lock held.
        """


class Task:
    """One attempt at one call. A retry makes a new Task for the same future, so that a late answer cannot be mistaken.

    Backends read `fn`, `args`, `kwargs`, `options`, `index`, `number`, `seed_root`, `context` and `name`,
    keep what they like in `place`, and may say in `worker` who runs it. The rest belongs to the scheduler, under its lock.
    """

    # Slots: with 200,000 tasks queued most of the cost of a submit is the garbage collector walking them.
    __slots__ = (
        "args",
        "begun",
        "cancel_requested",
        "context",
        "fn",
        "future",
        "index",
        "kwargs",
        "number",
        "options",
        "owner",
        "place",
        "pulled",
        "queued",
        "seed_root",
        "settled",
        "worker",
    )

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        future: Future[Any],
        index: int,
        options: TaskOptions = NO_OPTIONS,
        context: Context | None = None,
        seed_root: int | None = None,
        number: int = 1,
    ) -> None:
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.future = future
        self.index = index
        self.options = options
        self.context = context
        self.seed_root = seed_root
        self.number = number
        self.begun: float | None = None  # time.monotonic() when a worker took it up
        self.settled = False  # an outcome was reported, or it was cancelled: later reports are dropped
        self.cancel_requested = False  # asked to cancel while running; read by current_task().cancelled
        self.pulled = False  # a backend holds it; False: it is in the queue or in back-off
        self.owner: Feeder | None = None
        self.place: Any = None
        self.worker: str | None = None  # who runs it, where the backend has said so
        self.queued = time.monotonic()

    @property
    def name(self) -> str:
        """The name given with `options(name=...)`, or the function's."""
        return self.options.name or function_name(self.fn)

    def again(self) -> Task:
        """Return the next attempt at the same call."""
        task = Task(
            self.fn,
            self.args,
            self.kwargs,
            self.future,
            self.index,
            self.options,
            self.context,
            self.seed_root,
            self.number + 1,
        )
        task.owner = self.owner
        return task

    def forget(self, nobody: Future[Any]) -> None:
        """Let go of the user's objects, *nobody* in the place of the future: a settled task may be kept for a while.

        By a queue that it was cancelled in, or by a frame that the traceback of its own error leads back to.
        """
        self.future = nobody
        self.fn = _nothing
        self.args = ()
        if self.kwargs is not NO_KWARGS:
            self.kwargs = NO_KWARGS
        self.context = None
        self.owner = None


def _nothing() -> None:
    """Stand in for the function of a task that is over."""


def function_name(fn: object) -> str:
    """Return a readable name for any callable; never raises, whatever the callable's attributes do."""
    try:
        name = getattr(fn, "__qualname__", None) or getattr(fn, "__name__", None)
        if name is None and hasattr(fn, "func"):  # functools.partial
            return function_name(fn.func)
        return name if isinstance(name, str) else type(fn).__qualname__
    except Exception:  # a user's __getattr__ may raise anything; a name is not worth a lost task
        return type(fn).__qualname__


def derive_seed(root: int | None, index: int) -> int:
    """Return the seed of the task at *index*: 64 bits of SHA-256 of root and index, so the same on every backend and Python.

    An executor without `seed=` draws a random root once, so its tasks still differ from each other.
    """
    import hashlib  # not at the top: it loads OpenSSL, and most programs never ask for a seed

    digest = hashlib.sha256(f"{root}:{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


class CancelFlag(Protocol):
    """Anything that says whether the user asked to cancel: a Task, or a worker's view of its channel."""

    @property
    def cancel_requested(self) -> bool: ...


class CurrentTask:
    """What running code can ask about itself; `taskrun.current_task()` returns it."""

    __slots__ = ("__weakref__", "_flag", "_name", "_rng", "_seed", "_seed_root", "attempt", "deadline", "index", "workers")

    def __init__(
        self,
        name: str | Callable[..., Any],
        index: int,
        attempt: int,
        deadline: float | None,
        seed_root: int | None,
        flag: CancelFlag,
        workers: int = 1,
    ) -> None:
        self._name = name  # or the function that it is the name of: to look it up costs as much as a tiny task
        self.index = index
        self.attempt = attempt
        """1 for the first."""
        self.deadline = deadline
        """In `time.monotonic()` seconds, or None."""
        self.workers = workers
        """How many workers share this process: an executor made in the task takes its part of the CPUs only."""
        self._seed_root = seed_root
        self._flag = flag
        self._seed: int | None = None
        self._rng: random.Random | None = None

    @property
    def name(self) -> str:
        """The name given with `options(name=...)`, or the function's."""
        return self._name if isinstance(self._name, str) else function_name(self._name)

    @property
    def cancelled(self) -> bool:
        """True once somebody asked to cancel this task; it is up to the task to return."""
        return self._flag.cancel_requested

    @property
    def seed(self) -> int:
        """The seed of this task: depends only on the executor's seed and the task's index."""
        if self._seed is None:
            self._seed = derive_seed(self._seed_root, self.index)
        return self._seed

    @property
    def rng(self) -> random.Random:
        """A random generator seeded with `seed`, this task's own."""
        if self._rng is None:
            import random

            self._rng = random.Random(self.seed)
        return self._rng

    def of_item(self, index: int) -> CurrentTask:
        """Return what the item at *index* can ask about itself, while this task runs several."""
        return CurrentTask(self._name, index, self.attempt, self.deadline, self._seed_root, self._flag, self.workers)

    def __repr__(self) -> str:
        return f"<taskrun task {self.name!r} index={self.index} attempt={self.attempt}>"


class Entered(list[Any]):
    """``[task, function, workers]`` of a task that runs in this process, and what is made of it if its code asks.

    A list, since hardly any task asks and each pays for this: nothing cheaper can be made in one step and added to later. The
    function is here too, as a deadline may settle the task, and empty it, while it runs.
    """

    __slots__ = ()

    @property
    def task(self) -> Task | None:
        """The task; None where it is another process's."""
        task: Task = self[0]
        return task

    def current(self) -> CurrentTask:
        """Return what the task's code can ask about itself: the same object each time."""
        if len(self) == 3:
            task, fn, workers = self
            begun, options = task.begun, task.options
            deadline = None if options.timeout is None or begun is None else begun + options.timeout
            # Threads that the task has started may ask at the same time: they all get the one that was added first.
            self.append(CurrentTask(options.name or fn, task.index, task.number, deadline, task.seed_root, task, workers))
        made: CurrentTask = self[3]
        return made


entered: ContextVar[CurrentTask | Entered | None] = ContextVar("taskrun_current_task", default=None)
"""Set by the worker around each attempt. A context variable: right for threads and for coroutines on one loop alike."""


def current_task() -> CurrentTask | None:
    """Return what this code can know about the task it runs in, or None outside of a task."""
    found = entered.get()
    return found.current() if isinstance(found, Entered) else found
