"""Ways to make a worker process: from the template ("forkserver"), as a fresh Python ("spawn"), from ourselves ("fork").

A launcher is asked for a worker and later says, as events, that it started and how it ended. It also signals workers, while
their numbers are certainly theirs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import warnings
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Literal, NamedTuple

from taskrun.engine import posix, template

if TYPE_CHECKING:
    from taskrun.engine.handle import Handle

__all__ = ["Event", "Launcher", "StartMethod", "make_launcher"]

StartMethod = Literal["forkserver", "spawn", "fork"]

_SPAWN = "import sys; sys.path[:] = sys.argv[2:]; from taskrun.engine.worker import main; main(int(sys.argv[1]))"


class Event(NamedTuple):
    """News of a worker: *kind* is "started" (value: its pid), "ended" (exit status or None) or "failed" (errno)."""

    kind: Literal["started", "ended", "failed"]
    number: int
    value: int | None
    pidfd: int = -1


class Launcher(ABC):
    """Makes and signals the workers of one executor. Used by its I/O thread only."""

    @abstractmethod
    def launch(self, handle: Handle) -> list[Event]:
        """Start the worker of *handle*. Raises OSError when that cannot work now."""

    @abstractmethod
    def signal(self, handle: Handle, number: int) -> None:
        """Send *number* to the worker's process group."""

    def fileno(self) -> int:
        """Return the descriptor on which events arrive, or -1 if workers have to be watched one by one."""
        return -1

    @property
    def blocked(self) -> bool:
        """Whether requests wait for the descriptor to have room."""
        return False

    def receive(self) -> list[Event]:
        """Return the events that have arrived. Raises EOFError when the launcher is dead, and its workers with it."""
        return []

    def reap(self, handle: Handle) -> Event:
        """Reap a worker whose pidfd says that it has ended."""
        return Event("ended", handle.number, None)

    def close(self) -> None:
        """Let go; workers that are still there are killed."""
        return


# -- forkserver -----------------------------------------------------------------------------------------------------------


class _Template:
    """This interpreter's template process, started when first needed and again when it has died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self.pid: int | None = None

    def connect(self) -> socket.socket:
        """Return a new connection to a living template. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                with self._lock:
                    if self._control is None or not self._hand_over(theirs):
                        self._start()
                        self._hand_over(theirs)
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        return ours

    def _hand_over(self, connection: socket.socket) -> bool:
        assert self._control is not None  # noqa: S101 - the callers have seen to it
        try:
            socket.send_fds(self._control, [b"c"], [connection.fileno()])
        except OSError:  # it has died
            return False
        return True

    def _start(self) -> None:
        self._forget()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            path = map(str, sys.path)
            try:
                self.pid = posix.start_python(template.BOOTSTRAP, [str(os.getpid()), *path], [theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        self._control = ours

    def _forget(self) -> None:
        """Reap the one that died."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self.pid is not None:
            pid, self.pid = self.pid, None
            # Its socket is closed, so it is at its end; a SIGKILL makes sure that we do not wait for long.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            posix.exit_status(pid)

    def after_fork_in_child(self) -> None:
        """The template is the parent's; a child that needs one starts its own."""
        self._lock = threading.Lock()
        self.pid = None
        if self._control is not None:
            self._control.close()
            self._control = None


TEMPLATE = _Template()
os.register_at_fork(after_in_child=TEMPLATE.after_fork_in_child)


class _FromTemplate(Launcher):
    def __init__(self) -> None:
        self._connection = TEMPLATE.connect()
        self._requests: deque[tuple[bytes, Handle | None]] = deque()

    def fileno(self) -> int:
        return self._connection.fileno()

    @property
    def blocked(self) -> bool:
        return bool(self._requests)

    def launch(self, handle: Handle) -> list[Event]:
        streams = sum(1 << i for i, fd in enumerate((1, 2)) if posix.is_open(fd))
        self._requests.append((template.MESSAGE.pack(template.FORK, handle.number, streams), handle))
        self._send()
        return []

    def signal(self, handle: Handle, number: int) -> None:
        self._requests.append((template.MESSAGE.pack(template.SIGNAL, handle.number, number), None))
        self._send()

    def _send(self) -> None:
        while self._requests:
            message, handle = self._requests[0]
            fds: list[int] = []
            if handle is not None:
                # The parent's output as it is now, not as it was when the template started.
                streams = template.MESSAGE.unpack(message)[2]
                fds = [*handle.theirs, *(fd for i, fd in enumerate((1, 2)) if streams & 1 << i)]
            try:
                socket.send_fds(self._connection, [message], fds)
            except BlockingIOError:
                return
            except OSError:  # the template is dead: `receive` says so
                self._requests.clear()
                return
            self._requests.popleft()
            if handle is not None:
                handle.close_theirs()

    def receive(self) -> list[Event]:
        events: list[Event] = []
        self._send()
        while True:
            try:
                data, fds = posix.recv_message(self._connection)
            except BlockingIOError:
                return events
            if not data:
                if events:
                    return events  # the next call says it
                raise EOFError
            kind, number, value = template.MESSAGE.unpack(data)
            if kind == template.STARTED:
                events.append(Event("started", number, value, fds[0]))
            elif kind == template.ENDED:
                events.append(Event("ended", number, None if value == template.UNKNOWN_STATUS else value))
            else:
                events.append(Event("failed", number, value))

    def close(self) -> None:
        self._connection.close()


# -- spawn and fork -------------------------------------------------------------------------------------------------------


class _Own(Launcher):
    """Workers that are our own children: the I/O thread makes, signals and reaps them."""

    def signal(self, handle: Handle, number: int) -> None:
        if handle.pid is not None:
            posix.signal_group(handle.pid, number)

    def reap(self, handle: Handle) -> Event:
        assert handle.pid is not None  # noqa: S101 - it has a pidfd
        if posix.has_ended(handle.pid) not in (0, None):
            posix.signal_group(handle.pid, signal.SIGKILL)  # what its tasks started ends with it
        return Event("ended", handle.number, posix.exit_status(handle.pid))


class _Spawned(_Own):
    def launch(self, handle: Handle) -> list[Event]:
        path = map(str, sys.path)
        pid = posix.start_python(_SPAWN, [str(os.getpid()), *path], handle.theirs)
        handle.close_theirs()
        return [Event("started", handle.number, pid, os.pidfd_open(pid))]


class _Forked(_Own):
    def launch(self, handle: Handle) -> list[Event]:
        # What is buffered now would be written by the child as well.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        parent = os.getpid()
        fds, handle.theirs = handle.theirs, []  # else our own at-fork hook would close them in the child
        try:
            with warnings.catch_warnings():
                # Python 3.12 warns of a fork with threads running: asked for by start_method="fork", and said by
                # UnsafeForkWarning when the executor was made.
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                _become_forked_worker(parent, fds)
        finally:
            for fd in fds:
                os.close(fd)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return [Event("started", handle.number, pid, os.pidfd_open(pid))]


def _become_forked_worker(parent: int, fds: list[int]) -> None:
    status = 1
    try:
        os.setpgid(0, 0)
        posix.die_with(parent)
        posix.reset_signals()
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        from taskrun.engine.worker import serve

        status = serve(*fds)
    except BaseException:  # nothing may return into the parent's I/O loop
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def make_launcher(method: StartMethod) -> Launcher:
    """Return a launcher for *method*. Raises OSError when processes cannot be made now."""
    if method == "forkserver":
        return _FromTemplate()
    return _Spawned() if method == "spawn" else _Forked()
