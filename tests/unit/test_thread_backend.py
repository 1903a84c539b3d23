"""The thread backend from inside: who is woken, who takes whose place, who leaves."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from patience import PATIENCE, eventually

import taskrun
from taskrun.backends.thread import ThreadBackend

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def go() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_threads_start_when_there_is_work_and_no_more_than_that() -> None:
    with taskrun.Executor("thread", max_workers=8) as ex:
        assert ex.stats()["workers"] == []
        for _ in range(30):
            ex.submit(int).result(PATIENCE)
            assert eventually(lambda: len(ex._backend._parked) == 1)  # type: ignore[attr-defined]
        assert len(ex.stats()["workers"]) == 1
        barrier = threading.Barrier(8)
        futures = [ex.submit(barrier.wait, PATIENCE) for _ in range(8)]
        assert sorted(future.result(PATIENCE) for future in futures) == list(range(8))
        assert len(ex.stats()["workers"]) == 8


def test_an_abandoned_thread_takes_nothing_more_and_its_place_is_taken(go: threading.Event) -> None:
    with taskrun.Executor("thread", max_workers=1, timeout=0.05) as ex:
        first = ex.submit(go.wait, PATIENCE)
        assert isinstance(first.exception(PATIENCE), taskrun.TaskTimeoutError)
        untimed = ex.options(timeout=None)
        names = {untimed.submit(lambda: threading.current_thread().name).result(PATIENCE) for _ in range(10)}
        assert names == {f"{next(iter(names)).rpartition('_')[0]}_1"}
        go.set()
        assert eventually(lambda: not any(t.name.endswith("_0") and t.name[:-2] in str(names) for t in threading.enumerate()))
        assert untimed.submit(abs, -1).result(PATIENCE) == 1


def test_an_abandoned_thread_does_not_hold_up_shutdown(go: threading.Event) -> None:
    ex = taskrun.Executor("thread", max_workers=1, timeout=0.05)
    stuck = ex.submit(go.wait, PATIENCE)
    ex.shutdown()
    assert isinstance(stuck.exception(), taskrun.TaskTimeoutError)
    assert not go.is_set()


def test_without_a_single_thread_to_be_had_every_future_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    ex = taskrun.Executor("thread", max_workers=2)

    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("taskrun.backends.thread.ThreadWorker.start", refuse)
    future = ex.submit(abs, -1)
    error = future.exception(PATIENCE)
    assert isinstance(error, taskrun.InitializerError)
    assert "no worker thread can be started: can't start new thread" in str(error)
    with pytest.raises(taskrun.InitializerError):
        ex.submit(abs, -1)
    monkeypatch.undo()
    ex.shutdown()


def test_with_too_few_threads_to_be_had_those_that_are_there_do_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with taskrun.Executor("thread", max_workers=4) as ex:
        assert ex.submit(abs, -1).result(PATIENCE) == 1
        monkeypatch.setattr(threading.Thread, "start", _refuse_workers(threading.Thread.start))
        futures = [ex.submit(abs, -n) for n in range(50)]
        assert [future.result(PATIENCE) for future in futures] == list(range(50))
        assert len(ex.stats()["workers"]) == 1


def _refuse_workers(start: object) -> object:
    def refusing(thread: threading.Thread) -> None:
        if type(thread).__module__ == "taskrun.backends.thread":
            raise RuntimeError("can't start new thread")
        start(thread)  # type: ignore[operator]

    return refusing


def test_how_many_threads_there_are_by_default() -> None:
    assert [ThreadBackend.default_max_workers(cpus) for cpus in (1, 2, 64)] == [5, 6, 32]


def test_threads_are_named_as_asked() -> None:
    with taskrun.Executor("thread", max_workers=1, thread_name_prefix="pool") as ex:
        assert ex.submit(lambda: threading.current_thread().name).result(PATIENCE) == "pool_0"
    with taskrun.Executor("thread", max_workers=1, name="mine") as ex:
        assert ex.submit(lambda: threading.current_thread().name).result(PATIENCE) == "mine_0"


def test_the_stack_of_a_thread_can_be_had_while_there_is_garbage() -> None:
    """In Python 3.11 a thread-local object that the collector finds while it looks for frames locks the interpreter up."""
    code = """
import gc, threading
from taskrun.backends.thread_like import frame_of
class Owner: pass
gc.set_threshold(1)
for _ in range(500):
    owner = Owner()
    owner.own, owner.itself = threading.local(), owner
    owner.own.x = 1
    del owner
    assert frame_of(threading.current_thread()) is not None
print(gc.isenabled())
gc.disable()
frame_of(threading.current_thread())
print(gc.isenabled())
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=40, check=False)
    assert (ended.stdout, ended.stderr) == ("True\nFalse\n", "")
