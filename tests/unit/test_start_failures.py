"""How often it is tried to start a worker process, and when it is given up."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest

from taskrun.engine import start_failures
from taskrun.engine.start_failures import StartFailures


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(start_failures, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def given_up_after(error: BaseException, clock: list[float]) -> float:
    """Return how many seconds it is tried."""
    failures, since = StartFailures(), clock[0]
    for _ in range(1000):
        if failures.add(error, somebody_works=False) is not None:
            return clock[0] - since
        assert failures.not_before > clock[0]
        clock[0] = failures.not_before
    raise AssertionError("it was never given up")


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EMFILE, ""), OSError(errno.EAGAIN, ""), MemoryError(), RuntimeError("can't start new thread")],
    ids=repr,
)
def test_what_may_be_had_again_is_waited_for(error: BaseException, clock: list[float]) -> None:
    assert 30 <= given_up_after(error, clock) < 32


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, ""), RuntimeError("it died")], ids=repr)
def test_what_will_not_get_better_is_given_up_soon(error: BaseException, clock: list[float]) -> None:
    assert given_up_after(error, clock) < 5


def test_several_that_were_tried_at_the_same_time_are_one_failure(clock: list[float]) -> None:
    failures = StartFailures()
    assert [failures.add(RuntimeError(), somebody_works=False) for _ in range(100)] == [None] * 100


def test_while_somebody_works_it_is_never_given_up(clock: list[float]) -> None:
    failures = StartFailures()
    for _ in range(100):
        assert failures.add(RuntimeError(), somebody_works=True) is None
        clock[0] = failures.not_before
