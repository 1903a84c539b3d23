"""What a worker says of the tasks that it has run: at once or, while more is at hand, of some at a time."""

from __future__ import annotations

import os
import pickle
import time
from typing import TYPE_CHECKING, Any, NoReturn

from taskrun.cpu_meter import SHORT, CpuMeter
from taskrun.engine import bulk, channel, notes
from taskrun.engine.ending import end_a_copy
from taskrun.engine.outbox import LARGEST, Outbox
from taskrun.engine.telling import QUICK, Telling
from taskrun.exceptions import dump_exception
from taskrun.serialization import Beside, dump_result

if TYPE_CHECKING:
    import socket

    from taskrun.engine.bulk import Place
    from taskrun.engine.orders import Orders
    from taskrun.engine.resident import Resident

__all__ = ["Answering"]


class Answering:
    """The part of a worker that speaks to the parent. Owner: the worker's main thread."""

    _orders: Orders
    _resident: Resident

    def __init__(self, sock: socket.socket, notes_fd: int) -> None:
        self._sock = sock
        self._notes = notes_fd
        self._forked = False
        self._meter = CpuMeter(time.process_time)
        self._look_at = 0.0  # when the meter and the size are due to be looked at, though calls are short
        self._outbox = Outbox(notes_fd)
        self._beside = Beside()
        self._incoming = bulk.Incoming(notes_fd, notes.BULK_DOWN)
        self._spares = bulk.Spares(bulk.KEPT)
        self._outgoing = bulk.Outgoing(notes_fd, notes.BULK_UP)
        self._telling = Telling(self._outbox.looked_at)

    def _answer(self, slot: int, sequence: int, started: float, ended: float, value: Any, name: str) -> None:
        """Say that a task came to *value*, now or, if more work is at hand, among others."""
        # A hot path: each tiny task comes here.
        duration = ended - started
        self._telling.lasted[slot] = duration
        places = None
        try:
            data = dump_result(value, task=name, beside=self._beside)
            if self._beside.buffers:
                places = self._put_beside(sequence)
                if places is None:
                    data = dump_result(value, task=name)
        except BaseException as error:  # SerializationError, or what a signal handler of the user's raised
            self._answer_error(channel.UNSENDABLE, sequence, started, error, name)
            return
        if duration < SHORT and ended < self._look_at:
            used, rss = duration, 0
        else:
            used, rss = self._look(duration, ended)
        if places is not None:
            self._reply(channel.BULK, sequence, started, duration, used, rss, pickle.dumps((places, data), 5))
            return
        if len(data) > LARGEST or not self._more_at_hand(duration):
            self._reply(channel.DONE, sequence, started, duration, used, rss, data)
            return
        # More work is at hand: the answer goes where it is safe, and the parent is told of some at a time.
        if self._forked:
            end_a_copy()
        self._outbox.put(sequence, started, duration, used, rss, data)
        self._telling.add(sequence, duration, ended)

    def _answer_error(self, kind: int, sequence: int, started: float, error: BaseException, name: str | None) -> None:
        duration = time.monotonic() - started
        data = dump_exception(error, task=name or "")
        used = self._meter.used(duration, started + duration)
        self._reply(kind, sequence, started, duration, used, self._without_bulk(self._resident.now()), data)

    def _look(self, duration: float, ended: float) -> tuple[float, int]:
        """Return the CPU time of a call that ended just now, and how large the process is, or 0."""
        used = self._meter.used(duration, ended)
        self._spares.tidy(ended)
        rss = self._resident.after(duration, ended)
        self._look_at = min(self._meter.due, self._resident.due)
        return used, self._without_bulk(rss)

    def _more_at_hand(self, duration: float) -> bool:
        """Return whether more was sent, so that the parent can be told later; what is not received is looked for seldom."""
        frames = self._orders.frames
        if duration <= QUICK:
            return bool(frames)
        try:
            return self._orders.look() or bool(frames)
        except OSError:  # the answer is sent at once, in vain
            return False

    # -- large buffers ---------------------------------------------------------------------------------------------------------

    def _put_beside(self, sequence: int) -> list[Place] | None:
        """Put the large buffers of a result where the parent finds them; None: they have to be in its pickle."""
        buffers, self._beside.buffers = self._beside.buffers, []
        return None if self._forked else self._outgoing.put(buffers, sequence, self._was_taken)

    def _was_taken(self, number: int) -> bool:
        return notes.read_bulk(self._notes) >= number

    def _without_bulk(self, rss: int) -> int:
        return max(0, rss - self._incoming.resident - self._outgoing.resident - self._spares.unused) if rss else 0

    # -- sending ---------------------------------------------------------------------------------------------------------------

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

    def _parent_gone(self) -> NoReturn:
        os._exit(0)
