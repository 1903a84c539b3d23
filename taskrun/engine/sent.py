"""A call on its way to a worker that is sent one at a time: what the worker has already does not travel again.

`Sent` is on this side, `Received` on the other, where functions and classes are kept under a number, and what is shared under
its key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from taskrun import sharing
from taskrun.engine.functions import Functions
from taskrun.serialization import dump_arguments, dump_function, load_arguments, load_function

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskrun.engine.functions import Slot
    from taskrun.task import Task

__all__ = ["Packed", "Received", "Sent", "pack_whole"]


class Packed(NamedTuple):
    """A function and its arguments: bytes and numbers only."""

    slot: int | None
    """Where the worker keeps the function; None: nowhere."""
    function: bytes | None
    """None: the worker has it there."""
    arguments: bytes
    shared: list[bytes]
    """What it refers to and the worker lacks."""
    unshared: list[bytes]
    """The keys of what the worker need not keep any more."""


def pack_whole(task: Task) -> Packed:
    """Return the call of *task* for a worker of which nothing is known. Raises SerializationError."""
    name = task.name
    return Packed(None, dump_function(task.fn, task=name), dump_arguments(task.args, task.kwargs, task=name), [], [])


class Sent:
    """What one worker has. Used by the one thread that pickles for it."""

    def __init__(self) -> None:
        self._functions = Functions()
        self._has: dict[int, int] = {}
        self._shipped = sharing.Shipped()
        self._packed: tuple[Slot | None, list[sharing.Shared], list[bytes]] = None, [], []

    def pack(self, task: Task) -> Packed:
        """Return the call of *task*, without what the worker has. Runs the user's code; raises SerializationError.

        Follow with `note_sent`, if it is sent.
        """
        name = task.name
        with sharing.collecting() as found:
            slot = self._functions.slot(task.fn)
            function: bytes | None = dump_function(task.fn, task=name) if slot is None else self._functions.data(slot, task.fn)
            arguments = dump_arguments(task.args, task.kwargs, task=name)
        if slot is not None:
            if self._has.get(slot.number) == slot.version:
                function = None
            else:
                found += slot.refers
        lacking = list({one.key: one for one in found if self._shipped.lacks(one)}.values())
        gone = self._shipped.gone()
        self._packed = slot, lacking, gone
        blobs = [b"".join(one.parts()) for one in lacking]
        return Packed(None if slot is None else slot.number, function, arguments, blobs, gone)

    def note_sent(self) -> None:
        """Note that the worker has what was packed last."""
        slot, shared, gone = self._packed
        self._packed = None, [], []
        if slot is not None:
            self._has[slot.number] = slot.version
        for one in shared:
            self._shipped.note(one)
        self._shipped.let_go(gone)


class Received:
    """What `Sent` knows of, in the worker."""

    def __init__(self) -> None:
        self._functions: dict[int, Any] = {}

    def take(self, packed: Packed) -> None:
        """Keep what came with a call: from here on it is there, whatever becomes of the call. Runs nothing of the user's."""
        if packed.slot is not None and packed.function is not None:
            self._functions[packed.slot] = packed.function
        for blob in packed.shared:
            sharing.receive(blob)
        sharing.forget(packed.unshared)

    def load(self, packed: Packed, name: str) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Return the call of the task *name*, which was taken. Raises SerializationError."""
        fn = self._function(packed.slot, packed.function, name)
        args, kwargs = load_arguments(packed.arguments, task=name)
        return sharing.unwrapped(fn, args, kwargs) if sharing.in_use else (fn, args, kwargs)

    def _function(self, slot: int | None, data: bytes | None, name: str) -> Callable[..., Any]:
        """Return a function; one that does not unpickle raises SerializationError each time."""
        if slot is None:
            assert data is not None  # noqa: S101 - it is nowhere else
            return load_function(data, task=name)
        fn = self._functions[slot]
        if type(fn) is bytes:
            fn = self._functions[slot] = load_function(fn, task=name)
        return fn  # type: ignore[no-any-return]
