"""One sub-interpreter, seen from the thread that owns it: how it is made, what goes there, what comes back, how it ends.

Pickled bytes cross the border through pipes; and one byte of memory is seen by both sides: whether the task that runs was
asked to cancel. What is on the other side is `interpreter_worker`.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import logging
import os
import pickle
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any, BinaryIO

from taskrun.backends import interpreter_worker
from taskrun.backends.pickled_call import dump_call, load_answer
from taskrun.engine.sent import Sent
from taskrun.errors import SerializationError, TaskKilledError, UnsafeForkWarning, WorkerCrashedError
from taskrun.exceptions import load_exception
from taskrun.serialization import not_sent
from taskrun.threads import OwnThread

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import ContextVar

    from taskrun.scheduler import Outcome
    from taskrun.task import Task

__all__ = ["SubInterpreter"]

_log = logging.getLogger("taskrun")


class SubInterpreter:
    """Made, used and closed by one thread; `ask` may be called by others.

    A second thread is in the interpreter from beginning to end (see `interpreter_worker`); two pipes connect them. To enter an
    interpreter anew for each task costs several times as much (0015).
    """

    def __init__(self, name: str) -> None:
        """Make it; raises what the interpreter raises when it cannot."""
        # By name: type checkers look at the standard library of the oldest Python that is supported.
        self._interpreter: Any = importlib.import_module("concurrent.interpreters").create()
        _remaining.add(self)
        self._name = name
        self._asked = bytearray(1)
        self._path: list[str] = []
        self._sent = Sent()
        self._inside: OwnThread | None = None
        self._error: BaseException | None = None
        self._files: list[BinaryIO] = []
        self.born = self.moved = time.monotonic()
        """When it was ready, and when it last ended a task."""
        self.done = 0
        """How many tasks it has run."""
        self.broken = False
        """It cannot run tasks any more."""

    def begin(self, describe: Callable[[], dict[str, Any]]) -> BaseException | None:
        """Have it take our surroundings over and run the initializer; return the error of that. Raises when it cannot."""
        for _ in range(2):
            reading, writing = os.pipe()
            self._files += [os.fdopen(reading, "rb"), os.fdopen(writing, "wb")]
        self._path = list(sys.path)
        # First of all, so that it can import taskrun. Without a name in its `__main__`, which tasks may read.
        self._interpreter.exec(f"__import__('sys').path[:] = {list(map(str, self._path))!r}")
        self._inside = OwnThread(f"{self._name}-inside", self._live)
        self._inside.start()
        setup = self._sent.pack_setup(describe)
        held = self._sent.note_sent()
        error = self._ask_for(setup)
        del held
        self.born = self.moved = time.monotonic()  # its age does not count what it took to get ready
        return None if error is None else load_exception(error)

    def _live(self) -> None:
        """Be in the interpreter. In the second thread."""
        calls, _, _, answers = self._files
        try:
            self._interpreter.call(interpreter_worker.live, calls.fileno(), answers.fileno(), memoryview(self._asked))
        except BaseException as error:  # the other thread tells of it
            self._error = error
        # Not by closing alone: a forked child may have the other ends, too.
        calls.close()
        pickle.dump((), answers, 5)
        answers.flush()

    def _ask_for(self, message: object) -> Any:
        """Send *message* and return the answer. Raises what has ended the interpreter instead."""
        _, calls, answers, _ = self._files
        with contextlib.suppress(BrokenPipeError):  # it has ended, and says so
            pickle.dump(message, calls, 5)
            calls.flush()
        answer = pickle.load(answers)
        if not answer:
            raise RuntimeError(f"it has ended: {self._error}") from self._error
        return answer[0]

    def run(self, task: Task, worker: str, context_vars: list[tuple[str, ContextVar[Any]]]) -> Outcome:
        """Run *task* and return what to report. Raises nothing."""
        self.done += 1
        try:
            payload = dump_call(task, context_vars, sent=self._sent)
        except SerializationError as error:
            return task, False, error, "serialization", None
        except BaseException as error:  # whatever the user's code does to this thread
            return task, False, not_sent(error, task), "serialization", None
        now = list(sys.path)
        path = list(map(str, now)) if now != self._path else None
        if task.settled:  # its time was up meanwhile: nothing is heard of what is reported now
            return task, False, TaskKilledError(f"a task of {worker} was given up"), "killed", None
        held = self._sent.note_sent()  # its descriptors, until they are duplicated there
        self._path = now
        try:
            succeeded, data, cause, cost = self._ask_for((payload, path))
        except BaseException as error:  # it could not even say what became of the task
            self.broken = True
            return task, False, _broken(task, worker, error), "crashed", None
        del held
        self.moved = time.monotonic()
        return load_answer(task, (succeeded, data, cause, (worker, *cost[1:])))

    def ask(self, asked: bool) -> None:
        """Tell the task that runs that it was asked to cancel; False: take it back, for the next one."""
        self._asked[0] = asked

    def give_up(self) -> None:
        """Let the process end around it, whatever runs there."""
        self._asked[0] = interpreter_worker.GIVEN_UP

    def close(self, *, orderly: bool = False) -> None:
        """End it; *orderly*: its finalizer runs. Waits for threads that its tasks have started, as a process does."""
        try:
            if self._inside is not None:
                if not self.broken:
                    with contextlib.suppress(OSError):
                        pickle.dump(orderly, self._files[1], 5)
                        self._files[1].flush()
                self._inside.join()
            self._interpreter.close()
        except BaseException:  # the thread that owns it must not die of it
            _log.exception("a sub-interpreter could not be closed")
        finally:
            _remaining.discard(self)
            for file in self._files:
                with contextlib.suppress(OSError):
                    file.close()


def _broken(task: Task, worker: str, error: BaseException) -> WorkerCrashedError:
    crash = WorkerCrashedError(
        f"the sub-interpreter of worker {worker} broke down while it ran task {task.name!r} (attempt {task.number}): {error}. "
        'It is replaced; does the task change the interpreter itself (sys.modules, builtins)? backend="process" is sturdier',
        task=task.name,
        attempt=task.number,
    )
    crash.__cause__ = error
    return crash


class _Remaining:
    """The sub-interpreters of this process that are not closed; at exit those that were abandoned."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[SubInterpreter] = set()
        self._registered = False
        self._warned = False

    def add(self, interpreter: SubInterpreter) -> None:
        with self._lock:
            first, self._registered = not self._registered, True
            self._open.add(interpreter)
        if first:
            atexit.register(self._at_exit)
            os.register_at_fork(before=self._before_fork)

    def discard(self, interpreter: SubInterpreter) -> None:
        with self._lock:
            self._open.discard(interpreter)

    def _before_fork(self) -> None:
        """Warn once: the child of a process with sub-interpreters dies in `os.fork` (CPython #139759)."""
        if self._open and not self._warned:
            self._warned = True
            warnings.warn(
                "os.fork with sub-interpreters in this process: Python up to 3.14 crashes in the child, whatever they do; shut "
                'down the executors with backend="interpreter" first, or start processes by spawn or forkserver',
                UnsafeForkWarning,
                stacklevel=2,
            )

    def _at_exit(self) -> None:
        """Have Python wait for none of them, and not warn of them: where warnings are errors it would change the exit status.

        It suspends their threads when it comes to end them (CPython #128639).
        """
        with self._lock:
            remaining = list(self._open)
        for interpreter in remaining:
            interpreter.give_up()
        if remaining:
            _log.debug("%d sub-interpreters still run tasks that were given up", len(remaining))
            warnings.filterwarnings("ignore", "remaining subinterpreters", RuntimeWarning)


_remaining = _Remaining()
