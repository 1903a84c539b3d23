"""What worker processes that run one task at a time answer; for a child of the fork backend, how it is written."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskrun.task import Cause

__all__ = ["ANSWER", "CAUSES", "DONE", "LATE", "NOT_READY", "RAISED", "READY", "UNSENDABLE"]

ANSWER = struct.Struct("<cdddqq")
"""Kind; started, duration, CPU seconds; resident size; length of the pickle that follows."""

DONE, RAISED, UNSENDABLE, LATE = b"d", b"e", b"p", b"t"
"""The kinds: a value; an error of the task; one of pickling; its soft timeout."""

READY, NOT_READY = b"r", b"i"
"""Before any task: the initializer went well, or it did not (its error)."""

CAUSES: dict[bytes, Cause] = {
    RAISED: "raised",
    UNSENDABLE: "serialization",
    LATE: "timeout",
    NOT_READY: "initializer",
}
