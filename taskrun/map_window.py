"""How far a `map` may run ahead: what keeps every worker busy for a while, within bounds of number and size."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from taskrun.plain import PLAIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskrun.future import Future

__all__ = ["MAX_BYTES", "MAX_ITEMS", "Window", "weigh"]

MAX_ITEMS = 20_000
MAX_BYTES = 64 * 1024 * 1024
_AHEAD = 0.1  # seconds of work for every worker
_OVERHEAD = 5e-6  # seconds that an item costs besides its own
_SURE = 64  # items after which only one in as many is looked at
_MEMORY = 2_000  # items after which the earlier half of what was learned weighs half


class Window:
    """The number of items that may be under way, learned from how long they take. Owner: the map, under its lock."""

    def __init__(self, workers: int, fixed: int | None) -> None:
        self._fixed = fixed
        self._least = 2 * workers
        self._work = workers * _AHEAD
        self._items = 0
        self._seconds = 0.0
        self._skipped = 0
        self._results = 0
        self._result_bytes = 0
        self._resize(self._least if fixed is None else fixed)

    def _resize(self, items: int) -> None:
        self.size = items
        """Items that may be under way."""
        self.enough = max(1, min(items // 4, items - self._least))
        """How many of them may be missing before more are submitted: workers stay busy, and runs are long."""

    def learn(self, ended: Sequence[Future[Any]]) -> None:
        """Take note of how long the last attempts of *ended* took."""
        if self._fixed is not None:
            return
        if self._items > _SURE:
            self._skipped += len(ended)
            if self._skipped < _SURE:
                return  # on threads tasks end one by one: this is the hot path of a map
            self._skipped = 0
        for future in ended:
            duration = future.last_duration
            if duration is not None:
                self._items += 1
                self._seconds += duration
        self._follow()

    def learn_run(self, items: int, seconds: float) -> None:
        """Take note of how long items took that came as one task."""
        if self._fixed is None:
            self._items += items
            self._seconds += seconds
            self._follow()

    def _follow(self) -> None:
        """Make the window fit what was learned."""
        if self._items:
            mean = self._seconds / self._items + _OVERHEAD
            self._resize(min(max(self._least, int(self._work / mean)), MAX_ITEMS))
        if self._items > _MEMORY:
            self._seconds *= _MEMORY / 2 / self._items
            self._items = _MEMORY // 2

    def learn_results(self, values: Sequence[Any]) -> None:
        """Take note of how large results are that are handed out."""
        self._results += len(values)
        self._result_bytes += weigh(values)
        if self._results > _MEMORY:
            self._results //= 2
            self._result_bytes //= 2

    def heavy(self, items: int, item_bytes: int) -> bool:
        """Return True where *items* that take *item_bytes* are all that memory has room for, their results counted."""
        if self._fixed is not None or items < self._least:
            return False
        each = self._result_bytes // self._results if self._results else 0
        return item_bytes + items * each >= MAX_BYTES


def weigh(values: Sequence[Any]) -> int:
    """Return about how many bytes *values* take: what they say of themselves, and what one level of containers holds."""
    if PLAIN.issuperset(map(type, values)):
        return sum(map(sys.getsizeof, values))  # the hot path of a stream of numbers, or lines
    total = 0
    for value in values:
        total += _size(value)
        if type(value) in (list, tuple, set, frozenset):
            total += sum(map(_size, value))
        elif type(value) is dict:
            total += sum(map(_size, value.values()))
    return total


def _size(value: Any) -> int:
    try:
        size = sys.getsizeof(value)
        # NumPy and its like count the bytes of a view in `nbytes` only.
        return max(size, int(value.nbytes)) if hasattr(type(value), "nbytes") else size
    except Exception:  # the user's __sizeof__ may raise anything; a guess is not worth an item
        return 64
