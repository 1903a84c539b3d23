"""Awaiting coroutines in a worker: one event loop for each worker, so that what belongs to a loop outlives a task."""

from __future__ import annotations

import threading
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine

__all__ = ["CoroutineRunner"]


class CoroutineRunner:
    """Runs coroutines to their end, one after the other. Owned by one worker; `close` may be called by another thread."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Return what *coroutine* returns, run in the current context."""
        import asyncio

        if asyncio._get_running_loop() is not None:
            return self._run_beside(coroutine)
        if self._runner is None:
            # With a factory of its own the runner leaves the thread's current event loop alone: on `serial` it is the user's.
            self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        try:
            return self._runner.run(coroutine, context=copy_context())
        except Exception:
            raise
        except BaseException:
            # SystemExit and KeyboardInterrupt tear through the loop: the next coroutine gets a new one.
            self.close()
            raise

    def _run_beside(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run it in a thread, while the caller (a task submitted to `serial` in a coroutine) waits: loops do not nest."""
        outcome: list[tuple[bool, Any]] = []
        context = copy_context()

        def target() -> None:
            inner = CoroutineRunner()
            try:
                outcome.append((True, context.run(inner.run, coroutine)))
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
