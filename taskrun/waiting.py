"""`wait` and `as_completed`: the standard ones in what they do, for futures of any `concurrent.futures.Executor`.

Not the standard functions themselves. Those hold the conditions of all futures at once, and a Ctrl-C in that moment leaves
them held for ever, which stops whoever completes futures; and they know nothing of workers that wait for their own executor.
Here each condition is held alone, for a moment.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, DoneAndNotDoneFutures
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, overload

from taskrun.bell import Bell, lock_of, wait_at
from taskrun.cycles import needing, wait_for_any
from taskrun.future import Future

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent import futures as standard
    from contextlib import AbstractContextManager

    from taskrun.scheduler import Scheduler

__all__ = ["as_completed", "wait"]

T = TypeVar("T")

if TYPE_CHECKING:

    class DoneAndNotDone(NamedTuple, Generic[T]):
        """What `wait` returns for futures of taskrun's, as type checkers are to see it."""

        done: set[Future[T]]
        not_done: set[Future[T]]


class _Watcher:
    """Hears of futures that are done, each once; futures call `add_...` in any thread, with their condition held."""

    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline
        self._lock = threading.RLock()
        self._bell = Bell()  # rings when somebody told
        self._told: deque[standard.Future[Any]] = deque()  # appended to by any thread, emptied by the one that waits
        self._watched: set[standard.Future[Any]] = set()
        self._open: Counter[Scheduler] = Counter()  # whose futures are watched, and how many

    def add_result(self, future: standard.Future[Any]) -> None:
        with self._lock:
            self._told.append(future)
            self._bell.ring()

    add_exception = add_cancelled = add_result

    def watch(self, futures: Iterable[standard.Future[Any]]) -> None:
        """Hear of *futures*; of those that are done at once."""
        for future in futures:
            self._watched.add(future)
            if isinstance(future, Future) and future._scheduler is not None:
                self._open[future._scheduler] += 1
            with lock_of(future._condition):
                if _done(future):
                    self.add_result(future)
                else:
                    waiters: list[Any] = future._waiters
                    list.append(waiters, self)  # not the methods by which the standard library's waiters are noticed

    def wait(self, *, for_all: bool = False) -> deque[standard.Future[Any]]:
        """Return what it was told since the last call, watched no more; nothing when the time is up. May raise RuntimeError.

        *for_all*: the caller needs every one, and has said so (`needing_all`).
        """
        if not self._told and self._left() != 0:
            with ExitStack() as stack:
                if len(self._watched) == 1:  # whatever the condition is, it cannot do without that one
                    stack.enter_context(self.needing_all())
                for scheduler, count in self._open.items():
                    if count:
                        stack.enter_context(scheduler.waiting())
                with self._lock:
                    gate = None if self._told else self._bell.listen()
                if gate is not None and self._deadline is None and not for_all and len(self._watched) > 1:
                    wait_for_any(gate, lambda: self._watched)
                elif gate is not None:
                    wait_at(gate, self._left())
        told = deque(self._told.popleft() for _ in range(len(self._told)))
        for future in told:
            self._forget(future)
        return told

    def needing_all(self) -> AbstractContextManager[None]:
        """Return the context in which to wait for all that are watched. Entering raises RuntimeError where that never ends."""
        return needing(list(self._watched) if self._deadline is None else ())

    def _left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _forget(self, future: standard.Future[Any]) -> None:
        self._watched.discard(future)
        if isinstance(future, Future) and future._scheduler is not None:
            self._open[future._scheduler] -= 1
        with lock_of(future._condition):
            waiters: list[Any] = future._waiters
            if self in waiters:
                list.remove(waiters, self)

    def close(self) -> None:
        """Hear of nothing any more."""
        for future in list(self._watched):
            self._forget(future)


def _done(future: standard.Future[Any]) -> bool:
    return future._state in (CANCELLED_AND_NOTIFIED, FINISHED)


@overload
def wait(  # type: ignore[overload-overlap] # the standard tuple, with the futures' own class
    fs: Iterable[Future[T]], timeout: float | None = None, return_when: str = ALL_COMPLETED
) -> DoneAndNotDone[T]: ...
@overload
def wait(
    fs: Iterable[standard.Future[T]], timeout: float | None = None, return_when: str = ALL_COMPLETED
) -> DoneAndNotDoneFutures[T]: ...
def wait(fs: Iterable[standard.Future[Any]], timeout: float | None = None, return_when: str = ALL_COMPLETED) -> Any:
    """Wait for *fs* as `concurrent.futures.wait` does, at most *timeout* seconds; returns the sets (done, not_done).

    Raises ValueError for an unknown *return_when*, and RuntimeError where the wait could never end (see `Future.result`).
    """
    if return_when not in (FIRST_COMPLETED, FIRST_EXCEPTION, ALL_COMPLETED):
        raise ValueError(f"Invalid return condition: {return_when!r}")
    watcher = _Watcher(None if timeout is None else time.monotonic() + timeout)
    fs = set(fs)
    done = {future for future in fs if _done(future)}
    not_done = fs - done
    if not _enough(done, done, not_done, return_when):
        try:
            watcher.watch(not_done)
            for_all = return_when == ALL_COMPLETED
            with watcher.needing_all() if for_all else nullcontext():
                while news := set(watcher.wait(for_all=for_all)):
                    done |= news
                    not_done -= news
                    if _enough(news, done, not_done, return_when):
                        break
        finally:
            watcher.close()
    return DoneAndNotDoneFutures(done, not_done)


def _enough(news: set[Any], done: set[Any], not_done: set[Any], return_when: str) -> bool:
    if not not_done:
        return True
    if return_when == FIRST_COMPLETED:
        return bool(done)
    return return_when == FIRST_EXCEPTION and any(not each.cancelled() and each.exception() is not None for each in news)


@overload
def as_completed(fs: Iterable[Future[T]], timeout: float | None = None) -> Iterator[Future[T]]: ...
@overload
def as_completed(fs: Iterable[standard.Future[T]], timeout: float | None = None) -> Iterator[standard.Future[T]]: ...
def as_completed(fs: Iterable[standard.Future[Any]], timeout: float | None = None) -> Iterator[standard.Future[Any]]:
    """Yield *fs* as they finish, as `concurrent.futures.as_completed` does.

    Raises TimeoutError when some are not done *timeout* seconds after the first was asked for, and RuntimeError where waiting
    could never end (see `Future.result`).
    """
    watcher = _Watcher(None if timeout is None else time.monotonic() + timeout)
    pending = set(fs)
    total = len(pending)
    try:
        # Nothing here keeps a future that the caller has: its result may be large.
        ready = deque(future for future in pending if _done(future))
        pending.difference_update(ready)
        watcher.watch(pending)
        left = len(pending)
        pending.clear()
        while ready:
            yield ready.popleft()
        while left:
            ready = watcher.wait()
            if not ready:
                raise TimeoutError(f"{left} (of {total}) futures unfinished")
            while ready:
                left -= 1
                yield ready.popleft()
    finally:
        watcher.close()
