"""How tasks become frames.

What is alike travels together: first attempts at calls of one function, as they were submitted one after the other, are one
frame and most often one pickle. Each has a token of its own all the same, is claimed, answered and taken back by itself, and
shares no object with another one: arguments of which that could be noticed have a pickle each.
"""

from __future__ import annotations

import pickle
import struct
import sys
import time
from contextlib import suppress
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final

from taskrun import shipping
from taskrun.engine import channel, surroundings
from taskrun.errors import SerializationError
from taskrun.plain import are_plain
from taskrun.reach import new_moment
from taskrun.serialization import Beside, dump_arguments, dump_downward, dump_function, not_sent
from taskrun.task import NO_KWARGS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskrun.engine.fleet import Fleet
    from taskrun.engine.functions import Functions, Slot
    from taskrun.engine.handle import Handle
    from taskrun.task import Task

__all__ = ["ENOUGH", "Frames", "Packing"]

_MOST = 1 << 16  # bytes of a frame of several tasks: the worker takes all of it in before it begins the first
ENOUGH: Final = 1 << 21
"""Bytes after which a batch ends: more is out of the caches before the worker reads it, and needs as much memory."""
_LONGEST = 0.01  # seconds of pickling after which it does so, too: a worker waits for it, and others
_FEWEST = 8  # plain tasks that are worth a frame of several; what is larger has one each
_HEADER = channel.TASK_HEADER.pack
_EXTRAS = struct.Struct("<I").pack


class Frames:
    """The frames of a batch as they are made."""

    def __init__(self, first: int) -> None:
        self._first = first
        self.parts: list[Any] = []
        self.sent: list[Task] = []
        """Their tasks, numbered one after the other."""
        self.failed: list[tuple[Task, BaseException]] = []
        """Those that cannot be pickled."""
        self.size = 0
        """Bytes of all calls, with what lies beside them; without functions, and what else is sent before."""
        self._group: list[bytes] = []
        self._group_size = 0
        self._slot = 0

    @property
    def next(self) -> int:
        """The number of the next task."""
        return self._first + len(self.sent)

    def full(self, until: float) -> bool:
        """Return whether it is enough, or so late; at least one task is there then."""
        return bool(self.sent or self.failed) and (self.size >= ENOUGH or time.monotonic() > until)

    def add_function(self, number: int, definition: bytes) -> None:
        """Add what a worker loads the function from that the next task calls."""
        self.parts += (_HEADER(len(definition), channel.FUNCTION, number, 0, 0, 0, 0.0, 0.0), definition)

    def add(self, task: Task, slot: int, kind: int, data: bytes) -> None:
        """Add the frame of one task."""
        self.close_group()
        self.size += len(data)
        self._add_alone(task, slot, kind, self.next, data)
        self.sent.append(task)

    def _add_alone(self, task: Task, slot: int, kind: int, number: int, data: bytes) -> None:
        options = task.options
        timeout, soft = options.timeout or 0.0, options.soft_timeout or 0.0
        self.parts += (_HEADER(len(data), kind, slot, task.number, number, task.index, timeout, soft), data)

    def add_several(self, tasks: Sequence[Task], slot: int, data: bytes) -> None:
        """Add one frame for tasks that are alike; *data*: the pickled list of their arguments."""
        self.close_group()
        self.size += len(data)
        self._add_together(tasks, slot, self.next, data)
        self.sent += tasks

    def _add_together(self, tasks: Sequence[Task], slot: int, number: int, data: bytes) -> None:
        first = tasks[0]
        timeout = first.options.timeout or 0.0
        self.parts += (_HEADER(len(data), channel.TASKS, slot, len(tasks), number, first.index, timeout, 0.0), data)

    def add_to_group(self, task: Task, slot: int, data: bytes) -> None:
        """Add a task to those before it, which it is like, if there are any in the group and there is room."""
        if self._group_size + len(data) > _MOST:
            self.close_group()
        self._slot = slot
        self._group.append(data)
        self._group_size += len(data)
        self.size += len(data)
        self.sent.append(task)

    def close_group(self) -> None:
        """Make the frame of the group: what comes next is not like them."""
        group = self._group
        if not group:
            return
        tasks, number = self.sent[-len(group) :], self.next - len(group)
        data = None
        if len(group) > 1:
            with suppress(MemoryError):
                data = pickle.dumps(group, 5)
        if data is not None:
            self._add_together(tasks, self._slot, number, data)
        else:
            for at, task in enumerate(tasks):
                self._add_alone(task, self._slot, channel.TASK, number + at, group[at])
        self._group, self._group_size = [], 0


class Packing:
    """Pickles for the workers of one fleet. Used by the I/O thread only, with no lock held: it runs the user's code."""

    def __init__(self, fleet: Fleet, functions: Functions, context_vars: list[tuple[str, Any]]) -> None:
        self._fleet = fleet
        self._functions = functions
        self._context_vars = context_vars
        self._found: list[shipping.Shipment] = []
        self._beside = Beside()

    def begin(self) -> None:
        """Have what this thread pickles from now on refer to what is shipped: for each task it is looked at what that is."""
        self._found = shipping.collect_for_good()

    def runs_nothing(self, handle: Handle, batch: Sequence[Task]) -> bool:
        """Return whether to pack *batch* surely runs none of the user's code, which may wait for one of his results."""
        fn: Any = None
        for task in batch:
            if task.fn is not fn:
                fn = task.fn
                slot = self._functions.slot(fn)
                if slot is None or slot.reach is not None or handle.told.functions.get(slot.number) != slot.version:
                    return False
            if task.kwargs is not NO_KWARGS or task.context is not None:
                return False
        return are_plain([task.args for task in batch])

    def pack(self, handle: Handle, batch: Sequence[Task]) -> Frames:
        """Return the frames of *batch* for a worker, or of the first tasks of it: what is `ENOUGH`, or takes its time.

        What has to be there before them is sent.
        """
        frames = Frames(handle.next_sequence)
        new_moment()
        self._tell_what_changed(handle)
        until = time.monotonic() + _LONGEST
        at = 0
        while at < len(batch) and not frames.full(until):
            fn, alike = _alike(batch, at)
            at += len(alike)
            before, size = len(frames.sent), frames.size
            pace = self._functions.pace_slot(fn)
            if len(alike) > 1:
                with suppress(BaseException):  # no memory, or a function that does not pickle: each of them is to say so
                    self._pack_plain(handle, fn, alike, frames)
                sent = len(frames.sent) - before
                if sent and pace is not None:
                    pace.weigh((frames.size - size) / sent, sent)
            for task in alike[len(frames.sent) - before :]:
                if frames.full(until):
                    break
                size = frames.size
                try:
                    self._pack(handle, task, fn, frames, alike=len(alike) > 1)
                except BaseException as error:  # pickling runs the user's code, which may raise anything
                    self._found.clear()
                    frames.close_group()
                    frames.failed.append((task, error if isinstance(error, SerializationError) else not_sent(error, task)))
                if pace is not None:
                    pace.weigh(frames.size - size)
            frames.close_group()
        return frames

    def _tell_what_changed(self, handle: Handle) -> None:
        """Tell a worker what is otherwise in this process than when it was last sent something."""
        if sys.path != handle.told.path:  # a module may be imported from where the worker would not look yet
            handle.told.path = list(sys.path)
            self._fleet.send_state(handle, {"path": list(map(str, handle.told.path))})
        if handle.told.authkey is None:
            handle.told.authkey = surroundings.authkey()
            if handle.told.authkey is not None:
                self._fleet.send_state(handle, {"authkey": handle.told.authkey})
        unshared = handle.told.shipped.gone()
        if unshared:
            handle.told.shipped.let_go(unshared)
            self._fleet.send_state(handle, {"unshared": unshared})

    def _ship(self, handle: Handle, wanted: list[shipping.Shipment]) -> None:
        """Send what is *wanted* and the worker lacks, ahead of the frames that refer to it."""
        for one in handle.told.shipped.lacking(wanted):
            self._fleet.send_shipment(handle, one)

    def _send_function(self, handle: Handle, slot: Slot, fn: Callable[..., Any], frames: Frames) -> None:
        """See to it that the worker has what is in *slot*, as it is now."""
        has, number = handle.told.functions, slot.number
        if has.get(number) != slot.version or slot.reach is not None:
            definition = self._functions.data(slot, fn)
            if has.get(number) != slot.version:
                self._ship(handle, slot.refers)
                frames.close_group()
                frames.add_function(number, definition)
                has[number] = slot.version

    def _send_root(self, handle: Handle, task: Task) -> None:
        if task.seed_root != handle.told.root:
            handle.told.root = task.seed_root
            self._fleet.send_state(handle, {"root": task.seed_root})

    def _pack_plain(self, handle: Handle, fn: Callable[..., Any], tasks: Sequence[Task], frames: Frames) -> None:
        """Pack calls of *fn* that are alike, from the first on, where nobody could tell that their arguments are one pickle."""
        slot = self._functions.slot(fn)
        calls = [task.args for task in tasks]
        if slot is None or not are_plain(calls) or not all(task.kwargs is NO_KWARGS for task in tasks):
            return
        # Roughly what they are pickled; not by pickling them, which may be a hundred times as much as there is memory for.
        most = _MOST * len(calls) // sum(map(sys.getsizeof, chain.from_iterable(calls)), 1)
        if most < _FEWEST:
            return
        self._send_function(handle, slot, fn, frames)
        self._send_root(handle, tasks[0])
        for start in range(0, len(tasks), most):
            data = dump_downward(calls[start : start + most])
            if len(data) > 2 * _MOST:  # few are most of it
                return
            frames.add_several(tasks[start : start + most], slot.number, data)
            if frames.size >= ENOUGH:
                return

    def _pack(self, handle: Handle, task: Task, fn: Callable[..., Any], frames: Frames, *, alike: bool) -> None:
        """Pack one call of *fn*: that, if the worker lacks it, then the call; *alike*: it is like those around it."""
        options = task.options
        extras: dict[str, Any] | None = None  # a hot loop: most tasks have none
        number = 0
        slot = self._functions.slot(fn)
        if slot is None:
            extras = {"fn": dump_function(fn, task=task.name)}
        else:
            number = slot.number
            self._send_function(handle, slot, fn, frames)
        if options.name is not None:
            extras = {**(extras or {}), "name": options.name}
        if task.context is not None:
            values = surroundings.context_payload(task.context, self._context_vars, task.name)
            if values is not None:
                extras = {**(extras or {}), "vars": values}
        self._send_root(handle, task)
        data: bytes | None
        beside, found = self._beside, self._found
        try:
            data = dump_arguments(task.args, task.kwargs, beside=beside)
        except SerializationError:
            data = None
        if data is None:  # again, for an error that names the task; outside of the handler, lest it shows both
            data = dump_arguments(task.args, task.kwargs, task=task.name)
        if alike and len(data) <= _MOST and not (extras or found or beside.buffers):
            frames.add_to_group(task, number, data)
            return
        if beside.buffers:
            places = handle.put_beside(beside, frames.next)
            if places is None:
                data = dump_arguments(task.args, task.kwargs, task=task.name)
            else:
                extras = {**(extras or {}), "bulk": places}
                frames.size += sum(size for _, size, _ in places)
        kind = channel.TASK
        if extras:
            kind = channel.TASK_MORE
            more = pickle.dumps(extras, 5)
            data = b"".join((_EXTRAS(len(more)), more, data))
        if found:
            if any(one.awaited for one in found):
                handle.carrying = {frames.next, *(each for each in handle.carrying if each > handle.answered)}
            self._ship(handle, found)
            found.clear()
        frames.add(task, number, kind, data)


def _alike(batch: Sequence[Task], at: int) -> tuple[Callable[..., Any], Sequence[Task]]:
    """Return the task at that position, and those after it that differ in their arguments only; and their function.

    Of a task that is cancelled meanwhile nothing is left: what is looked at twice may be something else by then.
    """
    first = batch[at]
    fn, options, index = first.fn, first.options, first.index
    end = at + 1
    if first.number == 1 and first.context is None and options.name is None and options.soft_timeout is None:
        for task in islice(batch, end, None):
            index += 1
            if task.fn is not fn or task.options is not options or task.index != index or task.number != 1:
                break
            end += 1
    return fn, batch[at:end]
