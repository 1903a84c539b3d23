"""What goes with backends whose tasks run in this process: threading's locks, queues, and the kinds of multiprocessing.dummy.

They have the interface that they have between processes, so that a program need not know which of the two it got.
"""

from __future__ import annotations

import multiprocessing
import queue
import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from taskrun.context_common import CommonContext
from taskrun.task import current_task
from taskrun.thread_locks import ThreadBoundedSemaphore, ThreadCondition, ThreadLock, ThreadRLock, ThreadSemaphore
from taskrun.thread_pipe import ThreadConnection, pipe
from taskrun.thread_process import ThreadProcess, active_children

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["ThreadContext"]


_NOTHING: Any = object()  # what was not given


class ThreadQueue(queue.Queue[Any]):
    """A queue that can be closed, as one between processes: for the task or thread that closes it, not for the others."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self._closed_for: WeakSet[object] = WeakSet()

    def put(  # type: ignore[override]
        self, obj: Any = _NOTHING, block: bool = True, timeout: float | None = None, *, item: Any = _NOTHING
    ) -> None:
        """Put an object, *obj* by multiprocessing's name and *item* by queue's. Raises queue.Full, or ValueError if closed."""
        self._check_open()
        super().put(_given(obj, item), block, _not_negative(timeout))

    def put_nowait(self, obj: Any = _NOTHING, *, item: Any = _NOTHING) -> None:  # type: ignore[override]
        """Put an object if there is room. Raises as `put`."""
        self.put(_given(obj, item), False)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take an object. Raises queue.Empty, or ValueError when the queue was closed."""
        self._check_open()
        return super().get(block, _not_negative(timeout))

    def close(self) -> None:
        """Note that this task, or this thread, does not use it any more."""
        self._closed_for.add(_user())

    def join_thread(self) -> None:
        """Do nothing: what was put is there. Raises AssertionError before `close`, as the original."""
        if _user() not in self._closed_for:
            raise AssertionError(f"Queue {self!r} not closed")

    def cancel_join_thread(self) -> None:
        """Do nothing: nothing would be waited for."""

    def _check_open(self) -> None:
        if self._closed_for and _user() in self._closed_for:
            raise ValueError(f"Queue {self!r} is closed")


def _given(obj: Any, item: Any) -> Any:
    if (obj is _NOTHING) is (item is _NOTHING):
        raise TypeError("put() takes one object: obj")
    return item if obj is _NOTHING else obj


def _user() -> object:
    """Return what is a process of its own where tasks run in processes."""
    return current_task() or threading.current_thread()


def _not_negative(timeout: float | None) -> float | None:
    return None if timeout is None else max(timeout, 0)


class ThreadSimpleQueue:
    """`put`, `get`, `empty` and `close`, no more."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._closed_for: WeakSet[object] = WeakSet()

    def put(self, obj: Any) -> None:
        """Put an object. Raises OSError when the queue was closed."""
        self._check_open()
        self._queue.put(obj)

    def get(self) -> Any:
        """Take an object; waits for one. Raises OSError when the queue was closed."""
        self._check_open()
        return self._queue.get()

    def empty(self) -> bool:
        """Return whether nothing is in it now."""
        self._check_open()
        return self._queue.empty()

    def close(self) -> None:
        """Note that this task, or this thread, does not use it any more."""
        self._closed_for.add(_user())

    def _check_open(self) -> None:
        if self._closed_for and _user() in self._closed_for:
            raise OSError("handle is closed")


class ThreadContext(CommonContext):
    """The context of a backend whose workers are threads."""

    Process = ThreadProcess
    Lock = ThreadLock
    RLock = ThreadRLock
    Semaphore = ThreadSemaphore
    BoundedSemaphore = ThreadBoundedSemaphore
    Condition = ThreadCondition
    Event = threading.Event
    Barrier = threading.Barrier
    Queue = ThreadQueue
    JoinableQueue = ThreadQueue
    SimpleQueue = ThreadSimpleQueue
    current_process = staticmethod(threading.current_thread)
    active_children = staticmethod(active_children)
    # What programs catch and call, whichever kind they have got.
    ProcessError = multiprocessing.ProcessError
    BufferTooShort = multiprocessing.BufferTooShort
    TimeoutError = multiprocessing.TimeoutError
    AuthenticationError = multiprocessing.AuthenticationError
    freeze_support = staticmethod(multiprocessing.freeze_support)
    get_logger = staticmethod(multiprocessing.get_logger)
    log_to_stderr = staticmethod(multiprocessing.log_to_stderr)

    def __init__(self, backend: str) -> None:
        self.backend_name = backend

    def Pipe(self, duplex: bool = True) -> tuple[ThreadConnection, ThreadConnection]:  # noqa: N802 - multiprocessing's names
        """Return two connected ends; without *duplex* the first only receives and the second only sends."""
        return pipe(duplex)

    def RawValue(self, typecode_or_type: Any, *args: Any) -> Any:  # noqa: N802
        """Return a ctypes object. Raises TypeError for a wrong type code."""
        from multiprocessing import sharedctypes

        return sharedctypes.RawValue(typecode_or_type, *args)

    def RawArray(self, typecode_or_type: Any, size_or_initializer: Any) -> Any:  # noqa: N802
        """Return a ctypes array. Raises TypeError for a wrong type code."""
        from multiprocessing import sharedctypes

        return sharedctypes.RawArray(typecode_or_type, size_or_initializer)

    def Value(self, typecode_or_type: Any, *args: Any, lock: Any = True) -> Any:  # noqa: N802
        """Return a ctypes object with a lock; with ``lock=False`` as `RawValue`."""
        from multiprocessing import sharedctypes

        return sharedctypes.Value(typecode_or_type, *args, lock=_lock_for(lock))

    def Array(self, typecode_or_type: Any, size_or_initializer: Any, *, lock: Any = True) -> Any:  # noqa: N802
        """Return a ctypes array with a lock; with ``lock=False`` as `RawArray`."""
        from multiprocessing import sharedctypes

        return sharedctypes.Array(typecode_or_type, size_or_initializer, lock=_lock_for(lock))

    def Manager(self) -> ThreadManager:  # noqa: N802
        """Return a maker of lists, dictionaries and so on: threads share them as they are."""
        return ThreadManager(self)

    @property
    def BaseManager(self) -> Any:  # noqa: N802
        """multiprocessing's class, to register types with; its server is a process all the same."""
        from multiprocessing.managers import BaseManager

        return BaseManager

    def __repr__(self) -> str:
        return f"<taskrun context of backend {self.backend_name!r}>"


def _lock_for(lock: Any) -> Any:
    return ThreadRLock() if lock is True or lock is None else lock


class ThreadManager:
    """Makes what a manager between processes makes, without a process."""

    address = None
    list = list
    dict = dict

    def __init__(self, context: ThreadContext) -> None:
        from multiprocessing import managers

        self.Namespace = managers.Namespace
        self.Value = managers.Value  # type: ignore[attr-defined]
        self.Array = managers.Array  # type: ignore[attr-defined]
        self.Lock, self.RLock, self.Condition = context.Lock, context.RLock, context.Condition
        self.Semaphore, self.BoundedSemaphore = context.Semaphore, context.BoundedSemaphore
        self.Event, self.Barrier = context.Event, context.Barrier
        self.Queue, self.JoinableQueue, self.Pool = context.Queue, context.JoinableQueue, context.Pool

    def start(self) -> None:
        """Do nothing: there is no process to start."""

    def join(self, timeout: float | None = None) -> None:
        """Do nothing: there is no process to wait for."""

    def shutdown(self) -> None:
        """Do nothing: what it made stays with those who have it."""

    def __enter__(self) -> ThreadManager:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.shutdown()
