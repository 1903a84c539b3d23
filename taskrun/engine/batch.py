"""Tiny tasks of one function that a worker of the pool backend is sent as one message; each is begun and answered by itself.

For each there is a byte in a pipe, a *claim*. The worker takes one before it begins the next task; the parent takes what is
left, to have the rest back. The kernel gives each byte to one of them, so that no task runs twice and none is lost, whoever
dies when (decision 0002). Nothing is sent behind: a worker has one message at a time, and when it comes to its end says how
many it has claimed. What it has not goes back then, if nobody has seen to that before.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from contextlib import suppress
from typing import TYPE_CHECKING

from taskrun.engine import posix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskrun.task import Task

__all__ = ["LARGEST", "MOST", "Batch", "Claims", "claim_of"]

MOST = 64
"""Tasks of one batch: all of them fit into the outbox, and their claims into the pipe."""
LARGEST = 1 << 16
"""Bytes that the arguments of one batch may be, but for its first task's."""

_BYTES = [bytes((value,)) for value in range(256)]
_INT = struct.Struct("i")


def claim_of(number: int) -> bytes:
    """Return the claim of the task with that number: what another file says, if a task has closed the pipe, is none."""
    return _BYTES[number & 255]


class Claims:
    """The pipe of one worker."""

    def __init__(self) -> None:
        self.fd, self._in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def put(self, first: int, count: int) -> None:
        """Let so many tasks begin, numbered from *first* on."""
        os.write(self._in, b"".join([claim_of(number) for number in range(first, first + count)]))

    def left(self) -> int:
        """Return how many have not been taken."""
        if self.fd < 0:  # in a forked copy of the parent
            return 0
        count: int = _INT.unpack(fcntl.ioctl(self.fd, termios.FIONREAD, bytes(4)))[0]
        return count

    def take(self, into: list[bytes]) -> None:
        """Add what is left to a list: in one call, so that Ctrl-C finds it in the pipe or there."""
        with suppress(OSError):  # there is nothing; or it is closed, in a forked copy of the parent
            into.extend(map(os.read, (self.fd,), (2 * MOST,)))

    def close(self) -> None:
        posix.close_held(self, "fd", "_in")


class Batch:
    """The tasks in the order in which they run. Under the scheduler's lock; `ask_back` may be torn by Ctrl-C at any place."""

    def __init__(self, claims: Claims, tasks: Sequence[Task]) -> None:
        """Make one that is to be packed: until it is sent each task can be had back."""
        self._claims = claims
        self._tasks = list(tasks)
        self._asked_back: list[Task] = []  # and had: they are elsewhere
        self._taken: list[bytes] = []
        self._given_back = 0  # of those whose claims were taken, the last ones
        self.first = 0
        """The number of the first one."""
        self.flight: dict[int, Task] = {}
        """By number, those that are sent, neither answered nor taken back."""

    @property
    def tasks(self) -> list[Task]:
        """Those that were not given back or asked back."""
        asked = {id(task) for task in self._asked_back}
        return [task for task in self._tasks[: len(self._tasks) - self._given_back] if id(task) not in asked]

    def send(self, first: int, tasks: Sequence[Task]) -> None:
        """Let these, and no other, begin, with numbers from *first* on: what was asked back meanwhile is not among them."""
        self._tasks = list(tasks)
        self.first = first
        self.flight = dict(enumerate(tasks, first))
        self._claims.put(first, len(tasks))

    @property
    def sent(self) -> bool:
        """Whether its tasks may begin."""
        return self.first > 0

    @property
    def size(self) -> int:
        """How many it was made of, those that were had back included."""
        return len(self._tasks)

    @property
    def last(self) -> int:
        """The number of the last one."""
        return self.first + len(self._tasks) - 1

    @property
    def held(self) -> int:
        """How many can still begin, or have: the others' claims were taken."""
        return len(self._tasks) - sum(map(len, self._taken))

    def begun(self) -> int:
        """Return how many have begun."""
        return max(0, self.held - self._claims.left()) if self.sent else 0

    def place_of(self, task: Task) -> int:
        """Return which one of them *task* is; -1: it is not among them, or had back."""
        if any(each is task for each in self._asked_back):
            return -1
        for place in range(len(self._tasks) - self._given_back):
            if self._tasks[place] is task:
                return place
        return -1

    def ask_back(self, task: Task) -> bool:
        """Return True if *task* is here and will not begin; it is the caller's then. The others are had by `take_back`."""
        place = self.place_of(task)
        if place < 0:
            return False
        if self.sent:
            if place < self.held:
                self._claims.take(self._taken)
            if place < self.held:
                return False
        self._asked_back.append(task)
        return True

    def take_back(self, begun: int | None = None) -> list[Task]:
        """Let no other begin, and return, once, those that will not; at the end of the message, which began *begun* of them."""
        if not self.sent:
            back, self._asked_back = self.tasks, list(self._tasks)
            return back
        self._claims.take(self._taken)
        end = len(self._tasks) - self._given_back
        held = min(end, self.held if begun is None else begun)
        asked = {id(task) for task in self._asked_back}
        back = [task for task in self._tasks[held:end] if id(task) not in asked]
        for number in range(self.first + held, self.first + end):
            self.flight.pop(number, None)
        self._given_back = len(self._tasks) - held
        return back
