"""A child of the fork backend, seen from its parent: made, listened to, signalled, reaped. Its own part is in `child`."""

from __future__ import annotations

import contextlib
import math
import os
import signal
from typing import TYPE_CHECKING, Any

from taskrun import primitives
from taskrun.engine import posix
from taskrun.engine.answer import ANSWER, CAUSES, DONE
from taskrun.engine.child import become_child
from taskrun.engine.forking import fork
from taskrun.engine.kept import KeptProcess
from taskrun.exceptions import load_exception
from taskrun.serialization import get_ready_to_fork, load_outcome

if TYPE_CHECKING:
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Outcome
    from taskrun.task import Task

__all__ = ["ForkedChild"]


class ForkedChild(KeptProcess):
    """One child, and its task."""

    task: Task

    def __init__(self, number: int, task: Task) -> None:
        super().__init__(number, f"taskrun-child-{number}")
        self.task = task
        self.sequence = number
        self.pipe = -1
        self.settled = False  # its outcome is on the way to the scheduler
        self.answered_at = math.inf
        self.may_linger_until: float | None = None
        """When it is killed if it has answered and does not end; None: it has all the time, or has not answered."""
        self._answer = bytearray()

    def start(self, settings: WorkerSettings, threads: int) -> None:
        """Fork it; *threads* is how many libraries may use.

        Raises OSError, or RuntimeError at interpreter exit (Python 3.12.0 to 3.12.2); nothing is left then.
        """
        try:
            self.pipe, theirs = os.pipe2(os.O_CLOEXEC)
            try:
                self._fork(settings, threads, theirs)
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

    def _fork(self, settings: WorkerSettings, threads: int, answers: int) -> None:
        get_ready_to_fork()
        parent = os.getpid()
        pid = fork()
        if pid == 0:
            become_child(parent, self.number, self.task, settings, threads, answers, self._notes)
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
        """Return the outcome if the answer is whole; its cause is "initializer" if the task has not run.

        Raises ValueError if it is none.
        """
        if len(self._answer) < ANSWER.size:
            return None
        kind, started, duration, cpu, rss, length = ANSWER.unpack_from(self._answer)
        if kind != DONE and kind not in CAUSES:
            raise ValueError("what came is no answer: a task has written into the descriptor of its worker")
        if len(self._answer) < ANSWER.size + length:
            return None
        data = bytes(memoryview(self._answer)[ANSWER.size :])
        run: tuple[Any, ...] = (self.label, started, duration, cpu, rss)
        if kind != DONE:
            return self.task, False, load_exception(data), CAUSES[kind], run
        return load_outcome(self.task, data, run)

    def held_locks(self) -> tuple[str, ...]:
        """Return the names of the locks of contexts that are locked; it is dead, and had inherited them all."""
        return primitives.held(primitives.noted_locks())

    def reap(self) -> None:
        """Reap the child, which has ended, and end what its task started, if it did not end in order."""
        assert self.pid is not None  # noqa: S101 - it was forked
        if self.stop is not None or posix.has_ended(self.pid) not in (0, None):
            self.signal(signal.SIGKILL)
        self.exit_status = posix.exit_status(self.pid)

    def destroy(self) -> None:
        self.signal(signal.SIGKILL)
        if self.pid is not None and self.exit_status is None:
            self.exit_status = posix.exit_status(self.pid)
        self.close()

    def close(self) -> None:
        """Close everything."""
        posix.close_held(self, "pipe")
        super().close()
