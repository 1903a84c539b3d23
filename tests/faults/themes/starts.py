"""Line 1: workers that cannot start. A clear error on every future after a few tries, further apart each time; no storm."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from multiprocessing import resource_tracker, spawn
from typing import TYPE_CHECKING, NoReturn

import acts
from patience import PATIENCE, gone
from table import EVERY, PROCESSES, fault

import taskrun
from taskrun.engine.launch import TEMPLATE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from case import Case, Run

RESPAWNS = 4
"""How many rounds of workers are tried before the executor says that it is broken."""


def all_broken(run: Run, text: str, count: int = 6) -> None:
    """See that each future gets the error, and that whoever submits later is told at once."""
    futures = []
    for i in range(count):
        with contextlib.suppress(taskrun.InitializerError):  # the last try failed meanwhile
            futures.append(run.submit(acts.give_back, i))
    for future in futures:
        error = future.exception(2 * PATIENCE)
        assert isinstance(error, taskrun.InitializerError), repr(error)
        assert text in str(error)
    import pytest  # not at the top: workers import this module for its initializers

    with pytest.raises(taskrun.InitializerError, match=text):
        run.submit(acts.give_back, 1)


@fault("process", "pool", "fork", "thread", "dummy", "asyncio", "serial", soak=EVERY)
def the_initializer_fails(case: Case) -> None:
    """In every worker, in every way that leaves its process alive."""
    for error in (LookupError("no licence"), SystemExit("no licence"), KeyboardInterrupt("no licence")):
        if case.backend == "serial" and isinstance(error, KeyboardInterrupt):
            continue  # there it is the caller's own
        tried = case.log(type(error).__name__)
        with case.executor(initializer=log_and_raise, initargs=(tried, error), whole=False) as run:
            all_broken(run, "no licence")
        assert RESPAWNS <= len(acts.lines(tried)) <= RESPAWNS * run.workers


def log_and_raise(log: str, error: BaseException) -> NoReturn:
    acts.write(log, os.getpid())
    raise error


@fault("process", "pool", "fork", "process:fork", soak=PROCESSES)
def the_initializer_takes_every_worker_down(case: Case) -> None:
    """Nobody's task has begun, so that none is to blame."""
    tried = case.log("tried")
    with case.executor(initializer=log_and_exit, initargs=(tried,), whole=False) as run:
        all_broken(run, "exited with code 5")
    assert RESPAWNS <= len(acts.lines(tried)) <= RESPAWNS * run.workers


def log_and_exit(log: str) -> NoReturn:
    acts.write(log, os.getpid())
    os._exit(5)


@fault("process", "pool", "fork", soak=PROCESSES)
def the_initializer_hangs(case: Case) -> None:
    """What waits for it can be cancelled, and it can be killed."""
    pids = case.log("pids")
    with case.executor(initializer=acts.tell_pid_and_hold, initargs=(pids,), whole=False) as run:
        waiting = [run.submit(acts.give_back, i) for i in range(4)]
        assert acts.until(lambda: acts.lines(pids))
        if case.keeps_workers:
            assert waiting[0].cancel()
        run.ex.kill_workers()
        for future in waiting[1:]:
            assert future.cancelled() or isinstance(future.exception(PATIENCE), taskrun.TaskKilledError)


BROKEN = """
import os
if os.getpid() != {home}:
    raise ImportError("this module is broken here")
def fn(): return 1
"""


@contextlib.contextmanager
def broken_module(directory: Path) -> Iterator[object]:
    """Give the function of a module that can be imported here and nowhere else."""
    (directory / "broken_elsewhere.py").write_text(BROKEN.format(home=os.getpid()))
    sys.path.insert(0, str(directory))
    try:
        import broken_elsewhere  # type: ignore[import-not-found]

        yield broken_elsewhere.fn
    finally:
        sys.path.remove(str(directory))
        sys.modules.pop("broken_elsewhere", None)


@fault("process", "pool", soak=("process:spawn", "pool:spawn"))
def a_module_cannot_be_imported_in_workers(case: Case) -> None:
    """As a task it fails alone; as initializer it is the executor's end."""
    with broken_module(case.directory) as fn:
        with case.executor() as run:
            run.innocents(4)
            error = run.submit(fn).exception(PATIENCE)
            assert isinstance(error, taskrun.SerializationError), repr(error)
            assert "broken here" in str(error)
            run.innocents(4)
        with case.executor(initializer=fn, whole=False) as run:
            all_broken(run, "broken here")


@contextlib.contextmanager
def interpreter(path: str) -> Iterator[None]:
    """Have *path* started as Python."""
    before = sys.executable, spawn.get_executable()
    sys.executable = path
    multiprocessing.set_executable(path)
    try:
        yield
    finally:
        sys.executable, executable = before
        multiprocessing.set_executable(executable)


@fault("process", "process:spawn", "pool:spawn")
def there_is_no_python_to_start(case: Case) -> None:
    """The file is gone (an upgrade, a removed environment), or ends at once; afterwards all is well."""
    ends_at_once = case.directory / "python"
    tried = str(case.directory / "tried")
    ends_at_once.write_text(f"#!/bin/sh\necho x >> {tried}\nexit 3\n")
    ends_at_once.chmod(0o700)
    TEMPLATE.kill()  # what was started before this trouble would go on working
    assert TEMPLATE.pid is None or gone(TEMPLATE.pid)
    resource_tracker.ensure_running()  # multiprocessing's helper would be started in vain, too
    missing = "No such file" if case.backend == "process" else "exited with code 255"
    ends = "ended at once" if case.configuration == "process" else "exited with code 3"
    for path, text in (("/nonexistent/python", missing), (str(ends_at_once), ends)):
        with interpreter(path), case.executor(whole=False) as run:
            began = time.monotonic()
            futures = [run.submit(acts.give_back, i) for i in range(4)]
            for future in futures:
                error = future.exception(2 * PATIENCE)
                assert isinstance(error, taskrun.TaskrunError), repr(error)
                assert text in str(error), error
                assert "could not be started" in str(error)
            assert time.monotonic() - began > 0.05  # they were apart
    assert 1 <= len(acts.lines(tried)) <= 40
    with case.executor() as run:
        run.innocents(4)
