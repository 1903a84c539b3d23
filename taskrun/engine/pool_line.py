"""The two lines between a `SmallPool` and its process, and how the answers on one of them are read."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import select
import socket
import struct
from typing import TYPE_CHECKING, Any, ClassVar

from taskrun.engine.spin import Spin

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import BaseContext

__all__ = ["NO_MEMORY", "Answers", "PoolLine"]

_SIZE, _LONG_SIZE = struct.Struct("!i"), struct.Struct("!Q")  # what `Connection` sends before a message; -1: a long one
_AT_ONCE, _MUCH = 1 << 16, 1 << 20  # bytes

NO_MEMORY = 250
"""Exit status of a process that had no memory for what it was sent, and so does not know what that was."""


class PoolLine:
    """What the pool takes for a `multiprocessing.SimpleQueue`; with one process at each end it needs no lock."""

    look_first: ClassVar[bool] = False
    """In the process: one task at a time travels, it seems, and the next one is looked for before this process sleeps."""
    _spin: Spin | None = None

    def __init__(self, context: BaseContext) -> None:
        self._reader, self._writer = context.Pipe(duplex=True)  # sockets, unlike one-way pipes

    def get(self) -> Any:
        """Return what comes next. In the process only: here the pool's thread reads by itself (`Answers`)."""
        try:
            if self.look_first:
                self._look()
            return self._reader.recv()
        except MemoryError:
            os._exit(NO_MEMORY)  # half of it lies in the line: nothing more can be read

    def _look(self) -> None:
        if self._spin is None:
            line = select.poll()
            line.register(self._reader, select.POLLIN)
            self._spin = Spin(line.poll)
        self._spin()

    def put(self, obj: Any) -> None:
        self._writer.send(obj)

    def put_pickle(self, pickled: bytes) -> None:
        self._writer.send_bytes(pickled)

    def shut(self) -> None:
        """Let whoever reads or writes at this side find the line dead, even if others hold its other end."""
        for connection in (self._reader, self._writer):
            with contextlib.suppress(OSError), socket.socket(fileno=connection.fileno()) as borrowed:
                try:
                    borrowed.shutdown(socket.SHUT_RDWR)
                finally:
                    borrowed.detach()

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    def __getstate__(self) -> Any:
        return self._reader, self._writer

    def __setstate__(self, state: Any) -> None:
        self._reader, self._writer = state


class Answers:
    """Reads a line as its `Connection` would, but as much at a time as there is: the interpreter changes hands at each read."""

    def __init__(self, connection: Any, lost: Callable[[BaseException], object]) -> None:
        """*lost* is called with what keeps it from reading: no memory for it, or a task has written into the line."""
        self._connection = connection
        self._lost = lost
        self._data = b""
        self._at = 0

    def get(self) -> Any:
        """Do as `recv` for the pool's thread, which would die in silence of anything but the two errors that it knows."""
        try:
            return self.recv()
        except (OSError, EOFError):
            raise
        except BaseException as error:
            self._lost(error)
            raise EOFError from error

    def recv(self) -> Any:
        """Return what comes next; raises EOFError at the end."""
        size = self._number(_SIZE)
        if size == -1:
            size = self._number(_LONG_SIZE)
        if size < 0:
            raise ValueError("a task has written into the line of answers")
        start, end = self._at, self._at + size
        if end > len(self._data):
            return pickle.loads(self._long(size))
        self._at = end
        return pickle.loads(memoryview(self._data)[start:end])

    def _number(self, form: struct.Struct) -> int:
        while len(self._data) - self._at < form.size:
            more = os.read(self._connection.fileno(), _AT_ONCE)
            if not more:
                raise EOFError
            self._data, self._at = self._data[self._at :] + more, 0
        (number,) = form.unpack_from(self._data, self._at)
        self._at += form.size
        return int(number)

    def _long(self, size: int) -> memoryview:
        """Return what has not all come yet. It grows as it comes: a size that is junk costs nothing."""
        whole = io.BytesIO()
        whole.write(memoryview(self._data)[self._at :])
        self._data, self._at = b"", 0
        while whole.tell() < size:
            more = os.read(self._connection.fileno(), min(size - whole.tell(), _MUCH))
            if not more:
                raise EOFError
            whole.write(more)
        return whole.getbuffer()
