"""A signal handler that submits, in the middle of a submit: each of the two is a task like any other."""

from __future__ import annotations

import signal
import time
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from standard_kinds import OURS, make

if TYPE_CHECKING:
    from types import FrameType

PATIENCE = 40
SLOW = ("pool", "fork")
KINDS = [kind for kind in OURS if ":" not in kind]


@pytest.mark.parametrize("kind", KINDS)
def test_submit_may_be_struck_by_a_handler_that_submits(kind: str) -> None:
    handled: dict[int, Any] = {}
    submitted: list[Any] = []
    numbers = count()
    enough = 60 if kind in SLOW else 1000

    def submit(_: int, __: FrameType | None) -> None:
        if len(handled) < enough:
            number = next(numbers)  # it may be struck itself
            handled[number] = ex.submit(abs, -number)

    before = signal.signal(signal.SIGALRM, submit)
    try:
        with make(kind, max_workers=4) as ex:
            signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
            deadline = time.monotonic() + PATIENCE
            while len(handled) < enough and time.monotonic() < deadline:
                submitted.append(ex.submit(abs, -len(submitted)))
                if len(submitted) % 5 == 0:  # so that workers park, and are let go again
                    submitted[-1].result(PATIENCE)
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            assert [future.result(PATIENCE) for future in submitted] == list(range(len(submitted)))
            assert len(handled) >= enough
            assert all(future.result(PATIENCE) == number for number, future in handled.items())
            assert sum(not name.endswith("-loop") for name in ex.stats()["workers"]) <= 4
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
