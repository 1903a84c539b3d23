"""A future in an event loop: awaited, or wrapped by asyncio as `run_in_executor` does, with the standard class as witness."""

from __future__ import annotations

import asyncio
import threading
import weakref
from concurrent import futures as standard
from typing import TYPE_CHECKING, Any

import pytest
from standard_kinds import PATIENCE, no_collector, until

import taskrun

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine


Waited = tuple[type[standard.Future[Any]], "Callable[[standard.Future[Any]], Awaitable[Any]]"]


async def awaited(future: Any) -> Any:
    return await future


@pytest.fixture(
    params=[(standard.Future, asyncio.wrap_future), (taskrun.Future, asyncio.wrap_future), (taskrun.Future, awaited)],
    ids=["standard wrapped", "wrapped", "awaited"],
)
def waited(request: pytest.FixtureRequest) -> Waited:
    return request.param


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """Run *main* in an event loop of its own, debugged: whatever goes wrong in a callback of the loop fails the test."""
    wrong: list[Any] = []

    async def watched() -> Any:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: wrong.append(context))
        return await asyncio.wait_for(main, PATIENCE)

    value = asyncio.run(watched(), debug=True)
    assert wrong == []
    return value


async def started(awaitable: Awaitable[Any]) -> asyncio.Task[Any]:
    """Return a task that waits for *awaitable*."""

    async def main() -> Any:
        return await awaitable

    task = asyncio.create_task(main())
    await asyncio.sleep(0)  # it runs up to where it waits
    await asyncio.sleep(0)
    assert not task.done()
    return task


def in_a_thread(call: Callable[[], object]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join(PATIENCE)


class TestWaiting:
    @pytest.mark.parametrize("when", ["before", "in the loop", "in a thread"])
    @pytest.mark.parametrize("kind", ["result", "exception", "base exception", "cancel"])
    def test_the_outcome_arrives(self, waited: Waited, kind: str, when: str) -> None:
        make, wrap = waited
        error = LookupError("lost") if kind == "exception" else SystemExitLike("lost")
        future = make()

        def end() -> None:
            if kind == "result":
                future.set_result(5)
            elif kind == "cancel":
                future.cancel()
            else:
                future.set_exception(error)

        async def main() -> Any:
            if when == "before":
                end()
                waiting = asyncio.ensure_future(wrap(future))
            else:
                waiting = await started(wrap(future))
                end() if when == "in the loop" else in_a_thread(end)
            try:
                return await waiting
            except BaseException as caught:
                return caught

        found = run(main())
        if kind == "cancel":
            assert type(found) is asyncio.CancelledError
        else:
            assert found == 5 if kind == "result" else found is error

    def test_cancelling_who_waits_cancels_the_future(self, waited: Waited) -> None:
        make, wrap = waited
        future = make()

        async def main() -> None:
            waiting = await started(wrap(future))
            waiting.cancel("enough")
            with pytest.raises(asyncio.CancelledError, match="enough"):
                await waiting

        run(main())
        assert future.cancelled()

    def test_a_time_limit_of_asyncio_cancels_the_future(self, waited: Waited) -> None:
        make, wrap = waited
        future = make()

        async def main() -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(wrap(future), 0.001)

        run(main())
        assert future.cancelled()

    def test_cancelling_who_waits_for_a_running_future_leaves_it_running(self, waited: Waited) -> None:
        make, wrap = waited
        future = make()
        future.set_running_or_notify_cancel()

        async def main() -> None:
            waiting = await started(wrap(future))
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            future.set_result(5)
            await asyncio.sleep(0)

        run(main())
        assert future.result() == 5

    def test_a_shield_keeps_cancellation_off(self, waited: Waited) -> None:
        make, wrap = waited
        future = make()

        async def main() -> None:
            inner = asyncio.ensure_future(wrap(future))
            waiting = await started(asyncio.shield(inner))
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            future.set_result(5)
            assert await inner == 5

        run(main())

    def test_many_may_wait_for_one(self, waited: Waited) -> None:
        make, wrap = waited
        future = make()

        async def main() -> None:
            waiting = [await started(wrap(future)) for _ in range(3)]
            future.set_result(5)
            assert await asyncio.gather(*waiting, wrap(future)) == [5] * 4

        run(main())

    def test_when_the_loop_is_closed_the_end_of_a_future_is_no_error(
        self, waited: Waited, caplog: pytest.LogCaptureFixture
    ) -> None:
        make, wrap = waited
        future, running = make(), make()
        running.set_running_or_notify_cancel()

        async def main() -> None:
            for each in (future, running):
                (await started(wrap(each))).cancel()

        run(main())
        running.set_result(5)
        assert future.cancelled()
        assert caplog.messages == []

    def test_a_loop_closed_under_who_waits_is_no_error_either(self, waited: Waited, caplog: pytest.LogCaptureFixture) -> None:
        make, wrap = waited
        future = make()
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)  # it tells of the task that is left in the middle

        async def main() -> asyncio.Task[Any]:
            return await started(wrap(future))

        task = loop.run_until_complete(main())
        loop.close()
        future.set_result(5)
        assert caplog.messages == []
        assert not task.done()


class SystemExitLike(BaseException):
    """Not an Exception, and nothing that an event loop treats in its own way."""


class TestOnlyAwait:
    """What ours do better than a future that asyncio wraps."""

    def test_one_that_is_done_costs_no_turn_of_the_loop(self) -> None:
        future: taskrun.Future[int] = taskrun.Future()
        future.set_result(5)
        with pytest.raises(StopIteration) as stop:
            awaited(future).send(None)
        assert stop.value.value == 5

    def test_outside_of_a_loop_it_says_so(self) -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            awaited(taskrun.Future()).send(None)

    @pytest.mark.parametrize("when", ["before", "later"])
    def test_a_task_that_raised_stop_iteration_is_an_error_and_no_hang(self, when: str) -> None:
        # asyncio.wrap_future of Python 3.11 and 3.12.0 never comes back here.
        future: taskrun.Future[int] = taskrun.Future()

        async def main() -> None:
            if when == "later":
                waiting = await started(future)
            future.set_exception(StopIteration(5))
            with pytest.raises(RuntimeError, match="the task raised StopIteration") as caught:
                await (waiting if when == "later" else future)
            assert caught.value.__cause__ is future.exception()

        run(main())

    def test_a_task_whose_error_is_a_cancelled_error_does_not_cancel_who_awaits_it(self) -> None:
        future: taskrun.Future[int] = taskrun.Future()
        error = standard.CancelledError("of another future")

        async def main() -> None:
            waiting = await started(future)
            future.set_exception(error)
            with pytest.raises(standard.CancelledError) as caught:
                await waiting
            assert caught.value is error
            assert not waiting.cancelled()

        run(main())

    def test_a_cancelled_await_leaves_no_callback(self) -> None:
        future: taskrun.Future[int] = taskrun.Future()
        future.set_running_or_notify_cancel()
        future.add_done_callback(print)

        async def main() -> None:
            other = await started(future)
            waiting = await started(future)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert len(future._done_callbacks) == 2
            other.cancel()

        run(main())
        assert future._done_callbacks == [print]

    def test_a_dropped_coroutine_leaves_no_callback(self) -> None:
        future: taskrun.Future[int] = taskrun.Future()

        async def main() -> None:
            coroutine = awaited(future)
            coroutine.send(None)
            assert len(future._done_callbacks) == 1
            coroutine.close()

        with taskrun.Executor("thread"):  # the janitor is there once an executor was made
            run(main())
            until(lambda: not future._done_callbacks)

    @pytest.mark.parametrize("when", ["before", "later"])
    def test_awaiting_an_exception_makes_no_cycle(self, when: str) -> None:
        async def main() -> Any:
            future: taskrun.Future[int] = taskrun.Future()
            gone = weakref.ref(future)
            if when == "later":
                asyncio.get_running_loop().call_soon(future.set_exception, LookupError())
            else:
                future.set_exception(LookupError())
            try:
                await future
            except LookupError:
                pass
            del future
            return gone

        with no_collector():
            assert asyncio.run(main(), debug=False)() is None  # debugging keeps tracebacks

    def test_a_worker_that_awaits_a_task_of_its_own_executor_is_made_up_for(self) -> None:
        with taskrun.Executor("thread", max_workers=1) as ex:

            async def nested() -> int:
                return await ex.submit(abs, -1) + sum(await asyncio.gather(ex.submit(abs, -2), ex.submit(abs, -3)))

            assert ex.submit(nested).result(PATIENCE) == 6
            assert ex.submit(threading.active_count).result(PATIENCE)
            assert ex._backend._target == 1  # type: ignore[attr-defined]

    def test_a_callback_that_would_await_for_ever_is_told(self) -> None:
        found: list[str] = []
        start, end = threading.Event(), threading.Event()
        with taskrun.Executor("thread", max_workers=1) as ex:
            first, rest = ex.submit(start.wait, PATIENCE), ex.submit(end.wait, PATIENCE)

            def callback(_: object) -> None:
                try:
                    asyncio.run(awaited(rest))
                except RuntimeError as error:
                    found.append(str(error))
                finally:
                    end.set()

            first.add_done_callback(callback)
            start.set()
        assert ["done callback" in message for message in found] == [True]
