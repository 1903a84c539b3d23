"""Runs each task in a child of its own, made by `os.fork`: arguments and closures are inherited, only the outcome is pickled.

One thread of ours, the *keeper*, makes the children, watches them and reaps them; others speak to it through a deque and a
descriptor. A child inherits everything as it is at the fork, the locks that other threads hold among it: those of `logging` are
seen to by Python, the import locks here; nobody can free the user's.

What the kernel is asked for is in `engine.posix`; how a child is stopped, and what its death is made into, the engine's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
import threading
import time
import warnings
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from taskrun.backends.base import Backend, Capabilities
from taskrun.engine.answer import ANSWER, DONE, NOT_READY, STACK_AT
from taskrun.errors import UnsafeForkWarning
from taskrun.exceptions import load_exception
from taskrun.serialization import load_result
from taskrun.threads import OwnThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskrun.engine.stopping import Stop
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Outcome, Scheduler
    from taskrun.task import Cause, Task

__all__ = ["ForkBackend"]

_log = logging.getLogger("taskrun")

_KINDS: dict[bytes, Cause] = {b"e": "raised", b"p": "serialization", b"t": "timeout"}
_MOST_STACK = 1 << 18
_HERE = os.path.dirname(os.path.dirname(__file__)) + os.sep


class _Child:
    """One child, and its task."""

    def __init__(self, number: int, task: Task) -> None:
        self.number = number
        self.task = task
        self.pid: int | None = None
        self.pidfd = self.pipe = -1
        self.label = ""
        self.answer = bytearray()
        self.settled = False  # its outcome is on the way to the scheduler
        self.stop: Stop | None = None
        self.exit_status: int | None = None
        self.notes = os.memfd_create(f"taskrun-child-{number}", os.MFD_CLOEXEC)
        os.ftruncate(self.notes, STACK_AT)

    def has_stack(self) -> bool:
        """Return whether the child has begun to write its stack."""
        return os.fstat(self.notes).st_size > STACK_AT

    def stack(self) -> str | None:
        """Return the Python stack that the child wrote, if it did, without what is taskrun's."""
        text = os.pread(self.notes, _MOST_STACK, STACK_AT).decode("utf-8", "replace")
        return "\n".join(line for line in text.splitlines() if _HERE not in line).strip() or None

    def close(self) -> None:
        for fd in (self.pipe, self.pidfd, self.notes):
            if fd >= 0:
                os.close(fd)
        self.pipe = self.pidfd = self.notes = -1


class ForkBackend(Backend):
    """A child that dies fails only its own task; each is new, so that nothing has to be recycled."""

    name: ClassVar[str] = "fork"
    capabilities = Capabilities(
        crash_isolation=True,
        kill="yes",
        initializer="in each child",
        pickles="results",
        processes=True,
    )
    shares_context = True  # the context is inherited like everything else

    @classmethod
    def unavailable(cls) -> str | None:
        from taskrun.engine.posix import supported

        missing = supported()
        return None if missing is None else f'the fork backend needs {missing}; use backend="thread" here'

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        """Start the keeper."""
        from taskrun.engine import child  # noqa: F401 - all that a child needs is loaded once, here
        from taskrun.engine.crash import OutOfMemoryWatch, get_ready
        from taskrun.engine.posix import load_libc

        self._scheduler = scheduler
        self._settings = settings
        self._pid = os.getpid()
        self._children: dict[int, _Child] = {}  # by number; the keeper's, and read by others under the scheduler's lock
        self._by_fd: dict[int, _Child] = {}
        self._number = 0
        self._not_before = 0.0  # no child is made before, after a failure
        self._failures = 0
        self._closing = self._too_late = False
        self._wishes: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._asleep = False
        self._alarm = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._alarm, select.POLLIN)
        self._memory = OutOfMemoryWatch()
        get_ready()
        load_libc()
        _warn_of_threads()
        self._keeper = OwnThread(f"{settings.name}-keeper", self._keep)
        try:
            self._keeper.start()
        except BaseException:
            os.close(self._alarm)
            raise

    # -- getting workers to work -----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        if self._asleep:
            self._ring()

    def _ring(self) -> None:
        self._asleep = False
        with contextlib.suppress(OSError):  # all is over
            os.eventfd_write(self._alarm, 1)

    def _tell(self, wish: Callable[..., object], *args: Any) -> None:
        """Have the keeper call ``wish(*args)`` soon. Safe anywhere: it only appends and rings."""
        self._wishes.append((wish, args))
        self.wake()

    def _keep(self) -> None:
        while True:
            while self._wishes:
                wish, args = self._wishes.popleft()
                wish(*args)
                del wish, args
            self._feed()
            if self._closing and not self._children and not self._scheduler.queued:
                break
            self._asleep = True
            timeout = 0 if self._wishes or self._room() else self._tick()
            for fd, _ in self._poll.poll(timeout):
                self._asleep = False
                self._handle(fd)
            self._asleep = False
        self._poll.unregister(self._alarm)
        os.close(self._alarm)

    def _room(self) -> bool:
        queued, now = self._scheduler.queued, time.monotonic()
        return bool(queued) and len(self._children) < self._settings.max_workers and now >= self._not_before

    def _tick(self) -> float | None:
        """Do what is due; return the milliseconds until there is something to do again, None: whenever somebody rings."""
        now, times = time.monotonic(), []
        for child in list(self._children.values()):
            if child.stop is not None:
                when = child.stop.step(child, now, _signal)  # type: ignore[arg-type] # it asks of a Handle what a child has, too
                if when is not None:
                    times.append(when)
        if self._scheduler.queued and self._not_before > now:
            times.append(self._not_before)
        return max(0.0, min(times) - now) * 1000 + 1 if times else None

    def _feed(self) -> None:
        while self._room():
            task = self._scheduler.pull_one()
            if task is None:
                return
            if not self._start_child(task):
                self._scheduler.give_back([task])
                if self._too_late:
                    self._scheduler.close(cancel_futures=True)
                return

    def _start_child(self, task: Task) -> bool:
        """Fork a child for *task*; False: that cannot be done now."""
        child = None
        try:
            child = _Child(self._number, task)
            self._number += 1
            child.pipe, theirs = os.pipe2(os.O_CLOEXEC)
            try:
                self._fork(child, theirs)
            finally:
                os.close(theirs)
            assert child.pid is not None  # noqa: S101 - it was forked
            child.pidfd = os.pidfd_open(child.pid)
        except (OSError, RuntimeError) as error:
            if child is not None:
                if child.pid is not None:
                    _signal(child, signal.SIGKILL)
                    _reap(child)
                child.close()
            if isinstance(error, RuntimeError):  # Python 3.12.0 to 3.12.2, which fork no more at their exit
                self._too_late = True
                _log.warning("the tasks of %s that have not begun are cancelled: %s", self._settings.name, error)
            else:
                self._start_failed(error)
            return False
        self._failures = 0
        os.set_blocking(child.pipe, False)
        task.worker = child.label = f"pid {child.pid}"
        with self._scheduler.lock:
            self._children[child.number] = child
        if task.cancel_requested:  # meanwhile, when `notice_cancel` did not find it yet
            os.pwrite(child.notes, b"c", 0)
        for fd in (child.pipe, child.pidfd):
            self._by_fd[fd] = child
            self._poll.register(fd, select.POLLIN)
        return True

    def _start_failed(self, error: Exception) -> None:
        self._failures += 1
        self._not_before = time.monotonic() + min(0.05 * 2**self._failures, 1.0)
        if not self._children and self._failures > 8:
            self._scheduler.break_down(f"no child can be forked, {self._failures} times in a row: {error}", error)

    def _fork(self, child: _Child, answers: int) -> None:
        # What is buffered now would be written by the child as well.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        parent = os.getpid()
        from taskrun.engine.child import become_child
        from taskrun.engine.launch import fork_warning_ignored

        with fork_warning_ignored(__name__):
            pid = os.fork()
        if pid == 0:
            become_child(parent, child.number, child.task, self._settings, answers, child.notes)
        child.pid = pid
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)

    # -- what children say -----------------------------------------------------------------------------------------------------

    def _handle(self, fd: int) -> None:
        if fd == self._alarm:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(fd)
            return
        child = self._by_fd.get(fd)
        if child is None:
            return
        self._read(child)
        if fd == child.pidfd:
            self._ended(child)

    def _read(self, child: _Child) -> None:
        while child.pipe in self._by_fd:
            try:
                data = os.read(child.pipe, 1 << 20)
            except BlockingIOError:
                break
            if not data:
                self._forget(child.pipe)
                break
            child.answer += data
        self._look_at(child)

    def _look_at(self, child: _Child) -> None:
        """Report the answer if it is whole."""
        answer = child.answer
        if child.settled or len(answer) < ANSWER.size:
            return
        kind, started, duration, cpu, rss, length = ANSWER.unpack_from(answer)
        if len(answer) < ANSWER.size + length:
            return
        child.settled = True
        data = bytes(memoryview(answer)[ANSWER.size :])
        run = (child.label, started, duration, cpu, rss)
        if kind == NOT_READY:
            self._not_ready(child, load_exception(data))
            return
        if self._settings.initializer is not None:
            self._scheduler.initializer_ok()
        self._scheduler.settle((_outcome(child.task, kind, data, run),))

    def _not_ready(self, child: _Child, error: BaseException) -> None:
        """The initializer failed: the task has not run."""
        pause = self._scheduler.initializer_failed(error)
        if pause is not None:
            self._not_before = time.monotonic() + pause
        self._scheduler.give_back([child.task])

    def _ended(self, child: _Child) -> None:
        """See a dead child off; without an answer its task has crashed, or was stopped."""
        from taskrun.engine.crash import crash_error

        self._forget(child.pipe)
        self._forget(child.pidfd)
        _reap(child)
        with self._scheduler.lock:
            del self._children[child.number]
        task, stop = child.task, child.stop
        if not child.settled:
            error = None if stop is None else stop.error_for(task)
            if stop is not None and error is not None:
                stack = child.stack()
                if stack and getattr(error, "stack", "") is None:
                    error.stack = stack  # type: ignore[attr-defined]
                self._scheduler.fail(task, error, stop.cause)
            else:
                oom = None if stop is not None else self._memory.killed(child.exit_status)
                self._scheduler.fail(task, crash_error(child, task, oom, False), "crashed")  # type: ignore[arg-type] # as above
        child.close()

    def _forget(self, fd: int) -> None:
        if self._by_fd.pop(fd, None) is not None:
            self._poll.unregister(fd)

    # -- stopping --------------------------------------------------------------------------------------------------------------

    def stop(self, task: Task, error: BaseException, cause: Literal["timeout", "killed"]) -> bool:
        self._tell(self._stop, task, error, cause)
        return True

    def _stop(self, task: Task, error: BaseException, cause: Cause) -> None:
        from taskrun.engine.posix import STACK_SIGNAL
        from taskrun.engine.stopping import STACK_PATIENCE, Stop

        child = next((child for child in self._children.values() if child.task is task), None)
        if child is not None and child.stop is None and not child.settled:
            child.stop = Stop(task, error, cause, time.monotonic(), STACK_PATIENCE)
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(child.pidfd, STACK_SIGNAL)

    def notice_cancel(self, task: Task) -> None:
        with self._scheduler.lock:
            for child in self._children.values():
                if child.task is task and child.notes >= 0:
                    os.pwrite(child.notes, b"c", 0)

    # -- ending ----------------------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        self._closing = True
        self._tell(_nothing)

    def abort(self, *, force: bool) -> None:
        self._tell(self._abort, force)

    def _abort(self, force: bool) -> None:
        from taskrun.engine.stopping import Stop

        now = time.monotonic()
        for child in self._children.values():
            if child.stop is None:
                child.stop = Stop.of_everything(now)
                if not force:
                    _signal(child, signal.SIGTERM)
            if force and not child.stop.killed:
                child.stop.kill(child, now, _signal)  # type: ignore[arg-type] # as in `_tick`

    def join(self, timeout: float | None = None) -> bool:
        if self._keeper is threading.current_thread() or os.getpid() != self._pid:
            return True
        self._keeper.join(timeout)
        return not self._keeper.is_alive()

    def owns_current_thread(self) -> bool:
        return threading.current_thread() is self._keeper

    def workers(self) -> list[str]:
        with self._scheduler.lock:
            return [child.label for child in self._children.values()]


def _outcome(task: Task, kind: bytes, data: bytes, run: tuple[Any, ...]) -> Outcome:
    if kind != DONE:
        return task, False, load_exception(data), _KINDS[kind], run
    try:
        return task, True, load_result(data, task=task.name), None, run
    except BaseException as error:  # SerializationError
        return task, False, error, "serialization", run


def _signal(child: _Child, number: int) -> None:
    from taskrun.engine.posix import signal_group

    if child.pid is not None:
        signal_group(child.pid, number)


def _reap(child: _Child) -> None:
    """Reap a child that has ended, and end what its task started, if it did not end in order."""
    from taskrun.engine import posix

    assert child.pid is not None  # noqa: S101 - it was forked
    if child.stop is not None or posix.has_ended(child.pid) not in (0, None):
        posix.signal_group(child.pid, signal.SIGKILL)
    child.exit_status = posix.exit_status(child.pid)


def _nothing() -> None:
    """Only to be woken."""


def _harmless(thread: threading.Thread) -> bool:
    """Return whether a thread is taskrun's or a pool's of the standard library: they hold no lock of the user's."""
    target = getattr(thread, "_target", None)
    return isinstance(thread, OwnThread) or getattr(target, "__module__", None) == "multiprocessing.pool"


def _warn_of_threads() -> None:
    own = (threading.main_thread(), threading.current_thread())
    others = [t.name for t in threading.enumerate() if t not in own and not _harmless(t)]
    if others:
        warnings.warn(
            f'backend="fork" with other threads running ({", ".join(others[:5])}): locks they hold when a task is forked stay '
            'locked in its process; use backend="process"',
            UnsafeForkWarning,
            stacklevel=5,
        )
