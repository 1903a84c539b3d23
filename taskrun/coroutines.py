"""Awaiting coroutines in a worker: one event loop for each worker, so that what belongs to a loop outlives a task.

A soft timeout must not strike in asyncio's own code: an exception there is swallowed with the callback it hit, or leaves a loop
in pieces. So while a coroutine runs, the exception is handed to it at an `await` of its own (`Interrupts.interrupt`).
"""

from __future__ import annotations

import threading
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Generator
    from types import FrameType, TracebackType

__all__ = ["CoroutineRunner", "Interruptible", "Interrupts", "in_a_step", "new_loop"]


def new_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop as `asyncio.new_event_loop` does; raises OSError where there are no descriptors for it."""
    import asyncio

    try:
        return asyncio.new_event_loop()
    except OSError as error:
        _close_half_made(error.__traceback__)
        raise


def _close_half_made(traceback: TracebackType | None) -> None:
    """Close the loop that has failed to be made: only its own frames know it, it warns of itself, and keeps descriptors."""
    import asyncio

    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code.co_name == "__init__":  # no other loop that somebody asked for something
            made = frame.f_locals.get("self")
            if isinstance(made, asyncio.BaseEventLoop):
                with suppress(Exception):  # what it has to close may not be there
                    asyncio.BaseEventLoop.close(made)
                with suppress(Exception):
                    made._selector.close()  # type: ignore[attr-defined]
        traceback = traceback.tb_next


class Interrupts:
    """What knows the coroutine that runs, and hands exceptions over to it."""

    def __init__(self, running: Interruptible | None = None) -> None:
        self._running = running
        # Guards `_running`; re-entrant, since a signal handler may call `interrupt` in the middle of anything.
        self._lock = threading.RLock()

    def interrupt(self, error: BaseException, otherwise: Callable[[], object]) -> bool:
        """Raise *error* once in the coroutine that runs, at its next await; if none runs, call *otherwise* and return False.

        In any thread, or in a signal handler.
        """
        with self._lock:
            if self._running is None:
                otherwise()
                return False
            self._running.interrupt(error)
            return True


class CoroutineRunner(Interrupts):
    """Runs coroutines to their end, one after the other. Owned by one worker; `close` may be called by another thread."""

    def __init__(self) -> None:
        super().__init__()
        self._runner: asyncio.Runner | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Return what *coroutine* returns, run in the current context."""
        outer = self._running  # known before anything can strike below
        try:
            with self._lock:
                self._running = Interruptible(coroutine)
            # What `interrupt` has raised in this thread just before strikes here, not in asyncio.
            _give_way()
            return self._run(self._running)
        finally:
            coroutine.close()  # if it never began
            self._running = outer

    def _run(self, coroutine: Interruptible) -> Any:
        import asyncio

        if asyncio._get_running_loop() is not None:
            return self._run_beside(coroutine)
        if self._runner is None:
            # With a factory of its own the runner leaves the thread's current event loop alone: on `serial` it is the user's.
            self._runner = asyncio.Runner(loop_factory=new_loop)
        try:
            return self._runner.run(coroutine.main(), context=copy_context())
        except Exception:
            raise
        except BaseException:
            # SystemExit and KeyboardInterrupt tear through the loop: the next coroutine gets a new one.
            self.close()
            raise

    def _run_beside(self, coroutine: Interruptible) -> Any:
        """Run it in a thread, while the caller (a task submitted to `serial` in a coroutine) waits: loops do not nest."""
        outcome: list[tuple[bool, Any]] = []
        context = copy_context()

        def target() -> None:
            inner = CoroutineRunner()
            try:
                outcome.append((True, context.run(inner._run, coroutine)))
            except BaseException as error:  # raised in the caller below, whatever it is
                outcome.append((False, error))
            finally:
                inner.close()

        thread = threading.Thread(target=target, name="taskrun-coroutine")
        thread.start()
        thread.join()
        done, value = outcome.pop()
        if done:
            return value
        raise value

    def close(self) -> None:
        """Close the loop; leftover tasks in it are cancelled."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()


class Interruptible:
    """A coroutine in which an exception can be raised while it awaits."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._error: BaseException | None = None  # to be raised in it
        self._task: asyncio.Task[Any] | None = None  # what it runs in, once it does

    def interrupt(self, error: BaseException) -> None:
        self._error = error
        task = self._task
        if task is not None:
            task.get_loop().call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._error is not None and self._task is not None:
            self._task.cancel()  # which arrives at the `yield` below

    async def main(self) -> Any:
        import asyncio

        try:
            self._task = asyncio.current_task()  # from here on it can be woken; what came before is found at the first step
            return await self
        finally:
            self._task = None

    def __await__(self) -> Generator[Any, None, Any]:
        from asyncio import CancelledError

        coroutine, thrown = self._coroutine, None
        try:
            while True:
                if self._error is not None:
                    thrown, self._error = self._error, None
                try:
                    awaited = coroutine.send(None) if thrown is None else coroutine.throw(thrown)
                except StopIteration as end:
                    return end.value
                thrown = None
                try:
                    yield awaited
                except CancelledError as cancelled:
                    if self._error is None:
                        thrown = cancelled  # somebody else's
                    elif self._task is not None:
                        self._task.uncancel()
                except BaseException as other:
                    thrown = other
        finally:
            del thrown, coroutine  # the error's traceback leads to this frame: it must not lead back


_STEP = Interruptible.__await__.__code__


def in_a_step(frame: FrameType | None) -> bool:
    """Return whether *frame* is code of a coroutine that a runner runs, and not asyncio's: there it is safe to raise."""
    if frame is not None and frame.f_code is _STEP:
        return False
    while frame is not None and not str(frame.f_globals.get("__name__")).startswith("asyncio."):
        if frame.f_code is _STEP:
            return True
        frame = frame.f_back
    return False


def _give_way() -> None:
    """Do nothing, in a call: an exception set by another thread is raised at one."""
