"""Which tasks go to which worker, in what batches, and how a task becomes a frame.

A batch is a bet that its tasks are short: about a millisecond and a half of work by the moving average of each function, an
unknown function alone, never more than a fair share of the queue. A worker with tiny tasks gets its next batch before it has
finished the last. When the bet is lost, what the worker has not begun is taken back (`reclaim_overdue`).
"""

from __future__ import annotations

import functools
import struct
import time
from collections import deque
from types import MethodType
from typing import TYPE_CHECKING, Any

from taskrun.engine import channel, surroundings
from taskrun.engine.functions import Functions, Slot
from taskrun.errors import SerializationError
from taskrun.serialization import dump_arguments, dump_function

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskrun.engine.fleet import Fleet
    from taskrun.engine.handle import Guard, Handle
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler
    from taskrun.task import Task

__all__ = ["PULLED", "RECALLED", "Dispatcher"]

PULLED = object()
"""`task.place` while the I/O thread has the task in hand."""
RECALLED = object()
"""`task.place` when somebody asked for it back meanwhile."""

_BUDGET = 0.0015  # seconds of work in a batch
_OVERHEAD = 5e-6  # seconds that a task costs besides its own
_TOP_UP_BELOW = 0.0007  # seconds of work left in a worker when it gets its next batch already
_OVERDUE = 0.005  # seconds without an answer before the rest of a batch is taken back
_HEADER = channel.TASK_HEADER.pack
_EXTRAS = struct.Struct("<I").pack


class Dispatcher:
    """Pulls tasks and sends them. Used by the I/O thread only."""

    def __init__(
        self,
        scheduler: Scheduler,
        settings: WorkerSettings,
        fleet: Fleet,
        context_vars: list[tuple[str, Any]],
        lock: Guard,
    ) -> None:
        self._scheduler = scheduler
        self._fleet = fleet
        self._context_vars = context_vars
        self._lock = lock
        self._max_workers = settings.max_workers
        self._max_tasks = settings.max_tasks_per_child
        self._functions = Functions()
        self._pull_size = 1
        self.suspects: deque[Task] = deque()
        """Tasks that took a worker down and run again: each alone, on a fresh worker."""

    # -- choosing -------------------------------------------------------------------------------------------------------------

    def feed(self) -> bool:
        """Give work to whoever has room for it; True if there is room for more than there is."""
        scheduler, fleet = self._scheduler, self._fleet
        while scheduler.queued or self.suspects:
            handle = self._next_worker()
            if handle is None:
                break
            self._give_batch(handle)
        waiting = scheduler.queued + len(self.suspects)
        if waiting > 0:
            self._start_workers(waiting)
        return fleet.room_to_start() > 0 or self._next_worker() is not None

    def _start_workers(self, waiting: int) -> None:
        fleet = self._fleet
        room = fleet.room_to_start()
        if room <= 0 and self.suspects and not fleet.starting():
            # A suspect waits for a fresh worker and there is no place for one: an idle one makes room.
            used = [handle for handle in fleet.free() if handle.assigned]
            if used:
                fleet.retire(used[0])
                room = fleet.room_to_start()
        for _ in range(min(waiting - fleet.starting(), room)):
            if not fleet.start_worker():
                return

    def _next_worker(self) -> Handle | None:
        """Return the worker to give a batch to: a free one, else one that will soon be, else None."""
        best: Handle | None = None
        busy = 0
        suspects = bool(self.suspects)
        waiting = self._scheduler.queued
        for handle in self._fleet.workers.values():
            if handle.flight:
                busy += 1
            elif handle.free:
                if suspects and not handle.assigned:
                    return handle
                # The one that worked last: its caches are warm, and the others can grow idle.
                if (waiting or not suspects) and (best is None or handle.moved > best.moved):
                    best = handle
        if best is not None:
            # Workers on their way out still count while they work: never more than max_workers run at once.
            return best if busy < self._max_workers else None
        if not waiting and suspects:
            return None
        now = time.monotonic()
        for handle in self._fleet.workers.values():
            if (
                handle.flight
                and not handle.leaving
                and not handle.alone
                and handle.stop is None
                and 0.0 < len(handle.flight) * handle.pace < _TOP_UP_BELOW
                and now - handle.moved < _OVERDUE
                and self._room(handle) > len(handle.flight)
            ):
                return handle
        return None

    def _room(self, handle: Handle) -> int:
        """Return how many tasks may be sent to *handle* now."""
        room = channel.MAX_AHEAD - (handle.next_sequence - handle.answered - 1)
        if self._max_tasks is not None:
            room = min(room, self._max_tasks - handle.assigned)
        return room

    def _give_batch(self, handle: Handle) -> None:
        if self.suspects and not handle.assigned and not handle.flight:
            handle.alone = True
            self._send(handle, [self.suspects.popleft()])
            return
        room = self._room(handle)
        if room <= 0:
            # Only with frames that were taken back and never read, hundreds of them: tokens would become ambiguous.
            self._fleet.retire(handle)
            return
        share = -(-self._scheduler.queued // self._max_workers)
        tasks = self._scheduler.pull(max(1, min(room, share, self._pull_size)))
        for task in tasks:
            task.place = PULLED
        tasks = self._without_suspects(tasks)
        batch = self._within_budget(tasks)
        if len(batch) < len(tasks):
            self._return(tasks[len(batch) :])
        if batch:
            self._send(handle, batch)

    def _without_suspects(self, tasks: list[Task]) -> list[Task]:
        crashed = self._fleet.crashed
        if not crashed:
            return tasks
        innocent = []
        for task in tasks:
            if task.number > 1 and task.future in crashed:
                self.suspects.append(task)
            else:
                innocent.append(task)
        return innocent

    def _within_budget(self, tasks: list[Task]) -> list[Task]:
        """Return the beginning of *tasks* that makes a batch, and learn how many to pull next time."""
        total = 0.0
        for i, task in enumerate(tasks):
            slot = self.pace_slot(task.fn)
            seconds = slot.seconds if slot is not None and slot.seconds is not None else _BUDGET
            total += seconds + _OVERHEAD
            if total > _BUDGET and i:
                self._pull_size = i
                return tasks[:i]
        self._pull_size = max(1, min(int(_BUDGET / total * len(tasks)), channel.MAX_AHEAD // 2)) if tasks else 1
        return tasks

    def pace_slot(self, fn: Callable[..., Any]) -> Slot | None:
        """Return where the pace of *fn* is kept: that of the function inside for partials, methods and callable objects."""
        slot = self._functions.slot(fn)
        if slot is not None:
            return slot
        if isinstance(fn, functools.partial):
            return self._functions.slot(fn.func)
        if isinstance(fn, MethodType):
            return self._functions.slot(fn.__func__)
        return self._functions.slot(type(fn))

    def _return(self, tasks: list[Task]) -> None:
        back = []
        with self._lock:
            for task in tasks:
                if task.place is not RECALLED:
                    back.append(task)
                task.place = None
        self._scheduler.give_back(back)

    # -- sending --------------------------------------------------------------------------------------------------------------

    def _send(self, handle: Handle, batch: list[Task]) -> None:
        """Make frames of a batch and send them, then let the worker claim the tasks."""
        parts: list[bytes] = []
        sent: list[Task] = []
        first = sequence = handle.next_sequence
        for task in batch:
            try:
                self._encode(handle, task, sequence, parts)
            except BaseException as error:  # pickling runs the user's code, and a signal may be for this thread
                if not isinstance(error, SerializationError):
                    error = _unexpected(error, task)
                task.place = None
                self._fleet.outcomes.append((task, False, error, "serialization", None))
                continue
            sent.append(task)
            sequence += 1
        if not sent:
            return
        handle.next_sequence = sequence
        handle.send(parts)
        tokens = bytearray()
        was_idle = not handle.flight
        with self._lock:
            flight = handle.flight
            for i, task in enumerate(sent, first):
                if task.place is RECALLED:
                    task.place = None  # without a token its frame will be passed over
                    continue
                task.place = handle
                flight[i] = task
                tokens.append(i % channel.TOKENS)
            if tokens:
                handle.assigned += len(tokens)
                handle.put_tokens(bytes(tokens))
                if (self._max_tasks is not None and handle.assigned >= self._max_tasks) or handle.alone:
                    handle.leave()  # after these; its replacement starts meanwhile
            head = next(iter(flight.values()), None)
        slot = self.pace_slot(sent[-1].fn)
        handle.pace = _BUDGET if slot is None or slot.seconds is None else slot.seconds + _OVERHEAD
        if was_idle and head is not None:
            handle.moved = time.monotonic()
            self._scheduler.begin(head)

    def _encode(self, handle: Handle, task: Task, sequence: int, parts: list[bytes]) -> None:
        """Append the frames of one task to *parts*: its function if the worker lacks it, then the call itself."""
        fn, options = task.fn, task.options
        extras: dict[str, Any] = {}
        number = 0
        slot = self._functions.slot(fn)
        if slot is None:
            extras["fn"] = dump_function(fn, task=task.name)
        else:
            number = slot.number
            has = handle.has
            if has.get(number) != slot.version or slot.reads:
                definition = self._functions.data(slot, fn)
                if has.get(number) != slot.version:
                    parts.append(_HEADER(len(definition), channel.FUNCTION, number, 0, 0, 0, 0.0, 0.0))
                    parts.append(definition)
                    has[number] = slot.version
        if options.name is not None:
            extras["name"] = options.name
        if task.context is not None:
            values = surroundings.context_payload(task.context, self._context_vars, task.name)
            if values is not None:
                extras["vars"] = values
        if task.seed_root != handle.root:
            handle.root = task.seed_root
            self._fleet.send_state(handle, {"root": task.seed_root})
        try:
            data = dump_arguments(task.args, task.kwargs)
        except SerializationError:
            data = dump_arguments(task.args, task.kwargs, task=task.name)  # again, for an error that names the task
        kind = channel.TASK
        if extras:
            kind = channel.TASK_MORE
            more = _dumps(extras)
            data = b"".join((_EXTRAS(len(more)), more, data))
        timeout, soft = options.timeout or 0.0, options.soft_timeout or 0.0
        parts.append(_HEADER(len(data), kind, number, task.number, sequence, task.index, timeout, soft))
        parts.append(data)

    # -- taking back ----------------------------------------------------------------------------------------------------------

    def reclaim_overdue(self, now: float) -> float | None:
        """Take back what waits behind a slow task while somebody else could run it; return when to look again, or None."""
        following: float | None = None
        somebody: bool | None = None
        for handle in self._fleet.workers.values():
            if len(handle.flight) < 2:
                continue
            if somebody is None:
                somebody = bool(self._fleet.free()) or self._fleet.room_to_start() > 0
            if not somebody:
                return None
            due = handle.moved + _OVERDUE
            if due > now:
                following = due if following is None else min(due, following)
                continue
            with self._lock:
                self._fleet.returned += handle.take_back()
        return following


def _dumps(extras: dict[str, Any]) -> bytes:
    import pickle

    return pickle.dumps(extras, 5)


def _unexpected(error: BaseException, task: Task) -> SerializationError:
    wrapped = SerializationError(
        f"task {task.name!r} could not be pickled in the parent: {type(error).__name__}: {error}",
        direction="pickling",
        side="parent",
        task=task.name,
    )
    wrapped.__cause__ = error
    return wrapped
