"""What goes over a worker's channel: frames on a stream socket, and tokens in a pipe.

A *frame* is a header of fixed size, whose first field is the length of the payload that follows it.

    parent -> worker   TASK      run this: slot of the function, number, options; payload: pickled (args, kwargs)
                       TASK_MORE the same; payload: length of a pickled dict of extras, the extras, (args, kwargs)
                       TASKS     several first attempts at calls of one function, numbers and indexes in a row; in the header's
                                 attempt, how many; payload: the pickled list of their args, or of pickles of (args, kwargs)
                       FUNCTION  payload: what `dump_function` made, for the slot in the header
                       STATE     payload: pickled dict of things that hold from here on
                       SHIPMENT  payload: an object that tasks refer to (see `shipping`); in the header's slot, how many
                                 descriptors travel with it
    worker -> parent   READY, or NOT_READY with the error of the initializer
                       one of DONE, RAISED, UNSENDABLE, TIMED_OUT for each task claimed; small ones in the outbox
                       BULK, in the place of DONE: the pickle of (places of its large buffers, pickle of the result)
                       UP_TO     the answers up to the task with this number are in the outbox, where they were not sent

A *token* is two bytes for each task, in the same order: its sequence number modulo 1024. The worker claims a
task by reading its token; the parent takes unstarted tasks back by reading their tokens from the same pipe. The kernel
gives each token to one of the two, so no memory order has to be relied upon. All that is written or read is whole tokens, and
less than a page: a pipe takes or gives that in one piece.
"""

from __future__ import annotations

import array
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from taskrun.engine import posix

if TYPE_CHECKING:
    from taskrun.shipping import Shipment

__all__ = ["REPLY", "TASK_HEADER", "FrameReader", "FrameWriter", "number_of", "tokens_of"]

TASK_HEADER: Final = struct.Struct("<QBxHIQqdd")
"""length, kind, slot, attempt, sequence number, index, timeout, soft timeout (seconds, 0: none)."""
REPLY: Final = struct.Struct("<QQQdddQ")
"""length, kind, sequence number, started (monotonic), duration, CPU seconds, resident bytes (0: not measured)."""

TASK, TASK_MORE, TASKS, FUNCTION, STATE, SHIPMENT = _ORDERS = range(1, 7)
_REPLIES = range(0x7461736B72756E00, 0x7461736B72756E08)
READY, NOT_READY, DONE, RAISED, UNSENDABLE, TIMED_OUT, UP_TO, BULK = _REPLIES
"""Numbers that nothing else has: a task may write what it likes into the descriptor, and is not to be taken for its worker."""

LEAVE: Final = b"\x7f\xff"
"""The token that ends a worker."""
TOKEN: Final = len(LEAVE)
TOKENS: Final = 1024
"""How many different tokens there are."""
MAX_AHEAD: Final = 960
"""Tasks sent and not known to be read; fewer than there are tokens, so that each means one only."""

_NONSENSE = "what came is no frame: a task has written into the descriptor of its worker"
_CHUNK = 1 << 18
_JOIN_BELOW = 1 << 16
_IOV_MAX = 512
_CLOSE_ON_EXEC, _CUT_OFF = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_CTRUNC)  # `&` of an enum's flags takes a microsecond
_ANCILLARY = socket.CMSG_SPACE(64 * 4)
"""Room for as many descriptors as come at a time."""


def _made() -> bytes:
    # The first byte is below 128, the second is not: the end of one and the beginning of the next are never taken for a token.
    tokens = bytearray(TOKEN * TOKENS)
    tokens[1::TOKEN] = bytes(range(128, 256)) * (TOKENS // 128)
    for block in range(TOKENS // 128):
        tokens[TOKEN * 128 * block : TOKEN * 128 * (block + 1) : TOKEN] = bytes((block,)) * 128
    return bytes(tokens)


_TWICE = _made() * 2  # of consecutive numbers, wherever they begin


def tokens_of(first: int, count: int = 1) -> bytes:
    """Return the tokens of so many tasks (at most `MAX_AHEAD`), whose sequence numbers begin with *first*."""
    begin = first % TOKENS * TOKEN
    return _TWICE[begin : begin + count * TOKEN]


def number_of(token: bytes) -> int:
    """Return what the sequence number of its task is, modulo `TOKENS`; as much or more if it is the ends of two of them.

    Raises IndexError for half of one.
    """
    return (token[0] << 7) + token[1] - 128


class FrameReader:
    """Cuts what comes from a stream socket into frames; large payloads go straight into memory of their own."""

    def __init__(self, sock: socket.socket, header: struct.Struct, *, descriptors: bool = False) -> None:
        """*descriptors*: some may come, one batch in each `batches` for every time that the other side has sent any."""
        self._kinds = _REPLIES if header is REPLY else _ORDERS
        self._sock = sock
        self._recv_into = self._recv_with_descriptors if descriptors else sock.recv_into
        self.batches: deque[list[int]] = deque()
        self._unpack = header.unpack_from
        self._head = header.size
        self._buffer = posix.fresh_memory(_CHUNK)
        self._view = memoryview(self._buffer)
        self._have = 0
        self._nonsense = False  # what is in the buffer is no frame
        self.drained = False
        """Whether the last read took all that was there: another one would find nothing, or what has come since."""
        self._big: bytearray | None = None  # the payload under way, when it is larger than the buffer
        self._big_header: tuple[int, ...] = ()
        self._big_have = 0

    @property
    def between_frames(self) -> bool:
        """Whether nothing of a frame has been received that is not complete yet."""
        return not self._have and self._big is None

    def read(self) -> list[tuple[tuple[int, ...], bytes | bytearray]]:
        """Receive once and return the frames that are complete now, as (header, payload).

        Raises EOFError when the other side is gone, BlockingIOError when a non-blocking socket has nothing, MemoryError when
        there is no room for the next one, ValueError when it is none: then nothing more can be read.
        """
        if self._big is not None:
            return self._read_big(self._big)
        if self._nonsense:
            raise ValueError(_NONSENSE)
        try:
            got = self._recv_into(self._view[self._have :] if self._have else self._view)
        except ConnectionResetError:
            got = 0
        if not got:
            raise EOFError
        have = self._have + got
        frames = self._cut(have)
        self.drained = have < _CHUNK and not self._nonsense
        return frames

    def _recv_with_descriptors(self, view: memoryview) -> int:
        got, ancillary, flags, _ = self._sock.recvmsg_into((view,), _ANCILLARY, _CLOSE_ON_EXEC)
        if ancillary or flags & _CUT_OFF:  # the second alone: there were no descriptors left to receive them
            self.batches.append(posix.descriptors_in(ancillary))
        return got

    def _cut(self, have: int) -> list[tuple[tuple[int, ...], bytes | bytearray]]:
        frames: list[tuple[tuple[int, ...], bytes | bytearray]] = []
        view, unpack, head, kinds, at = self._view, self._unpack, self._head, self._kinds, 0
        while have - at >= head:
            header = unpack(view, at)
            if header[1] not in kinds:
                self._nonsense = True
                if not frames:
                    raise ValueError(_NONSENSE)
                break  # first those that came before it; the next call says so
            end = at + head + header[0]
            if end > have:
                if head + header[0] > len(view):
                    try:
                        self._start_big(header, view[at + head : have])
                    except MemoryError:
                        if not frames:
                            raise
                        break  # first those that are complete; the next call tries again
                    at = have
                break
            frames.append((header, bytes(view[at + head : end])))
            at = end
        self._have = have - at
        if at and self._have:
            self._buffer[: self._have] = self._buffer[at:have]
        return frames

    def _start_big(self, header: tuple[int, ...], beginning: memoryview) -> None:
        self._big = bytearray(header[0])
        self._big_header = header
        self._big_have = len(beginning)
        self._big[: self._big_have] = beginning

    def _read_big(self, big: bytearray) -> list[tuple[tuple[int, ...], bytes | bytearray]]:
        with memoryview(big) as whole, whole[self._big_have :] as rest:
            try:
                got = self._recv_into(rest)
            except ConnectionResetError:
                got = 0
        if not got:
            raise EOFError
        self.drained = self._big_have + got < len(big)
        self._big_have += got
        if self._big_have < len(big):
            return []
        self._big = None
        return [(self._big_header, big)]


class FrameWriter:
    """Sends without ever blocking: what the socket does not take is kept and sent when it has room."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        # memoryviews, so that the rest of a large payload is never copied
        self._waiting: deque[memoryview] = deque()
        self._carried: dict[int, Shipment] = {}  # what goes along with the view of that id, until its first byte is sent

    @property
    def blocked(self) -> bool:
        """Whether something waits for the socket to have room."""
        return bool(self._waiting)

    def send(self, parts: list[Any], shipment: Shipment | None = None) -> None:
        """Send *parts* (bytes or views) and the descriptors of *shipment*, or as much as the socket takes now.

        Raises OSError when the other side is gone.
        """
        if sum(map(len, parts)) < _JOIN_BELOW:
            data = b"".join(parts)
            if shipment is None and not self._waiting:  # the common case
                self._send_or_keep(data)
                return
            parts = [data]
        views = [memoryview(part) for part in parts if part]
        if shipment is not None:
            self._carried[id(views[0])] = shipment
        self._waiting.extend(views)
        self.flush()

    def _send_or_keep(self, data: bytes) -> None:
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._waiting.append(memoryview(data)[sent:])

    def flush(self) -> None:
        """Send what waits, as far as it goes. Raises OSError when the other side is gone."""
        waiting = self._waiting
        while waiting:
            try:
                if self._carried:
                    sent = self._send_carried(waiting[0])
                elif len(waiting) == 1:
                    sent = self._sock.send(waiting[0])
                else:
                    sent = self._sock.sendmsg([waiting[i] for i in range(min(len(waiting), _IOV_MAX))])
            except BlockingIOError:
                return
            while waiting and sent >= len(waiting[0]):
                sent -= len(waiting.popleft())
            if sent:
                waiting[0] = waiting[0][sent:]

    def _send_carried(self, view: memoryview) -> int:
        """Send *view*, with its descriptors if it has any: one view at a time, they arrive with its first byte."""
        shipment = self._carried.get(id(view))
        if shipment is None:
            return self._sock.send(view)
        rights = socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", shipment.descriptors)
        sent = self._sock.sendmsg((view,), (rights,))
        del self._carried[id(view)]
        return sent
