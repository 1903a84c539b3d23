"""When a worker tells its parent of the answers in the outbox: seldom enough to cost little, soon enough that nobody waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskrun.engine import channel

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["QUICK", "Telling", "patience"]

_AFTER = 0.0005  # seconds after an answer went into the outbox when the parent is told of it, at the latest ...
_CALLS, _AFTER_CALLS = 8, 0.004  # ... or so many calls as long as the next one, but no longer than that
QUICK = 0.0002
"""Seconds: before a longer call that is the last one at hand, the parent is told, to send more meanwhile."""


def patience(lasts: float) -> float:
    """Return for how long the parent need not be told, where calls last so many seconds."""
    return max(_AFTER, min(_CALLS * lasts, _AFTER_CALLS))


class Telling:
    """What the parent was not told of yet. Owner: the worker's main thread."""

    def __init__(self, looked_at: Callable[[], float]) -> None:
        """*looked_at* returns when the parent last looked without being told, in `time.monotonic` seconds."""
        self._looked_at = looked_at
        self.last = -1
        """The last task whose answer is in the outbox and was not told of, or -1. The parent may have found it."""
        self.quiet = False
        """The parent need not be told before another call of the function that was called last."""
        self._since = 0.0  # when the first of them ended, or the parent has looked after that
        self.lasted: dict[int, float] = {}
        """By slot of the function: seconds that its last call took."""

    def add(self, number: int, duration: float, ended: float) -> None:
        """Take note that the answer of this task is in the outbox."""
        if self.last < 0:
            self._since = ended
        self.last = number
        spent = ended - self._since + duration  # when another one like it will have ended: see `is_due_before`
        self.quiet = duration < QUICK and (spent <= _AFTER or spent <= _CALLS * duration)

    def is_due_before(self, slot: int, now: float, *, more: bool) -> bool:
        """Return whether they would wait too long if the next call took as long as the last one did; *more* come after it."""
        lasts = self.lasted.get(slot)
        if lasts is None or (lasts > QUICK and not more):
            return True
        if now - self._since + lasts <= patience(lasts):
            return False
        looked = self._looked_at()
        if self._since < looked <= now:  # it has those that were answered before, but for the last of them perhaps
            self._since = looked
        return now - self._since + lasts > patience(lasts)

    def up_to(self) -> bytes:
        """Return the frame that tells of all of them."""
        number, self.last = self.last, -1
        return channel.REPLY.pack(0, channel.UP_TO, number, 0.0, 0.0, 0.0, 0)
