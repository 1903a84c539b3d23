"""What goes on while the I/O thread is held up by the user's code: a slow `__reduce__`, a result slow to unpickle."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import jobs
import pytest
from patience import PATIENCE, eventually, gone

import taskrun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Held:
    """Is not pickled before it is let go."""

    def __init__(self) -> None:
        self.reached, self.go = threading.Event(), threading.Event()

    def __reduce__(self) -> tuple[Any, ...]:
        self.reached.set()
        self.go.wait(PATIENCE)
        return int, (1,)


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held()
    yield made
    made.go.set()


def stand_still(ex: taskrun.Executor, held: Held) -> taskrun.Future[str]:
    """Have the I/O thread pickle *held*; returns the future of that task."""
    future = ex.submit(str, held)
    assert held.reached.wait(PATIENCE)
    return future


def test_a_timeout_fails_the_future_and_kills_the_worker(make: Callable, held: Held) -> None:
    with make(max_workers=2) as ex:
        slow = ex.options(timeout=1.0).submit(time.sleep, 60)
        assert eventually(slow.running)
        pids = {int(label.split()[1]) for label in ex.stats()["workers"]}
        last = stand_still(ex, held)
        assert isinstance(slow.exception(PATIENCE), taskrun.TaskTimeoutError)
        assert not last.done()
        assert any(gone(pid) for pid in pids)
        held.go.set()
        assert last.result(PATIENCE) == "1"
        assert ex.submit(jobs.double, 2).result(PATIENCE) == 4
    assert len(slow.attempts) == 1


def test_a_kill_does_so_too_and_retries_nothing(make: Callable, held: Held) -> None:
    with make(max_workers=2, retry=3) as ex:
        running = ex.submit(time.sleep, 60)
        assert eventually(running.running)
        last = stand_still(ex, held)
        assert running.kill()
        assert isinstance(running.exception(PATIENCE), taskrun.TaskKilledError)
        held.go.set()
        assert last.result(PATIENCE) == "1"


def test_a_task_that_has_answered_meanwhile_keeps_its_answer(make: Callable, held: Held, wire: Any) -> None:
    with make(max_workers=2) as ex:
        pid = ex.submit(os.getpid).result()
        holds = ex.options(timeout=1.5).submit(jobs.tell_and_hold, wire.path)
        wire.hear()
        last = stand_still(ex, held)
        wire.release()  # it answers, and nobody reads it
        time.sleep(2.0)  # longer than its timeout, and than it takes to carry that out
        assert not holds.done()
        held.go.set()
        assert holds.exception(PATIENCE) is None
        assert last.result(PATIENCE) == "1"
        assert os.path.exists(f"/proc/{pid}")
