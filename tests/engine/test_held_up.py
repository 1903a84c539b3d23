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
        self.fails = False

    def __reduce__(self) -> tuple[Any, ...]:
        self.reached.set()
        self.go.wait(PATIENCE)
        if self.fails:
            raise ValueError("not to be pickled")
        return int, (1,)


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held()
    yield made
    made.go.set()


def stand_still(ex: Any, held: Held) -> taskrun.Future[str]:
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


def test_what_was_behind_it_on_its_worker_runs_all_the_same(
    make: Callable, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else it would run elsewhere a few milliseconds after its worker is overdue.
    monkeypatch.setattr("taskrun.engine.reclaim.Reclaimer.look", lambda *_: None)
    first = Held()
    with make(max_workers=2) as ex:
        quick = ex.options(chunksize=2)
        assert list(quick.map(jobs.double, range(50))) == [2 * n for n in range(50)]
        begin = stand_still(quick, first)
        slow = quick.options(timeout=1.0).submit(time.sleep, 60)
        behind = [quick.submit(jobs.double, n) for n in range(3)]  # the first of them in one batch with the slow one
        first.go.set()
        assert begin.result(PATIENCE) == "1"
        assert eventually(slow.running)
        assert not behind[0].done()
        held.fails = True  # so that the thread has something else to report before it hears of what was taken back
        last = stand_still(ex, held)
        assert isinstance(slow.exception(PATIENCE), taskrun.TaskTimeoutError)
        held.go.set()
        assert isinstance(last.exception(PATIENCE), taskrun.SerializationError)
        assert [future.result(PATIENCE) for future in behind] == [0, 2, 4]
