"""What comes back from the workers: frames are read, results unpickled, and outcomes noted for the scheduler.

Used by the I/O thread only.
"""

from __future__ import annotations

import pickle
import time
from typing import TYPE_CHECKING, Any

from taskrun.engine import bulk, channel
from taskrun.engine.telling import patience
from taskrun.exceptions import load_exception
from taskrun.serialization import load_outcome, not_received

if TYPE_CHECKING:
    from collections.abc import Iterable

    from taskrun.completing import Outcome
    from taskrun.engine.dispatch import Dispatcher
    from taskrun.engine.fleet import Fleet
    from taskrun.engine.functions import Slot
    from taskrun.engine.handle import Handle
    from taskrun.engine.outbox import Answer
    from taskrun.engine.poller import Poller
    from taskrun.scheduler import Scheduler
    from taskrun.task import Cause, Task

__all__ = ["Answers"]

_TICK = 0.005  # seconds between looks, while a worker has more than one task in hand
_READS = 8  # chunks read from one worker before the others have their turn
_CAUSES: dict[int, Cause] = {channel.RAISED: "raised", channel.UNSENDABLE: "serialization", channel.TIMED_OUT: "timeout"}
_BROKEN: Any = object()  # in the place of a result that does not unpickle


def _up_to(number: int) -> tuple[tuple[Any, ...], bytes]:
    return (0, channel.UP_TO, number, 0.0, 0.0, 0.0, 0), b""


class Answers:
    """Reads what workers send and adds it to the outcomes of *fleet*."""

    def __init__(self, scheduler: Scheduler, fleet: Fleet, dispatcher: Dispatcher, poller: Poller) -> None:
        self._scheduler = scheduler
        self._fleet = fleet
        self._dispatcher = dispatcher
        self._poller = poller
        self.spares = bulk.Spares(2 * bulk.KEPT)
        """Memory of results: the next one comes before its receiver lets the last one go."""

    def read(self, handle: Handle) -> bool:
        """Read what a worker has sent and note the outcomes; False when there is no more."""
        if handle.trouble is not None:
            return False
        reader, more = handle.reader, True
        for _ in range(_READS):
            try:
                frames = reader.read()
            except BlockingIOError:
                more = False
                break
            except (EOFError, OSError):
                # Its end is closed: it is dying, as its pidfd tells, or is killed soon; listening on would only spin.
                self._poller.remove(handle.fd)
                handle.silent_since = time.monotonic()
                more = False
                break
            except (MemoryError, ValueError) as error:  # too large for us, or no answer: its task's trouble, and nobody else's
                self._poller.remove(handle.fd)
                self._fleet.lose(handle, error)
                return False
            if frames:
                self._take_frames(handle, frames)
            if reader.drained:  # what has come since is told of again
                more = False
                break
        return more

    def look(self, busy: list[Handle], now: float) -> float | None:
        """Find the answers that *busy* workers have had no occasion to tell of; return when to look again, or None."""
        following: float | None = None
        for handle in busy:
            if len(handle.flight) < 2:
                continue
            due = handle.heard + _TICK
            if due <= now:
                self.look_at(handle)
                due = now + _TICK
            following = due if following is None else min(due, following)
        return following

    def look_around(self, handles: Iterable[Handle]) -> None:
        """Find what workers would soon tell of, while this thread is awake for another one: to be woken costs more."""
        now = time.monotonic()
        for handle in handles:
            if len(handle.flight) > 1 and now - handle.heard > patience(handle.pace) / 2:
                self.look_at(handle)

    def look_at(self, handle: Handle) -> None:
        """Find the answers that this worker must have given, since it has claimed the task after them."""
        now = handle.heard = time.monotonic()
        if handle.outbox is not None:
            handle.outbox.note_look(now)
        with self._fleet.lock:
            last = handle.answered_unsaid()
        if last >= 0:
            self._take_frames(handle, [_up_to(last)])

    def rest(self, handle: Handle) -> None:
        """Find all answers of a dead worker that it had not told of."""
        last = next(reversed(handle.flight), -1)
        if last >= 0:
            self._take_frames(handle, [_up_to(last)])

    def _sort(self, handle: Handle, frames: list[tuple[tuple[Any, ...], Any]]) -> tuple[list[Answer], Task | None]:
        """Return the answers, each with its task; and the task that it is at."""
        flight, label, rss = handle.flight, handle.label, handle.rss
        answers: list[Answer] = []
        with self._fleet.lock:  # the supervisor's
            for header, payload in frames:
                _, kind, number, started, duration, cpu, weighed = header
                if kind != channel.UP_TO:
                    run = (label, started, duration, cpu, weighed or rss)
                    answers.append((flight.pop(number, None), kind, number, weighed, run, payload))
                elif handle.outbox is not None:
                    answers += handle.outbox.take(flight, number, label, rss)
            head = handle.head
            handle.watch.seen = None if handle.watch.seen is not head else head  # an idle worker keeps no task
        return answers, head

    def _take_frames(self, handle: Handle, frames: list[tuple[tuple[Any, ...], Any]]) -> None:
        # The hot loop of the parent: one pass for what the lock guards, one for what runs the user's code.
        answers, head = self._sort(handle, frames)
        outcomes, loads, done = self._fleet.outcomes, pickle.loads, channel.DONE
        stopping = handle.stop is not None
        size, answered = 0, handle.answered
        fn: Any = None  # of the last task: most often the next one's too
        slot: Slot | None = None
        for task, kind, number, weighed, run, payload in answers:
            if task is None:
                self._life_cycle(handle, kind, weighed, payload)
                continue
            if weighed:
                size = weighed
            answered = number
            task.place = None
            if kind == done or kind == channel.BULK:
                if fn is None or task.fn is not fn:
                    fn = task.fn
                    slot = self._dispatcher.pace_slot(fn)
                if slot is not None:
                    slot.observe(run[2])
            if kind == done:
                try:
                    value = loads(payload)
                except BaseException:  # the user's __setstate__ may raise anything, SystemExit included
                    value = _BROKEN
                if value is not _BROKEN:
                    outcomes.append((task, True, value, None, run))
                else:  # again, for an error that names the task; outside of the handler, lest it shows both
                    outcomes.append(load_outcome(task, bytes(payload), run))
            elif kind == channel.BULK:
                outcomes.append(self._with_buffers(handle, task, number, payload, run))
            else:
                outcomes.append((task, False, load_exception(bytes(payload)), _CAUSES[kind], run))
            if stopping:
                self._fleet.answered(handle, task)
        handle.answered = answered
        if answers:
            handle.moved = handle.heard = time.monotonic()
            handle.watch.forgive()
        self._fleet.progress()
        if size:
            self._fleet.check_size(handle, size)
        if head is not None:
            self._scheduler.begin(head)
        else:
            handle.tidy()

    def _with_buffers(self, handle: Handle, task: Task, sequence: int, payload: bytes | bytearray, run: Any) -> Outcome:
        """Return the outcome of a task whose result has large buffers beside it."""
        try:
            places, data = pickle.loads(payload)
            buffers = handle.take_beside(places, sequence, self.spares)
        except MemoryError as error:  # the result is too large for us: its task's trouble, and nobody else's
            return task, False, not_received(error, value="result", side="parent", task=task.name), "serialization", run
        return load_outcome(task, data, run, buffers)

    def _life_cycle(self, handle: Handle, kind: int, rss: int, payload: bytes | bytearray) -> None:
        if kind == channel.READY:
            self._fleet.ready(handle, rss)
        elif kind == channel.NOT_READY:
            self._fleet.not_ready(handle, bytes(payload))
