"""What runs in a sub-interpreter: `live`, in one call from its first task to its end.

One call, since each that enters an interpreter gets a thread state of its own: what the initializer has put into a
`threading.local` or a context variable would be gone at the first task.
"""

from __future__ import annotations

import atexit
import importlib
import pickle
import sys
import threading
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from taskrun.backends.pickled_call import Answer, Payload, Place, run_in
from taskrun.engine import surroundings
from taskrun.engine.ending import flush
from taskrun.exceptions import dump_exception
from taskrun.serialization import load_arguments, load_function

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskrun.engine.sent import Piece

__all__ = ["GIVEN_UP", "live"]

GIVEN_UP = 2
"""In the byte that both sides see: the process ends and waits for nothing here. 1: the task was asked to cancel; 0: neither."""


class _Here(Place):
    """This interpreter."""

    def __init__(self, setup: dict[str, Any], asked: memoryview) -> None:
        super().__init__()
        self.seeded = setup["seeded"]
        self._asked = asked
        self._finalizer: Callable[..., object] | None = None

    @property
    def cancel_requested(self) -> bool:
        return self._asked[0] != 0

    def begin(self, setup: dict[str, Any], pieces: list[Piece]) -> bytes | None:
        """Take the parent's surroundings over and run the initializer; return its error, pickled."""
        self.received.take_pieces(pieces)
        surroundings.apply_in_interpreter(setup)
        atexit.register(_end_template)
        try:
            if setup["finalizer"] is not None:
                self._finalizer = load_function(setup["finalizer"], task="finalizer")
            if setup["initializer"] is not None:
                initializer = load_function(setup["initializer"], task="initializer")
                args, _ = load_arguments(setup["initargs"], task="initializer")
                self._call(initializer, *args)
        except BaseException as error:  # an initializer may raise anything; the parent turns it into an InitializerError
            return dump_exception(error, task="initializer")
        finally:
            flush()
        return None

    def run(self, payload: Payload, path: list[str] | None) -> Answer:
        """Run a task. *path* is the parent's, if it has changed. Raises nothing."""
        if path is not None:
            sys.path[:] = path
            importlib.invalidate_caches()
        answer = run_in(self, payload)
        flush()  # what was printed appears now: nobody knows whether this interpreter ends in order
        return answer

    def leave(self) -> None:
        """Run the finalizer; what an interpreter does at its own end comes after it."""
        try:
            if self._finalizer is not None:
                self._call(self._finalizer)
        except BaseException:  # nobody waits for it: show it as the interpreter shows errors at exit
            sys.excepthook(*sys.exc_info())
        flush()

    def _call(self, fn: Callable[..., Any], *args: Any) -> None:
        value = fn(*args)
        if type(value) is CoroutineType:
            self.runner.run(value)


def live(calls_fd: int, answers_fd: int, asked: memoryview) -> None:
    """Answer what comes: what there is to know first, then tasks; True for an end in order, False for one without.

    The user's code is run by the methods of `_Here` only, which raise nothing. The descriptors are the caller's.
    """
    with open(calls_fd, "rb", closefd=False) as calls, open(answers_fd, "wb", closefd=False) as answers:

        def answer(value: object) -> None:
            pickle.dump((value,), answers, 5)
            answers.flush()

        _wait_for_threads_unless_given_up(asked)
        setup, pieces = pickle.load(calls)
        here = _Here(setup, asked)
        answer(here.begin(setup, pieces))
        while not isinstance(call := pickle.load(calls), bool):
            answer(here.run(*call))
            del call  # an idle worker keeps nothing alive
        if call:
            here.leave()
        here.runner.close()


def _wait_for_threads_unless_given_up(asked: memoryview) -> None:
    """Have the end of this interpreter not wait for its threads if the process ends around a task that was given up.

    None of them are daemons: a sub-interpreter allows none.
    """
    wait = getattr(threading, "_shutdown", None)

    def shutdown() -> None:
        if asked[0] != GIVEN_UP and wait is not None:
            wait()

    threading._shutdown = shutdown  # type: ignore[attr-defined]  # what Python calls at the end: there is no public way


def _end_template() -> None:
    """End the process from which executors of tasks here had their workers: this interpreter ends before the process does."""
    launch = sys.modules.get("taskrun.engine.launch")
    if launch is not None:
        launch.TEMPLATE.end()
