"""Line 3: what is not an `Exception`, and what only looks like one of ours. It comes back as itself and kills nothing."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from typing import TYPE_CHECKING, Any

import acts
from patience import PATIENCE
from table import CONCURRENT, EVERY, fault

import taskrun

if TYPE_CHECKING:
    from case import Case


class Own(BaseException):
    """A BaseException of the user's."""


def errors() -> list[BaseException]:
    noted = BaseExceptionGroup("several", [KeyboardInterrupt("one"), ValueError("two")])
    noted.add_note("a note")
    return [
        SystemExit(3),
        SystemExit("text"),
        KeyboardInterrupt("stop"),
        GeneratorExit("over"),
        StopIteration(4),
        StopAsyncIteration(5),
        RecursionError("deep"),
        MemoryError("full"),
        Own("mine"),
        asyncio.CancelledError("not ours"),
        concurrent.futures.CancelledError("not ours either"),
        noted,
        # The task's own, whatever they look like: nobody was killed and no worker died.
        taskrun.TaskKilledError("from inside", task="x", attempt=9),
        taskrun.TaskTimeoutError("from inside"),
        taskrun.WorkerCrashedError("from inside"),
        TimeoutError("from inside"),
        BrokenPipeError(32, "from inside"),
        EOFError("from inside"),
    ]


def where(*_: object) -> tuple[int, int]:
    import os

    return os.getpid(), threading.get_ident()


def recurse_for_ever(depth: int = 0) -> int:
    return recurse_for_ever(depth + 1) + 1


def use_up_memory() -> int:
    return len(bytearray(1 << 60))


async def raise_later(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


@fault("process", "pool", "fork", *CONCURRENT[7:], "serial", soak=EVERY)
def tasks_raise_what_is_no_exception(case: Case) -> None:
    """Each comes back as what it was, and the worker lives on."""
    with case.executor(workers=1) as run:
        before = run.ex.submit(where).result(PATIENCE)
        for error in errors():
            if case.backend == "serial" and isinstance(error, KeyboardInterrupt):
                continue  # there it is raised from submit, as documented
            same(run.submit(acts.raise_this, error).exception(PATIENCE), error)
            run.innocents(1)
        for fn, kind in ((recurse_for_ever, RecursionError), (use_up_memory, MemoryError)):
            assert type(run.submit(fn).exception(PATIENCE)) is kind
            run.innocents(1)
        if case.keeps_workers:
            assert run.ex.submit(where).result(PATIENCE) == before


def same(raised: BaseException | None, error: BaseException) -> None:
    """See that it has the type, arguments and notes; a group, those of its parts."""
    assert type(raised) is type(error), (raised, error)
    if isinstance(error, BaseExceptionGroup):
        assert isinstance(raised, BaseExceptionGroup)
        assert [type(each) for each in raised.exceptions] == [type(each) for each in error.exceptions]
    else:
        assert raised.args == error.args
    assert getattr(raised, "__notes__", [])[: len(getattr(error, "__notes__", []))] == getattr(error, "__notes__", [])


class Mute(Exception):
    """Whatever it is asked, it ends the process."""

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(name)


def mute_at_three(number: int) -> int:
    if number == 3:
        raise Mute(number)
    return number


async def mute_later() -> None:
    await asyncio.sleep(0)
    raise Mute


@fault("process", "pool", "fork", "thread", "dummy", "asyncio", "serial", soak=EVERY)
def tasks_raise_what_answers_nothing(case: Case) -> None:
    """Not even what class it is, or where it was raised: its own task fails, and runs again if its policy says so."""
    again = taskrun.Retry(max_attempts=2, initial=0.001)
    named = taskrun.Retry(max_attempts=2, initial=0.001, on=lambda error: error.args)  # asks it
    with case.executor(workers=1) as run:
        before = run.ex.submit(where).result(PATIENCE)
        for retry, attempts in ((None, 1), (again, 2), (named, 1)):
            future = run.submit(mute_at_three, 3, retry=retry)
            error = future.exception(PATIENCE)
            assert type(error) is Mute, type(error)
            assert len(future.attempts) == attempts
            assert type(run.submit(mute_later).exception(PATIENCE)) in (Mute, SystemExit)  # asyncio asks it
            run.innocents(1)
        items = run.ex.map(mute_at_three, range(6))
        assert [next(items) for _ in range(3)] == [0, 1, 2]
        try:
            next(items)
        except BaseException as error:
            assert type(error) is Mute  # noqa: PT017 - what pytest.raises would ask it, it does not answer
        else:
            raise AssertionError("the map goes on")
        run.innocents(1)
        if case.keeps_workers:
            assert run.ex.submit(where).result(PATIENCE) == before


@fault("process", "pool", "fork", "thread", "dummy", "asyncio", soak=EVERY)
def coroutines_raise_what_is_no_exception(case: Case) -> None:
    """An event loop lets some of these through to whoever runs it: the worker must not mind."""
    kinds: tuple[Any, ...] = (SystemExit, KeyboardInterrupt, GeneratorExit, Own, asyncio.CancelledError, MemoryError)
    with case.executor(workers=1) as run:
        for kind in kinds:
            if case.backend == "serial" and kind is KeyboardInterrupt:
                continue
            error = run.submit(raise_later, kind("from a coroutine")).exception(PATIENCE)
            assert type(error) is kind, error
            assert error.args == ("from a coroutine",)
            run.innocents(2)


@fault("process", "pool", "fork", "thread", "dummy", "asyncio", soak=EVERY)
def callbacks_raise_what_is_no_exception(case: Case) -> None:
    """An error there is logged, whatever it is, and the next callback runs."""
    import logging

    logging.getLogger("concurrent.futures").setLevel(logging.CRITICAL + 1)
    seen: list[str] = []
    with case.executor() as run:
        for kind in (ValueError, RecursionError, MemoryError, StopIteration):
            future = run.submit(acts.give_back, 1)
            future.add_done_callback(lambda _, kind=kind: acts.raise_this(kind("in a callback")))
            future.add_done_callback(lambda _, kind=kind: seen.append(kind.__name__))
            run.innocents(1)
        assert acts.until(lambda: len(seen) == 4), seen
