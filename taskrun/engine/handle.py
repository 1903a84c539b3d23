"""The parent's end of one worker: its channel, the tasks it holds, and the tokens that say which of them have begun.

`flight` holds the tasks sent and not known to be answered, oldest first: those that were claimed, of which the last one runs
and the answers to the others are on their way or in the outbox, then those that were not. How many were not is how many tokens
are in the pipe; whoever reads a token has the task. The supervisor's lock guards `flight` and the pipe; everything else belongs
to the I/O thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import termios
import time
from itertools import islice
from typing import TYPE_CHECKING, Any

from taskrun import primitives
from taskrun.engine import bulk, channel, notes, posix
from taskrun.engine.outbox import Outbox
from taskrun.engine.stopping import Look
from taskrun.engine.told import Told
from taskrun.engine.watch import Watch

if TYPE_CHECKING:
    from taskrun.engine.bulk import Place
    from taskrun.engine.stopping import Stop
    from taskrun.serialization import Beside
    from taskrun.shipping import Shipment
    from taskrun.task import Task

__all__ = ["Handle"]

_INT = struct.Struct("i")
_MOST_BYTES = channel.TOKEN * (channel.MAX_AHEAD + 1)  # of tokens, the one to leave among them


class Handle:
    """One worker, from the request to make it until it is reaped."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pidfd = self.tokens_in = self.tokens_out = self.notes = -1
        self.outbox: Outbox | None = None
        """What it has answered and not sent; None once closed."""
        self.theirs: list[int] = []
        """Descriptors for the worker, closed here once it has them."""
        self._open()
        self.fd = self.sock.fileno()
        self.reader = channel.FrameReader(self.sock, channel.REPLY)
        self.writer = channel.FrameWriter(self.sock)
        self.pid: int | None = None
        self.label = ""
        """"pid 123", for records."""
        self.ready = False
        self.leaving = False
        self.dead = False
        self.stop: Stop | None = None
        self.trouble: BaseException | None = None
        """Why it was killed, if what it sent could not be read."""
        self.silent_since: float | None = None
        """When its end of the line was found closed."""
        self.over_since: float | None = None
        """When its pidfd was first seen to say that it has ended, which the template had not said."""
        self.overdue_until = 0.0
        """When it is looked at again, killed as it is, if it was found to be overdue."""
        self.flight: dict[int, Task] = {}
        self.next_sequence = 0
        self.answered = -1
        """The last sequence number that was answered: frames up to it have been read."""
        self.assigned = 0
        """Tasks sent and not taken back, for recycling by count."""
        self.alone = False
        """Runs one suspect task and takes no other beside it."""
        self.told = Told()
        self.watch = Watch()
        self.carrying: set[int] = set()
        """Sequence numbers of tasks that were sent with descriptors whose end somebody may wait for."""
        self.pace = 0.0
        """Seconds that the tasks in flight take each, as far as known."""
        self.born = time.monotonic()
        self.moved = self.born
        """When it last made progress: answered, or was given work while idle."""
        self.fed = self.born
        """When it was last given work: a few milliseconds of it, unless the bet is lost."""
        self.leaving_look = Look()
        """Why it has not ended, having nothing more to do."""
        self.heard = self.born
        """When it was last looked into what it has answered."""
        self._stack_from = notes.STACK_AT
        self.rss = 0
        self.exit_status: int | None = None

    def _open(self) -> None:
        """Make all that connects it with its worker. Raises OSError; nothing is left then."""
        self.sock, theirs = socket.socketpair()
        try:
            self.theirs.append(theirs.detach())
            self.sock.setblocking(False)
            self.tokens_out, self.tokens_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            self._one_page = posix.has_one_page(self.tokens_in)
            self.notes = notes.new_notes(f"taskrun-worker-{self.number}")
            self._down = bulk.Outgoing(self.notes, notes.BULK_DOWN)
            self._up = bulk.Incoming(self.notes, notes.BULK_UP)
            self.outbox = Outbox(self.notes)
            self.theirs += [os.dup(self.tokens_out)]
            self.theirs += [os.dup(self.notes)]
        except BaseException:  # no descriptor is left: nothing must stay behind
            self.close()
            raise

    @property
    def free(self) -> bool:
        """Whether it can be given a task at once. It may say that it is ready before its launcher says who it is."""
        return self.ready and self.pidfd >= 0 and not self.flight and not self.leaving and self.stop is None and not self.dead

    @property
    def takes_more(self) -> bool:
        """Whether it can be given more before it has done what it has.

        A page of a pipe is not used again before all that was in it is read. There are two, half of one is ever in use; but a
        user with very many pipes may be given one for each, which has to be empty first.
        """
        return not (self._one_page or self.leaving or self.alone or self.stop is not None)

    # -- sending (I/O thread) --------------------------------------------------------------------------------------------------

    def send(self, parts: list[Any], shipment: Shipment | None = None) -> None:
        """Send frames without blocking, with the descriptors of *shipment*.

        A worker that is gone is found out by its death, not here.
        """
        try:
            self.writer.send(parts, shipment)
        except OSError:
            return

    def put_beside(self, beside: Beside, number: int) -> list[Place] | None:
        """Put the large buffers of the next task where the worker finds them; None: they have to be in its pickle."""
        buffers, beside.buffers = beside.buffers, []
        return self._down.put(buffers, number, self._has_read)

    def tidy(self) -> None:
        """Give memory back that large buffers have taken; the worker is idle."""
        self._down.tidy(self._has_read)

    def _has_read(self, number: int) -> bool:
        """Return whether the arguments of that task were loaded, or never will be."""
        return number < self.next_sequence and number not in self.flight

    def take_beside(self, places: list[Place], number: int, spares: bulk.Spares) -> list[Any]:
        """Return the large buffers of a result. Raises MemoryError."""
        try:
            return self._up.take(places, spares)
        finally:
            notes.note_bulk_read(self.notes, number)

    def flush(self) -> None:
        """Send what waits for the socket, as far as it goes."""
        with contextlib.suppress(OSError):
            self.writer.flush()

    def put_tokens(self, tokens: bytes) -> None:
        """Let the worker claim tasks, or leave. Under the lock."""
        os.write(self.tokens_in, tokens)  # our own read end is open: no EPIPE; and there is room: see `takes_more`

    def leave(self) -> None:
        """Have the worker end in order once it has run what it was given. Under the lock."""
        if not self.leaving:
            self.leaving = True
            self.put_tokens(channel.LEAVE)

    # -- flight and tokens (under the lock) ------------------------------------------------------------------------------------

    @property
    def head(self) -> Task | None:
        """The oldest task of the flight: others take out of it what was not begun, at any time."""
        return next(iter(self.flight.values()), None)

    def _read_tokens(self) -> bytes:
        try:
            return os.read(self.tokens_out, _MOST_BYTES)
        except BlockingIOError:
            return b""

    def unclaimed(self) -> int:
        """Return how many tasks of the flight have not begun, without disturbing them."""
        (count,) = _INT.unpack(fcntl.ioctl(self.tokens_out, termios.FIONREAD, bytes(4)))
        return min(int(count) // channel.TOKEN - self.leaving, len(self.flight)) if count else 0

    def answered_unsaid(self) -> int:
        """Return the number of the last task that must have been answered, since the next one is claimed; or -1."""
        if len(self.flight) < 2:
            return -1
        claimed = len(self.flight) - self.unclaimed()
        return -1 if claimed < 2 else next(islice(self.flight, claimed - 2, None))

    def has_claimed(self, task: Task) -> bool:
        """Return whether *task* of this flight has begun."""
        begun = len(self.flight) - self.unclaimed()
        return any(each is task for _, each in zip(range(begun), self.flight.values(), strict=False))

    def works_on(self, task: Task) -> bool:
        """Return whether the worker surely runs *task*, once nothing else can begin: claimed last and not answered."""
        number, last = next(reversed(self.flight.items()), (-1, None))
        if last is not task or not self.has_claimed(task) or self.outbox is None or self.outbox.has(number):
            return False
        return self.reader.between_frames and not posix.unread(self.fd)

    def take_back(self) -> list[Task]:
        """Take all tasks that have not begun out of the flight; oldest first. The token to leave is put back.

        A worker that was sent connections with a task that is taken back leaves: whoever waits for the end of one would wait
        for it to read its socket.
        """
        tokens = self._read_tokens()
        if not tokens:
            return []
        to_leave = tokens.endswith(channel.LEAVE)
        count = len(tokens) // channel.TOKEN - to_leave
        waiting = list(self.flight.items())[len(self.flight) - count :] if count else []
        for sequence, _ in waiting:
            del self.flight[sequence]
            if sequence in self.carrying:  # its connections lie in the worker's socket, which it may not read for long
                self.leaving = to_leave = True
        if to_leave:
            self.put_tokens(channel.LEAVE)
        self.assigned -= len(waiting)
        return [task for _, task in waiting]

    def take_back_one(self, task: Task) -> bool:
        """Take *task* out of the flight if it has not begun; Ctrl-C, which may strike anywhere here, loses no other one."""
        sequence = next((number for number, each in self.flight.items() if each is task), -1)
        if sequence < 0:
            return False
        token = channel.tokens_of(sequence)
        read: dict[int, bytes] = {}
        # All tokens out of the pipe and those of others into it again, in one call of C: between them no signal is looked for.
        tokens = map(read.setdefault, (0,), map(os.read, (self.tokens_out,), (_MOST_BYTES,)))
        others = map(bytes.replace, tokens, (token,), (b"",))
        try:
            any(map(os.write, (self.tokens_in,), others))
        except BlockingIOError:  # all are claimed
            return False
        finally:  # no calls, after which Ctrl-C may strike
            taken = 0 in read and token in read[0]
            if taken:
                del self.flight[sequence]
                self.assigned -= 1
        if taken and sequence in self.carrying:  # as above
            self.leave()
        return taken

    # -- notes -----------------------------------------------------------------------------------------------------------------

    def note_cancel(self, sequence: int) -> None:
        """Let `current_task().cancelled` of that task be true."""
        notes.ask_to_cancel(self.notes, sequence)

    def stack(self) -> str | None:
        """Return the Python stack that the worker wrote, if it did."""
        return notes.read_stack(self.notes, self._stack_from)

    def has_stack(self) -> bool:
        """Return whether the worker has begun to write its stack."""
        return notes.has_stack(self.notes, self._stack_from)

    def forget_stack(self) -> None:
        """What was written so far belongs to a task that is over."""
        self._stack_from = notes.end_of_stack(self.notes, self._stack_from)

    def held_locks(self) -> tuple[str, ...]:
        """Return the names of the locks that its tasks were given and that are locked; it is dead."""
        return primitives.held(primitives.locks_among(self.told.shipped))

    # -- end -------------------------------------------------------------------------------------------------------------------

    def close_theirs(self) -> None:
        """Close the worker's descriptors here: it has them, or will never be."""
        while self.theirs:
            os.close(self.theirs.pop())

    def close(self) -> None:
        """Close everything; also in a forked child of the parent."""
        self.close_theirs()
        self.sock.close()
        if self.outbox is not None:
            self.outbox.close()
            self.outbox = None
            self._down.close()
            self._up.close()
        posix.close_held(self, "tokens_in", "tokens_out", "notes", "pidfd")
