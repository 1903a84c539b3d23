"""A `multiprocessing.Pipe` between threads: objects pass as they are, and its ends close as those between processes do."""

from __future__ import annotations

import errno
import pickle
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["ThreadConnection", "pipe"]


def pipe(duplex: bool = True) -> tuple[ThreadConnection, ThreadConnection]:
    """Return two connected ends; without *duplex* the first only receives and the second only sends."""
    there, back = _Lane(), _Lane() if duplex else None
    return ThreadConnection(there, back), ThreadConnection(back, there)


class _Lane:
    """What is on its way in one direction, and how many can receive it or send more. Its condition guards it."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.messages: deque[Any] = deque()
        self.readers = self.writers = 1


class _Bytes(bytes):
    """A message sent as bytes: `recv` would unpickle it."""


class ThreadConnection:
    """One end of a pipe. Raises what the end of a pipe between processes raises."""

    def __init__(self, reading: _Lane | None, writing: _Lane | None) -> None:
        self._reading = reading
        self._writing = writing
        self._spoilt = False  # by a message that was too long: it can still send
        self._open = [True]  # whoever takes that out is the one to close it

    @property
    def closed(self) -> bool:
        """Whether this end was closed."""
        return not self._open

    @property
    def readable(self) -> bool:
        """Whether it receives."""
        return self._reading is not None and not self._spoilt

    @property
    def writable(self) -> bool:
        """Whether it sends."""
        return self._writing is not None

    def fileno(self) -> int:
        """Raise NotImplementedError: there is no descriptor between threads."""
        raise NotImplementedError(
            "a connection between threads has no descriptor: use poll(), or a connection of get_context('process')"
        )

    # -- sending ---------------------------------------------------------------------------------------------------------------

    def send(self, obj: Any) -> None:
        """Send an object. Raises OSError at a closed end, BrokenPipeError when nobody can receive it any more."""
        self._check_open()
        lane = self._writing
        if lane is None:
            raise OSError("connection is read-only")
        with lane.changed:
            if not lane.readers:
                raise BrokenPipeError(errno.EPIPE, "Broken pipe")
            lane.messages.append(obj)
            lane.changed.notify()

    def send_bytes(self, buf: Any, offset: int = 0, size: int | None = None) -> None:
        """Send *size* bytes of *buf* from *offset* on. Raises ValueError when there are not so many."""
        view = memoryview(buf).cast("B")
        if offset < 0:
            raise ValueError("offset is negative")
        if offset > len(view):
            raise ValueError("buffer length < offset")
        if size is not None and size < 0:
            raise ValueError("size is negative")
        if size is not None and offset + size > len(view):
            raise ValueError("buffer length < offset + size")
        self.send(_Bytes(view[offset : None if size is None else offset + size]))

    # -- receiving -------------------------------------------------------------------------------------------------------------

    def recv(self) -> Any:
        """Receive an object; waits for one. Raises EOFError when none is left and the other end was closed."""
        message = self._next()
        return pickle.loads(message) if type(message) is _Bytes else message

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Receive bytes. Raises OSError when there are more than *maxlength*; then this end receives no more."""
        if maxlength is not None and maxlength < 0:
            raise ValueError("negative maxlength")
        message = self._next()
        data = bytes(message) if type(message) is _Bytes else pickle.dumps(message)
        if maxlength is not None and len(data) > maxlength:
            if self._writing is None:
                self.close()
            else:
                self._spoilt = True
            raise OSError("bad message length")
        return data

    def recv_bytes_into(self, buf: Any, offset: int = 0) -> int:
        """Receive bytes into *buf* from *offset* on; return how many. Raises multiprocessing.BufferTooShort."""
        with memoryview(buf) as whole, whole.cast("B") as view:
            if offset < 0:
                raise ValueError("negative offset")
            if offset > len(view):
                raise ValueError("offset too large")
            data = self.recv_bytes()
            if len(data) > len(view) - offset:
                from multiprocessing import BufferTooShort

                raise BufferTooShort(data)
            view[offset : offset + len(data)] = data
            return len(data)

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Return whether there is something to receive, the end included, within *timeout* seconds (None: for ever)."""
        lane = self._readable_lane()
        with lane.changed:
            return lane.changed.wait_for(lambda: bool(lane.messages or not lane.writers), timeout)

    def _next(self) -> Any:
        lane = self._readable_lane()
        with lane.changed:
            lane.changed.wait_for(lambda: lane.messages or not lane.writers or self.closed)
            self._check_open()
            if not lane.messages:
                raise EOFError
            return lane.messages.popleft()

    def _readable_lane(self) -> _Lane:
        self._check_open()
        if self._reading is None or self._spoilt:
            raise OSError("connection is write-only")
        return self._reading

    # -- end -------------------------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self.closed:
            raise OSError("handle is closed")

    def duplicate(self) -> ThreadConnection:
        """Return the same end once more: it is closed for the other one when both are. Raises OSError at a closed end."""
        self._check_open()
        self._count(1)
        return ThreadConnection(self._reading, self._writing)

    def close(self) -> None:
        """Close this end: the other one finds that out."""
        try:
            self._open.pop()
        except IndexError:
            return
        self._count(-1)

    def _count(self, change: int) -> None:
        if self._reading is not None:
            with self._reading.changed:
                self._reading.readers += change
                if not self._reading.readers:
                    self._reading.messages.clear()
                self._reading.changed.notify_all()
        if self._writing is not None:
            with self._writing.changed:
                self._writing.writers += change
                self._writing.changed.notify_all()

    def __enter__(self) -> ThreadConnection:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()
