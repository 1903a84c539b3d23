"""Faults on purpose: which attempts they strike depends on the seed alone, and they are like real ones."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from patience import PATIENCE

import taskrun
from taskrun.backends.thread import ThreadBackend
from taskrun.testing import ChaosError, chaos

PROCESSES = ("process", "pool", "fork")
BACKENDS = ("serial", "thread", "asyncio", *PROCESSES)


def double(x: int) -> int:
    return 2 * x


async def double_later(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


def where(_: int) -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


def struck(backend: Any, fn: Any = double, count: int = 30, **faults: Any) -> dict[int, str]:
    """Run tasks on a backend with chaos; return which failed, and with what."""
    with taskrun.Executor(chaos(backend, **faults), max_workers=2) as ex:
        errors = [future.exception(3 * PATIENCE) for future in [ex.submit(fn, i) for i in range(count)]]
    return {i: type(error).__name__ for i, error in enumerate(errors) if error is not None}


@pytest.fixture(scope="module")
def expected() -> dict[int, str]:
    return struck("serial", crash=0.1, error=0.1, seed=3)


def test_faults_are_as_likely_as_was_said() -> None:
    failed = struck("serial", count=1000, crash=0.1, error=0.3, seed=1)
    kinds = list(failed.values())
    assert 60 < kinds.count("WorkerCrashedError") < 150
    assert 200 < kinds.count("ChaosError") < 330
    assert struck("serial") == {}


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_attempts_are_struck_on_every_backend(backend: str, expected: dict[int, str]) -> None:
    assert set(expected.values()) == {"WorkerCrashedError", "ChaosError"}
    assert struck(backend, crash=0.1, error=0.1, seed=3) == expected
    assert struck("serial", crash=0.1, error=0.1, seed=4) != expected


@pytest.mark.parametrize("backend", ["asyncio", "thread", "process"])
def test_coroutines_are_struck_alike(backend: str, expected: dict[int, str]) -> None:
    assert struck(backend, double_later, crash=0.1, error=0.1, seed=3) == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_retry_policy_gets_through(backend: str) -> None:
    retry = taskrun.Retry(max_attempts=20, on=OSError, wait="none")
    with taskrun.Executor(chaos(backend, crash=0.1, error=0.2, seed=5), max_workers=2, retry=retry) as ex:
        futures = [ex.submit(double, i) for i in range(20)]
        assert [future.result(PATIENCE) for future in futures] == [2 * i for i in range(20)]
        errors = [attempt.error for future in futures for attempt in future.attempts if attempt.error is not None]
        assert {type(error) for error in errors} == {taskrun.WorkerCrashedError, ChaosError}


def test_a_crash_really_kills_a_process_and_spares_a_thread() -> None:
    with taskrun.Executor(chaos("process", crash=1.0), max_workers=1) as ex:
        error = ex.submit(double, 1).exception(PATIENCE)
        assert isinstance(error, taskrun.WorkerCrashedError)
        assert error.signal == 9
    with taskrun.Executor(chaos("thread", crash=1.0), max_workers=1) as ex:
        error = ex.submit(double, 1).exception(PATIENCE)
        assert isinstance(error, taskrun.WorkerCrashedError)
        assert "on purpose" in str(error)
        assert (error.task, error.attempt) == ("double", 1)


def test_delays_are_as_long_as_was_said() -> None:
    with taskrun.Executor(chaos("thread", delay=(0.05, 0.06)), max_workers=1) as ex:
        began = time.monotonic()
        future = ex.submit(double, 1)
        assert future.result(PATIENCE) == 2
        assert time.monotonic() - began >= 0.05
        assert ex.options(timeout=0.01).submit(double, 1).exception(PATIENCE) is not None


def test_options_of_the_backend_are_taken_and_wrong_ones_refused() -> None:
    with taskrun.Executor(chaos("process"), max_workers=1, start_method="spawn") as ex:
        assert ex.backend_name == "process"
        assert ex.submit(double, 2).result(PATIENCE) == 4
    with pytest.raises(taskrun.ConfigError):
        taskrun.Executor(chaos("process"), start_method="teleport")
    with pytest.raises(taskrun.UnknownBackendError):
        chaos("proces")


def test_it_takes_an_instance_and_an_executor_as_well() -> None:
    assert struck(ThreadBackend(), crash=1.0, count=3) == dict.fromkeys(range(3), "WorkerCrashedError")
    with ThreadPoolExecutor(1) as pool:
        assert struck(pool, error=1.0, count=3) == dict.fromkeys(range(3), "ChaosError")


@pytest.mark.parametrize("wrong", [{"crash": 1.5}, {"crash": -0.1}, {"error": 2}, {"delay": -1}, {"delay": (2, 1)}])
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        chaos("thread", **wrong)


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_a_map_is_struck_item_by_item(backend: str) -> None:
    with taskrun.Executor(chaos(backend, error=0.3, seed=2), max_workers=2) as ex:
        values = list(ex.options(return_exceptions=True).map(double, range(50)))
        again = list(ex.options(return_exceptions=True).map(double, range(50)))
    failed = {i for i, value in enumerate(values) if isinstance(value, ChaosError)}
    assert 5 < len(failed) < 30
    assert failed == {i for i, value in enumerate(again) if isinstance(value, ChaosError)}
    assert [value for value in values if not isinstance(value, ChaosError)] == [2 * i for i in range(50) if i not in failed]


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_items_of_a_map_are_struck_one_by_one_also_when_they_are_tiny(backend: str) -> None:
    by_submit = struck(backend, count=600, error=0.05, seed=1)
    with taskrun.Executor(chaos(backend, error=0.05, seed=1), max_workers=2) as ex:
        results = list(ex.options(return_exceptions=True).map(double, range(600)))
    assert {i for i, result in enumerate(results) if isinstance(result, ChaosError)} == by_submit.keys()
