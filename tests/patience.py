"""Waiting in tests: for what nobody announces, with a limit that only turns a hang into a failure."""

from __future__ import annotations

import os
import re
import select
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PATIENCE", "eventually", "gone", "hear_ctrl_c", "said", "stopped"]

PATIENCE = 20.0
"""Seconds after which something that takes milliseconds is believed to hang."""


_SLOW = re.compile(r"^Executing <.* took [\d.]+ seconds\n", re.MULTILINE)


def hear_ctrl_c() -> None:
    """Have the programs started from here hear Ctrl-C: a shell has what it starts by ``&`` ignore it, and what that starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def said(err: str) -> str:
    """Return standard error without what asyncio's debug mode (`-X dev`) says on a machine that is busy."""
    return _SLOW.sub("", err)


def gone(pid: int) -> bool:
    """Wait for the end of any process; False when it does not come."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], PATIENCE)[0])
    finally:
        os.close(fd)


def stopped(pid: int) -> None:
    """Stop a process with SIGSTOP and wait until it stands."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + PATIENCE
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"T", "t"}:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def eventually(condition: Callable[[], object]) -> bool:
    """Wait for something that nobody announces."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True
