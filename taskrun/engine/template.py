"""The template: a small, single-threaded Python that forks workers on request.

::

    parent process                                     template                      worker
    ─ Template ──── control (SEQPACKET): "here is a connection" ─►
    ─ TemplateLauncher ── connection: FORK n + [channel] ────────► fork ───────────► serve(channel)
                       ◄──────────── STARTED n, pid + [pidfd] ────
                       ── SIGNAL n, number ──────────────────────► to the group ───►
                       ◄──────────── ENDED n, status ───────────── reap ◄───────────

One template serves an interpreter; each executor has a connection of its own. Descriptors travel by SCM_RIGHTS; nothing
listens anywhere. A worker is signalled before it is reaped, so its number cannot be somebody else's by then. The template
ends, and its workers with it, when the parent does or when the last connection is gone.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import struct
import sys

from taskrun.engine import posix

__all__ = ["ENDED", "FAILED", "FORK", "MESSAGE", "SIGNAL", "STARTED", "main"]

MESSAGE = struct.Struct("<BIi")
"""kind, number of the worker, and a value: pid, status, signal or errno."""
FORK, SIGNAL, STARTED, ENDED, FAILED = 1, 2, 3, 4, 5

UNKNOWN_STATUS = 1 << 20

# Without the garbage collector: there is next to none, and to look for it while modules are loaded takes a tenth of the time.
BOOTSTRAP = (
    "import gc; gc.disable(); "
    "import sys; sys.path[:] = sys.argv[2:]; from taskrun.engine.template import main; main(int(sys.argv[1]))"
)
CONTROL_FD = 3
_IDLE = 50  # milliseconds without a request that are a pause
_MANY = 8  # workers after which no pause is waited for: more will come


class _Child:
    __slots__ = ("connection", "number", "pid", "signalled")

    def __init__(self, connection: socket.socket, number: int, pid: int) -> None:
        self.connection = connection
        self.number = number
        self.pid = pid
        self.signalled = False


class _Leave(Exception):  # noqa: N818 - not an error: the template's work is done
    """The parent is gone."""


def main(parent: int) -> None:
    """Serve the process *parent* until it ends; never returns."""
    status = 1
    try:
        posix.close_all_but({CONTROL_FD})  # what the user had inheritable: nobody would close it while the template lives
        posix.reset_signals()  # here, so that no worker has to
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            watch = os.pidfd_open(parent)
        except ProcessLookupError:
            raise _Leave from None
        if os.getppid() != parent:
            raise _Leave
        posix.load_libc()
        # Held by this frame until `_exit`: dropped earlier, an open socket would be warned about.
        server = _Server(socket.socket(fileno=CONTROL_FD), watch)
        server.run()
    except _Leave:
        status = 0
    except BaseException:  # whatever it is: say so and end, the parent starts another template
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


class _Server:
    def __init__(self, control: socket.socket, parent: int) -> None:
        self._control = control
        self._parent = parent
        self._poll = select.poll()
        self._connections: dict[int, socket.socket] = {}
        self._children: dict[int, _Child] = {}  # by pidfd
        self._to_load = True  # see `_load_more`
        self._forks = 0
        for fd in (control.fileno(), parent):
            self._poll.register(fd, select.POLLIN)

    def run(self) -> None:
        import faulthandler  # noqa: F401 - loaded once, for all workers

        from taskrun.engine import worker  # noqa: F401 - likewise

        _share()
        try:
            while True:
                ready = self._poll.poll(_IDLE if self._to_load else None)
                for fd, _ in ready:
                    self._handle(fd)
                if self._to_load and (not ready or self._forks >= _MANY):
                    self._load_more()
        finally:
            for child in self._children.values():
                posix.signal_group(child.pid, signal.SIGKILL)

    def _handle(self, fd: int) -> None:
        # A descriptor closed by an earlier event of the same poll is in none of these tables. If its number was given out
        # again meanwhile, reading from the new one does no harm: sockets are read without blocking, pidfds are polled.
        if fd == self._parent:
            raise _Leave
        if fd == self._control.fileno():
            self._accept()
        elif fd in self._children:
            self._reap(fd)
        elif fd in self._connections:
            self._serve(self._connections[fd])

    def _accept(self) -> None:
        data, fds = posix.recv_message(self._control)
        if not data:
            raise _Leave
        for fd in fds:
            connection = socket.socket(fileno=fd)
            connection.setblocking(False)
            self._connections[fd] = connection
            self._poll.register(fd, select.POLLIN)

    def _serve(self, connection: socket.socket) -> None:
        try:
            data, fds = posix.recv_message(connection)
        except BlockingIOError:
            return
        if not data:
            self._drop(connection)
            return
        kind, number, value = MESSAGE.unpack(data)
        if kind == FORK:
            self._fork(connection, number, value, fds)
        else:
            for child in self._children.values():
                if child.connection is connection and child.number == number:
                    child.signalled = True
                    posix.signal_group(child.pid, value)

    def _drop(self, connection: socket.socket) -> None:
        """An executor is gone: so are its workers."""
        self._poll.unregister(connection.fileno())
        del self._connections[connection.fileno()]
        connection.close()
        for child in self._children.values():
            if child.connection is connection:
                posix.signal_group(child.pid, signal.SIGKILL)

    def _fork(self, connection: socket.socket, number: int, streams: int, fds: list[int]) -> None:
        template = os.getpid()
        self._forks += 1
        try:
            pid = os.fork()
        except OSError as error:
            self._send(connection, FAILED, number, error.errno or 0)
        else:
            if pid == 0:
                _become_worker(template, streams, fds)
            with contextlib.suppress(OSError):
                os.setpgid(pid, pid)  # the child does it too; whoever is first, it has its group before anybody signals it
            try:
                pidfd = os.pidfd_open(pid)
            except OSError as error:  # no descriptor is left: without one it cannot be watched
                posix.signal_group(pid, signal.SIGKILL)
                posix.exit_status(pid)
                self._send(connection, FAILED, number, error.errno or 0)
            else:
                self._children[pidfd] = _Child(connection, number, pid)
                self._poll.register(pidfd, select.POLLIN)
                self._send(connection, STARTED, number, pid, [pidfd])
        finally:
            for fd in fds:
                os.close(fd)

    def _load_more(self) -> None:
        """Load what most workers come to need, in the first pause: nobody waits for this."""
        self._to_load = False
        try:
            import multiprocessing  # noqa: F401 - loaded for the workers

            import taskrun.by_value  # noqa: F401 - likewise
        except Exception:  # an error that the worker will meet and report, where it matters
            return
        _share()

    def _reap(self, pidfd: int) -> None:
        child = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        if child.signalled or posix.has_ended(child.pid) != 0:
            # It crashed or was stopped: what its tasks started ends with it. One that left in order may leave servers behind.
            posix.signal_group(child.pid, signal.SIGKILL)
        status = posix.exit_status(child.pid)
        os.close(pidfd)
        self._send(child.connection, ENDED, child.number, UNKNOWN_STATUS if status is None else status)

    def _send(self, connection: socket.socket, kind: int, number: int, value: int, fds: list[int] | None = None) -> None:
        try:
            connection.setblocking(True)
            socket.send_fds(connection, [MESSAGE.pack(kind, number, value)], fds or [])
            connection.setblocking(False)
        except OSError:
            return  # its end of file, which drops it, is already here or will be


def _share() -> None:
    """What is here now all workers share for good: neither what they look up nor the collector may touch, and so copy, it."""
    from taskrun.serialization import get_ready_to_fork

    get_ready_to_fork()
    gc.freeze()


def _become_worker(template: int, streams: int, fds: list[int]) -> None:
    """In the new child: keep the worker's own descriptors and nothing else, then serve; never returns.

    The objects of the template stay alive in the frames below, so no finalizer closes a number that is in use again.
    """
    status = 1
    try:
        gc.enable()
        posix.leave_parent(template, reset=False)
        channel, rest = fds[:3], fds[3:]
        out = rest.pop(0) if streams & 1 else -1
        err = rest.pop(0) if streams & 2 else -1
        posix.attach_standard_streams(out, err)
        posix.close_all_but(set(channel))
        from taskrun.engine.worker import serve

        status = serve(*channel)
    except BaseException:  # nothing may return into the template's loop
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)
