"""Small answers of a worker, in memory that it shares with its parent: written without a system call, and not lost with it.

A system call for each answer, and a parent that it wakes, cost more than a tiny task. So while more tasks are at hand a worker
puts its answers here, and says now and then up to which they are there (`channel.UP_TO`): before it waits or sends anything
else, before a function's first call and the last one at hand, and before a call that ends half a millisecond later than the
first of them, or eight such calls (as far as the last one tells). What it has not said the parent finds out for itself, when
it has not heard of a worker for a while or is awake for another one, and leaves word of that here (`note_look`), since the
worker need say nothing then:

- When the worker has claimed the next task, the answer to the last one is here. Both look at the pipe of tokens, and the
  kernel's lock of that pipe orders what they do: nothing depends on how processors order memory.
- When the worker is dead, all is here that it had answered.

Answers lie one after the other, from the beginning again when the end is near. What was not read is never written over: no
more than `channel.MAX_AHEAD` are sent and not answered, and there is room for more of the largest. Each begins with the number
of its task, plus one, which is written last; before that a zero, where the next one will begin: so what is numbered is whole,
whatever was there before.
"""

from __future__ import annotations

import mmap
import struct
from typing import TYPE_CHECKING, Any, Final

from taskrun.engine import channel

if TYPE_CHECKING:
    from taskrun.task import Task

__all__ = ["LARGEST", "SIZE", "Answer", "Outbox"]

Answer = tuple["Task | None", int, int, int, tuple[Any, ...], bytes | bytearray]
"""(task, kind, number, resident bytes or 0, what a `task.Run` holds, payload)."""

_HEAD = struct.Struct("<QQdddQ")  # number + 1, size of the payload, started, duration, CPU seconds, resident bytes
_HEAD_SIZE = _HEAD.size
_NUMBER = struct.Struct("<Q").pack_into
_NUMBER_AND_SIZE = struct.Struct("<QQ").unpack_from
_REST, _REST_AT = struct.Struct("<QdddQ").pack_into, 8
_LOOKED, _LOOKED_AT = struct.Struct("<d"), 40  # behind what `notes` keeps
_BEGIN, _ROOM = 4096, 1024  # of the first one; for the largest
_AGAIN = (1 << 64) - 1  # in the place of a number: the next one is at the beginning
LARGEST: Final = _ROOM - _HEAD.size
"""Bytes of a payload that has a place here."""
SIZE: Final = _BEGIN + (channel.MAX_AHEAD + 8) * _ROOM
"""How much of the notes it is, with what comes before it."""
_LAST = SIZE - _ROOM - 64  # one that began later might not fit, and the head of another one after it


class Outbox:
    """A view of the notes numbered *fd*; the worker has one, which puts, and the parent another, which takes."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, SIZE)
        self._at = _BEGIN  # where the next one will be put, or taken

    def put(self, number: int, started: float, duration: float, cpu: float, rss: int, payload: bytes) -> None:
        """Keep the answer of the task with that *number*, which was done; its payload is at most `LARGEST`."""
        memory, at, size = self._memory, self._at, len(payload)
        end = at + _HEAD_SIZE + size
        _REST(memory, at + _REST_AT, size, started, duration, cpu, rss)
        memory[at + _HEAD_SIZE : end] = payload
        following = (end + 7) & -8
        if following > _LAST:
            _NUMBER(memory, following, _AGAIN)
            following = _BEGIN
        _NUMBER(memory, following, 0)
        self._at = following
        _NUMBER(memory, at, number + 1)

    def has(self, number: int) -> bool:
        """Return whether that task's answer is here, and was not taken; the worker may be about to put it."""
        at = self._at
        for _ in range(channel.MAX_AHEAD + 2):
            found, size = _NUMBER_AND_SIZE(self._memory, at)
            if found == _AGAIN:
                at = _BEGIN
            elif not 0 < found <= number or size > LARGEST:
                return bool(found == number + 1)
            else:
                at = (at + _HEAD_SIZE + size + 7) & -8
        return False

    def take(self, flight: dict[int, Task], last: int, label: str, rss: int) -> list[Answer]:
        """Take the answers up to that number, and their tasks out of the *flight*.

        *label*, and *rss* where the worker has not looked, are for the records of the attempts.
        """
        # The hot loop of the parent.
        memory, at, unpack, pop = self._memory, self._at, _HEAD.unpack_from, flight.pop
        done = channel.DONE
        answers: list[Answer] = []
        while True:
            number, size, started, duration, cpu, weighed = unpack(memory, at)
            if number == _AGAIN:
                at = _BEGIN
                continue
            number -= 1
            if number < 0 or number > last:
                break
            begin = at + _HEAD_SIZE
            end = begin + size
            run = (label, started, duration, cpu, weighed or rss)
            answers.append((pop(number, None), done, number, weighed, run, memory[begin:end]))
            at = (end + 7) & -8
        self._at = at
        return answers

    def note_look(self, now: float) -> None:
        """Tell the worker that the parent looks here by itself, and will have what was answered before the task it is at."""
        _LOOKED.pack_into(self._memory, _LOOKED_AT, now)

    def looked_at(self) -> float:
        """Return when the parent last did, or 0. Should the processor not show it yet, or half of it, nothing is lost."""
        looked: float = _LOOKED.unpack_from(self._memory, _LOOKED_AT)[0]
        return looked

    def close(self) -> None:
        """Let the memory go."""
        self._memory.close()
