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
from typing import Any, Final

from taskrun.engine import channel

__all__ = ["LARGEST", "SIZE", "Outbox"]

_BEGIN = 4096
_PLACES = 256
_PLACE = 1024
SIZE: Final = _BEGIN + _PLACES * _PLACE
"""How much of the notes it is, with what comes before it."""

_STAMP = struct.Struct("<Q")  # the number of the task, plus one: written last, so what is stamped is whole
_HEAD = _STAMP.size + channel.REPLY.size
LARGEST: Final = _PLACE - _HEAD
"""Bytes of a payload that has a place here."""


class Outbox:
    """A view of the notes numbered *fd*; the worker has one and the parent another."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, SIZE)

    def put(self, number: int, head: bytes, payload: bytes) -> None:
        """Keep the answer of the task with that *number*; its payload is at most `LARGEST`."""
        at = _BEGIN + number % _PLACES * _PLACE
        memory = self._memory
        memory[at + 8 : at + _HEAD + len(payload)] = head + payload
        _STAMP.pack_into(memory, at, number + 1)

    def get(self, number: int) -> tuple[tuple[Any, ...], bytes] | None:
        """Return header and payload of that task's answer; None if it is not here."""
        at = _BEGIN + number % _PLACES * _PLACE
        memory = self._memory
        if _STAMP.unpack_from(memory, at)[0] != number + 1:
            return None
        header = channel.REPLY.unpack_from(memory, at + 8)
        at += _HEAD
        return header, memory[at : at + header[0]]

    def close(self) -> None:
        """Let the memory go."""
        self._memory.close()
