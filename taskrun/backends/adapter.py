"""Runs tasks on an executor that the user made: any `concurrent.futures.Executor`, kept busy but never over-full.

One thread, the *feeder*, owns the inner executor's futures: it pulls tasks while there are free slots, submits them and takes
the answers. Others speak to it through a SimpleQueue, which is re-entrant: `wake` may be called from a signal handler, while
the inner executor's own locks are not. `_lock` guards `_flights`, since `revoke` looks at it from other threads.
"""

from __future__ import annotations

import concurrent.futures
import os
import pickle
import threading
import time
from contextlib import contextmanager, nullcontext
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from taskrun import lifetime
from taskrun.backends.base import Backend, Capabilities, refuse_waiting_in
from taskrun.backends.calls import call
from taskrun.coroutines import CoroutineRunner
from taskrun.errors import InitializerError, SerializationError, TaskKilledError
from taskrun.serialization import not_sent
from taskrun.threads import OwnThread

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler
    from taskrun.task import Task

__all__ = ["AdapterBackend"]

_STANDARD = ("builtins", "concurrent.futures.process", "concurrent.futures.thread")
_TELLING = ("concurrent.futures.", "loky.", "mpi4py.", "taskrun.")
"""Whose futures say when they run: what can still be cancelled has not begun. Those of others may be pending all the time."""


class AdapterBackend(Backend):
    """The inner executor stays the user's: shutdown waits for our tasks and leaves it open.

    In a `ThreadPoolExecutor` tasks run as they are; to any other executor they travel pickled, since its workers may be
    anywhere. It does not say which task a dying worker ran: then all that were under way fail.
    """

    name: ClassVar[str] = "adapter"
    combines_items = False
    option_names: ClassVar[Mapping[str, str]] = {}

    def __init__(self, inner: concurrent.futures.Executor) -> None:
        self._inner = inner
        self._shares_memory = _is_pool(inner, "ThreadPoolExecutor") and not _is_pool(inner, "InterpreterPoolExecutor")
        self._local = _is_pool(inner, "ProcessPoolExecutor")  # its workers see the same clock
        bases = [cls for cls in type(inner).__mro__ if cls is not concurrent.futures.Executor]
        self._tells = any(cls.__module__.startswith(_TELLING) for cls in bases)
        self.capabilities = Capabilities(
            initializer="no",
            cancel_running=self._shares_memory,
            names_guilty=self._shares_memory,
            pickles="no" if self._shares_memory else "yes",
            primitives="yes" if self._shares_memory else "no",
            processes=not self._shares_memory,
        )
        # Also for those far away: `context_vars` are read from it when the task is sent.
        self.shares_context = self._shares_memory
        self._inside = threading.local()
        self._lock = threading.RLock()
        self._flights: dict[Task, concurrent.futures.Future[Any]] = {}
        self._news: SimpleQueue[tuple[Task, concurrent.futures.Future[Any]] | None] = SimpleQueue()
        self._busy: set[concurrent.futures.Future[Any]] = set()  # the feeder's: submitted and not answered, abandoned ones too
        self._waiting = 0  # tasks that wait for others of this executor
        self._closing = False
        self._feeder: OwnThread | None = None
        self._pid = os.getpid()

    def slots(self) -> int | None:
        """Return how many workers the inner executor says it has."""
        known = getattr(self._inner, "_max_workers", None)
        return known if isinstance(known, int) and not isinstance(known, bool) and known > 0 else None

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        from taskrun.engine.surroundings import locate_context_vars

        self._context_vars = locate_context_vars(settings.context_vars)
        self._scheduler = scheduler
        self._slots = settings.max_workers
        self._seeded = settings.seed is not None
        lifetime.finish_before(type(self._inner).__module__)
        self._feeder = OwnThread(f"{settings.name}-feeder", self._feed)
        self._feeder.start()

    # -- getting workers to work -----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        self._news.put(None)

    def _feed(self) -> None:
        news, scheduler = self._news, self._scheduler
        while True:
            item = news.get()
            if item is not None:
                self._busy.discard(item[1])
                self._take_answer(*item)
                del item
            while len(self._busy) < self._slots and (tasks := scheduler.pull(1)):
                self._launch(tasks.pop())
            if self._closing and not self._flights and not scheduler.queued:
                return

    def _launch(self, task: Task) -> None:
        """Submit a pulled task to the inner executor."""
        try:
            inner: concurrent.futures.Future[Any]
            if self._shares_memory:
                inner = self._inner.submit(self._call, task)
            else:
                from taskrun.backends.pickled_call import dump_call, run_pickled_call

                limit = task.options.timeout
                expires = None if limit is None or not self._local else time.monotonic() + limit
                call = dump_call(task, self._context_vars, expires, seeded=self._seeded)
                if not self._scheduler.begin(task):  # a slot is free: as far as anybody can tell, it runs from here on
                    return
                inner = self._inner.submit(run_pickled_call, call)
            if not hasattr(inner, "add_done_callback"):
                raise TypeError(f"its submit returned {inner!r}, which is no future")
            inner.add_done_callback(partial(self._answered, task))
        except SerializationError as error:
            self._scheduler.fail(task, error, "serialization")
            return
        except BaseException as error:  # it was shut down or is broken, each class in its own way: no task can run any more
            self._scheduler.give_back([task])
            # In the words and the class of the standard library, where the error is one of its own.
            known = isinstance(error, (RuntimeError, concurrent.futures.BrokenExecutor)) and type(error).__module__ in _STANDARD
            message = f"the adapted {type(self._inner).__name__} takes no tasks: {error}; adapt a new one"
            self._scheduler.break_down(message, error, type(error) if known else InitializerError)
            return
        self._busy.add(inner)
        with self._lock:
            self._flights[task] = inner

    # -- in a worker -----------------------------------------------------------------------------------------------------------

    def _call(self, task: Task) -> None:
        """Run a task in a thread of the inner executor."""
        if not self._scheduler.begin(task):
            return
        runner = CoroutineRunner()
        self._inside.task = task
        task.worker = threading.current_thread().name
        try:
            outcome = call(self._scheduler, task, task.worker, runner)
        finally:
            del self._inside.task
            runner.close()
        self._scheduler.settle((outcome,))
        del outcome  # the frames of an error's traceback lead back to this one: it must not lead to the error

    # -- what workers say ------------------------------------------------------------------------------------------------------

    def _answered(self, task: Task, inner: concurrent.futures.Future[Any]) -> None:
        self._news.put((task, inner))  # in whatever thread the inner executor calls this

    def _take_answer(self, task: Task, inner: concurrent.futures.Future[Any]) -> None:
        from taskrun.backends.pickled_call import load_answer

        with self._lock:
            if self._flights.pop(task, None) is None:
                return  # revoked or abandoned
        try:
            if inner.cancelled():  # by somebody who has the inner executor in hand
                self._scheduler.give_back([task])
                return
            error = inner.exception()
            if error is None:
                if not self._shares_memory:
                    self._scheduler.settle((load_answer(task, inner.result()),))
                return
        except BaseException as raised:  # the inner executor's code, or no answer of ours: this thread must not die of it
            error = raised
        # What the task itself raises is an answer: this is the inner executor's.
        if isinstance(error, pickle.PickleError):
            self._scheduler.fail(task, not_sent(error, task), "serialization")
        else:
            self._scheduler.fail(task, self._crash(task, error), "crashed")

    def _crash(self, task: Task, error: BaseException) -> BaseException:
        from taskrun.errors import WorkerCrashedError

        pool, under_way = type(self._inner).__name__, f"while task {task.name!r} (attempt {task.number}) was under way"
        if isinstance(error, concurrent.futures.BrokenExecutor):
            text = (
                f"a worker of the adapted {pool} died {under_way}: {error}. Which task was to blame is not known: all that "
                'were under way fail. backend="process" knows, and goes on'
            )
        else:
            text = f"the adapted {pool} failed {under_way}, with {type(error).__name__}: {error}"
        crash = WorkerCrashedError(text, task=task.name, attempt=task.number, guilt="unknown")
        crash.__cause__ = error
        return crash

    # -- taking back -----------------------------------------------------------------------------------------------------------

    def revoke(self, task: Task) -> bool:
        with self._lock:
            inner = self._flights.get(task)
            if inner is None or task.begun is not None:
                return False
            try:
                cancelled = inner.cancel()
            except BaseException:  # Ctrl-C in `_answered`, which it calls
                self._news.put((task, inner))
                raise
            if cancelled:
                del self._flights[task]
            return cancelled

    def recall(self) -> None:
        back: list[Task] = []
        try:
            with self._lock:
                waiting = [task for task in self._flights if task.begun is None]
            for task in waiting:
                back.append(task)
                if not self.revoke(task):
                    back.pop()
            self._scheduler.give_back(back)
        except BaseException:  # Ctrl-C: nobody else knows of them
            self._scheduler.give_back([task for task in back if task not in self._flights])
            raise

    # -- stopping --------------------------------------------------------------------------------------------------------------

    def stop(self, task: Task, error: BaseException, cause: Literal["timeout", "killed"]) -> bool:
        """The inner executor offers no way to stop work: its slot is free again once the work ends."""
        with self._lock:
            inner = self._flights.pop(task, None)  # nobody waits for it
        if inner is not None and inner.cancel() and cause == "timeout" and self._tells:
            # It had not been taken up, whatever it waited for there: its time has not begun.
            self._scheduler.give_back([task])
            return True
        return False

    # -- waiting ---------------------------------------------------------------------------------------------------------------

    def owns_current_thread(self) -> bool:
        return getattr(self._inside, "task", None) is not None or self._feeder is threading.current_thread()

    def waiting(self) -> AbstractContextManager[None]:
        refuse_waiting_in(self._feeder)
        inside = self._shares_memory and getattr(self._inside, "task", None) is not None
        return self.one_more() if inside else nullcontext()

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """The threads are somebody else's, and there will not be one more: the last that is free must not wait."""
        with self._lock:
            self._waiting += 1
            stuck = self._waiting >= self._slots
        try:
            if stuck:
                raise RuntimeError(
                    f"all {self._slots} workers of the adapted {type(self._inner).__name__} run tasks that wait for tasks of "
                    "the same executor, and none is left to run those; give it more workers, or use "
                    'backend="thread", which makes up for a worker that waits'
                )
            yield
        finally:
            with self._lock:
                self._waiting -= 1

    # -- ending ----------------------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        self._closing = True
        self._news.put(None)

    def abort(self, *, force: bool) -> None:
        """Abandon what runs: nobody can stop it here."""
        self.recall()
        with self._lock:
            running = list(self._flights)
            if force:
                self._flights.clear()
        for task in running:
            task.cancel_requested = True
            if force:
                error = TaskKilledError(f"task {task.name!r} was abandoned when its executor was stopped", task=task.name)
                self._scheduler.fail(task, error, "killed")
        self._news.put(None)

    def join(self, timeout: float | None = None) -> bool:
        feeder = self._feeder
        if feeder is None or os.getpid() != self._pid:
            return True
        if feeder is threading.current_thread():
            return False
        feeder.join(timeout)
        return not feeder.is_alive()

    def __repr__(self) -> str:
        return f"<taskrun backend 'adapter' of {self._inner!r}>"


def _is_pool(inner: concurrent.futures.Executor, name: str) -> bool:
    """Return whether *inner* is of this class of the standard library's, without importing the module that it is in.

    To a thread pool tasks can be handed over as they are; sub-interpreters share no objects, though their pool is one.
    """
    return any(cls.__qualname__ == name and cls.__module__.startswith("concurrent.futures") for cls in type(inner).__mro__)
