"""What the behaviours stand on: the backend under test, executors that surely end, waits that end too."""

from __future__ import annotations

import threading
import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

import taskrun
from taskrun.testing import tasks

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from taskrun.backends.base import Backend
    from taskrun.future import Future

__all__ = ["Behaviours", "Held"]


class Held:
    """A task that runs until it is told to go on."""

    def __init__(self, directory: Path, executor: taskrun.Executor, submit: Callable[..., Future[str]], name: str) -> None:
        self._started, self._go_on = directory / f"{name}.started", directory / f"{name}.go_on"
        self.finished = directory / f"{name}.finished"
        """A file that is there once the task has come to its end."""
        if not executor.capabilities.concurrent:
            self._go_on.touch()  # the task is over when submit returns
        self.future = submit(tasks.hold, str(self._started), str(self._go_on), str(self.finished))

    def started(self) -> bool:
        return self._started.exists()

    def go_on(self) -> None:
        self._go_on.touch()


class Behaviours:
    """The base of all classes of behaviours."""

    backend: ClassVar[str | type[Backend] | concurrent.futures.Executor]
    """A registered name, a class of yours, or an executor to adapt."""
    options: ClassVar[dict[str, Any]] = {}
    """Backend options that every executor of the tests is made with."""
    many: ClassVar[int] = 400
    """How many tasks a test of many has: thousands where they cost microseconds, fewer where they cost milliseconds."""
    patience: ClassVar[float] = 20.0
    """Seconds after which a wait counts as a hang; no promise of speed is tested with it."""

    @contextmanager
    def executor(self, **arguments: Any) -> Iterator[taskrun.Executor]:
        """Make an executor on the backend, with 2 workers if not told otherwise; shut it down at the end."""
        backend = self.backend() if isinstance(self.backend, type) else self.backend
        executor = taskrun.Executor(backend, **{"max_workers": 2, **self.options, **arguments})
        try:
            yield executor
        except BaseException:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what the error cut short
                executor.shutdown(wait=False, cancel_futures=True)  # a broken backend must not hang its report
            raise
        executor.shutdown()

    @contextmanager
    def honouring(self, able: bool, **arguments: Any) -> Iterator[taskrun.Executor | None]:
        """Make an executor with an argument that the backend is *able* to honour; else see it refused, and give None."""
        if able:
            with self.executor(**arguments) as executor:
                yield executor
            return
        (name,) = arguments
        with pytest.warns(taskrun.UnsupportedOptionWarning, match=name), self.executor(**arguments):
            pass
        with pytest.raises(taskrun.UnsupportedOptionError, match=name), self.executor(strict=True, **arguments):
            pass
        yield None

    def see_refused(self, executor: taskrun.Executor, capability: str) -> bool:
        """Return whether the backend lacks a *capability*; then see that a program that asks for it is refused."""
        if getattr(executor.capabilities, capability) not in (False, "no"):
            return False
        with pytest.raises(taskrun.UnsupportedOptionError, match=capability), self.executor(require=(capability,)):
            pass
        return True

    def has_processes(self) -> bool:
        """Return whether the workers are processes that taskrun has made."""
        with self.executor() as executor:
            return executor.capabilities.processes and executor.capabilities.initializer != "no"

    def has_option(self, name: str) -> bool:
        """Return whether the backend has an option of its own of that name."""
        with self.executor() as executor:
            return name in executor._backend.option_names

    def worker_of(self, executor: taskrun.Executor) -> str:
        """Run a task; return the name of the worker that ran it."""
        future = executor.submit(tasks.add, 1)
        assert future.result(self.patience) == 1
        worker = future.attempts[0].worker
        assert worker is not None
        return worker

    @contextmanager
    def held(self, executor: taskrun.Executor, directory: Path, *, name: str = "held", **options: Any) -> Iterator[Held]:
        """Submit a task with *options* that runs until the end of the block, if it is not told to go on earlier.

        On a backend that is not concurrent it is over at once.
        """
        held = Held(directory, executor, executor.options(**options).submit, name)
        try:
            self.until(held.started)
            yield held
        finally:
            held.go_on()

    @contextmanager
    def full_until_shutdown(self, directory: Path) -> Iterator[taskrun.Executor]:
        """Make an executor whose one worker is held until the executor was told to shut down; all else waits till then."""
        with self.executor(max_workers=1) as executor:
            held = Held(directory, executor, executor.submit, "held")
            self.until(held.started)

            def go_on_then() -> None:
                self.until(lambda: executor.closed)
                held.go_on()

            opener = threading.Thread(target=go_on_then)
            opener.start()
            yield executor
        opener.join()

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until *condition* holds; an assertion fails when it does not in time."""
        deadline = time.monotonic() + self.patience
        while not condition():
            assert time.monotonic() < deadline, "the moment waited for did not come"
            time.sleep(0.002)

    def pickling(self, capability: str) -> bool:
        """Return whether arguments and results are pickled on the backend under test, whose `pickles` is *capability*."""
        return capability == "yes" or (capability == "with check_pickle" and self.options.get("check_pickle") is True)
