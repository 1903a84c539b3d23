"""What CPU time a call took, without a look at the clock for each."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SHORT", "CpuMeter"]

SHORT = 50e-6
"""Seconds: of a call as short as this nobody asks what part of it was waiting."""
_EVERY = 1e-3  # seconds between looks at the clock, while calls are short


class CpuMeter:
    """Tells what CPU time each of the calls took that one thread, or one process, runs one after the other.

    To look at the clock costs as much as some tiny tasks. So a short call is taken to have computed all the time; a longer one
    is charged with what was used since the last look, a millisecond before it at most.
    """

    __slots__ = ("_at", "_clock", "_used")

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self._clock = clock
        self._at = 0.0  # time.monotonic() of the last look
        self._used = 0.0

    @property
    def due(self) -> float:
        """When the clock is to be looked at next; the CPU time of a short call that ends before is its duration."""
        return self._at + _EVERY

    def reset(self) -> None:
        """Look at the clock: what was used until now was no call's."""
        self._used, self._at = self._clock(), time.monotonic()

    def used(self, duration: float, ended: float) -> float:
        """Return the CPU seconds of a call that lasted so long and ended just now (`time.monotonic`)."""
        if duration < SHORT and ended - self._at < _EVERY:
            return duration
        before = self._used
        self._used, self._at = self._clock(), ended
        return min(duration, self._used - before) if duration < SHORT else self._used - before
