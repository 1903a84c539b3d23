"""Which tasks go to which worker, and in what batches.

A batch is a bet that its tasks are short: about six milliseconds of work by the moving average of each function, an unknown
function alone (`chunksize` overrides the estimate), never more than a fair share of the queue, nor than is `packing.ENOUGH`
by the moving average of what each call takes in bytes. A worker gets its next batch
before it has finished the last, if that will be a short while. When the bet is lost, what the worker has not begun is taken
back (`reclaim`).
"""

from __future__ import annotations

import time
from collections import deque
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from taskrun.engine import channel
from taskrun.engine.functions import BUDGET, Functions, Slot, seconds_of
from taskrun.engine.packing import ENOUGH, Packing
from taskrun.engine.reclaim import OVERDUE

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from taskrun.engine.fleet import Fleet
    from taskrun.engine.handle import Handle
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler
    from taskrun.task import Task

__all__ = ["PULLED", "RECALLED", "Dispatcher"]

PULLED = object()
"""`task.place` while the I/O thread has the task in hand."""
RECALLED = object()
"""`task.place` when somebody asked for it back meanwhile."""

_MOST = channel.MAX_AHEAD // 2  # tasks of a batch: a worker has room for two
_TOP_UP_BELOW = 0.0007  # seconds of work left in a worker when it gets its next batch already, or half of what that is


class Dispatcher:
    """Pulls tasks and sends them. Used by the I/O thread only."""

    def __init__(
        self,
        scheduler: Scheduler,
        settings: WorkerSettings,
        fleet: Fleet,
        context_vars: list[tuple[str, Any]],
        lock: threading.RLock,
        settle: Callable[[], None],
    ) -> None:
        """*settle* tells of the results that are there, as it must be done before the user's code may run."""
        self._scheduler = scheduler
        self._settle = settle
        self._fleet = fleet
        self._lock = lock
        self._max_tasks = settings.max_tasks_per_child
        self._functions = Functions()
        self._packing = Packing(fleet, self._functions, context_vars)
        self._pull_size = 1
        self.left = 0
        """How many tasks `feed` has left in the queue, as it saw it, for workers that are busy or being made."""
        self.suspects: deque[Task] = deque()
        """Tasks that took a worker down and run again: each alone, on a fresh worker."""
        self._in_hand: list[Task] = []  # pulled and neither sent nor returned yet

    def begin(self) -> None:
        """Have what this thread pickles from now on refer to what is shipped: for each task it is looked at what that is."""
        self._packing.begin()

    def drop(self) -> list[Task]:
        """Return the tasks that are in nobody's hands, after an error struck this thread in the middle of something."""
        dropped, self._in_hand = self._in_hand, []
        return [task for task in dropped if task.place is PULLED and task not in self.suspects]

    # -- choosing --------------------------------------------------------------------------------------------------------------

    def feed(self) -> bool:
        """Give work to whoever has room for it; True if there is room for more than there is."""
        scheduler, fleet = self._scheduler, self._fleet
        if self.suspects:
            self._prepare_for_suspects()
        queued = scheduler.queued
        while queued or self.suspects:
            handle = self._next_worker(queued)
            if handle is None:
                break
            self._give_batch(handle, queued)
            queued = scheduler.queued
        if self.suspects:
            self._prepare_for_suspects()
        self.left = queued
        waiting = queued + len(self.suspects)
        if waiting > 0:
            for _ in range(min(waiting - fleet.starting(), fleet.room_to_start())):
                self._settle()  # the initializer is pickled
                if not fleet.start_worker():
                    break
        return self._next_worker(queued or 1) is not None or fleet.room_to_start() > 0

    def _prepare_for_suspects(self) -> None:
        """See to it that there is, or will be, a fresh worker for a suspect: else one that was used makes room."""
        fleet = self._fleet
        if fleet.broken:
            while self.suspects:
                fleet.returned.append(self.suspects.popleft())
            return
        if fleet.room_to_start() > 0 or fleet.starting():
            return
        current = [handle for handle in fleet.workers.values() if not (handle.leaving or handle.stop or handle.dead)]
        if current and all(handle.assigned for handle in current):
            fleet.retire(max(current, key=lambda handle: (not handle.flight, handle.moved)))

    def _next_worker(self, queued: int) -> Handle | None:
        """Return whom to give some of so many *queued* tasks, or a suspect: a free worker, one that will soon be, or None."""
        best: Handle | None = None
        fresh: Handle | None = None
        busy = 0
        for handle in self._fleet.workers.values():
            if handle.flight:
                busy += 1
            elif handle.free:
                if not handle.assigned:
                    fresh = handle
                # The one that worked last: its caches are warm, and the others can grow idle.
                if best is None or (not handle.watch.unresponsive, handle.moved) > (not best.watch.unresponsive, best.moved):
                    best = handle
        if best is not None and busy >= self._fleet.limit:
            return None  # workers on their way out still count while they work: never more than max_workers run at once
        if fresh is not None and self.suspects:
            return fresh
        if best is not None or not queued:
            if best is not None and best.watch.unresponsive and (self._fleet.room_to_start() > 0 or self._fleet.starting()):
                return None  # a new one is the better choice
            return best if queued else None
        now = time.monotonic()
        share = queued / self._fleet.limit
        for handle in self._fleet.workers.values():
            left = len(handle.flight) * handle.pace
            if (
                0.0 < left < max(_TOP_UP_BELOW, min(share * handle.pace, BUDGET) / 2)
                and handle.takes_more
                and now - handle.moved < OVERDUE
                and self._room(handle) >= len(handle.flight)  # for as many again: batches are not to become small
            ):
                return handle
        return None

    def _room(self, handle: Handle) -> int:
        """Return how many tasks may be sent to *handle* now."""
        room = channel.MAX_AHEAD - (handle.next_sequence - handle.answered - 1)
        if self._max_tasks is not None:
            room = min(room, self._max_tasks - handle.assigned)
        return room

    def _give_batch(self, handle: Handle, queued: int) -> None:
        if self.suspects and not handle.assigned and not handle.flight:
            task = self.suspects.popleft()
            with self._lock:
                wanted = task.place is PULLED
                task.place = PULLED if wanted else None
            if wanted:
                handle.alone = True
                self._in_hand = [task]
                self._send(handle, [task])
                self._in_hand = []
            return
        room = self._room(handle)
        if room <= 0:
            # Only with frames that were taken back and never read, nearly a thousand: tokens would become ambiguous.
            self._fleet.retire(handle)
            return
        share = -(-queued // self._fleet.limit)
        tasks = self._in_hand = self._scheduler.pull(max(1, min(room, share, self._pull_size)))
        tasks = self._without_suspects(tasks) if self._fleet.anybody_crashed else tasks
        for task in tasks:
            task.place = PULLED
        batch = self._within_budget(tasks)
        if len(batch) < len(tasks):
            self.give_back(tasks[len(batch) :])
        if batch:
            self._send(handle, batch)
        self._in_hand = []

    def _without_suspects(self, tasks: list[Task]) -> list[Task]:
        crashed = self._fleet.crashed
        innocent = []
        for task in tasks:
            if task.number > 1 and task.future in crashed:
                with self._lock:
                    waits = task.place is RECALLED  # asked back while it waited among the suspects: it is there still
                    task.place = PULLED
                if not waits:
                    self.suspects.append(task)
            else:
                innocent.append(task)
        return innocent

    def _within_budget(self, tasks: list[Task]) -> list[Task]:
        """Return the beginning of *tasks* that makes a batch, and learn how many to pull next time."""
        chunk = tasks[0].options.chunksize if tasks else None
        if chunk is not None and not self._waits(tasks[0]):  # the user knows better, but for that
            self._pull_size = min(chunk, _MOST)
            return list(takewhile(lambda task: task.options.chunksize == chunk, tasks[: self._pull_size]))
        total = each = 0.0
        fn: Any = None
        for i, task in enumerate(tasks):
            if fn is None or task.fn is not fn:  # most often it is that of the task before
                fn = task.fn
                slot = self.pace_slot(fn)
                each = max(seconds_of(slot), 0.0 if slot is None else slot.size * (BUDGET / ENOUGH))
            total += each
            if total > BUDGET and i:
                self._pull_size = i
                return tasks[:i]
        self._pull_size = max(1, min(int(BUDGET / total * len(tasks)), _MOST)) if tasks else 1
        return tasks

    def _waits(self, task: Task) -> bool:
        slot = self.pace_slot(task.fn)
        return slot is not None and slot.waits

    def pace_slot(self, fn: Callable[..., Any]) -> Slot | None:
        """Return where the pace of *fn* is kept."""
        return self._functions.pace_slot(fn)

    def pull_to_give_back(self, limit: int) -> list[Task]:
        """Take up to so many tasks from the queue; none where some of them may be among the suspects as well."""
        tasks = [] if self._fleet.anybody_crashed else self._scheduler.pull(limit)
        for task in tasks:
            task.place = PULLED
        return tasks

    def give_back(self, tasks: list[Task]) -> None:
        """Return pulled tasks to the queue, but for those that were asked back meanwhile."""
        back = []
        with self._lock:
            for task in tasks:
                if task.place is not RECALLED:
                    back.append(task)
                task.place = None
        self._scheduler.give_back(back)

    # -- sending ---------------------------------------------------------------------------------------------------------------

    def _send(self, handle: Handle, batch: list[Task]) -> None:
        """Make frames of a batch and send them, then let the worker claim the tasks."""
        if self._fleet.outcomes and not self._packing.runs_nothing(handle, batch):
            self._settle()
        first = handle.next_sequence
        frames = self._packing.pack(handle, batch)
        sent = frames.sent
        rest = batch[len(sent) + len(frames.failed) :]
        if rest:
            self.give_back(rest)
        if frames.failed:
            self._not_sent(frames.failed)
        if frames.parts:
            handle.next_sequence = first + len(sent)
            self._fleet.send(handle, frames.parts)  # also if there are only functions in it: `handle.told` counts on them
        if not sent:
            return
        was_idle = not handle.flight
        with self._lock:
            flight = handle.flight
            number = first
            recalled = False
            for task in sent:  # a hot loop
                if task.place is RECALLED:
                    task.place = None  # without a token its frame will be passed over
                    recalled = True
                else:
                    task.place = handle
                    flight[number] = task
                number += 1
            tokens = channel.tokens_of(first, len(sent))
            if recalled:
                tokens = b"".join(channel.tokens_of(number) for number in flight if number >= first)
            if tokens:
                handle.fed = time.monotonic()
                if not handle.assigned:
                    handle.born = handle.fed  # it may have waited long for the end of the one that it replaces
                handle.assigned += len(tokens) // channel.TOKEN
                handle.put_tokens(tokens)
                if (self._max_tasks is not None and handle.assigned >= self._max_tasks) or handle.alone:
                    handle.leave()  # after these; its replacement starts meanwhile
            head = handle.head
        handle.pace = seconds_of(self.pace_slot(sent[-1].fn))
        if was_idle and head is not None:
            handle.moved = time.monotonic()
            self._scheduler.begin(head)

    def _not_sent(self, failed: list[tuple[Task, BaseException]]) -> None:
        with self._lock:
            for task, error in failed:
                if task.place is not RECALLED:  # else it is the scheduler's again
                    self._fleet.outcomes.append((task, False, error, "serialization", None))
                task.place = None
