"""Reading several items of an input without a length before they are submitted, and yet never holding one back.

Such an input may wait, in the middle of a read, for what the task of the item before it does. So what is read lies where others
see it: if a read takes its time, the timer hands over what came before it; if the input asks its own map for a result, the map
does. Where it was necessary the input is read one by one for a while.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from itertools import chain
from typing import TYPE_CHECKING, Any

from taskrun.bell import Bell, wait_at
from taskrun.map_window import weigh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Reader"]

_HELD_BACK = 0.002  # seconds after which what was read is handed over, if the read goes on
_READING = 0.0005  # seconds of reading after which what was read is enough
_FIRST, _MOST = 8, 64  # items read without a look at the clock and at their size, twice as many each time
_LARGE = 1 << 14  # bytes: items that take more are read one by one
_SINGLY = 64  # items read one by one before it is tried again

_END = object()


class Reader:
    """Used by the pump of a feed, one thread at a time; `hand_over` and `close` by any.

    `_lock` (leaf) guards `_reading`, `_handing_over` and `_watched`; nothing runs under it.
    """

    def __init__(
        self,
        items: Iterable[Any],
        submit: Callable[[list[Any]], None],
        call_at: Callable[[float, Callable[[], object]], bool],
    ) -> None:
        """*submit* takes what is handed over, in any thread, and raises nothing; *call_at* is the timer's."""
        self._items: Iterator[Any] = chain(items, (_END,))
        self._submit = submit
        self._call_at = call_at
        self._lock = threading.RLock()
        self._handed = Bell()  # rings when something was handed over
        self._tokens: list[Iterator[Any]] = []  # an item is read for each: without any the read under way ends
        self._read: deque[Any] = deque()  # and not submitted: items enter on the right, the end of the input as the last
        self._reading = False
        self._handing_over = False
        self._watched = False  # the timer will look at us
        self._since = 0.0  # nothing in `_read` was asked for earlier
        self._alone = 0  # items to be read one by one
        self._error: Exception | None = None  # the input's, after what was read
        self._closed = False
        self.slow = False
        """The input took its time the last time."""

    def read(self, limit: int) -> list[Any]:
        """Return up to *limit* items, as many as can be read quickly; none at the end. Raises what the input raises."""
        if self._error is None and self._alone <= 0 and limit >= _FIRST and self._watch():
            try:
                self._read_several(limit)
            except Exception as error:  # comes when it is its turn
                self._error = error
            items = self._finish()
            if items:
                return items
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None
        return self._read_one()

    def _read_one(self) -> list[Any]:
        began = time.monotonic()
        item = next(self._items, _END)
        self._alone -= 1
        self._look_at(item, began)
        return [] if item is _END else [item]

    def _read_several(self, limit: int) -> None:
        read, items, size, began = self._read, self._items, _FIRST, time.monotonic()
        with self._lock:
            self._since = began
            self._reading = True
        while limit > 0:
            self._tokens = [items] * min(size, limit)
            if self._alone > 0:  # something was handed over just before
                break
            read.extend(map(next, self._tokens))  # from here on each is seen by others as soon as it is read
            limit -= size
            size = min(2 * size, _MOST)
            try:
                if read[-1] is _END or self._look_at(read[-1], began):
                    break
            except IndexError:  # handed over
                break

    def _look_at(self, item: Any, began: float) -> bool:
        """Return whether what was read since *began*, *item* as the last, is enough for now."""
        took = time.monotonic() - began
        self.slow = took > _HELD_BACK
        if self.slow or weigh((item,)) > _LARGE:
            self._alone = _SINGLY
        return took > _READING or self._alone > 0

    def _finish(self) -> list[Any]:
        """Return what was read and not handed over."""
        while True:
            with self._lock:
                if not self._handing_over:
                    self._reading = False
                    return self._drained()
                gate = self._handed.listen()
            wait_at(gate, None)

    def _drained(self) -> list[Any]:
        read = self._read
        items = [read.popleft() for _ in range(len(read))]  # while the input may add more
        if items and items[-1] is _END:
            del items[-1]
        return items

    # -- while it reads --------------------------------------------------------------------------------------------------------

    def hand_over(self) -> None:
        """Submit what was read, while a read goes on: in the timer's thread, or in the pump's, in the middle of the input."""
        while True:
            with self._lock:
                if not self._reading or self._closed:
                    return
                if not self._handing_over:
                    self._handing_over = True
                    break
                gate = self._handed.listen()
            wait_at(gate, None)
        try:
            self._alone = _SINGLY
            self._tokens.clear()  # after the item that is being read, the results that are there come first
            items = self._drained()
            if items:
                self._submit(items)
        finally:
            with self._lock:
                self._handing_over = False
                self._handed.ring()

    def _watch(self) -> bool:
        """Have the timer look at us; False: it cannot."""
        with self._lock:
            if self._watched or self._closed:
                return self._watched
            self._watched = True
        watched = self._call_at(time.monotonic() + _HELD_BACK, self._look)
        if not watched:
            with self._lock:
                self._watched = False
        return watched

    def _look(self) -> None:
        with self._lock:
            late = self._reading and time.monotonic() - self._since >= _HELD_BACK
            self._watched = again = self._reading and not (late or self._closed)
        if again:
            self._call_at(time.monotonic() + _HELD_BACK, self._look)
        if late:
            self.hand_over()

    def close(self) -> None:
        """Hand over nothing more."""
        with self._lock:
            self._closed = True
