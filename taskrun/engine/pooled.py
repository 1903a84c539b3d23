"""A worker of the pool backend, seen from its parent: a `SmallPool` and what goes to its process and comes back.

The pool's own threads pickle and unpickle, one worker's each, so that the user's code holds up no other.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from taskrun import primitives
from taskrun.engine import notes, pool_worker, posix
from taskrun.engine.ahead import Ahead
from taskrun.engine.answer import CAUSES, DONE
from taskrun.engine.forking import careful_fork
from taskrun.engine.kept import KeptProcess
from taskrun.engine.pool_packing import PoolPacking
from taskrun.engine.small_pool import Attached, SmallPool
from taskrun.engine.stopping import Look
from taskrun.exceptions import load_exception
from taskrun.serialization import load_outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.context import BaseContext

    from taskrun.engine.ahead import Bundle, SentAhead
    from taskrun.engine.sent import Piece
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Outcome
    from taskrun.task import Cause, Task

__all__ = ["Parcel", "PooledWorker"]

# Lines, pipes and a socket that a start takes, for a while. The fork server dies of a request that breaks off for want of one.
_TAKEN_BY_START = 16

_THREADS_END_WITHIN = 0.5  # seconds; else the user's code hangs in one of them, as it pickles or unpickles

_ENDS_WITHIN = 5.0  # seconds, once it was killed: its memory may take long to free

_lifelines: WeakSet[PooledWorker] = WeakSet()


class Parcel:
    """Stands for what *pack* returns, which is called when the pool's thread comes to send it."""

    def __init__(self, pack: Callable[[], Any]) -> None:
        self._pack = pack

    def __reduce__(self) -> Any:
        return pool_worker.same, (self._pack(),)


class PooledWorker(KeptProcess):
    """One worker, from the wish for it until its pool is gone. What is not the keeper's says so."""

    pool: SmallPool
    """Once it is made."""

    def __init__(self, number: int) -> None:
        super().__init__(number, f"taskrun-pool-worker-{number}")
        self.made = self.ready = self.busy = self.leaving = self.dead = False
        self.unwanted = False
        """Nobody waits any more for it to be made. Under the scheduler's lock, as `made`."""
        self.given_up = self.blamed = False
        """How far its burial has come."""
        self.packing = False
        """Its task has not begun: it can be taken back. Under the scheduler's lock."""
        self.last = 0
        """The number of the last task that it was given."""
        self.stop_later: list[tuple[Task, BaseException, Cause]] = []
        """What was sent ahead and is to be stopped, once it is known to run. Under the scheduler's lock."""
        self.errands = 0
        """How many messages it has that it has not come to the end of; then it is free. Under the scheduler's lock."""
        self.stuck_at, self.stuck_since = -1, math.inf
        """Behind which task others were seen to wait, and since when. The keeper's."""
        self.seen = -1
        """The number of the task that it was seen to have taken up. The keeper's."""
        self.watched = False
        """The keeper will look whether it takes up its task, without being told. Under the scheduler's lock."""
        self.given_back = -1
        """The number of the last task, a run of items, of which it has given some back."""
        self.answering = False
        """Its answer has come, and is being unpickled in the pool's thread; which sets it."""
        self.done = 0
        """How many tasks it was given."""
        self.ends_soon = False
        """It has nearly done its share, and is not counted among the `max_workers`. Under the scheduler's lock."""
        self.rss = 0
        """Its size in bytes after one of its last tasks; the pool's thread's."""
        self._making = 0
        """In which thread its process is started."""
        self.born = self.moved = time.monotonic()
        self.dead_since = 0.0
        self.making_look, self.leaving_look = Look(), Look()
        """Why it is not made, and why it has not ended."""
        with contextlib.ExitStack() as undo:  # where no descriptor is left
            undo.callback(super().close)
            self.ahead = Ahead()
            undo.callback(self.ahead.close)
            self._theirs, self.lifeline = os.pipe2(os.O_CLOEXEC)
            undo.callback(posix.close_held, self, "_theirs", "lifeline")
            self._hands, self._their_hands = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.pop_all()
        self.packing_for = PoolPacking()
        """What it is sent; the pool's thread's that sends it."""
        _lifelines.add(self)

    def note_given(self) -> None:
        """Count a task."""
        self.done += 1
        self.moved = time.monotonic()
        if self.done == 1:
            self.born = self.moved  # it may have waited long for the end of the one that it replaces

    def has_left(self, tasks: int | None, age: float | None) -> float:
        """Return for how many seconds it will be given tasks; it ends after so many *tasks*, and at *age*.

        Judged by how fast they came so far, idle or not: of one that has its first, nothing is known.
        """
        left = math.inf
        if tasks is not None and self.done >= tasks:
            left = 0.0
        elif tasks is not None and self.done > 1:
            left = (tasks - self.done) * (self.moved - self.born) / (self.done - 1)
        return left if age is None else min(left, self.born + age - time.monotonic())

    # -- making it (the maker's thread) ----------------------------------------------------------------------------------------

    def make(self, context: BaseContext, parent: int, lost: Callable[[BaseException], object]) -> None:
        """Start its pool and process. Raises what that raises; nothing but the worker itself is left then.

        *lost* is called in the pool's thread when an answer cannot be read.
        """
        posix.look_for_descriptors(_TAKEN_BY_START)
        streams = [Attached(fd) if posix.is_open(fd) else None for fd in (1, 2)]
        hands = self._their_hands.detach()  # a forked process would close it, with all that is ours
        initargs = (
            parent,
            Attached(self._theirs),
            Attached(self._notes),
            Attached(hands),
            Attached(self.ahead.tokens),
            streams,
        )
        self._making = threading.get_ident()
        try:
            with careful_fork("multiprocessing.popen_fork"):
                pool = SmallPool(context, pool_worker.attach, initargs, lost)
        finally:
            self._making = 0
            os.close(hands)
        self.pool = pool
        pid = pool.process.pid
        assert pid is not None  # noqa: S101 - it was started
        self.pid, self.label = pid, f"pid {pid}"
        with contextlib.suppress(ProcessLookupError):  # dead already, and reaped by the pool
            self.pidfd = os.pidfd_open(pid)
        posix.close_held(self, "_theirs")

    # -- giving it work --------------------------------------------------------------------------------------------------------

    def begin(
        self,
        settings: WorkerSettings,
        context_vars: list[tuple[str, Any]],
        answered: Callable[[Any], object],
        failed: Callable[[BaseException], object],
    ) -> None:
        """Have it take our surroundings over; one of the two is called in the pool's thread."""

        def pack() -> tuple[dict[str, Any], list[Piece]]:
            setup = self.packing_for.setup(self.number, settings, context_vars)
            self.note_sent()
            return setup

        self.pool.apply_async(pool_worker.begin, (Parcel(pack),), callback=answered, error_callback=failed)

    def give(
        self,
        pack: Callable[[], pool_worker.Call | None],
        answered: Callable[[Any], object],
        failed: Callable[[BaseException], object],
        *,
        here: bool,
    ) -> None:
        """Have it run the call that *pack* returns (None: none); one of the others is called in the pool's thread.

        *here*: this is the thread that takes its answers, and packs and sends it by itself.
        """
        if not here:
            self.pool.apply_async(pool_worker.run, (Parcel(pack),), callback=answered, error_callback=failed)
            return
        try:
            call = pack()
            if call is not None:
                self.send([self.pool.pickled(pool_worker.run, (tuple(call),), answered, failed)])
        except Exception as error:
            failed(error)
        else:
            if call is None:
                answered(None)

    def send(self, pickles: list[bytes]) -> None:
        """Send what was `pickled`, in the thread that takes its answers. Raises OSError if the process is dead."""
        self.pool.send(pickles)

    def bundle(self, task: Task, seeded: bool) -> Bundle | None:
        """Pack *task* to be sent ahead, perhaps with others; None: see `PoolPacking.bundle`, or there is no room for it."""
        bundle = self.packing_for.bundle(task, seeded)
        return bundle if bundle is not None and self.ahead.fits(bundle.size, self.pool.room) else None

    def add_to(self, bundle: Bundle, task: Task) -> bool:
        """Pack *task* into the same message; False: it has to be one of its own."""
        arguments = self.packing_for.alike(bundle, task)
        if arguments is None or not self.ahead.fits(bundle.size + len(arguments), self.pool.room):
            return False
        bundle.add(task, arguments)
        return True

    def bundled(
        self,
        bundle: Bundle,
        calls: list[SentAhead],
        answered: Callable[[int, Any], object],
        over: Callable[[Any], object],
        failed: Callable[[BaseException], object],
    ) -> bytes:
        """Return a bundle as it is sent, for `send`; of its tasks, *calls* are still to run.

        Each is answered, by its place among them, and then it is *over*; or it failed as a whole.
        """
        arguments = {id(task): data for task, data in bundle.items}
        items = [(number, task.index, arguments[id(task)]) for number, task in calls]
        self.ahead.note_sent(bundle.size)
        ahead = bundle.about, bundle.slot, items
        return self.pool.pickled_several(pool_worker.run_ahead, ahead, answered, over, failed)

    def note_sent(self) -> None:
        """Note that the process gets what was packed last, and give it the descriptors. In the pool's thread."""
        for one in self.packing_for.note_sent():
            if one.descriptors:
                socket.send_fds(self._hands, [one.key], list(one.descriptors))

    def take_back(self) -> list[Task]:
        """Take back what was sent ahead, or is to be, and has not begun; its task is not its task any more if it is among that.

        Under the scheduler's lock.
        """
        drawn, back = self.ahead.draw(), []
        if self.task is not None and self.sequence in drawn:
            back.append(self.task)
            self.task = None
        return back + self.ahead.take_back(drawn)

    def outcome(self, task: Task, fields: Sequence[Any]) -> Outcome:
        """Return what its answer, an `Answer`, means. Runs the user's code; raises nothing. In the pool's thread."""
        answer = pool_worker.Answer(*fields)
        self.ahead.note_duration(answer.duration)
        self.rss = answer.rss or self.rss
        run = (self.label, answer.started, answer.duration, answer.cpu, self.rss)
        if answer.kind == DONE:
            return load_outcome(task, answer.data, run)
        return task, False, load_exception(answer.data), CAUSES[answer.kind], run

    def items_begun(self) -> int | None:
        """Return how many items of the run that it calls are begun, if it has given the others back since this was asked."""
        number, begun = notes.given_back(self._notes)
        if number != self.sequence or number == self.given_back:
            return None
        self.given_back = number
        return begun

    def is_stopped(self) -> bool:
        """Return whether somebody has stopped the process."""
        return self.pid is not None and posix.is_stopped(self.pid)

    def held_locks(self) -> tuple[str, ...]:
        """Return the names of the locks that its tasks were given and that are locked; it is dead."""
        return primitives.held(primitives.locks_among(self.packing_for.shipped))

    # -- its end ---------------------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Have it end in order, if it does not already. It has no task."""
        if self.leaving or self.dead:
            return
        self.leaving = True
        self.pool.apply_async(pool_worker.leave)
        self.pool.close()

    def close(self) -> None:
        """Close everything; the process has ended, or ends now."""
        if self.made:
            self.pool.release()
        self._cut()
        super().close()

    def destroy(self) -> None:
        """Kill it and wait for its pool to end. In the maker's thread, or when the keeper gives up."""
        if self.made:
            self.signal(signal.SIGKILL)
            self.pool.give_up()
            until = time.monotonic() + _THREADS_END_WITHIN
            for thread in self.pool.threads():
                thread.join(max(0.0, until - time.monotonic()))
            if self.pidfd >= 0:  # its threads have no part in this any more: it is reaped below, or by nobody
                posix.is_over(self.pidfd, _ENDS_WITHIN)
        self.close()

    def _cut(self) -> None:
        self._hands.close()
        self._their_hands.close()
        self.ahead.close()
        posix.close_held(self, "lifeline", "_theirs")

    @staticmethod
    def cut_all() -> None:
        """In a forked copy of the parent: the workers must not live as long as this one, which may be one of them."""
        for worker in list(_lifelines):
            if worker._making == threading.get_ident():
                worker._theirs = worker.ahead.tokens = -1  # its own, to be open as long as it lives
            worker._cut()


os.register_at_fork(after_in_child=PooledWorker.cut_all)
