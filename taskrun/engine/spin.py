"""Looking for news for a moment before a sleep: to be woken up may cost more than the whole task did."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LONGEST", "Spin"]

LONGEST = 3e-4
"""Seconds of looking before a wait: several times what it takes a sleeping thread to come back, which is 10 to 50 us."""
_DOUBLINGS = 6
_TAKEN = 1e-3  # seconds: who gives way and comes back later has lost the CPU to somebody who has much to do
_CROWDED = 63, 4095  # waits without a look, then: at first, and at most


class Spin:
    """Looks before the waits of one thread, as long as that finds something.

    It is bounded (`LONGEST`) and adaptive: after each time in vain the number of waits without a look doubles, up to 63,
    so that it costs a hundredth of a CPU at most where news comes late. Between two looks it offers the CPU to others; if
    somebody takes it, it keeps out of the way for a while, twice as long each time.

    Whoever makes one sees to it that there are several CPUs, and asks it only where one task at a time travels: with several
    under way the CPU is better left to them.
    """

    def __init__(
        self,
        look: Callable[[int], list[Any]],
        clock: Callable[[], float] = time.monotonic,
        give_way: Callable[[], object] = os.sched_yield,
    ) -> None:
        """*look*, called with 0, returns what is there without waiting."""
        self._look = look
        self._clock = clock
        # Not only for their sake: whom we wait for may have been put on this very CPU, to run when we are through.
        self._give_way = give_way
        self._in_vain = 0
        self._passed = 0  # waits to come that go without a look
        self._penalty = _CROWDED[0]

    def __call__(self) -> list[Any]:
        """Return what was found; nothing: it is time to sleep."""
        if self._passed:
            self._passed -= 1
            return []
        look, clock, give_way = self._look, self._clock, self._give_way
        until = clock() + LONGEST
        while not (found := look(0)):
            give_way()
            now = clock()
            if now > until:
                if now > until + _TAKEN:
                    self._passed, self._penalty = self._penalty, min(2 * self._penalty, _CROWDED[1])
                else:
                    self._passed = (1 << self._in_vain) - 1
                    self._in_vain = min(self._in_vain + 1, _DOUBLINGS)
                return found
        self._in_vain = 0
        self._penalty = max(self._penalty - 1, _CROWDED[0])
        return found
