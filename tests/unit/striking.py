"""Ctrl-C at one exact moment: a trace function raises KeyboardInterrupt where the interpreter looks for signals."""

from __future__ import annotations

import dis
import os
import sys
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import taskrun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType

__all__ = ["STEP", "at_each_moment"]

STEP = int(os.environ.get("STRIKE_STEP", "12"))
"""Each how manyth moment is struck. All of them (1) take minutes: `make strikes`."""

T = TypeVar("T")

_OURS = taskrun.__path__[0] + os.sep


def _looks(instruction: dis.Instruction) -> bool:
    """Return whether CPython 3.11 to 3.13 look for signals after *instruction* (`CHECK_EVAL_BREAKER` in its bytecodes.c)."""
    if instruction.opname == "RESUME":  # a function is entered, or a generator taken up again; not an `await`
        return instruction.arg is not None and instruction.arg & 3 < 2
    # At the jump back of a loop too; but what comes after that is not the instruction that follows.
    return instruction.opname in {"CALL", "CALL_FUNCTION_EX", "CALL_KW"}


@cache
def _moments(code: CodeType) -> set[int]:
    """Return the offsets of the instructions before which to strike: a look came before them, under the same `try`.

    The interpreter's own KeyboardInterrupt belongs to the instruction that looked, ours to the next one.
    """
    found = set()
    before = None
    handlers = dis._parse_exception_table(code)  # type: ignore[attr-defined]  # `dis` shows it as text only
    for each in dis.get_instructions(code):
        handler = next((h.target for h in handlers if h.start <= each.offset < h.end), None)
        if before is not None and _looks(before[0]) and before[1] == handler:
            found.add(each.offset)
        before = each, handler
    return found


def _in_a_destructor(frame: FrameType | None) -> bool:
    for _ in range(4):  # they do not call far, and this is asked for each call
        if frame is None:
            return False
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


@contextmanager
def _strike(moment: int) -> Iterator[list[str]]:
    """Raise KeyboardInterrupt at the given moment of the block; yields a list that tells where it was, once it was."""
    where: list[str] = []
    left = moment

    def look(frame: FrameType) -> None:
        nonlocal left
        if where:
            return
        left -= 1
        if left < 0:
            where.append(f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})")
            raise KeyboardInterrupt

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        # Python swallows what is raised in a destructor; and the standard library is as it is (a Ctrl-C in `Thread.start` may
        # leave a thread that waits for ever).
        if not frame.f_code.co_filename.startswith(_OURS) or _in_a_destructor(frame):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and frame.f_lasti in _moments(frame.f_code):
            look(frame)
        return trace

    previous = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 asks once, here, whether anybody wants them
    sys.settrace(trace)
    try:
        yield where
    finally:
        sys.settrace(previous)


def at_each_moment(
    before: Callable[[], T], act: Callable[[T], object], check: Callable[[T, str], object], *, step: int = STEP
) -> int:
    """Call *act* again and again, struck at one moment after the other until it gets through; *check* after each strike.

    Both get what *before* returned, and *check* the place where it struck. Each *step*th moment is struck. Returns how many
    moments there were.
    """
    moment = 0
    while True:
        subject = before()
        struck = False
        try:
            with _strike(moment) as where:
                act(subject)
        except KeyboardInterrupt:
            struck = True
        if not where:
            return moment
        check(subject, where[0] if struck else f"{where[0]}, swallowed")
        moment += step
