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
from contextlib import nullcontext, suppress
from contextvars import copy_context
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any, NoReturn

from taskrun import runs, sharing
from taskrun.coroutines import CoroutineRunner
from taskrun.cpu_meter import CpuMeter
from taskrun.engine import bulk, channel, generators, notes, posix, surroundings
from taskrun.engine.alarm import SoftAlarm
from taskrun.engine.ending import end_a_copy, flush, run_exit_handlers
from taskrun.engine.orders import Orders
from taskrun.engine.outbox import LARGEST, Outbox
from taskrun.engine.resident import Resident
from taskrun.engine.run_watch import RunWatch
from taskrun.engine.telling import QUICK, Telling
from taskrun.exception_text import is_a, without_frames_of
from taskrun.exceptions import dump_exception
from taskrun.serialization import Beside, dump_result, load_arguments, load_function, not_received
from taskrun.task import CurrentTask, entered, function_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from taskrun.engine.bulk import Place

__all__ = ["Worker", "main", "serve"]

_EXTRAS = struct.Struct("<I")
_NO_ALARM = nullcontext()


def serve(channel_fd: int, tokens_fd: int, notes_fd: int) -> int:
    """Run tasks from the channel until told to leave; returns the exit status of the process."""
    worker = Worker(socket.socket(fileno=channel_fd), tokens_fd, notes_fd)
    if not worker.begin():
        return 0
    worker.loop()
    return worker.leave()


class Worker:
    """One worker process. All of it runs in the main thread."""

    def __init__(self, sock: socket.socket, tokens: int, notes_fd: int) -> None:
        self._sock = sock
        self._tokens = tokens
        self._notes = notes_fd
        self._orders = Orders(sock)
        self._idle = select.poll()
        self._idle.register(tokens, select.POLLIN)
        self._runner = CoroutineRunner()
        self._running = False  # the task's code runs: KeyboardInterrupt may be raised
        self._forked = False
        self._meter = CpuMeter(time.process_time)
        self._outbox = Outbox(notes_fd)
        self._beside = Beside()
        self._incoming = bulk.Incoming(notes_fd, notes.BULK_DOWN)
        self._outgoing = bulk.Outgoing(notes_fd, notes.BULK_UP)
        self._telling = Telling()
        self._sequence = -1  # of the task that runs
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
        tokens, read, orders, frames = self._tokens, os.read, self._orders, self._orders.frames
        while True:
            # Before the next one is claimed: who cannot tell ends here, and has nobody's task in hand.
            at_hand = bool(frames)
            if at_hand and self._should_tell_before(orders.next_slot(), more=len(frames) > 1):
                self._tell()
            try:
                token = read(tokens, 1)
            except BlockingIOError:
                self._tell()
                flush()  # what the task printed appears when there is nothing to do, not at the end: it may be killed
                self._idle.poll()
                continue
            if not token:
                self._parent_gone()
            if token[0] == channel.LEAVE:
                self._tell()
                return
            try:
                header, payload = orders.task_of(token[0])
            except EOFError:
                self._parent_gone()
            if not at_hand and self._should_tell_before(header[2], more=bool(frames)):
                self._tell()
            self._run(header, payload)
            if self._forked:
                # os.fork in the task, and the child came back from the task's code: it must not work for our parent.
                end_a_copy()

    def _run(self, header: tuple[Any, ...], payload: bytes | bytearray) -> None:
        """Run one task and answer. A method of its own, so that nothing of the task outlives it."""
        _, kind, slot, attempt, sequence, index, timeout, soft = header
        self._sequence = sequence
        extras: dict[str, Any] | None = None
        buffers: list[Any] | None = None
        arguments: Any = payload  # bytes, or a bytearray if large
        name = None
        try:
            if kind == channel.TASK_MORE:
                (size,) = _EXTRAS.unpack_from(payload)
                extras = pickle.loads(memoryview(payload)[4 : 4 + size])
                arguments = payload[4 + size :]
                name = extras.get("name")
            fn = self._function(slot, extras, name)
            if name is None:
                name = function_name(fn)
            if extras is not None and "bulk" in extras:
                buffers = self._take_beside(extras["bulk"], name)
            args, kwargs = load_arguments(arguments, task=name, buffers=buffers)
            buffers = None
            if sharing.in_use:
                fn, args, kwargs = sharing.unwrapped(fn, args, kwargs)
        except BaseException as error:  # SerializationError, or what a signal handler of the user's raised
            started = time.monotonic()
            self._answer_error(channel.UNSENDABLE, sequence, started, error, name)
            return
        started = time.monotonic()
        deadline = started + timeout if timeout else None
        current = CurrentTask(name, index, attempt, deadline, self._orders.root, notes.Asked(self._notes, sequence))
        alarm = SoftAlarm(soft, current, self._runner, globals(), type(self)._call.__code__) if soft else None
        try:
            self._running = True
            with alarm or _NO_ALARM:
                value = copy_context().run(self._call, fn, args, kwargs, current, extras)
            self._running = False
        except BaseException as error:  # SystemExit and KeyboardInterrupt of a task are its outcomes, too
            self._running = False
            late = alarm is not None and error is alarm.raised
            without_frames_of(globals(), error)
            if is_a(error, (ImportError, AttributeError)):
                from taskrun.blame import explain_missing_name

                with suppress(BaseException):  # it touches the error, whose class is the user's
                    explain_missing_name(error)
            self._answer_error(channel.TIMED_OUT if late else channel.RAISED, sequence, started, error, name)
            return
        del args, kwargs
        duration = time.monotonic() - started
        self._telling.lasted[slot] = duration
        self._answer(sequence, started, duration, value, name)

    def _answer(self, sequence: int, started: float, duration: float, value: Any, name: str) -> None:
        """Say that a task came to *value*, now or, if more work is at hand, among others."""
        beside, places = self._beside, None
        try:
            data = dump_result(value, task=name, beside=beside)
            if beside.buffers:
                places = self._put_beside(sequence)
                if places is None:
                    data = dump_result(value, task=name)
        except BaseException as error:  # SerializationError, or what a signal handler of the user's raised
            self._answer_error(channel.UNSENDABLE, sequence, started, error, name)
            return
        ended = started + duration
        used = self._meter.used(duration, ended)
        rss = self._resident.after(duration, ended)
        if rss:
            rss = self._without_bulk(rss)
        if places is not None:
            self._reply(channel.BULK, sequence, started, duration, used, rss, pickle.dumps((places, data), 5))
            return
        if len(data) > LARGEST or not self._more_at_hand(duration):
            self._reply(channel.DONE, sequence, started, duration, used, rss, data)
            return
        # More work is at hand: the answer goes where it is safe, and the parent is told of some at a time.
        if self._forked:
            end_a_copy()
        self._outbox.put(sequence, channel.REPLY.pack(len(data), channel.DONE, sequence, started, duration, used, rss), data)
        self._telling.add(sequence, ended)

    def _more_at_hand(self, duration: float) -> bool:
        """Return whether more was sent, so that the parent can be told later; what is not received is looked for seldom."""
        frames = self._orders.frames
        try:
            return (duration > QUICK and self._orders.look()) or bool(frames)
        except OSError:  # the answer is sent at once, in vain
            return False

    def _should_tell_before(self, slot: int, *, more: bool) -> bool:
        return self._telling.last >= 0 and self._telling.is_due_before(slot, time.monotonic(), more=more)

    def _function(self, slot: int, extras: dict[str, Any] | None, name: str | None) -> Callable[..., Any]:
        if extras is not None and "fn" in extras:
            return load_function(extras["fn"], task=name)
        fn = self._orders.functions[slot]
        if type(fn) is bytes or type(fn) is bytearray:
            # Loaded after the claim: if it takes the process down, the parent knows with which task.
            fn = self._orders.functions[slot] = load_function(bytes(fn), task=name)
        return fn  # type: ignore[no-any-return]

    def _call(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        current: CurrentTask,
        extras: dict[str, Any] | None,
    ) -> Any:
        """Run the task's code, in a context of its own."""
        entered.set(current)
        if extras is not None and "vars" in extras:
            surroundings.set_context_vars(extras["vars"])
        if self._orders.setup["seeded"]:
            generators.seed_generators(current.seed)
        value = fn(*args, **kwargs)
        if type(value) is CoroutineType:
            value = self._runner.run(value)
        return value

    # -- answering -------------------------------------------------------------------------------------------------------------

    def _answer_error(self, kind: int, sequence: int, started: float, error: BaseException, name: str | None) -> None:
        duration = time.monotonic() - started
        data = dump_exception(error, task=name or "")
        used = self._meter.used(duration, started + duration)
        self._reply(kind, sequence, started, duration, used, self._without_bulk(self._resident.now()), data)

    def _take_beside(self, places: list[Place], name: str) -> list[Any]:
        """Return the large buffers of a call. Raises SerializationError where there is no memory for them."""
        try:
            return self._incoming.take(places)
        except MemoryError as error:
            raise not_received(error, value="arguments", side="worker", task=name) from error

    def _put_beside(self, sequence: int) -> list[Place] | None:
        """Put the large buffers of a result where the parent finds them; None: they have to be in its pickle."""
        buffers, self._beside.buffers = self._beside.buffers, []
        return None if self._forked else self._outgoing.put(buffers, sequence, self._was_taken)

    def _was_taken(self, number: int) -> bool:
        return notes.read_bulk(self._notes) >= number

    def _reply(self, kind: int, sequence: int, started: float, duration: float, cpu: float, rss: int, data: bytes) -> None:
        if self._forked:
            end_a_copy()
        head = channel.REPLY.pack(len(data), kind, sequence, started, duration, cpu, rss)
        if self._telling.last >= 0:
            head = self._telling.up_to() + head
        try:
            if len(data) < 1 << 16:
                self._sock.sendall(head + data)  # one write: the parent finds whole frames
            else:
                self._sock.sendall(head)
                self._sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            self._parent_gone()

    def _tell(self) -> None:
        """Tell the parent of the answers in the outbox."""
        if self._telling.last >= 0:
            try:
                self._sock.sendall(self._telling.up_to())
            except (BrokenPipeError, ConnectionResetError):
                self._parent_gone()

    def _without_bulk(self, rss: int) -> int:
        return max(0, rss - self._incoming.resident - self._outgoing.resident) if rss else 0

    def _parent_gone(self) -> NoReturn:
        os._exit(0)

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
