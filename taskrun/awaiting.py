"""`await future`: a future of any thread, waited for in a coroutine. A module of its own, loaded with asyncio at first use."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

from taskrun.threads import call_soon

if TYPE_CHECKING:
    from collections.abc import Generator
    from concurrent import futures as standard

    from taskrun.future import Future

__all__ = ["awaited"]

T = TypeVar("T")


def awaited(future: Future[T]) -> Generator[Any, None, T]:
    """Return what `Future.__await__` has to: waits, then returns or raises as `Future.result` does."""
    # Not `asyncio.wrap_future`: Python 3.11 waits for ever there when the task raised StopIteration, and its callback stays on
    # a future that nobody awaits any more.
    try:
        if not future.done():
            yield from _wait_in_loop(future, asyncio.get_running_loop())
        if future.cancelled():
            raise asyncio.CancelledError
        return future.result()
    except asyncio.CancelledError:
        future.cancel()
        raise
    except StopIteration as error:  # it would end the coroutine as if it had returned
        raise RuntimeError("the task raised StopIteration") from error
    finally:
        del future  # the cycle exception -> traceback -> this frame -> future -> exception, as in `Future.result`


def _wait_in_loop(future: Future[Any], loop: asyncio.AbstractEventLoop) -> Generator[Any, None, None]:
    """Return once the future is done; leaves no callback behind, however it ends."""
    done = loop.create_future()

    def wake(_: standard.Future[Any]) -> None:  # in any thread
        try:
            loop.call_soon_threadsafe(_set, done)
        except RuntimeError:
            if not loop.is_closed():  # if it is, nobody waits any more
                raise

    with ExitStack() as stack:
        stack.enter_context(future._await_context())
        stack.callback(future._remove_done_callback, wake)
        future.add_done_callback(wake)
        try:
            yield from done
        except GeneratorExit:
            # The coroutine was dropped, perhaps by the garbage collector in a thread that holds any lock.
            call_soon(stack.pop_all().close)
            raise


def _set(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
