"""A process that runs one task at a time, seen from its parent: its notes, its stack, its signals, its end.

For the backends that make processes of their own and keep them in one thread; see `backends.kept`.
"""

from __future__ import annotations

import contextlib
import signal
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from taskrun.engine import notes, posix

if TYPE_CHECKING:
    from taskrun.engine.stopping import Stop
    from taskrun.task import Task

__all__ = ["KeptProcess"]


class KeptProcess(ABC):
    """The keeper's; `note_cancel` may be called by others until it is closed, under the scheduler's lock."""

    def __init__(self, number: int, title: str) -> None:
        self.number = number
        self.task: Task | None = None
        self.sequence = 0
        """Which of its tasks that is."""
        self.stop: Stop | None = None
        self.pid: int | None = None
        self.pidfd = -1
        self.label = ""
        """"pid 123", for records."""
        self.exit_status: int | None = None
        self.silent_since: float | None = None
        """When its end of the line was found closed."""
        self.trouble: BaseException | None = None
        """Why it was killed, if nothing could be read from it."""
        self._stack_from = notes.STACK_AT
        self._notes = notes.new_notes(title)

    def note_cancel(self, number: int | None = None) -> None:
        """Let `current_task().cancelled` be true in its task, or in the one of that *number*."""
        if self._notes >= 0:
            notes.ask_to_cancel(self._notes, self.sequence if number is None else number)

    def ask_for_stack(self) -> None:
        """Have it write its stack."""
        if self.pidfd >= 0:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self.pidfd, posix.STACK_SIGNAL)

    def has_stack(self) -> bool:
        """Return whether it has begun to write its stack."""
        return notes.has_stack(self._notes, self._stack_from)

    def stack(self) -> str | None:
        """Return the Python stack that it wrote, if it did."""
        return notes.read_stack(self._notes, self._stack_from)

    def forget_stack(self) -> None:
        """What was written so far belongs to a task that is over."""
        self._stack_from = notes.end_of_stack(self._notes, self._stack_from)

    def has_taken_up(self) -> bool:
        """Return whether it began with its task: what happens to it from then on is held against that."""
        return notes.taken_up(self._notes) == self.sequence

    def signal(self, number: int) -> None:
        """Send *number* to its process group."""
        if self.pid is not None:
            posix.signal_group(self.pid, number)

    def end_group(self) -> None:
        """Kill what its task has started, unless it ended in order. It has ended, and may have been reaped."""
        if self.pid is not None and posix.has_ended(self.pid) != 0:
            posix.kill_rest_of_group(self.pid)

    @abstractmethod
    def destroy(self) -> None:
        """Kill it, wait for its end and close everything."""

    def close(self) -> None:
        """Close everything."""
        posix.close_held(self, "pidfd", "_notes")
