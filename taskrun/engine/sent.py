"""A call on its way to a worker that is sent one at a time: what the worker has already does not travel again.

`Sent` is on this side, `Received` on the other, where functions and classes are kept under a number, and what is shared under
its key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from taskrun import sharing, shipping
from taskrun.engine.functions import Functions
from taskrun.plain import dump_native
from taskrun.serialization import dump_arguments, dump_function, load_arguments, load_function

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskrun.engine.functions import Slot
    from taskrun.task import Task

__all__ = ["Packed", "Piece", "Received", "Sent", "pack_native", "pack_whole"]


class Piece(NamedTuple):
    """Something that a call refers to and the worker lacks."""

    key: bytes
    blob: bytes
    descriptors: tuple[int, ...]
    """As they are numbered here."""


class Packed(NamedTuple):
    """A function and its arguments: bytes and numbers only."""

    slot: int | None
    """Where the worker keeps the function; None: nowhere."""
    function: bytes | None
    """None: the worker has it there."""
    arguments: bytes
    pieces: list[Piece]
    gone: list[bytes]
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
        self.shipped = shipping.Shipped()
        """What else the worker has."""
        self._packed: tuple[Slot | None, list[shipping.Shipment], list[bytes]] = None, [], []

    def pack_setup(self, describe: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], list[Piece]]:
        """Return what *describe* returns, and what that refers to. As `pack`, and followed by `note_sent`."""
        with shipping.collecting() as found:
            setup = describe()
        lacking = self.shipped.lacking(found)
        self._packed = None, lacking, []
        return setup, list(map(_piece, lacking))

    def pack(self, task: Task) -> Packed:
        """Return the call of *task*, without what the worker has. Runs the user's code; raises SerializationError.

        Follow with `note_sent`, if it is sent.
        """
        name = task.name
        with shipping.collecting() as found:
            slot = self._functions.slot(task.fn)
            function: bytes | None = dump_function(task.fn, task=name) if slot is None else self._functions.data(slot, task.fn)
            arguments = dump_arguments(task.args, task.kwargs, task=name)
        if slot is not None:
            if self._has.get(slot.number) == slot.version:
                function = None
            else:
                found += slot.refers
        lacking, gone = self.shipped.lacking(found), self.shipped.gone()
        self._packed = slot, lacking, gone
        return Packed(None if slot is None else slot.number, function, arguments, list(map(_piece, lacking)), gone)

    def slot(self, fn: Callable[..., Any]) -> Slot | None:
        """Return where what is known of *fn* is kept, or None. Runs no code of the user's."""
        return self._functions.slot(fn)

    def has(self, fn: Callable[..., Any], slot: Slot) -> bool:
        """Return whether the worker has *fn* as it is now, and all that it refers to. May run the user's code."""
        if self._has.get(slot.number) != slot.version or slot.data is None or slot.refers:
            return False
        return slot.reach is None or slot.reach.unchanged()

    def note_sent(self) -> list[shipping.Shipment]:
        """Note that the worker has what was packed last; return what it gets for the first time."""
        slot, lacking, gone = self._packed
        self._packed = None, [], []
        if slot is not None:
            self._has[slot.number] = slot.version
        self.shipped.let_go(gone)
        for one in lacking:
            self.shipped.note(one)
        return lacking


def _piece(one: shipping.Shipment) -> Piece:
    return Piece(one.key, b"".join(one.parts()), tuple(one.descriptors))


def pack_native(task: Task) -> bytes | None:
    """Return the arguments of *task* if they are all of kinds that pickle knows by itself. Runs no code of the user's."""
    return dump_native((task.args, dict(task.kwargs)))


class Received:
    """What `Sent` knows of, in the worker."""

    def __init__(self, duplicates: Callable[[Piece], list[int]]) -> None:
        """*duplicates* returns the descriptors of a piece as they are numbered here, for us to close."""
        self._duplicates = duplicates
        self._functions: dict[int, Any] = {}

    def take_pieces(self, pieces: list[Piece]) -> None:
        """Keep what calls refer to."""
        for piece in pieces:
            shipping.receive(piece.blob, self._duplicates(piece) if piece.descriptors else ())

    def take(self, packed: Packed) -> None:
        """Keep what came with a call: from here on it is there, whatever becomes of the call. Runs nothing of the user's."""
        if packed.slot is not None and packed.function is not None:
            self._functions[packed.slot] = packed.function
        shipping.forget(packed.gone)
        self.take_pieces(packed.pieces)

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
