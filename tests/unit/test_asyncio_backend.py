"""The asyncio backend, where the conformance suite meets it too seldom."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from patience import PATIENCE

import taskrun

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("how", ["in the loop", "in a thread"])
def test_a_coroutine_that_ends_before_its_killer_has_spoken_was_killed_all_the_same(how: str) -> None:
    started, ended = threading.Event(), threading.Event()

    async def wait() -> None:
        started.set()
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            asyncio.get_running_loop().call_later(0.05, ended.set)  # once its cancellation was an outcome, if it ever is

    def in_a_thread() -> Any:
        return wait()

    with taskrun.Executor("asyncio", max_workers=2) as ex:
        fail: Callable[..., None] = ex._scheduler.fail

        def fail_late(*args: Any) -> None:
            assert ended.wait(PATIENCE)
            fail(*args)

        ex._scheduler.fail = fail_late  # type: ignore[method-assign]
        future = ex.submit(wait if how == "in the loop" else in_a_thread)
        assert started.wait(PATIENCE)
        assert future.kill()
        assert isinstance(future.exception(PATIENCE), taskrun.TaskKilledError)


def test_one_that_is_stopped_before_it_had_anything_to_do_starts_no_thread() -> None:
    before = set(threading.enumerate())
    for _ in range(20):
        ex = taskrun.Executor("asyncio", max_workers=2)
        ex.shutdown(wait=False)
        ex._backend.join()
        ex.terminate_workers()
        assert ex.stats()["workers"] == []
    assert {type(thread).__name__ for thread in set(threading.enumerate()) - before} <= {"OwnThread"}
