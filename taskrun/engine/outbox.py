"""Small answers of a worker, in memory that it shares with its parent: written without a system call, and not lost with it.

A system call for each answer, and a parent that it wakes, cost more than a tiny task. So while more tasks are at hand a worker
puts its answers here, a place for each by its number, and says now and then up to which they are there (`channel.UP_TO`):
before it waits or sends anything else, before a function's first call and the last one at hand, and before a call that ends
half a millisecond later than the first of them, or eight such calls (as far as the last one tells). What it has not said the
parent finds out for itself:

- When the worker has claimed the next task, the answer to the last one is here. Both look at the pipe of tokens, and the
  kernel's lock of that pipe orders what they do: nothing depends on how processors order memory.
- When the worker is dead, all is here that it had answered.

A place is used again 256 tasks later; no more than `channel.MAX_AHEAD` are ever sent and not answered.
"""

from __future__ import annotations

import mmap
import struct
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

from taskrun.engine import channel

if TYPE_CHECKING:
    from taskrun.task import Task

__all__ = ["LARGEST", "SIZE", "Outbox"]

_BEGIN = 4096
_PLACES = 256
_PLACE = 1024
SIZE: Final = _BEGIN + _PLACES * _PLACE
"""How much of the notes it is, with what comes before it."""

# The number of the task, plus one, then what a reply begins with. The former is written last: what is stamped is whole.
_HEAD = 8 + channel.REPLY.size
_unpack = struct.Struct("<Q" + channel.REPLY.format.removeprefix("<")).unpack_from
_pack, _stamp = channel.REPLY.pack_into, struct.Struct("<Q").pack_into
LARGEST: Final = _PLACE - _HEAD
"""Bytes of a payload that has a place here."""


class Outbox:
    """A view of the notes numbered *fd*; the worker has one and the parent another."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, SIZE)

    def put(self, number: int, started: float, duration: float, cpu: float, rss: int, payload: bytes) -> None:
        """Keep the answer of the task with that *number*, which was done; its payload is at most `LARGEST`."""
        at = _BEGIN + number % _PLACES * _PLACE
        memory, size = self._memory, len(payload)
        _pack(memory, at + 8, size, channel.DONE, number, started, duration, cpu, rss)
        memory[at + _HEAD : at + _HEAD + size] = payload
        _stamp(memory, at, number + 1)

    def get(self, number: int) -> tuple[tuple[Any, ...], bytes] | None:
        """Return header and payload of that task's answer; None if it is not here."""
        at = _BEGIN + number % _PLACES * _PLACE
        found = _unpack(self._memory, at)
        if found[0] != number + 1:
            return None
        at += _HEAD
        return found[1:], self._memory[at : at + found[1]]

    def take(self, flight: dict[int, Task], last: int) -> list[tuple[Task, tuple[Any, ...], bytes]]:
        """Take the tasks up to number *last* out of the *flight* whose answers are here, each with header and payload."""
        # The hot loop of the parent: as `get`, without a call for each.
        memory, unpack = self._memory, _unpack
        answers: list[tuple[Task, tuple[Any, ...], bytes]] = []
        for number in list(takewhile(last.__ge__, flight)):
            at = _BEGIN + number % _PLACES * _PLACE
            found = unpack(memory, at)
            if found[0] == number + 1:
                at += _HEAD
                answers.append((flight.pop(number), found[1:], memory[at : at + found[1]]))
        return answers

    def close(self) -> None:
        """Let the memory go."""
        self._memory.close()
