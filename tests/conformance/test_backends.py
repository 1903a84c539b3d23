"""Every built-in backend keeps every promise."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING, ClassVar

import pytest

from taskrun.testing import BackendConformance

if TYPE_CHECKING:
    from collections.abc import Iterator


class TestSerial(BackendConformance):
    backend = "serial"


class TestThread(BackendConformance):
    backend = "thread"


class TestProcess(BackendConformance):
    backend = "process"


class TestDummy(BackendConformance):
    backend = "dummy"


class TestFork(BackendConformance):
    backend = "fork"
    many = 100  # a fork costs milliseconds, from this process some ten


class TestAsyncio(BackendConformance):
    backend = "asyncio"


class TestSerialCheckingPickles(BackendConformance):
    backend = "serial"
    options: ClassVar = {"check_pickle": True}


class TestSpawned(BackendConformance):
    backend = "process"
    options: ClassVar = {"start_method": "spawn"}


class TestForked(BackendConformance):
    backend = "process"
    options: ClassVar = {"start_method": "fork"}


class TestAdaptedThreads(BackendConformance):
    @pytest.fixture(autouse=True)
    def _inner(self) -> Iterator[None]:
        with ThreadPoolExecutor(2) as pool:
            type(self).backend = pool
            yield


class TestAdaptedProcesses(BackendConformance):
    @pytest.fixture(autouse=True)
    def _inner(self) -> Iterator[None]:
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
            type(self).backend = pool
            yield
