"""Ways to make a worker process: from the template ("forkserver"), as a fresh Python ("spawn"), from ourselves ("fork").

A launcher is asked for a worker and later says, as events, that it started and how it ended. It also signals workers, while
their numbers are certainly theirs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Literal, NamedTuple

from taskrun.engine import posix, template
from taskrun.engine.ending import forget_exit_handlers, renew_primitives
from taskrun.engine.forking import fork

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskrun.engine.handle import Handle

__all__ = ["Event", "Launcher", "StartMethod", "get_ready", "make_launcher"]

StartMethod = Literal["forkserver", "spawn", "fork"]

_SPAWN = "import sys; sys.path[:] = sys.argv[2:]; from taskrun.engine.worker import main; main(int(sys.argv[1]))"


# Too many descriptors are on their way to the template, or the kernel is short of memory: its next answer makes room.
_TRY_LATER = (errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM)


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

    def kill(self) -> None:
        """End the launcher itself, since it does not do what it is told (somebody stopped it): `receive` will say so."""
        return

    def reap(self, handle: Handle) -> Event:
        """Reap a worker whose pidfd says that it has ended."""
        return Event("ended", handle.number, None)

    def close(self) -> None:
        """Let go; workers that are still there are killed."""
        return


# -- forkserver ----------------------------------------------------------------------------------------------------------------


class _Template:
    """This interpreter's template process, started when first needed and again when it has died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._pidfd = -1
        self.pid: int | None = None

    def begin(self) -> None:
        """Start one if there is none, for who will need it soon: it takes its time. What prevents it, `connect` meets."""
        with self._lock, contextlib.suppress(OSError):
            if self._control is None:
                self._start()

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
        with contextlib.suppress(OSError):
            self._pidfd = os.pidfd_open(self.pid)

    def kill(self) -> None:
        """Have the template end, and its workers with it."""
        with self._lock, contextlib.suppress(OSError):
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def end(self) -> None:
        """End the template and wait for that: this interpreter ends, and is not alone in the process."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        """Reap the one that died, or is to."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self.pid is not None:
            pid, self.pid = self.pid, None
            # Its socket is closed, so it is at its end; a SIGKILL makes sure that we do not wait for long. By pidfd: the
            # number may be somebody else's, if the user's code reaped it.
            if self._pidfd >= 0:
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            posix.close_held(self, "_pidfd")
            posix.exit_status(pid)

    def after_fork_in_child(self) -> None:
        """The template is the parent's; a child that needs one starts its own."""
        self._lock = threading.Lock()
        self.pid = None
        if self._control is not None:
            self._control.close()
            self._control = None
        posix.close_held(self, "_pidfd")


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
        self._signal(handle.number, number)

    def _signal(self, worker: int, number: int) -> None:
        self._requests.append((template.MESSAGE.pack(template.SIGNAL, worker, number), None))
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
            except OSError as error:
                if error.errno in _TRY_LATER:
                    return
                self._requests.clear()  # the template is dead: `receive` says so
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
            if kind == template.STARTED and fds:
                events.append(Event("started", number, value, fds[0]))
            elif kind == template.STARTED:  # no descriptor was left for its pidfd: without one it cannot be watched
                self._signal(number, signal.SIGKILL)
                events.append(Event("failed", number, errno.EMFILE))
            elif kind == template.ENDED:
                events.append(Event("ended", number, None if value == template.UNKNOWN_STATUS else value))
            else:
                events.append(Event("failed", number, value))

    def kill(self) -> None:
        TEMPLATE.kill()

    def close(self) -> None:
        self._connection.close()


# -- spawn and fork ------------------------------------------------------------------------------------------------------------


class _Own(Launcher):
    """Workers that are our own children: the I/O thread makes, signals and reaps them."""

    def signal(self, handle: Handle, number: int) -> None:
        if handle.pid is not None:
            posix.signal_group(handle.pid, number)

    def reap(self, handle: Handle) -> Event:
        assert handle.pid is not None  # noqa: S101 - it has a pidfd
        if handle.stop is not None or posix.has_ended(handle.pid) not in (0, None):
            posix.signal_group(handle.pid, signal.SIGKILL)  # what its tasks started ends with it
        return Event("ended", handle.number, posix.exit_status(handle.pid))


class _Spawned(_Own):
    def launch(self, handle: Handle) -> list[Event]:
        path = map(str, sys.path)
        pid = posix.start_python(_SPAWN, [str(os.getpid()), *path], handle.theirs)
        handle.close_theirs()
        return [_started(handle, pid)]


class _Forked(_Own):
    def launch(self, handle: Handle) -> list[Event]:
        import faulthandler  # noqa: F401 - here, once: each child would load it

        from taskrun.engine import worker  # likewise

        posix.load_libc()
        parent = os.getpid()
        fds, handle.theirs = handle.theirs, []  # else our own at-fork hook would close them in the child
        try:
            pid = fork()
            if pid == 0:
                _become_forked_worker(parent, fds, worker.serve)
        except RuntimeError as error:  # the interpreter is shutting down and gives no more processes
            raise OSError(errno.EAGAIN, str(error)) from error
        finally:
            for fd in fds:
                os.close(fd)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return [_started(handle, pid)]


def _started(handle: Handle, pid: int) -> Event:
    try:
        return Event("started", handle.number, pid, os.pidfd_open(pid))
    except OSError:  # no descriptor is left: without one it cannot be watched
        posix.signal_group(pid, signal.SIGKILL)
        posix.exit_status(pid)
        raise


def _become_forked_worker(parent: int, fds: list[int], serve: Callable[..., int]) -> None:
    status = 1
    try:
        posix.leave_parent(parent)
        forget_exit_handlers()
        renew_primitives()
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        if null > 0:
            os.close(null)
        status = serve(*fds)
    except BaseException:  # nothing may return into the parent's I/O loop
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def get_ready(method: StartMethod) -> None:
    """Begin with what takes long and all executors have in common. In another thread than the main one, for Ctrl-C."""
    if method == "forkserver":
        TEMPLATE.begin()


def make_launcher(method: StartMethod) -> Launcher:
    """Return a launcher for *method*. Raises OSError when processes cannot be made now."""
    if method == "forkserver":
        return _FromTemplate()
    return _Spawned() if method == "spawn" else _Forked()
