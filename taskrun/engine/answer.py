"""What a child of the fork backend writes into its pipe, and where it writes its notes."""

from __future__ import annotations

import struct

__all__ = ["ANSWER", "DONE", "LATE", "NOT_READY", "RAISED", "STACK_AT", "UNSENDABLE"]

ANSWER = struct.Struct("<cdddqq")
"""Kind; started, duration, CPU seconds; resident size; length of the pickle that follows."""

DONE, RAISED, UNSENDABLE, LATE, NOT_READY = b"d", b"e", b"p", b"t", b"i"
"""The kinds: a value; an error of the task; one of pickling; its soft timeout; one of the initializer."""

STACK_AT = 8
"""Where stacks begin in the notes; the first byte says that the task was asked to cancel."""
