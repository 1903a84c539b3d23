"""Large buffers of arguments and results, beside the socket: copied into memory that both sides have, and once out of it.

Through a socket 64 MB go in some thousand pieces, each with a turn of both processes, and pickle copies them once more at each
end. Here they lie in the notes of the worker (`notes.new_notes`), far behind what else is there: a file without a name, where
only what was written takes memory. The parent has one half of the place, the worker the other. Who receives reads them into
memory of its own, private and writable, as pickle would make it.

A place is used again once it is known to be read. Of arguments it is when the task was answered or taken back: a worker reads
them before it runs the task, or never. Of a result the parent says so, in the notes.
"""

from __future__ import annotations

import mmap
import time
from collections import deque
from contextlib import suppress
from sys import getrefcount
from typing import TYPE_CHECKING, Any

from taskrun.engine.posix import fresh_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["KEPT", "UNUSED_FOR", "Incoming", "Outgoing", "Place", "Spares"]

Place = tuple[int, int, str]
"""Where a buffer lies in its half, how many bytes it has, and what it becomes: "bytes", "bytearray", or any memory, ""."""

_MOST = 1 << 30  # bytes on their way in one direction: beyond these, buffers travel in the pickle
KEPT = 1 << 26
"""Bytes in each direction that stay allocated: to use memory again costs a third of taking new."""
UNUSED_FOR = 1.0
"""Seconds without a large buffer after which private memory that is kept for the next one is let go."""
_PAGE = mmap.ALLOCATIONGRANULARITY
_HUGE = 1 << 22  # bytes from which on huge pages are asked for: half the time goes into making small ones


class _Window:
    """A view of the half that one side writes, mapped once there is something in it. Owned by one thread."""

    def __init__(self, fd: int, base: int) -> None:
        self._fd = fd
        self._base = base
        self._map: mmap.mmap | None = None
        self.resident = 0
        """About how many bytes of it count as memory of this process."""

    def _up_to(self, end: int) -> mmap.mmap:
        """Return a mapping of at least that much of it. Raises OSError, or ValueError where the notes end before it."""
        mapped = self._map
        if mapped is None or len(mapped) < end:
            self._map = mapped = None  # first, for who has little room
            self._map = mapped = mmap.mmap(self._fd, max(1 << 20, 1 << (end - 1).bit_length()), offset=self._base)
            self.resident = 0
        self.resident = max(self.resident, min(end, KEPT))
        return mapped

    def close(self) -> None:
        """Let the mapping go."""
        self._map = None


class Outgoing(_Window):
    """Where one side puts what the other one reads."""

    def __init__(self, fd: int, base: int) -> None:
        super().__init__(fd, base)
        self._used: deque[tuple[int, int]] = deque()  # (number of the task, where its place ends), oldest first

    def put(self, buffers: Sequence[memoryview], number: int, was_read: Callable[[int], bool]) -> list[Place] | None:
        """Copy *buffers* for the task of that *number*; None where there is no room, or no memory, for them.

        *was_read* says whether what was put for the task of a number is not needed any more.
        """
        used = self._used
        self.tidy(was_read)
        at = used[-1][1] if used else 0
        places: list[Place] = []
        for buffer in buffers:
            places.append((at, buffer.nbytes, _kind_of(buffer)))
            at += -(-buffer.nbytes // _PAGE) * _PAGE
        if at > _MOST:
            return None
        try:
            window = self._up_to(at)
        except (OSError, MemoryError, ValueError):  # a limit on memory, or on the size of files
            return None
        for buffer, (begin, size, _) in zip(buffers, places, strict=True):
            window[begin : begin + size] = buffer
        used.append((number, at))
        return places

    def tidy(self, was_read: Callable[[int], bool]) -> None:
        """Forget what was read; with nothing under way, give back what is not kept: nobody reads what was taken back."""
        used, last = self._used, 0
        while used and was_read(used[0][0]):
            last = max(last, used.popleft()[1])
        if not used and last > KEPT and self._map is not None:
            with suppress(OSError):
                self._map.madvise(mmap.MADV_REMOVE, KEPT, last - KEPT)


class Incoming(_Window):
    """What reads what the other side has put."""

    def take(self, places: Sequence[Place], spares: Spares) -> list[Any]:
        """Return the buffers, in memory of their own. Raises MemoryError."""
        try:
            window = self._up_to(max(begin + size for begin, size, _ in places))
            with memoryview(window) as view:
                buffers = [_copy(view[begin : begin + size], kind, spares) for begin, size, kind in places]
        except (OSError, ValueError) as error:  # what mapping says of a limit on memory
            raise MemoryError(str(error)) from error
        for begin, size, _ in places:  # memory is given back, but for what is kept
            begin, end = max(begin, KEPT), begin + -(-size // _PAGE) * _PAGE
            if begin < end:
                with suppress(OSError):
                    window.madvise(mmap.MADV_REMOVE, begin, end - begin)
        return buffers


def _kind_of(buffer: memoryview) -> str:
    """Return what a pickle would make of it; where nobody sees what it is, any memory will do."""
    if buffer.readonly:
        return "bytes"
    return "" if type(buffer.obj).__module__ == "numpy" else "bytearray"


def _copy(buffer: memoryview, kind: str, spares: Spares) -> Any:
    """Return *buffer* in memory of its own."""
    if kind == "bytes":
        return bytes(buffer)
    if kind == "bytearray" or len(buffer) < _HUGE:
        return bytearray(buffer)
    memory = spares.take(len(buffer))
    memory[:] = buffer
    return memory


class Spares:
    """Private memory that was handed out, and is so again once nobody has it. Owned by one thread.

    To write to memory that was used before takes a third of the time that new memory does, whose pages the kernel has to clear.
    """

    def __init__(self, most: int) -> None:
        """*most*: bytes that are kept, whether somebody has them or not."""
        self._most = most
        self._given: deque[tuple[int, mmap.mmap]] = deque()  # with their sizes, oldest first
        self._used = 0.0  # when some was last handed out

    def take(self, size: int) -> memoryview:
        """Return memory of so many bytes that nobody else has, with anything in it. Raises OSError."""
        self._used = time.monotonic()
        for length, memory in self._given:
            if length == size and getrefcount(memory) == _OURS and _is_free(memory, length):
                return memoryview(memory)
        try:
            memory = self._new(size)
        except OSError:
            self.let_go()
            memory = self._new(size)
        self._given.append((size, memory))
        while sum(length for length, _ in self._given) > self._most:
            self._given.popleft()
        return memoryview(memory)

    def _new(self, size: int) -> mmap.mmap:
        memory = fresh_memory(size)
        with suppress(OSError):  # the kernel has none
            memory.madvise(mmap.MADV_HUGEPAGE)
        return memory

    def tidy(self, now: float) -> float | None:
        """Let go of all if none was handed out for a while; return when to call this again, None: nothing is kept."""
        if not self._given:
            return None
        due = self._used + UNUSED_FOR
        if now < due:
            return due
        self.let_go()
        return None

    def let_go(self) -> None:
        """Keep nothing."""
        self._given.clear()

    def __bool__(self) -> bool:
        return bool(self._given)

    @property
    def unused(self) -> int:
        """How many bytes are kept that nobody has."""
        found = 0
        for length, memory in self._given:
            if getrefcount(memory) == _OURS and _is_free(memory, length):
                found += length
        return found


def _is_free(memory: mmap.mmap, size: int) -> bool:
    """Return whether no view of it is left."""
    try:
        memory.resize(size)
    except (BufferError, OSError, SystemError, ValueError):  # there is one, or it was closed, or the system cannot tell
        return False
    return True


def _count_ours() -> int:
    """Return how many references there are to what nobody else has, in a loop as those above: Python versions differ."""
    for _, memory in deque([(1, mmap.mmap(-1, 1))]):
        return getrefcount(memory)
    raise AssertionError


_OURS = _count_ours()
