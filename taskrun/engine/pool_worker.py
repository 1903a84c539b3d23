"""What runs in the process of a `SmallPool`: functions that the pool is given to call, and what they share.

`attach` is the pool's initializer; then come `begin` once, `run` for each task, and `leave` for an end in order. Between them
the process is in `multiprocessing`'s own loop.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import socket
import sys
import time
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from taskrun import runs
from taskrun.coroutines import CoroutineRunner
from taskrun.cpu_meter import CpuMeter
from taskrun.engine import notes, posix, surroundings
from taskrun.engine.answer import DONE, NOT_READY, READY, UNSENDABLE
from taskrun.engine.attempt import About, awaited, run_attempt
from taskrun.engine.batch import claim_of
from taskrun.engine.ending import end_a_copy, flush, forget_exit_handlers, run_exit_handlers
from taskrun.engine.outbox import LARGEST, Outbox
from taskrun.engine.pool_line import PoolLine
from taskrun.engine.resident import Resident
from taskrun.engine.run_watch import RunWatch
from taskrun.engine.sent import Packed, Piece, Received
from taskrun.exceptions import dump_exception
from taskrun.plain import UNNOTED, dump_native
from taskrun.serialization import dump_result, load_arguments, load_function

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from taskrun.engine.small_pool import Attached

__all__ = ["Answer", "Call", "SmallCall", "attach", "begin", "leave", "run", "run_batch", "same"]

_UNKNOWN = About("", 0, 1, None, None, None, False, True)


class Call(NamedTuple):
    """A task on its way to a worker: bytes and numbers only. Sent as a plain tuple, which costs half as much."""

    sequence: int
    about: bytes
    """Of an `About`, the context variables, and `sys.path` if it has changed."""
    packed: tuple[Any, ...]
    """A `Packed`."""


class SmallCall(NamedTuple):
    """One task of several that are sent together; the function is there already. Sent as a plain tuple."""

    name: str
    position: int
    attempt: int
    timeout: float | None
    soft_timeout: float | None
    seed_root: int | None
    arguments: bytes


class Answer(NamedTuple):
    """What became of it. Times in seconds, the size in bytes. Likewise sent as a plain tuple."""

    kind: bytes
    data: bytes
    started: float
    duration: float
    cpu: float
    rss: int
    """0: as before."""


class _Worker:
    """This process. All of it runs in the main thread."""

    def __init__(self, notes_fd: int, hands: int, claims: int) -> None:
        self.notes = notes_fd
        self._claims = claims
        self._outbox = Outbox(notes_fd)
        self._fits = False  # the last result needs no code of the user's to be unpickled, and has a place in the outbox
        self._hands = socket.socket(fileno=hands)
        self.pid = os.getpid()
        self.runner = CoroutineRunner()
        self.running = False  # the user's code runs: KeyboardInterrupt may be raised
        self.received = Received(self._duplicates)
        self.sequence = -1
        self.finalizer: Callable[..., object] | None = None
        self.spins = False
        """It may look for the next task before it sleeps."""
        self._meter = CpuMeter(time.process_time)
        self._resident = Resident()

    def _duplicates(self, piece: Piece) -> list[int]:
        """Return the descriptors that were sent for *piece* before it; those for what has not come after all are closed."""
        while True:
            key, descriptors = posix.recv_message(self._hands)
            if key == piece.key or not key:
                return descriptors
            for fd in descriptors:
                os.close(fd)

    def begin(self, setup: dict[str, Any], pieces: list[Piece]) -> Answer:
        started = time.monotonic()
        self.running = True
        try:
            self.received.take_pieces(pieces)
            surroundings.apply(setup)
            self._resident.always = setup["weighed"]
            self.spins = setup["spins"]
            if setup["finalizer"] is not None:
                self.finalizer = load_function(setup["finalizer"], task="finalizer")
            if setup["initializer"] is not None:
                initializer = load_function(setup["initializer"], task="initializer")
                args, _ = load_arguments(setup["initargs"], task="initializer")
                awaited(self.runner, initializer(*args))
            self._end_a_copy()
        except BaseException as error:  # an initializer may raise anything; the parent turns it into an InitializerError
            return self._answer(NOT_READY, started, dump_exception(error, task="initializer"))
        finally:
            self.running = False
        return self._answer(READY, started, b"")

    def run(self, call: Call) -> Answer:
        started, about = time.monotonic(), _UNKNOWN
        try:
            self.sequence = call.sequence
            notes.take_up(self.notes, call.sequence)
            packed = Packed(*call.packed)
            self.received.take(packed)
            fields, values, path = pickle.loads(call.about)
            about = About(*fields)
            context = copy_context()
            self.running = True
            if path is not None:
                sys.path[:] = path
                importlib.invalidate_caches()  # asks the user's finders, too
            fn, args, kwargs = self.received.load(packed, about.name)
            if values is not None:
                context.run(surroundings.set_context_vars, values)
            self._end_a_copy()
        except BaseException as error:  # SerializationError, or what a signal handler of the user's raised
            self.running = False
            self._end_a_copy()
            return self._answer(UNSENDABLE, started, dump_exception(error, task=about.name))
        try:
            asked = notes.Asked(self.notes, call.sequence)
            kind, started, duration, data = run_attempt(about, fn, args, kwargs, context, asked, self.runner)
        finally:
            self.running = False
        return self._answer(kind, started, data, duration)

    def run_batch(self, first: int, slot: int, seeded: bool, calls: list[SmallCall]) -> tuple[int, Answer | None]:
        """Run those that are ours, one after the other; return how many, and the answer that could not be put into the outbox.

        That ends it: to unpickle it may take long, which nobody else's answer, nor a task that could run elsewhere, is to wait
        for.
        """
        for number, call in enumerate(calls, first):
            if not self._claim(number):
                return number - first, None
            kind, data, started, duration, cpu, rss = answer = self._run_small(number, slot, seeded, call)
            if kind != DONE or not self._fits:
                return number - first + 1, answer
            self._outbox.put(number, started, duration, cpu, rss, data)
        return len(calls), None

    def _claim(self, number: int) -> bool:
        """Return whether the task with that number may begin: the parent may have taken back what is left."""
        try:
            return os.read(self._claims, 1) == claim_of(number)
        except OSError:  # there is none; or a task has closed the descriptor
            return False

    def _run_small(self, number: int, slot: int, seeded: bool, call: SmallCall) -> Answer:
        name, position, attempt, timeout, soft_timeout, seed_root, arguments = call
        started = time.monotonic()
        try:
            context = copy_context()
            self.running = True
            fn, args, kwargs = self.received.load(Packed(slot, None, arguments, [], []), name)
        except BaseException as error:  # as in `run`
            self.running = False
            self._end_a_copy()
            return self._answer(UNSENDABLE, started, dump_exception(error, task=name))
        try:
            about = About(name, position, attempt, timeout, soft_timeout, seed_root, seeded, True)
            asked = notes.Asked(self.notes, number)
            kind, started, duration, data = run_attempt(about, fn, args, kwargs, context, asked, self.runner, self._dump)
        finally:
            self.running = False
        return self._answer(kind, started, data, duration)

    def _dump(self, value: Any, *, task: str) -> bytes:
        data = pickle.dumps(value, 5) if type(value) in UNNOTED else dump_native(value)
        self._fits = data is not None and len(data) <= LARGEST
        return dump_result(value, task=task) if data is None else data

    def _end_a_copy(self) -> None:
        if os.getpid() != self.pid:  # forked by the user's code, which came back from that in both
            end_a_copy()

    def leave(self) -> None:
        self.running = True
        run_exit_handlers(self.finalizer, self.runner)

    def _answer(self, kind: bytes, started: float, data: bytes, duration: float | None = None) -> Answer:
        if duration is None:
            duration = time.monotonic() - started
        ended = started + duration
        flush()  # what was printed appears now: the process may be killed
        return Answer(kind, data, started, duration, self._meter.used(duration, ended), self._resident.after(duration, ended))

    def on_interrupt(self, _: int, __: FrameType | None) -> None:
        if self.running:
            raise KeyboardInterrupt


_worker: _Worker


def attach(
    parent: int,
    lifeline: Attached,
    notes_of_parent: Attached,
    hands: Attached,
    claims: Attached,
    streams: list[Attached | None],
) -> None:
    """Make this process, new and with nothing of the user's in it, a worker of *parent*."""
    import multiprocessing

    global _worker
    os.setpgid(0, 0)
    if os.getppid() == parent:
        posix.die_with(parent)
        forget_exit_handlers()
    else:  # the fork server's child, which survives both
        posix.die_when_closed(lifeline.fd)
        out, err = (-1 if stream is None else stream.fd for stream in streams)
        posix.attach_standard_streams(out, err)  # as they are now, not as they were when the fork server started
    if getattr(multiprocessing.current_process(), "_start_method", "fork") != "fork":  # nothing of the user's is open here
        posix.keep_descriptors()
    posix.reset_signals()
    notes.prepare_stack(notes_of_parent.fd)
    _worker = _Worker(notes_of_parent.fd, hands.fd, claims.fd)
    runs.watch = RunWatch(lambda: _worker.sequence, partial(notes.give_back, _worker.notes))
    signal.signal(signal.SIGINT, _worker.on_interrupt)
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # a task may start processes


def begin(setup: tuple[dict[str, Any], list[Piece]]) -> Answer:
    """Take the parent's surroundings over and run the initializer."""
    return _worker.begin(*setup)


def run(call: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    """Run a task, a `Call`, and return its `Answer`; None stands for one that was taken back."""
    PoolLine.look_first = _worker.spins
    return None if call is None else tuple(_worker.run(Call(*call)))


def run_batch(batch: tuple[int, int, bool, list[tuple[Any, ...]]]) -> tuple[int, tuple[Any, ...] | None]:
    """Run tasks that were sent together; see `_Worker.run_batch`."""
    PoolLine.look_first = False  # there is much to do: the CPU is better left to others
    first, slot, seeded, calls = batch
    begun, answer = _worker.run_batch(first, slot, seeded, cast("list[SmallCall]", calls))
    return begun, None if answer is None else tuple(answer)


def leave() -> None:
    """Run the finalizer and what else a process does at its end."""
    _worker.leave()


def same(obj: Any) -> Any:
    """Return what the parent pickled in the place of something else."""
    return obj
