"""A task that waits for another one of its own executor, in every way there is."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from typing import TYPE_CHECKING, Any

import pytest
from patience import PATIENCE, eventually

import taskrun

if TYPE_CHECKING:
    from collections.abc import Callable


def with_result(future: taskrun.Future[int]) -> int:
    return future.result(PATIENCE)


def with_our_wait(future: taskrun.Future[int]) -> int:
    return taskrun.wait([future], timeout=PATIENCE).done.pop().result()


def with_the_standard_wait(future: taskrun.Future[int]) -> int:
    return concurrent.futures.wait([future], timeout=PATIENCE).done.pop().result()


def with_our_as_completed(future: taskrun.Future[int]) -> int:
    return next(iter(taskrun.as_completed([future], timeout=PATIENCE))).result()


def with_the_standard_as_completed(future: taskrun.Future[int]) -> int:
    return next(iter(concurrent.futures.as_completed([future], timeout=PATIENCE))).result()


def with_await(future: taskrun.Future[int]) -> int:
    async def main() -> int:
        return await asyncio.wait_for(_awaiting(future), PATIENCE)

    return asyncio.run(main())


async def _awaiting(future: taskrun.Future[int]) -> int:
    return await future


def with_wrap_future(future: taskrun.Future[int]) -> int:
    async def main() -> int:
        return await asyncio.wait_for(asyncio.wrap_future(future), PATIENCE)

    return asyncio.run(main())


def in_a_thread_of_its_own(way: Callable[[Any], int]) -> Callable[[Any], int]:
    """Return *way* as `asyncio.to_thread` has it: in a thread that is no worker, in whose context the task is known."""

    def waiting(future: taskrun.Future[int]) -> int:
        async def main() -> int:
            return await asyncio.to_thread(way, future)

        return asyncio.run(main())

    return waiting


WAYS = [
    *map(in_a_thread_of_its_own, (with_result, with_our_wait, with_the_standard_wait, with_our_as_completed)),
    with_result,
    with_our_wait,
    with_the_standard_wait,
    with_our_as_completed,
    with_the_standard_as_completed,
    with_await,
    with_wrap_future,
]


@pytest.mark.parametrize("backend", ["serial", "thread", "dummy", "asyncio"])
@pytest.mark.parametrize("way", WAYS)
def test_the_only_worker_may_wait(backend: str, way: Callable[[Any], int]) -> None:
    with taskrun.Executor(backend, max_workers=1) as ex:
        assert ex.submit(lambda: way(ex.submit(pow, 2, 3))).result(PATIENCE) == 8
        # Nested, and afterwards there are no more workers than there may be.
        assert ex.submit(lambda: ex.submit(lambda: way(ex.submit(pow, 2, 3))).result(PATIENCE)).result(PATIENCE) == 8
        if backend != "serial":
            assert eventually(lambda: ex._backend._target == 1)  # type: ignore[attr-defined] # the janitor sees to it, soon
        assert len({ex.submit(threading.get_ident).result(PATIENCE) for _ in range(20)}) == 1


def test_many_futures_in_one_wait_are_made_up_for_once() -> None:
    with taskrun.Executor("thread", max_workers=1) as ex:

        def wait_for_all() -> tuple[int, int]:
            futures = [ex.submit(pow, 2, n) for n in range(200)]
            done = concurrent.futures.wait(futures, timeout=PATIENCE).done
            return len(done), len(ex.stats()["workers"])

        done, workers = ex.submit(wait_for_all).result(PATIENCE)
        assert done == 200
        assert workers <= 2  # the second may have left by then


def test_on_an_adapted_pool_the_last_worker_is_told_that_it_would_wait_for_ever() -> None:
    with concurrent.futures.ThreadPoolExecutor(2) as pool, taskrun.Executor(pool) as ex:
        assert ex.submit(lambda: ex.submit(pow, 2, 3).result(PATIENCE)).result(PATIENCE) == 8  # the other one does it
        both = threading.Barrier(2)

        def both_wait() -> int:
            both.wait(PATIENCE)
            return ex.submit(pow, 2, 3).result(PATIENCE)

        futures = [ex.submit(both_wait) for _ in range(2)]
        errors = [future.exception(PATIENCE) for future in futures]
        assert sorted(type(error).__name__ for error in errors) in (
            ["NoneType", "RuntimeError"],
            ["RuntimeError", "RuntimeError"],
        )
        assert "all 2 workers of the adapted ThreadPoolExecutor" in str(next(error for error in errors if error))
