"""The loop in a worker process: claim a token, find its frame, run the call, answer, again.

Everything a task may do to its process is survived or reported: BaseExceptions are outcomes, values that do not pickle are
errors of their task, a fork that comes back from the task's code is ended here. What kills the process is seen by the parent.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import struct
import sys
import time
from contextvars import copy_context
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any, NoReturn

from taskrun import runs, sharing
from taskrun.coroutines import CoroutineRunner
from taskrun.engine import bulk, channel, generators, notes, posix, surroundings
from taskrun.engine.alarm import SoftAlarm
from taskrun.engine.answering import Answering
from taskrun.engine.ending import end_a_copy, flush, run_exit_handlers
from taskrun.engine.orders import ONE_OF_SEVERAL, Orders
from taskrun.engine.resident import Resident
from taskrun.engine.run_watch import RunWatch
from taskrun.engine.spin import Spin
from taskrun.exception_text import without_frames_of
from taskrun.exceptions import dump_exception, explain_lack
from taskrun.serialization import load_arguments, load_function, not_received
from taskrun.task import NO_KWARGS, CurrentTask, Entered, entered, function_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType

    from taskrun.engine.bulk import Place

__all__ = ["Worker", "main", "serve"]

_EXTRAS = struct.Struct("<I")
_TOLD = 7


def serve(channel_fd: int, tokens_fd: int, notes_fd: int) -> int:
    """Run tasks from the channel until told to leave; returns the exit status of the process."""
    worker = Worker(socket.socket(fileno=channel_fd), tokens_fd, notes_fd)
    if not worker.begin():
        return 0
    worker.loop()
    return worker.leave()


class Worker(Answering):
    """One worker process. All of it runs in the main thread."""

    def __init__(self, sock: socket.socket, tokens: int, notes_fd: int) -> None:
        super().__init__(sock, notes_fd)
        self._tokens = tokens
        self._orders = Orders(sock)
        self._names: dict[int, str] = {}  # by slot: what tasks of that function are called
        self._idle = select.poll()
        self._idle.register(tokens, select.POLLIN)
        self._spin: Spin | None = None  # before it is idle
        self._runner = CoroutineRunner()
        self._running = False  # the task's code runs: KeyboardInterrupt may be raised
        self._sequence = -1  # of the task that runs
        self._seeded = False  # the global generators are to be seeded for each task
        self._finalizer: Callable[[], object] | None = None

    # -- beginning and end -----------------------------------------------------------------------------------------------------

    def begin(self) -> bool:
        """Take the parent's surroundings over and run the initializer; False when that failed (the parent is told)."""
        os.register_at_fork(after_in_child=self._in_forked_child)
        signal.signal(signal.SIGINT, self._on_interrupt)
        notes.prepare_stack(self._notes)
        self._resident = Resident()
        self._running = True  # the initializer is the user's code too
        try:
            try:
                self._orders.wait_for_setup()
            except EOFError:
                self._parent_gone()
            surroundings.apply(self._orders.setup)
            self._resident.always = self._orders.setup["weighed"]
            self._seeded = self._orders.setup["seeded"]
            self._spin = Spin(self._idle.poll) if self._orders.setup["spins"] else None
            self._initialize()
        except BaseException as error:  # an initializer may raise anything; the parent turns it into an InitializerError
            self._running = False
            self._reply(channel.NOT_READY, 0, 0.0, 0.0, 0.0, 0, dump_exception(error, task="initializer"))
            return False
        self._running = False
        runs.watch = RunWatch(lambda: self._sequence, partial(notes.give_back, self._notes))
        self._meter.reset()
        self._reply(channel.READY, 0, time.monotonic(), 0.0, 0.0, self._without_bulk(self._resident.now()), b"")
        return True

    def _initialize(self) -> None:
        setup = self._orders.setup
        if setup["finalizer"] is not None:
            self._finalizer = load_function(setup["finalizer"], task="finalizer")
        if setup["initializer"] is not None:
            initializer = load_function(setup["initializer"], task="initializer")
            args, _ = load_arguments(setup["initargs"], task="initializer")
            value = initializer(*args)
            if type(value) is CoroutineType:
                self._runner.run(value)

    def leave(self) -> int:
        """End in order; returns the exit status."""
        self._running = True
        return run_exit_handlers(self._finalizer, self._runner)

    # -- the loop --------------------------------------------------------------------------------------------------------------

    def loop(self) -> None:
        """Claim and run tasks until the token to leave comes."""
        tokens, read, orders, telling = self._tokens, os.read, self._orders, self._telling
        frames = orders.frames
        header: Any = None
        since_idle = 0  # tasks
        while True:
            # Before the next one is claimed: who cannot tell ends here, and has nobody's task in hand.
            at_hand = bool(frames)
            if at_hand and telling.last >= 0 and not (telling.quiet and frames[0][0] is header):
                self._tell_if_due_before(orders.next_slot(), more=len(frames) > 1 or orders.more)
            try:
                token = read(tokens, channel.TOKEN)
            except BlockingIOError:
                self._tell()
                flush()  # what the task printed appears when there is nothing to do, not at the end: it may be killed
                one_by_one, since_idle = since_idle == 1, 0
                if one_by_one and self._spin is not None and self._spin():
                    continue
                if not self._idle.poll(1000 * bulk.UNUSED_FOR if self._spares else None):
                    self._spares.let_go()
                continue
            if not token:
                self._parent_gone()
            if token == channel.LEAVE:
                self._tell()
                return
            try:
                frame = orders.task_of(token)
            except EOFError:
                self._parent_gone()
            header = frame[0]
            if not at_hand and telling.last >= 0:
                self._tell_if_due_before(header[2], more=bool(frames) or orders.more)
            self._run(*frame)
            del frame
            since_idle += 1
            if self._forked:
                # os.fork in the task, and the child came back from the task's code: it must not work for our parent.
                end_a_copy()

    def _tell_if_due_before(self, slot: int, *, more: bool) -> None:
        if self._telling.is_due_before(slot, time.monotonic(), more=more):
            self._tell()

    def _run(self, header: tuple[Any, ...], arguments: Any) -> None:
        """Run one task and answer. A method of its own, so that nothing of the task outlives it."""
        # A hot path: each tiny task comes here.
        _, kind, slot, attempt, sequence, index, timeout, soft = header
        kwargs = NO_KWARGS
        name = extras = None
        offset = 0
        if kind == ONE_OF_SEVERAL:
            offset, arguments = arguments
            sequence += offset
            index += offset
            attempt = 1
        self._sequence = sequence
        try:
            if kind == channel.TASK_MORE:
                extras, arguments = _cut_extras(arguments)
                name = extras.get("name")
            if extras is not None and "fn" in extras:
                fn = load_function(extras["fn"], task=name)
                name = name or function_name(fn)
            else:
                fn = self._orders.functions[slot]
                if type(fn) is bytes or type(fn) is bytearray:
                    fn = self._load_function(slot, fn, name)
                name = name or self._names[slot]
            if type(arguments) is tuple:
                args = arguments
            else:
                args, kwargs = self._load_arguments(arguments, offset, extras, name)
            if sharing.in_use:
                fn, args, kwargs = sharing.unwrapped(fn, args, kwargs)
        except BaseException as error:  # SerializationError, or what a signal handler of the user's raised
            started = time.monotonic()
            self._answer_error(channel.UNSENDABLE, sequence, started, error, name)
            return
        del arguments
        started = time.monotonic()
        deadline = started + timeout if timeout else None
        current = Claimed((name, index, attempt, deadline, self._orders.root, self._notes, sequence))
        alarm = SoftAlarm(soft, current.current(), self._runner, globals(), type(self)._call.__code__) if soft else None
        try:
            self._running = True
            if alarm is None:
                value = copy_context().run(self._call, fn, args, kwargs, current, extras)
            else:
                with alarm:
                    value = copy_context().run(self._call, fn, args, kwargs, current, extras)
            self._running = False
        except BaseException as error:  # SystemExit and KeyboardInterrupt of a task are its outcomes, too
            self._running = False
            late = alarm is not None and error is alarm.raised
            without_frames_of(globals(), error)
            explain_lack(error)
            self._answer_error(channel.TIMED_OUT if late else channel.RAISED, sequence, started, error, name)
            return
        del args, kwargs
        self._answer(slot, sequence, started, time.monotonic(), value, name)

    def _load_function(self, slot: int, data: bytes | bytearray, name: str | None) -> Callable[..., Any]:
        """Return a function at its first use."""
        # After the claim: if this takes the process down, the parent knows with which task.
        fn = load_function(bytes(data), task=name)
        self._names[slot] = function_name(fn)  # first: who finds the function asks for it
        self._orders.functions[slot] = fn
        return fn

    def _load_arguments(
        self, call: Any, offset: int, extras: dict[str, Any] | None, name: str
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        if type(call) is memoryview:
            call = _one_of(call, offset, name)
            if type(call) is tuple:
                return call, NO_KWARGS
        buffers = None if extras is None or "bulk" not in extras else self._take_beside(extras["bulk"], name)
        return load_arguments(call, task=name, buffers=buffers)

    def _call(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        current: Claimed,
        extras: dict[str, Any] | None,
    ) -> Any:
        """Run the task's code, in a context of its own."""
        entered.set(current)
        if extras is not None and "vars" in extras:
            surroundings.set_context_vars(extras["vars"])
        if self._seeded:
            generators.seed_generators(current.current().seed)
        value = fn(*args, **kwargs)
        if type(value) is CoroutineType:
            value = self._runner.run(value)
        return value

    def _take_beside(self, places: list[Place], name: str) -> list[Any]:
        """Return the large buffers of a call. Raises SerializationError where there is no memory for them."""
        try:
            return self._incoming.take(places, self._spares)
        except MemoryError as error:
            raise not_received(error, value="arguments", side="worker", task=name) from error

    def _on_interrupt(self, _: int, __: FrameType | None) -> None:
        if self._running:
            raise KeyboardInterrupt

    def _in_forked_child(self) -> None:
        """A process forked by a task has no part in the channel: it neither answers nor keeps it open."""
        if not self._forked:
            self._forked = True
            self._sock.close()
            self._resident.close()
            for fd in (self._tokens, self._notes):
                try:
                    os.close(fd)
                except OSError:
                    continue


class Claimed(Entered):
    """What the task that runs can ask about itself, made when it asks: ``[name, index, ..., notes, sequence]``, then that."""

    __slots__ = ()

    @property
    def task(self) -> None:
        """It is another process's."""
        return

    def current(self) -> CurrentTask:
        if len(self) == _TOLD:
            name, index, attempt, deadline, root, fd, sequence = self
            # Threads that the task has started may ask at the same time: they all get the one that was added first.
            self.append(CurrentTask(name, index, attempt, deadline, root, notes.Asked(fd, sequence)))
        made: CurrentTask = self[_TOLD]
        return made


def _one_of(calls: memoryview, offset: int, name: str) -> Any:
    """Return what a task is called with, of several for which there was no memory. Raises SerializationError."""
    try:
        return pickle.loads(calls)[offset]
    except Exception as error:
        raise not_received(error, value="arguments", side="worker", task=name) from error


def _cut_extras(payload: bytes | bytearray) -> tuple[dict[str, Any], bytes | bytearray]:
    """Return the extras of a `channel.TASK_MORE`, and the pickle of its call."""
    (size,) = _EXTRAS.unpack_from(payload)
    return pickle.loads(memoryview(payload)[4 : 4 + size]), payload[4 + size :]


def main(parent: int) -> NoReturn:
    """Serve the channel in descriptors 3, 4 and 5, in a fresh Python that *parent* has started ("spawn")."""
    status = 1
    try:
        posix.die_with(parent)
        posix.reset_signals()
        posix.close_all_but({3, 4, 5})
        for fd in (3, 4, 5):
            os.set_inheritable(fd, False)
        status = serve(3, 4, 5)
    except BaseException:  # as at the end of any program
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)
