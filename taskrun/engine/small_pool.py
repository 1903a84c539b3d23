"""A `multiprocessing.Pool` of one process that can be given up at any moment, whatever its process was doing when it died.

The standard one shares locks with its processes, starts a new process for one that died, and waits for its threads when it is
terminated: a process that is killed while it reads takes a lock along for ever, and one that is killed in the middle of a
result leaves a thread that waits for the rest of it (cpython#66587). Here nothing is shared but two sockets, which can be shut
down from this side; the threads then end by themselves.
"""

from __future__ import annotations

import os
import pickle
import threading
from functools import partial
from itertools import count
from multiprocessing import pool, process
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from taskrun.engine.pool_line import Answers, PoolLine
from taskrun.engine.without_main import without_main

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import BaseContext
    from multiprocessing.process import BaseProcess

__all__ = ["Attached", "Errand", "SmallPool"]


class _Nobody:
    """What the pool is given when it asks for a new process in the place of the dead one."""

    name = "Process-0"
    daemon = True
    exitcode = None
    pid = None

    def start(self) -> None: ...

    def terminate(self) -> None: ...

    def join(self) -> None: ...

    def is_alive(self) -> bool:
        return False


_processes: WeakSet[BaseProcess] = WeakSet()


class _OnlyOne:
    """Makes the pool's process, once."""

    def __init__(self) -> None:
        self.process: BaseProcess | None = None

    def __call__(self, context: Any, *args: Any, **kwargs: Any) -> Any:
        if self.process is not None:
            return _Nobody()
        self.process = context.Process(*args, **kwargs)
        _processes.add(self.process)
        return self.process


class _Deaf:
    """Until the pool is closed its thread need not know of each task that is done."""

    def put(self, _: object) -> None: ...


class Errand:
    """What the pool keeps of a call that is under way: as its `ApplyResult`, without what a thread could wait for it by."""

    __slots__ = ("_cache", "_callback", "_error_callback", "call", "job")

    call: Callable[[], None]
    """Sends it, if it was prepared: one call of C."""

    def __init__(
        self, cache: Any, job: int, callback: Callable[[Any], object], error_callback: Callable[[BaseException], object]
    ) -> None:
        self._cache = cache
        self.job = job
        self._callback = callback
        self._error_callback = error_callback
        cache[job] = self

    def drop(self) -> None:
        self._cache.pop(self.job, None)

    def _set(self, _: int, outcome: tuple[bool, Any]) -> None:
        self.drop()
        succeeded, value = outcome
        (self._callback if succeeded else self._error_callback)(value)


class Attached:
    """A descriptor among the arguments of the initializer: the process gets one of its own, the value of `fd`."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> Any:
        from multiprocessing.reduction import DupFd

        return _attached, (DupFd(self.fd),)


def _attached(duplicate: Any) -> Attached:
    return Attached(duplicate.detach())


class SmallPool(pool.Pool):
    """Raises what starting a process raises, and RuntimeError when there are no threads to be had; nothing is left then."""

    # Private parts of the standard one, the same from Python 3.8 to 3.14.
    _ctx: Any
    _cache: Any
    _change_notifier: Any
    _taskqueue: Any
    _task_handler: threading.Thread
    _result_handler: threading.Thread
    _worker_handler: Any
    _terminate: Any

    def __init__(
        self,
        context: BaseContext,
        initializer: Callable[..., object],
        initargs: tuple[Any, ...],
        lost: Callable[[BaseException], object],
    ) -> None:
        """*lost* is called in a thread of the pool's with what keeps it from reading an answer."""
        self._lost = lost
        self._errands = count(-1, -1)  # the standard one's jobs count up
        only = _OnlyOne()
        self.Process = only  # type: ignore[method-assign, assignment]
        try:
            with without_main(context):
                super().__init__(1, initializer, initargs, context=context)
        except BaseException:
            if only.process is not None and only.process.pid is not None:
                only.process.kill()
                only.process.join()
            for name in ("_worker_handler", "_task_handler"):  # those that could be started, before there were no more
                if hasattr(self, name):
                    getattr(self, name)._state = pool.TERMINATE
            if hasattr(self, "_change_notifier"):
                self._change_notifier.put(None)
            for line in (getattr(self, "_inqueue", None), getattr(self, "_outqueue", None)):
                if line is not None:
                    line.close()
            raise
        assert only.process is not None  # noqa: S101 - a pool starts its processes when it is made
        self.process = only.process
        self._cache.notifier = _Deaf()
        _poll_one_at_a_time(self.process)

    def _setup_queues(self) -> None:
        self._inqueue = PoolLine(self._ctx)
        self._outqueue = PoolLine(self._ctx)
        self._quick_put = self._inqueue._writer.send
        self._quick_get = Answers(self._outqueue._reader, self._lost).get

    def _get_sentinels(self) -> list[Any]:
        # Without the line of answers: the thread that sees to the process would spin until the one that reads has its turn.
        return [self._change_notifier._reader]

    def apply_here(
        self,
        fn: Callable[[Any], Any],
        arg: Any,
        callback: Callable[[Any], object],
        error_callback: Callable[[BaseException], object],
    ) -> None:
        """Do as `apply_async`, in this thread: the one that takes the answers, when there is none to take.

        It costs a third: no other thread has to be woken. Raises OSError if the process is dead.
        """
        errand = Errand(self._cache, next(self._errands), callback, error_callback)
        try:
            self._inqueue.put_pickle(pickle.dumps((errand.job, 0, fn, (arg,), {}), 5))
        except BaseException:
            errand.drop()
            raise

    def prepare(
        self,
        fn: Callable[[Any], Any],
        arg: Any,
        callback: Callable[[Any], object],
        error_callback: Callable[[BaseException], object],
    ) -> Errand:
        """Return what `apply_async` would put into the pool's queue: its `call` puts it there, else drop it before `close`."""
        errand = Errand(self._cache, next(self._errands), callback, error_callback)
        errand.call = partial(self._taskqueue.put, ([(errand.job, 0, fn, (arg,), {})], None))
        return errand

    def close(self) -> None:
        """Let the process end when it has done what it was given."""
        self._cache.notifier = self._change_notifier
        super().close()

    @staticmethod
    def _help_stuff_finish(inqueue: PoolLine, task_handler: threading.Thread, size: int) -> None:
        """Free the thread that may be writing; called if the pool is still there at the very end of the interpreter."""
        inqueue.shut()

    def threads(self) -> tuple[threading.Thread, ...]:
        """Return the pool's threads: one pickles, one takes answers, one sees to the process."""
        return self._task_handler, self._result_handler, self._worker_handler

    def exit_status(self) -> int | None:
        """Reap the process, if it has ended; return how. None: it has not, or somebody else has reaped it."""
        status: int | None = self.process._popen.poll()  # type: ignore[attr-defined]
        return status

    def give_up(self) -> None:
        """Let the threads end, after the answers that have arrived; the process is dead, or will be. Does not wait."""
        self._state = self._worker_handler._state = pool.TERMINATE
        self._terminate.cancel()
        self._inqueue.shut()
        self._outqueue.shut()
        self._change_notifier.put(None)

    def may_answer(self) -> bool:
        """Return whether an answer may still come."""
        return self._result_handler.is_alive()

    def gone(self) -> bool:
        """Return whether all threads have ended."""
        return not any(thread.is_alive() for thread in self.threads())

    def release(self) -> None:
        """Close everything, once the threads have ended, but for those that hang in the user's code: they find it closed."""
        self._state = pool.TERMINATE
        self._terminate.cancel()  # it may have ended in order
        self._inqueue.close()
        self._outqueue.close()
        self._change_notifier.close()
        # Its semaphores go now, not when the collector comes upon this pool, perhaps while others are made: Python 3.12.0 and
        # 3.12.1 then lose them, with a warning (the resource tracker cannot be called from within itself).
        self._change_notifier, self._cache.notifier = None, _Deaf()
        if self.exit_status() is not None:
            self.process.close()
        else:  # something else in this program reaped it
            self.process._popen.close()  # type: ignore[attr-defined]
            process._children.discard(self.process)  # type: ignore[attr-defined]


def _poll_one_at_a_time(child: BaseProcess) -> None:
    """Two threads that ask at once how a child of the fork server ended can make it "255": the answer can be read but once."""
    popen: Any = child._popen  # type: ignore[attr-defined]
    ask, lock = popen.poll, threading.Lock()

    def poll(flag: int = os.WNOHANG) -> int | None:
        if not lock.acquire(blocking=flag != os.WNOHANG):
            return None  # it is being found out
        try:
            status: int | None = ask(flag)
            return status
        finally:
            lock.release()

    popen.poll = poll


def _in_forked_child() -> None:
    """The processes are the parent's: multiprocessing would stop them, and wait, at the child's exit."""
    process._children.difference_update(list(_processes))  # type: ignore[attr-defined]


os.register_at_fork(after_in_child=_in_forked_child)
