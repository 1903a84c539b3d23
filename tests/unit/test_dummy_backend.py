"""What is `dummy`'s alone: pools of multiprocessing that have to be ended, whatever becomes of their threads."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

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
