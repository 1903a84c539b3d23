"""A worker of the pool backend, seen from its parent: a `SmallPool` and what goes to its process and comes back.

The pool's own threads pickle and unpickle, one worker's each, so that the user's code holds up no other.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import signal
import socket
import sys
import threading
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from taskrun import primitives
from taskrun.cpus import cpu_count
from taskrun.engine import notes, pool_worker, posix, surroundings
from taskrun.engine.answer import CAUSES, DONE
from taskrun.engine.batch import Claims
from taskrun.engine.forking import careful_fork
from taskrun.engine.kept import KeptProcess
from taskrun.engine.outbox import Outbox
from taskrun.engine.sent import Piece, Sent
from taskrun.engine.small_pool import Attached, Errand, SmallPool
from taskrun.engine.start_failures import look_for_descriptors
from taskrun.engine.stopping import Look
from taskrun.exceptions import load_exception
from taskrun.reach import new_moment
from taskrun.serialization import load_outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.context import BaseContext

    from taskrun.engine.batch import Batch
    from taskrun.engine.functions import Slot
    from taskrun.engine.outbox import Answer as StoredAnswer
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Outcome
    from taskrun.shipping import Shipment
    from taskrun.task import Task

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
        self.seen = -1
        """The number of the task that it was seen to have taken up. The keeper's."""
        self.call: Errand | None = None
        """By which it can be called to look into the queue, or was and has not yet. Under the scheduler's lock, as `busy`."""
        self.alone = False
        """Its task was taken back from behind another one: nothing is sent with it."""
        self.looked = -1
        """Up to which task the keeper has looked after it."""
        self.watched = 0
        """1: the keeper will look whether it takes up its task, without being told; 2: in time for a batch, too. Under the
        scheduler's lock."""
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
        with ExitStack() as opened:  # to be closed again, where no descriptor is left for the rest
            opened.callback(super().close)
            self._theirs, self.lifeline = os.pipe2(os.O_CLOEXEC)
            opened.callback(posix.close_held, self, "_theirs", "lifeline")
            self._hands, self._their_hands = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            opened.callback(self._hands.close)
            opened.callback(self._their_hands.close)
            self.claims = Claims()
            opened.pop_all()
        self.batch: Batch | None = None
        """What it was sent in the place of one task; `task` is then the one of them that is known to run, if any."""
        self.outbox: Outbox | None = None
        """Where it puts its answers to that; as `batch`, under the scheduler's lock."""
        self.batch_seen: tuple[int, int] = 0, 0
        """Which batch the keeper saw, and how far it had come; `batch_moved`: when it saw that first."""
        self.batch_moved = 0.0
        self.takes_batches = True
        """False once a task has closed what it takes its claims from."""
        self._last = 0  # the number of a task
        self.sent = Sent()
        """What it has. The pool's thread's, as the next two."""
        self._path: list[str] = []
        self._path_now: list[str] = []
        _lifelines.add(self)

    def note_given(self, tasks: int = 1) -> int:
        """Count so many tasks; return the number of the first."""
        first = self._last + 1
        self._last += tasks
        self.done += tasks
        self.moved = time.monotonic()
        if self.done == tasks:
            self.born = self.moved  # it may have waited long for the end of the one that it replaces
        return first

    def note_taken_back(self, tasks: int) -> None:
        """So many of those that were counted do not run here."""
        self.done -= tasks

    def note_pace(self, task: Task, seconds: float) -> None:
        """Note how long a call took. In the pool's thread."""
        slot = self.sent.slot(task.fn)
        if slot is not None:
            slot.observe(seconds)

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
        look_for_descriptors(_TAKEN_BY_START)
        streams = [Attached(fd) if posix.is_open(fd) else None for fd in (1, 2)]
        hands = self._their_hands.detach()  # a forked process would close it, with all that is ours
        attached = [Attached(fd) for fd in (self._theirs, self._notes, hands, self.claims.fd)]
        initargs = (parent, *attached, streams)
        self._making = threading.get_ident()
        try:
            with careful_fork("multiprocessing.popen_fork"):
                pool = SmallPool(context, pool_worker.attach, initargs, lost)
        finally:
            self._making = 0
            os.close(hands)
        self.pool = pool
        self._open_outbox()
        pid = pool.process.pid
        assert pid is not None  # noqa: S101 - it was started
        self.pid, self.label = pid, f"pid {pid}"
        with contextlib.suppress(ProcessLookupError):  # dead already, and reaped by the pool
            self.pidfd = os.pidfd_open(pid)
        posix.close_held(self, "_theirs")

    def _open_outbox(self) -> None:
        """Map the memory in which it puts its answers to a batch; where that cannot be had it gets none."""
        try:
            self.outbox = Outbox(self._notes)
        except (OSError, ValueError, MemoryError):
            self.takes_batches = False

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
            self._path = list(sys.path)
            describe = partial(surroundings.describe, settings, self.number, cpu_count(), context_vars)
            setup = self.sent.pack_setup(describe)
            self._hand_over(self.sent.note_sent())
            return setup

        self.pool.apply_async(pool_worker.begin, (Parcel(pack),), callback=answered, error_callback=failed)

    def give(
        self,
        pack: Callable[[], tuple[Any, ...] | None],
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
                self.pool.apply_here(pool_worker.run, call, answered, failed)
        except Exception as error:
            failed(error)
        else:
            if call is None:
                answered(None)

    def prepare(
        self,
        pack: Callable[[], tuple[Any, ...] | None],
        answered: Callable[[Any], object],
        failed: Callable[[BaseException], object],
    ) -> Errand:
        """Return what has it run the call that *pack* returns, as `give`, once that is called."""
        return self.pool.prepare(pool_worker.run, Parcel(pack), answered, failed)

    def give_batch(
        self,
        first: int,
        slot: Slot,
        calls: list[tuple[Any, ...]],
        seeded: bool,
        answered: Callable[[Any], object],
        failed: Callable[[BaseException], object],
    ) -> None:
        """Have it run *calls*, each a `SmallCall`. In the thread that takes its answers; raises OSError if it is dead.

        It fails with what a signal handler of the user's raises between two of them.
        """
        self.pool.apply_here(pool_worker.run_batch, (first, slot.number, seeded, calls), answered, failed)

    def knows(self, task: Task) -> Slot | None:
        """Return the slot of the function of *task*, if nothing but its arguments has to be sent. May run the user's code."""
        slot = self.sent.slot(task.fn)
        if slot is None or task.context is not None or sys.path != self._path:
            return None
        new_moment()
        try:
            return slot if self.sent.has(task.fn, slot) else None
        except BaseException:  # the user's, which ask not to be pickled: to be heard of when it is packed by itself
            return None

    def answers_of(self, batch: Batch, last: int) -> list[StoredAnswer]:
        """Return what it has answered without a word, up to the task of that number. Under the scheduler's lock."""
        return [] if self.outbox is None else self.outbox.take(batch.flight, last, self.label, self.rss)

    def call_for(self, task: Task, context_vars: list[tuple[str, Any]], seeded: bool) -> tuple[Any, ...]:
        """Return *task* as a `Call`. Runs the user's code; raises SerializationError. In the pool's thread."""
        new_moment()
        options, name = task.options, task.name
        values = None if task.context is None else surroundings.context_payload(task.context, context_vars, name)
        self._path_now = list(sys.path)
        path = list(map(str, self._path_now)) if self._path_now != self._path else None
        fields = (name, task.index, task.number, options.timeout, options.soft_timeout, task.seed_root, seeded, True)
        return tuple(pool_worker.Call(self.sequence, pickle.dumps((fields, values, path), 5), tuple(self.sent.pack(task))))

    def note_sent(self) -> None:
        """Note that the process gets what `call_for` returned, and give it the descriptors. In the pool's thread."""
        self._path = self._path_now
        self._hand_over(self.sent.note_sent())

    def _hand_over(self, shipments: list[Shipment]) -> None:
        for one in shipments:
            if one.descriptors:
                socket.send_fds(self._hands, [one.key], list(one.descriptors))

    def outcome(self, task: Task, fields: Sequence[Any]) -> Outcome:
        """Return what its answer, an `Answer`, means. Runs the user's code; raises nothing. In the pool's thread."""
        answer = pool_worker.Answer(*fields)
        self.rss = answer.rss or self.rss
        run = (self.label, answer.started, answer.duration, answer.cpu, self.rss)
        if answer.kind == DONE:
            return load_outcome(task, answer.data, run)
        return task, False, load_exception(answer.data), CAUSES[answer.kind], run

    def outcomes(self, answers: list[StoredAnswer]) -> list[Outcome]:
        """Return what these mean. Runs no code of the user's."""
        self.rss = next((weighed for _, _, _, weighed, _, _ in reversed(answers) if weighed), self.rss)
        return [(task, True, pickle.loads(data), None, run) for task, _, _, _, run, data in answers if task is not None]

    def has_taken_up(self) -> bool:
        return self.seen == self.sequence or super().has_taken_up()

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
        return primitives.held(primitives.locks_among(self.sent.shipped))

    # -- its end ---------------------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Have it end in order. It is `leaving`, and has no task."""
        self.pool.apply_async(pool_worker.leave)
        self.pool.close()

    def close(self) -> None:
        """Close everything; the process has ended, or ends now."""
        if self.made:
            self.pool.release()
        if self.outbox is not None:
            self.outbox.close()
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
        self.claims.close()
        self._hands.close()
        self._their_hands.close()
        posix.close_held(self, "lifeline", "_theirs")

    @staticmethod
    def cut_all() -> None:
        """In a forked copy of the parent: the workers must not live as long as this one, which may be one of them."""
        for worker in list(_lifelines):
            if worker._making == threading.get_ident():
                worker._theirs = worker.claims.fd = -1  # its own, to be open as long as it lives
            worker._cut()


os.register_at_fork(after_in_child=PooledWorker.cut_all)
