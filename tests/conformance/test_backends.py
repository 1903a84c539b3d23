"""Every built-in backend keeps every promise."""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING, ClassVar

import pytest

from taskrun import sharing
from taskrun.backends.base import Backend
from taskrun.backends.interpreter import InterpreterBackend
from taskrun.testing import BackendConformance
from taskrun.testing.failures import FailureBehaviours
from taskrun.testing.maps import MapBehaviours
from taskrun.testing.results import ResultBehaviours
from taskrun.testing.surroundings import SurroundingsBehaviours
from taskrun.testing.tiny_items import TinyItemBehaviours
from taskrun.testing.workers import WorkerBehaviours

if TYPE_CHECKING:
    from collections.abc import Iterator


class TestSerial(BackendConformance):
    backend = "serial"


class TestThread(BackendConformance):
    backend = "thread"
    many = 1000


class TestProcess(BackendConformance):
    backend = "process"
    many = 1000


class TestPool(BackendConformance):
    backend = "pool"
    many = 200


class TestDummy(BackendConformance):
    backend = "dummy"


class TestFork(BackendConformance):
    backend = "fork"
    many = 24  # a fork costs milliseconds, from this process some ten


class TestAsyncio(BackendConformance):
    backend = "asyncio"


@pytest.mark.skipif(InterpreterBackend.unavailable() is not None, reason=str(InterpreterBackend.unavailable()))
class TestInterpreter(BackendConformance):
    backend = "interpreter"


class TestSerialCheckingPickles(BackendConformance):
    backend = "serial"
    many = 200
    options: ClassVar = {"check_pickle": True}


# Maps whose items travel together as soon as they take less than a second.


class InRuns(MapBehaviours, TinyItemBehaviours):
    many = 1000

    @pytest.fixture(autouse=True)
    def not_so_tiny(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Backend, "tiny", 1.0)
        monkeypatch.setattr(sharing, "in_use", False)  # as another test has left it


class TestThreadInRuns(InRuns):
    backend = "thread"


class TestProcessInRuns(InRuns):
    backend = "process"


# By other start methods: what depends on how a worker is made, the rest is the same engine.


class TestSpawned(ResultBehaviours, FailureBehaviours, SurroundingsBehaviours, WorkerBehaviours):
    backend = "process"
    options: ClassVar = {"start_method": "spawn"}


class TestForked(ResultBehaviours, FailureBehaviours, SurroundingsBehaviours, WorkerBehaviours):
    backend = "process"
    options: ClassVar = {"start_method": "fork"}


class OnMethod(BackendConformance):
    many = 60


if "EVERY_METHOD" in os.environ:  # `make test-methods`: the whole suite for each
    for backend in ("process", "pool"):
        for method in ("forkserver", "spawn", "fork"):
            rest: dict[str, object] = {"backend": backend, "options": {"start_method": method}}
            if method == "fork":  # its workers inherit the ends that were open when they were made: docs/reference/contexts.md
                rest["test_a_pipe_carries_objects_until_its_end_is_closed"] = None
            name = f"Test{backend.title()}By{method.title()}"
            globals()[name] = type(name, (OnMethod,), rest)


@pytest.fixture(scope="class")
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    with ThreadPoolExecutor(2) as pool:
        yield from adapted(pool, request.cls)


@pytest.fixture(scope="class")
def processes(request: pytest.FixtureRequest) -> Iterator[None]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from adapted(pool, request.cls)


def adapted(pool: Executor, suite: type[BackendConformance]) -> Iterator[None]:
    """Have the tests of *suite* share a pool with all its workers: it is the user's and outlives our executors."""
    list(pool.map(time.sleep, [0.5] * 2))
    suite.backend = pool
    yield


@pytest.mark.usefixtures("threads")
class TestAdaptedThreads(BackendConformance):
    """The adapter of threads, to which tasks are handed over as they are."""


@pytest.mark.usefixtures("processes")
class TestAdaptedProcesses(BackendConformance):
    """The adapter of processes, to which tasks travel pickled."""

    many = 100
