"""What a worker of the pool backend is sent while it runs something else, so that it finds its next task when it is done.

For each call there is a token in a pipe, its number. The worker reads it before it begins; the parent reads it to take the call
back. The kernel gives it to one of them, so that no task runs twice and none is lost, whoever dies when. As on `process`
(decision 0002), with the rest of that engine left out: a handful of tiny tasks, one pipe.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from taskrun.engine import posix

if TYPE_CHECKING:
    from taskrun.task import Task

__all__ = ["Ahead", "Bundle", "SentAhead"]

_MOST = 32
"""Calls, unsent ones included: their tokens fit into the pipe many times."""
_MOST_SECONDS = 2e-3
"""What they take together, as far as is known: so long may one of them wait while another worker is free."""
_CALL = 30e-6  # seconds that a task takes at least, with what is done for it in the worker
_WEIGHT = 0.2  # of the last task in the average
_TOKEN = 8  # bytes
_FRAME = 1024  # bytes that the kernel counts for a small message, at most, besides its own


class SentAhead(NamedTuple):
    """A call on its way."""

    number: int
    task: Task


class Bundle:
    """Tasks that are alike, packed to be sent as one message. Each is claimed, answered and taken back by itself."""

    __slots__ = ("about", "items", "size", "slot")

    def __init__(self, task: Task, about: bytes, slot: int, arguments: bytes) -> None:
        self.about = about
        """What is to be known of them besides; see `pool_worker.Ahead`."""
        self.slot = slot
        """Of their function."""
        self.items: list[tuple[Task, bytes]] = [(task, arguments)]
        """Each with its arguments."""
        self.size = len(about) + len(arguments)
        """In bytes."""

    def suits(self, task: Task) -> bool:
        """Return whether only the arguments, and the index, of *task* differ."""
        first = self.items[0][0]
        return task.fn is first.fn and task.options is first.options and task.number == first.number and task.context is None

    def add(self, task: Task, arguments: bytes) -> None:
        """Add one that suits."""
        self.items.append((task, arguments))
        self.size += len(arguments)


class Ahead:
    """Of one worker. `unsent` and `sent` under the scheduler's lock, the rest the pool's thread's that sends them."""

    def __init__(self) -> None:
        self.tokens, self._tokens_in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.unsent: deque[Task] = deque()
        """Pulled and not packed yet."""
        self.sent: deque[SentAhead] = deque()
        """Not known to have ended: the worker has begun some of the first, or the parent has taken the others back."""
        self._seconds: float | None = None  # a task takes; None: not known yet
        self._pause = 0  # for so many tasks
        self._in_line = 0  # bytes that the worker may not have read yet, those of calls included that were taken back

    def note_duration(self, seconds: float) -> None:
        """Note what a task took."""
        last = self._seconds
        self._seconds = seconds if last is None else last + _WEIGHT * (seconds - last)

    def note_stuck(self, seconds: float) -> None:
        """Note what a task takes that has not ended yet: for a while nothing is sent behind others."""
        self._seconds = max(self._seconds or 0.0, seconds)

    def room(self) -> int:
        """Return how many more to send; 0 until half of them have ended, and where they take long."""
        if self._seconds is None:
            return 0
        if self._pause:
            self._pause -= 1
            return 0
        most, there = min(_MOST, int(_MOST_SECONDS / (self._seconds + _CALL))), len(self.sent)
        return most - there if there * 2 <= most else 0

    def pause(self) -> None:
        """Send nothing for a while: what comes next is not to go ahead."""
        self._pause = _MOST

    def fits(self, size: int, line: int) -> bool:
        """Return whether so many bytes may be sent over a *line* with room for so many: who sends must not wait."""
        return self._in_line + size + _FRAME <= line

    def note_sent(self, size: int) -> None:
        """Note that so many bytes are on their way."""
        self._in_line += size + _FRAME

    def note_read(self, size: int) -> None:
        """Note that the worker has read them, whatever it made of them."""
        self._in_line -= size + _FRAME

    def add(self, calls: list[SentAhead]) -> None:
        """Note some of `unsent` as sent, before they are: the worker may read their tokens from now on."""
        added = {id(each.task) for each in calls}
        self.unsent = deque(task for task in self.unsent if id(task) not in added)
        self.sent += calls
        os.write(self._tokens_in, b"".join([each.number.to_bytes(_TOKEN, "little") for each in calls]))  # there is room

    def draw(self) -> set[int]:
        """Return the numbers of what the worker has not begun and will not begin any more; it may still be among `sent`."""
        if self.tokens < 0:  # the worker is gone
            return {each.number for each in self.sent}
        try:
            data = os.read(self.tokens, _MOST * 2 * _TOKEN)
        except BlockingIOError:
            return set()
        return {int.from_bytes(data[at : at + _TOKEN], "little") for at in range(0, len(data), _TOKEN)}

    def take_back(self, drawn: set[int]) -> list[Task]:
        """Return what was *drawn*, and what is unsent, in order."""
        back = [each.task for each in self.sent if each.number in drawn]
        back += self.unsent
        self.unsent.clear()
        self.sent = deque(each for each in self.sent if each.number not in drawn)
        return back

    def everything(self) -> list[Task]:
        """Return what the worker has not answered, which is forgotten: it is dead."""
        tasks = [*(each.task for each in self.sent), *self.unsent]
        self.sent.clear()
        self.unsent.clear()
        return tasks

    def number_of(self, task: Task) -> int | None:
        """Return the number of a task that was sent, or None."""
        return next((each.number for each in self.sent if each.task is task), None)

    def close(self) -> None:
        """Close the pipe; nothing is sent any more."""
        posix.close_held(self, "tokens", "_tokens_in")
