"""What a type checker has to accept, and has to refuse; `mypy --strict` reads it, nobody runs it.

An ignored error that mypy does not find is an error itself (`warn_unused_ignores`): each line below that is wrong is a test.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import assert_type

import taskrun


def area(width: float, *, height: float) -> float:
    return width * height


async def fetch(url: str) -> bytes:
    return url.encode()


def submit(ex: taskrun.Executor) -> None:
    future = ex.submit(area, 1.0, height=2.0)
    assert_type(future, taskrun.Future[float])
    assert_type(future.result(), float)
    ex.options(timeout=3).submit(area, 1.0, height=2.0)
    ex.submit(area, "1", height=2.0)  # type: ignore[arg-type]
    ex.submit(area, 1.0)  # type: ignore[call-overload]
    ex.submit(area, 1.0, height=2.0, depth=3.0)  # type: ignore[call-arg, arg-type]
    ex.options(timeout=3).submit(area, "1", height=2.0)  # type: ignore[arg-type]


def coroutines_are_awaited(ex: taskrun.Executor) -> None:
    assert_type(ex.submit(fetch, "http://x").result(), bytes)
    assert_type(list(ex.map(fetch, ["http://x"])), list[bytes])
    assert_type(list(ex.map_unordered(fetch, ["http://x"])), list[bytes])
    assert_type(list(ex.starmap(fetch, [("http://x",)])), list[bytes])
    ex.map(fetch, [3])  # type: ignore[arg-type]
    ex.map(fetch, ["http://x"], ["more"])  # type: ignore[arg-type]
    ex.starmap(fetch, [(3,)])  # type: ignore[arg-type]


def waited_for(futures: list[taskrun.Future[float]], others: list[concurrent.futures.Future[int]]) -> None:
    for future in taskrun.as_completed(futures):
        assert_type(future, taskrun.Future[float])
        future.kill()
    done, _ = taskrun.wait(futures)
    assert_type(done.pop().attempts[0].worker, str | None)
    assert_type(taskrun.wait(others).not_done, set[concurrent.futures.Future[int]])
    assert_type(next(iter(taskrun.as_completed(others))), concurrent.futures.Future[int])


def is_standard(ex: taskrun.Executor) -> concurrent.futures.Executor:
    return ex


async def awaited(ex: taskrun.Executor) -> float:
    assert_type(await ex.submit(area, 1.0, height=2.0), float)
    return await asyncio.get_running_loop().run_in_executor(ex, lambda: area(1.0, height=2.0))


def double(item: int) -> str:
    return str(item * 2)


def repeat(text: str, times: int) -> str:
    return text * times


def mapped(ex: taskrun.Executor) -> None:
    assert_type(list(ex.map(double, [1, 2])), list[str])
    assert_type(list(ex.map(repeat, ["a", "b"], range(2), timeout=3)), list[str])
    assert_type(list(ex.map_unordered(double, [1, 2])), list[str])
    assert_type(list(ex.starmap(repeat, [("a", 1)])), list[str])
    ex.map(double, [1, 2]).close()
    ex.map(double, 3)  # type: ignore[call-overload]
    ex.map(double, ["1"])  # type: ignore[arg-type]
    ex.map(double, [1], [2])  # type: ignore[arg-type]
    ex.map(repeat, ["a"], ["b"])  # type: ignore[arg-type]
    ex.map(double, [1], chunksize="2")  # type: ignore[call-overload]
    ex.starmap(repeat, [(1, "a")])  # type: ignore[arg-type]


def pooled(pool: taskrun.Pool) -> None:
    assert_type(pool.apply(repeat, ("a", 2)), str)
    assert_type(pool.apply(fetch, ["http://x"], {}), bytes)
    result = pool.apply_async(double, (1,), callback=len, error_callback=print)
    assert_type(result.get(timeout=3), str)
    assert_type(result.successful(), bool)
    assert_type(pool.map(double, [1, 2], chunksize=2), list[str])
    assert_type(pool.map_async(fetch, ["http://x"], callback=print).get(), list[bytes])
    assert_type(pool.starmap(repeat, [("a", 1)]), list[str])
    assert_type(pool.starmap_async(repeat, [("a", 1)]).get(), list[str])
    assert_type(pool.imap(double, range(3)).next(timeout=1), str)
    assert_type(list(pool.imap_unordered(fetch, ["http://x"])), list[bytes])
    with taskrun.Pool(2, print, ("started",), 10, backend="thread") as entered:
        assert_type(entered, taskrun.Pool)
    pool.map(double, ["1"])  # type: ignore[arg-type]
    pool.map(double)  # type: ignore[call-overload]
    pool.imap(double, 3)  # type: ignore[call-overload]
    pool.map_async(double, [1], callback=abs)  # type: ignore[arg-type]
    pool.apply_async(double, (1,), 3)  # type: ignore[call-overload]
    taskrun.Pool("2")  # type: ignore[arg-type]


def modules() -> tuple[type[taskrun.backends.Backend], type[taskrun.errors.ConfigError]]:
    print(taskrun.Exekutor)  # type: ignore[attr-defined]
    return taskrun.backends.Backend, taskrun.errors.ConfigError
