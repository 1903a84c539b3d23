"""What the tests against the standard library share: its classes and ours side by side, and the functions they run.

Importable by workers, so without pytest.
"""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import taskrun
from taskrun.backends.interpreter import InterpreterBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent import futures as standard

PATIENCE = 20.0
"""Seconds after which something that takes milliseconds is believed to hang."""

OURS = [
    *("serial", "thread", "process", "pool", "dummy", "fork", "asyncio", "process:spawn", "process:fork"),
    *(("pool:spawn", "pool:fork") if "EVERY_METHOD" in os.environ else ()),  # `make test-methods`: they start slowly
    *(("interpreter",) if InterpreterBackend.unavailable() is None else ()),
]
"""Where it is not the default, with the start method."""
EVERYWHERE = ["standard", *OURS]
"""The first is the standard library's ThreadPoolExecutor, which proves that a test asks for what it does."""
CONCURRENT = [kind for kind in EVERYWHERE if kind != "serial"]
THREADS = ["standard", "thread"]
PICKLING = [kind for kind in OURS if kind.startswith(("process", "pool", "interpreter"))]
ELSEWHERE = [*PICKLING, "fork"]


def make(kind: str, **options: Any) -> Any:
    """Return an executor of *kind* with 2 workers if *options* do not tell otherwise."""
    options = {"max_workers": 2, **options}
    kind, _, method = kind.partition(":")
    if method:
        options["start_method"] = method
    return ThreadPoolExecutor(**options) if kind == "standard" else taskrun.Executor(kind, **options)


# -- waiting -------------------------------------------------------------------------------------------------------------------


def until(condition: Callable[[], object]) -> None:
    """Wait until *condition* holds, which nobody announces; an assertion fails when it does not in time."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("the moment waited for did not come")
        time.sleep(0.001)


def waiting_for(future: standard.Future[Any], ask: Callable[[], object]) -> threading.Thread:
    """Start a thread that does *ask*, and return once it waits for *future*."""
    others = sleepers(future)
    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: sleepers(future) > others or not thread.is_alive())
    return thread


def sleepers(future: standard.Future[Any]) -> int:
    """Return how many threads wait in `result` or `exception` of *future*."""
    if isinstance(future, taskrun.Future):
        return len(future._gates)
    with future._condition:
        return len(future._condition._waiters)  # type: ignore[attr-defined]


class Gate:
    """A task of any kind that runs from `started` until `open`; on `serial`, where it runs in the caller, it is open."""

    def __init__(self, kind: str, directory: Path, name: str = "gate") -> None:
        self.started, self._open = directory / f"{name}.started", directory / f"{name}.open"
        if kind == "serial":
            self.open()

    def open(self) -> None:
        self._open.touch()

    def run_on(self, executor: Any) -> Any:
        """Return the future of a task that is held here."""
        future = executor.submit(*self.task)
        until(self.started.exists)
        return future

    @property
    def task(self) -> tuple[Any, str, str]:
        return hold, str(self.started), str(self._open)


@contextmanager
def no_collector() -> Iterator[None]:
    """Have objects end by their reference counts alone: what is left over is in a cycle."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# -- tasks ---------------------------------------------------------------------------------------------------------------------


def hold(started: str, go_on: str) -> str:
    """Make the file *started*, return once *go_on* is there."""
    Path(started).touch()
    until(Path(go_on).exists)
    return "went on"


def mark(path: str, value: Any = None) -> Any:
    """Make a file and return *value*."""
    Path(path).touch()
    return value


def capture(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    return args, kwargs


def divide(a: float, b: float) -> float:
    return a / b


def leave(code: int) -> None:
    raise SystemExit(code)


def process_id(_: object = None) -> int:
    return os.getpid()


class Thing:
    """An object whose end can be seen by a weak reference."""

    def __init__(self, payload: Any = None) -> None:
        self.payload = payload

    def method(self, _: object = None) -> str:
        return "called"


def make_thing(payload: Any = None) -> Thing:
    return Thing(payload)


class Lost(LookupError):
    """An exception whose end can be seen by a weak reference."""


def fail_with(payload: Any) -> None:
    """Raise with *payload* in a frame of the traceback."""
    raise Lost("lost")


INITIALIZED: list[Any] = []


def initialize(value: Any) -> None:
    INITIALIZED.append(value)


def last_initialized(_: object) -> Any:
    return INITIALIZED[-1] if INITIALIZED else None


_remembered: Callable[[], Any] = lambda: None  # noqa: E731


def remember_result() -> Thing:
    """Return something that `remembered` finds if anybody in this worker still holds it."""
    thing = Thing()
    _remember(thing)
    return thing


def remember_error() -> None:
    """Raise something that `remembered` finds if anybody in this worker still holds it."""
    error = Lost("lost")
    _remember(error)
    try:
        raise error
    finally:
        del error


def _remember(value: Any) -> None:
    global _remembered
    _remembered = weakref.ref(value)


def remembered() -> Any:
    return _remembered()


def step(what: str, started: str = "", go_on: str = "") -> Any:
    """Do what one item of a map says: "fail", "hold" until a file is there, "mark" a file, or nothing."""
    if what == "fail":
        raise Lost("lost")
    if what == "hold":
        return hold(started, go_on)
    return mark(started, what) if started else what
