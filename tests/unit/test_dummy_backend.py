"""What is `dummy`'s alone: pools of multiprocessing that have to be ended, whatever becomes of their threads."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from patience import eventually

import taskrun

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 40


def test_the_pool_of_a_slot_that_is_given_up_is_ended_before_the_feeder_ends() -> None:
    """Its task ends between the slot's being taken away and the feeder's being told of that: there seems to be nothing left."""
    gate, started = threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        gate.wait(PATIENCE)

    ex = taskrun.Executor("dummy", max_workers=1)
    backend: Any = ex._backend
    future = ex.submit(wait)
    assert started.wait(PATIENCE)
    pool, killer, put = backend._slots[0].pool, threading.current_thread(), backend._news.put

    class News:
        get = backend._news.get

        def put(self, news: Callable[[], object] | None) -> None:
            if threading.current_thread() is killer:
                gate.set()
                assert eventually(lambda: backend._closing)
                looked = threading.Event()
                put(looked.set)
                assert eventually(lambda: looked.is_set() or not backend._feeder.is_alive())
            put(news)

    ex.shutdown(wait=False)
    backend._news = News()
    future.kill()
    assert backend.join(PATIENCE)
    assert pool._state == "TERMINATE"


@pytest.mark.parametrize("struck", ["_add_slot", "_note_coming", "_released"])
@pytest.mark.parametrize("after", [False, True])
def test_a_ctrl_c_while_a_slot_is_called_costs_no_slot(struck: str, after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with taskrun.Executor("dummy", max_workers=1) as ex:
        backend: Any = ex._backend
        if struck != "_add_slot":
            assert ex.submit(abs, -1).result(PATIENCE) == 1
            assert eventually(lambda: len(backend._parked) == 1)
        whole, main = getattr(backend, struck), threading.current_thread()

        def interrupted(*args: Any) -> Any:
            if threading.current_thread() is not main:
                return whole(*args)
            monkeypatch.undo()
            if after:
                whole(*args)
            raise KeyboardInterrupt

        monkeypatch.setattr(backend, struck, interrupted)
        with pytest.raises(KeyboardInterrupt):
            ex.submit(abs, -2)
        assert [future.result(PATIENCE) for future in [ex.submit(abs, -number) for number in range(20)]] == list(range(20))
        assert eventually(lambda: len(backend._parked) == 1 and backend._coming == 0)
    assert ex.stats()["succeeded"] == 20 + (struck != "_add_slot")  # what was submitted when it came is taken back


def test_a_slot_that_is_called_twice_runs_nothing_twice() -> None:
    with taskrun.Executor("dummy", max_workers=2) as ex:
        backend: Any = ex._backend
        for number in range(200):
            future = ex.submit(abs, -number)
            backend._call_again()
            assert future.result(PATIENCE) == number
        assert eventually(lambda: len(backend._parked) == len(backend._slots) and backend._coming == 0)
        assert ex.stats()["succeeded"] == 200
