"""What is remembered of one worker that may be slow to take up what it was sent, or to end it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskrun.task import Task

__all__ = ["Watch"]

_SHUN, _SHUN_AT_MOST = 0.1, 1.0  # seconds for which a worker is not given tasks that did not claim one


class Watch:
    """The reclaimer's notes on a worker. The I/O thread's."""

    __slots__ = ("_shunned_for", "given_back", "late_at", "looked_at", "seen", "shunned_until", "taken_up")

    def __init__(self) -> None:
        self.seen: Task | None = None
        """A task that it is known to have claimed."""
        self.taken_up = 0.0
        """The last time that it was given work of which it has surely taken something up (`Handle.fed`)."""
        self.late_at = 0.0
        """When it was last found to have taken nothing up, though nobody had stopped it."""
        self.looked_at = 0.0
        """When it was last looked whether it has given items of a run back."""
        self.given_back = -1
        """The number of the last task, a run, of which it has."""
        self.shunned_until = 0.0
        """It did not claim a task in time (stopped, swapped out, without a CPU): till then the last choice."""
        self._shunned_for = 0.0

    @property
    def unresponsive(self) -> bool:
        """Whether it is the last choice for now. It may be well again and nobody would know: it has nothing to answer."""
        return self.shunned_until > time.monotonic()

    def shun(self, now: float) -> None:
        """It did not claim a task in time: do without it for a while, longer each time until it answers."""
        self._shunned_for = min(max(2 * self._shunned_for, _SHUN), _SHUN_AT_MOST)
        self.shunned_until = now + self._shunned_for

    def forgive(self) -> None:
        """It has answered."""
        self.shunned_until = self._shunned_for = 0.0
