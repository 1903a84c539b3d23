"""One loop for each worker; an exception from outside arrives where the coroutine awaits, once."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import selectors
import socket
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from patience import PATIENCE

from taskrun.coroutines import CoroutineRunner, new_loop

if TYPE_CHECKING:
    from collections.abc import Iterator


class StruckError(Exception):
    """What is raised from outside."""


@pytest.fixture
def runner() -> Iterator[CoroutineRunner]:
    made = CoroutineRunner()
    yield made
    made.close()


def unexpected() -> None:
    raise AssertionError("there was a coroutine to interrupt")


class Outside:
    """Another thread, which interrupts the runner once it is told that the coroutine waits."""

    def __init__(self, runner: CoroutineRunner) -> None:
        self.error = StruckError("from outside")
        self._runner = runner
        self._waits = threading.Event()
        self._thread = threading.Thread(target=self._strike)
        self._thread.start()

    def _strike(self) -> None:
        assert self._waits.wait(PATIENCE)
        assert self._runner.interrupt(self.error, unexpected)

    def go(self) -> None:
        self._waits.set()

    def join(self) -> None:
        self._waits.set()
        self._thread.join()


async def give_back(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


def test_it_is_the_same_loop_each_time(runner: CoroutineRunner) -> None:
    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert runner.run(loop()) is runner.run(loop())


def test_an_interruption_is_raised_at_the_await(runner: CoroutineRunner) -> None:
    outside = Outside(runner)

    async def waits() -> None:
        outside.go()
        await asyncio.sleep(PATIENCE)

    with pytest.raises(StruckError) as caught:
        runner.run(waits())
    outside.join()
    assert caught.value is outside.error
    assert runner.run(give_back(2)) == 2


def test_the_coroutine_may_go_on_awaiting(runner: CoroutineRunner) -> None:
    outside = Outside(runner)

    async def waits() -> Any:
        try:
            outside.go()
            await asyncio.gather(asyncio.sleep(PATIENCE), asyncio.sleep(PATIENCE))
        except StruckError:
            task = asyncio.current_task()
            assert task is not None
            return await give_back((task.cancelling(), "went on"))

    assert runner.run(waits()) == (0, "went on")
    outside.join()


def test_what_is_raised_before_it_begins_is_raised_in_it(runner: CoroutineRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    error, steps = StruckError(), []
    begin = runner._run

    def strike_first(coroutine: Any) -> Any:
        assert runner.interrupt(error, unexpected)
        return begin(coroutine)

    monkeypatch.setattr(runner, "_run", strike_first)

    async def never() -> None:
        steps.append(1)

    with pytest.raises(StruckError):
        runner.run(never())
    assert not steps


def test_with_nothing_to_interrupt_the_other_way_is_taken(runner: CoroutineRunner) -> None:
    taken = []
    assert not runner.interrupt(StruckError(), lambda: taken.append(1))
    assert taken == [1]
    assert runner.run(give_back(1)) == 1  # and nothing is left for the next one


def test_cancellation_by_others_stays_cancellation(runner: CoroutineRunner) -> None:
    async def cancels_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(PATIENCE)

    with pytest.raises(asyncio.CancelledError):
        runner.run(cancels_itself())
    assert runner.run(give_back(3)) == 3


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_tears_the_loop_does_not_reach_the_next_one(runner: CoroutineRunner, kind: type[BaseException]) -> None:
    async def tears() -> None:
        await asyncio.sleep(0)
        raise kind("x")

    with pytest.raises(kind):
        runner.run(tears())
    assert runner.run(give_back(4)) == 4


def test_within_a_running_loop_it_runs_beside_it_and_can_be_interrupted(runner: CoroutineRunner) -> None:
    outside = Outside(runner)

    async def waits() -> None:
        outside.go()
        await asyncio.sleep(PATIENCE)

    async def main() -> None:
        assert runner.run(give_back(5)) == 5
        with pytest.raises(StruckError):
            runner.run(waits())

    asyncio.run(main())
    outside.join()


def test_a_coroutine_that_never_began_is_closed(runner: CoroutineRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Any) -> None:
        raise StruckError

    monkeypatch.setattr(runner, "_run", fails)
    with pytest.raises(StruckError):
        runner.run(give_back(1))  # "was never awaited" would be a warning, which is an error here


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize("lacking", ["epoll", "the pipe by which it is woken"])
def test_a_loop_for_which_there_are_no_descriptors_is_not_left_open(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    complaints: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    before = descriptors()
    gc.disable()
    try:
        with monkeypatch.context() as shortage, warnings.catch_warnings(record=True) as warned:
            if lacking == "epoll":
                shortage.setattr(selectors, "DefaultSelector", refuse)
            else:
                shortage.setattr(socket, "socketpair", refuse)
            warnings.simplefilter("always")
            with pytest.raises(OSError, match="Too many open files"):
                new_loop()
            assert descriptors() == before  # for whoever waits for some, without the collector
            gc.collect()
    finally:
        gc.enable()
    assert warned == []
    assert complaints == []
    new_loop().close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def test_a_loop_of_the_users_that_is_not_made_says_why_and_no_other_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Early(asyncio.SelectorEventLoop):
        def __init__(self) -> None:
            refuse()

        def __del__(self) -> None:
            """Nothing was made."""

    class Other(asyncio.SelectorEventLoop):
        def make(self) -> asyncio.AbstractEventLoop:
            refuse()
            return self

    other = Other()
    for make in (Early, other.make):
        monkeypatch.setattr(asyncio, "new_event_loop", make)
        with pytest.raises(OSError, match="Too many open files"):
            new_loop()
    assert not other.is_closed()
    other.close()
