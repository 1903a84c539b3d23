"""The asyncio backend, where the conformance suite meets it too seldom."""

from __future__ import annotations

import asyncio
import errno
import os
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


def test_the_loop_is_made_when_there_are_descriptors_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    make, failed = asyncio.new_event_loop, iter(range(2))

    def lacking() -> asyncio.AbstractEventLoop:
        if next(failed, None) is not None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return make()

    monkeypatch.setattr(asyncio, "new_event_loop", lacking)
    with taskrun.Executor("asyncio", max_workers=1) as ex:
        assert ex.submit(abs, -1).result(PATIENCE) == 1
    assert next(failed, None) is None


def test_without_a_loop_every_future_says_so_and_the_executor_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> asyncio.AbstractEventLoop:
        raise OSError(errno.ENOENT, "no such thing")

    monkeypatch.setattr(asyncio, "new_event_loop", refuse)
    ex = taskrun.Executor("asyncio", max_workers=1)
    future = ex.submit(abs, -1)
    error = future.exception(PATIENCE)
    assert isinstance(error, taskrun.InitializerError)
    assert "event loops could not be started" in str(error)
    ending = threading.Thread(target=ex.shutdown, daemon=True)
    ending.start()
    ending.join(PATIENCE)
    assert not ending.is_alive()
    assert not ex.stats()["workers"]
