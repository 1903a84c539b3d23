"""asyncio, anyio's threads and tornado wait for tasks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tornado.concurrent import run_on_executor
from tornado.ioloop import IOLoop
from work import fail, increment

if TYPE_CHECKING:
    import taskrun


def test_asyncio_runs_blocking_calls_in_it(ex: taskrun.Executor) -> None:
    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(ex, increment, number) for number in range(4)]
        calls.append(loop.run_in_executor(ex, fail, "no"))
        return await asyncio.gather(*calls, return_exceptions=True)

    *numbers, error = asyncio.run(main(), debug=True)
    assert numbers == [1, 2, 3, 4]
    assert repr(error) == "LookupError('no')"


class Service:
    """As in tornado's documentation; where arguments are pickled, so is the service, which must not hold the executor then."""

    def __init__(self, step: int) -> None:
        self.step = step

    @run_on_executor(executor="pool")
    def add(self, number: int) -> int:
        return number + self.step


def test_tornado_runs_blocking_calls_and_decorated_methods_on_it(ex: taskrun.Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Service, "pool", ex, raising=False)

    async def main() -> list[Any]:
        loop = IOLoop.current()
        with pytest.raises(LookupError, match=r"^no$"):
            await loop.run_in_executor(ex, fail, "no")
        return [await loop.run_in_executor(ex, increment, 1), await Service(3).add(4)]

    assert asyncio.run(main()) == [2, 7]
