"""What a worker process and its parent write for each other besides the tasks: a piece of memory without a name.

The parent says which task is asked to cancel; the worker, which one it has taken up, and its Python stack when asked for it.
"""

from __future__ import annotations

import fcntl
import os

from taskrun.engine import outbox, posix

__all__ = [
    "BULK_DOWN",
    "BULK_UP",
    "END",
    "STACK_AT",
    "Asked",
    "ask_to_cancel",
    "end_of_stack",
    "give_back",
    "given_back",
    "has_stack",
    "new_notes",
    "note_bulk_read",
    "prepare_stack",
    "read_bulk",
    "read_stack",
    "take_up",
    "taken_up",
]

STACK_AT = outbox.SIZE
"""Where stacks begin, behind the outbox. Before it, eight bytes each: the number of the task asked to cancel, plus one; of the
one taken up; of the last one whose result was taken out of the bulk. How many items of a run are begun, if the others are
given back, with its number. And when the parent looked into the outbox."""
BULK_DOWN, BULK_UP, END = 1 << 40, 1 << 41, 3 << 40
"""Where large buffers lie (see `bulk`): those of arguments, those of results. Nothing is allocated before it is written."""

_MOST_STACK = 1 << 18
_ENGINE = os.path.dirname(__file__)
_OURS = (_ENGINE + os.sep, os.path.join(os.path.dirname(_ENGINE), "backends") + os.sep)


# -- in the parent -------------------------------------------------------------------------------------------------------------


def new_notes(title: str) -> int:
    """Return a new, empty one, a descriptor."""
    notes = os.memfd_create(title, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(notes, END)
    except OSError:  # a limit on the size of files: without bulk
        os.ftruncate(notes, STACK_AT)
    fcntl.fcntl(notes, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)  # a mapping of what is cut off would kill who touches it
    return notes


def ask_to_cancel(notes: int, number: int) -> None:
    """Let `current_task().cancelled` be true of the task with that number."""
    os.pwrite(notes, (number + 1).to_bytes(8, "little"), 0)


def taken_up(notes: int) -> int:
    """Return the number of the task that the worker took up last, or -1."""
    return int.from_bytes(os.pread(notes, 8, 8), "little") - 1


def given_back(notes: int) -> tuple[int, int]:
    """Return the number of the last task, a run, of which the worker has given items back, or -1; and how many are begun."""
    data = os.pread(notes, 16, 24)
    return int.from_bytes(data[8:], "little") - 1, int.from_bytes(data[:8], "little")


def has_stack(notes: int, start: int = STACK_AT) -> bool:
    """Return whether the worker has begun to write its stack."""
    return os.pread(notes, 1, start) not in (b"", b"\0")


def end_of_stack(notes: int, start: int = STACK_AT) -> int:
    """Return where the next stack will begin."""
    while piece := os.pread(notes, _MOST_STACK, start).partition(b"\0")[0]:
        start += len(piece)
    return start


def read_stack(notes: int, start: int = STACK_AT) -> str | None:
    """Return the Python stack that the worker wrote, if it did, without the frames that are in every one."""
    text = os.pread(notes, _MOST_STACK, start).partition(b"\0")[0].decode("utf-8", "replace")
    lines, below = [], False
    for line in text.splitlines():  # each thread's, the innermost frame first
        below = (below or any(ours in line for ours in _OURS)) and line.startswith("  File ")
        if not below:
            lines.append(line)
    return "\n".join(lines).strip() or None


def note_bulk_read(notes: int, number: int) -> None:
    """Tell the worker that the buffers of this result, and of those before it, were taken."""
    os.pwrite(notes, (number + 1).to_bytes(8, "little"), 16)


# -- in the worker -------------------------------------------------------------------------------------------------------------


class Asked:
    """Tells `current_task().cancelled` of the task with this number what the parent wrote."""

    __slots__ = ("_notes", "_number")

    def __init__(self, notes: int, number: int) -> None:
        self._notes = notes
        self._number = number

    @property
    def cancel_requested(self) -> bool:
        try:
            return int.from_bytes(os.pread(self._notes, 8, 0), "little") == self._number + 1
        except OSError:  # in a process that the task has forked: it has no part in this
            return False


def read_bulk(notes: int) -> int:
    """Return the number of the last result whose buffers the parent has taken, or -1."""
    return int.from_bytes(os.pread(notes, 8, 16), "little") - 1


def take_up(notes: int, number: int) -> None:
    """Tell the parent which task this worker is to blame for from now on."""
    os.pwrite(notes, (number + 1).to_bytes(8, "little"), 8)


def give_back(notes: int, number: int, begun: int) -> None:
    """Tell the parent that of the task with that number, a run of items, only so many are begun."""
    os.pwrite(notes, begun.to_bytes(8, "little") + (number + 1).to_bytes(8, "little"), 24)  # both at once


def prepare_stack(notes: int) -> None:
    """Have Python write its stack there at a fatal signal, and whenever the parent asks."""
    import faulthandler

    os.lseek(notes, STACK_AT, os.SEEK_SET)
    faulthandler.enable(file=notes, all_threads=True)
    faulthandler.register(posix.STACK_SIGNAL, file=notes, all_threads=True, chain=False)
