"""Which functions a worker has: plain functions, builtins and classes are sent once, under the number of a slot.

A slot lives as long as its function. When the function is gone, or 512 newer ones are in use, the number is given to
another one, and workers replace what they have there; so a program that submits a fresh lambda each time leaks nothing.
"""

from __future__ import annotations

import functools
import weakref
from collections import deque
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from taskrun.reach import Reach, is_cached_function, may_change
from taskrun.runs import Run
from taskrun.serialization import dump_function
from taskrun.shipping import collecting
from taskrun.task import function_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskrun.shipping import Shipment

__all__ = ["BUDGET", "Functions", "Slot", "seconds_of"]

BUDGET = 0.006
"""Seconds of work in a batch, and what a call of a function that was never seen counts as."""
_OVERHEAD = 5e-6  # seconds that a task costs besides its own
_A_BYTE = 1e-9  # seconds that a worker takes to load one

_MOST = 512
_WEIGHT = 0.1  # of one call's size in the average
_TIMES, _MORE = 4, 0.0002  # a call counts as no slower than so many times what is known, and so many seconds more


class Slot:
    """A function that workers keep, and what is known of its pace."""

    __slots__ = ("apart", "data", "name", "number", "reach", "ref", "refers", "seconds", "size", "version", "waits")

    def __init__(self, number: int, version: int, ref: weakref.ref[Any], fn: Callable[..., Any]) -> None:
        self.number = number
        self.version = version
        """Grows whenever the slot's content changes: a worker has it if it was sent this very version."""
        self.ref = ref
        self.name = function_name(fn)
        self.data: bytes | None = None
        self.refers: list[Shipment] = []
        """What `data` refers to and is shipped: a worker needs it first."""
        self.reach: Reach | None = None
        """What it is made of, where that may change."""
        self.seconds: float | None = None
        """Moving average of what one call takes; None: never seen."""
        self.size = 0.0
        """Moving average of the bytes that `process` sends for one call."""
        self.waits = False
        """Its calls have waited for later ones, and all workers stood still: each travels alone from then on."""

        self.apart = 0
        """So many calls more travel alone on `pool`: a result of its was not for others to wait behind."""

    def observe(self, seconds: float) -> None:
        """Note how long a call took. Quick to believe in slowness, slow to believe in speed: a wrong bet blocks others."""
        known = self.seconds  # a hot path: each task comes here
        if self.waits:
            return
        if known is None:
            self.seconds = seconds
        elif seconds <= known:
            self.seconds = known + (seconds - known) * 0.2
        else:  # not wholly at once: one that was interrupted, or is the only one of its kind, tells little
            self.seconds = known + (min(seconds, _TIMES * known + _MORE) - known) * 0.5

    def weigh(self, size: float, calls: int = 1) -> None:
        """Note how many bytes each of so many calls was."""
        self.size += (size - self.size) * min(1.0, _WEIGHT * calls)


def seconds_of(slot: Slot | None) -> float:
    """Return what a call of that function is believed to take a worker, all told."""
    if slot is None or slot.seconds is None:
        return BUDGET
    return slot.seconds + slot.size * _A_BYTE + _OVERHEAD


class Functions:
    """The slots of one executor, or of one worker. Used by the thread that pickles for it only.

    The callbacks of weak references just append to a deque.
    """

    def __init__(self) -> None:
        self._slots: dict[int, Slot] = {}  # by id of the function, least recently made first
        self._free: list[int] = []
        self._gone: deque[tuple[int, weakref.ref[Any]]] = deque()
        self._versions = 0

    def slot(self, fn: Callable[..., Any]) -> Slot | None:
        """Return the slot of *fn*, or None for callables that are pickled anew for each task (partials, methods, objects)."""
        known = self._slots.get(id(fn))
        if known is not None and known.ref() is fn:
            return known
        kind = type(fn)
        if kind is BuiltinFunctionType:
            owner = fn.__self__  # type: ignore[attr-defined]
            if owner is not None and type(owner) is not ModuleType:
                return None  # a method of some object, whose state may change
        elif kind is not FunctionType and kind is not Run and not issubclass(kind, type) and not is_cached_function(fn):
            return None
        return self._add(fn)

    def pace_slot(self, fn: Callable[..., Any]) -> Slot | None:
        """Return where the pace of *fn* is kept: that of the function inside for partials, methods and callable objects."""
        slot = self.slot(fn)
        if slot is not None:
            return slot
        kind = type(fn)  # not isinstance, which asks fn.__class__: a proxy's may run any code
        if issubclass(kind, functools.partial):
            return self.slot(fn.func)  # type: ignore[attr-defined]
        if kind is MethodType:
            return self.slot(fn.__func__)  # type: ignore[attr-defined]
        return self.slot(kind)

    def _add(self, fn: Callable[..., Any]) -> Slot:
        self._collect()
        if len(self._slots) >= _MOST:
            oldest = next(iter(self._slots))
            self._free.append(self._slots.pop(oldest).number)
        number = self._free.pop() if self._free else len(self._slots)
        key, gone = id(fn), self._gone
        self._versions += 1
        # The callback runs wherever the collector does: it must not do more than this.
        slot = Slot(number, self._versions, weakref.ref(fn, lambda ref: gone.append((key, ref))), fn)
        self._slots[key] = slot
        return slot

    def _collect(self) -> None:
        while self._gone:
            key, ref = self._gone.popleft()
            slot = self._slots.get(key)
            if slot is not None and slot.ref is ref:
                del self._slots[key]
                self._free.append(slot.number)

    def data(self, slot: Slot, fn: Callable[..., Any]) -> bytes:
        """Return what a worker loads the function from. Raises SerializationError.

        One that travels by value is pickled again when something that it is made of has changed since (see `reach`).
        """
        if slot.data is not None:
            if slot.reach is None or slot.reach.unchanged():
                return slot.data
            self._versions += 1
            slot.version = self._versions
        # What it reaches first: if it changes meanwhile, it is pickled once more than need be.
        inner = fn.fn if type(fn) is Run else fn
        slot.reach = Reach(inner) if may_change(inner) else None
        with collecting() as slot.refers:
            slot.data = dump_function(fn, task=slot.name)
        return slot.data
