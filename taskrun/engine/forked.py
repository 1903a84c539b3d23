"""A child of the fork backend, seen from its parent: made, listened to, signalled, reaped. Its own part is in `child`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from taskrun.engine import posix
from taskrun.engine.answer import ANSWER, DONE, LATE, NOT_READY, RAISED, STACK_AT, UNSENDABLE
from taskrun.engine.child import become_child
from taskrun.engine.crash import read_stack
from taskrun.engine.launch import fork_warning_ignored
from taskrun.exceptions import load_exception
from taskrun.serialization import load_outcome

if TYPE_CHECKING:
    from taskrun.engine.stopping import Stop
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Outcome
    from taskrun.task import Cause, Task

__all__ = ["ForkedChild"]

_CAUSES: dict[bytes, Cause] = {
    RAISED: "raised",
    UNSENDABLE: "serialization",
    LATE: "timeout",
    NOT_READY: "initializer",
}


class ForkedChild:
    """One child, and its task. The keeper's; `note_cancel` may be called by others until it is closed, under their lock."""

    def __init__(self, number: int, task: Task) -> None:
        self.number = number
        self.task = task
        self.pid: int | None = None
        self.pidfd = self.pipe = -1
        self.label = ""
        self.settled = False  # its outcome is on the way to the scheduler
        self.stop: Stop | None = None
        self.exit_status: int | None = None
        self._answer = bytearray()
        self._notes = os.memfd_create(f"taskrun-child-{number}", os.MFD_CLOEXEC)
        os.ftruncate(self._notes, STACK_AT)

    def start(self, settings: WorkerSettings) -> None:
        """Fork it. Raises OSError, or RuntimeError at interpreter exit (Python 3.12.0 to 3.12.2); nothing is left then."""
        try:
            self.pipe, theirs = os.pipe2(os.O_CLOEXEC)
            try:
                self._fork(settings, theirs)
            finally:
                os.close(theirs)
            os.set_blocking(self.pipe, False)
            self.label = f"pid {self.pid}"
            assert self.pid is not None  # noqa: S101 - it was forked
            self.pidfd = os.pidfd_open(self.pid)
        except BaseException:
            if self.pid is not None:
                self.signal(signal.SIGKILL)
                self.reap()
            self.close()
            raise

    def _fork(self, settings: WorkerSettings, answers: int) -> None:
        # What is buffered now would be written by the child as well.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        parent = os.getpid()
        with fork_warning_ignored(__name__):
            pid = os.fork()
        if pid == 0:
            become_child(parent, self.number, self.task, settings, answers, self._notes)
        self.pid = pid
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)

    def read(self) -> bool:
        """Take what the child has written; False once that was all."""
        while True:
            try:
                data = os.read(self.pipe, 1 << 20)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._answer += data

    def outcome(self) -> Outcome | None:
        """Return the outcome if the answer is whole; its cause is "initializer" if the task has not run."""
        if len(self._answer) < ANSWER.size:
            return None
        kind, started, duration, cpu, rss, length = ANSWER.unpack_from(self._answer)
        if len(self._answer) < ANSWER.size + length:
            return None
        data = bytes(memoryview(self._answer)[ANSWER.size :])
        run: tuple[Any, ...] = (self.label, started, duration, cpu, rss)
        if kind != DONE:
            return self.task, False, load_exception(data), _CAUSES[kind], run
        return load_outcome(self.task, data, run)

    def note_cancel(self) -> None:
        """Let `current_task().cancelled` be true in the child."""
        if self._notes >= 0:
            os.pwrite(self._notes, b"c", 0)

    def ask_for_stack(self) -> None:
        """Have the child write its stack."""
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self.pidfd, posix.STACK_SIGNAL)

    def has_stack(self) -> bool:
        """Return whether the child has begun to write its stack."""
        return os.fstat(self._notes).st_size > STACK_AT

    def stack(self) -> str | None:
        """Return the Python stack that the child wrote, if it did."""
        return read_stack(self._notes, STACK_AT)

    def signal(self, number: int) -> None:
        """Send *number* to the process group of the child, which was not reaped yet."""
        if self.pid is not None:
            posix.signal_group(self.pid, number)

    def reap(self) -> None:
        """Reap the child, which has ended, and end what its task started, if it did not end in order."""
        assert self.pid is not None  # noqa: S101 - it was forked
        if self.stop is not None or posix.has_ended(self.pid) not in (0, None):
            self.signal(signal.SIGKILL)
        self.exit_status = posix.exit_status(self.pid)

    def close(self) -> None:
        """Close everything."""
        for fd in (self.pipe, self.pidfd, self._notes):
            if fd >= 0:
                os.close(fd)
        self.pipe = self.pidfd = self._notes = -1
