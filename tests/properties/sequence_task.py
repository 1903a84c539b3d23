"""The task of the random sequences, where workers find it without loading what makes the sequences."""

from __future__ import annotations

import os
import signal
import time

import taskrun


def act(log: str, number: int, what: str) -> int:
    """Be a task of the given kind; each attempt is a line in the log."""
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{number}\n".encode())
    os.close(fd)
    task = taskrun.current_task()
    assert task is not None
    if what == "error" or (what == "second attempt" and task.attempt == 1):
        raise LookupError(number)
    if what == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    if what in ("late", "very late"):
        # Long after its timeout, however busy the machine; and soon enough for a thread that nobody can stop.
        deadline = time.monotonic() + (0.3 if what == "late" else 10.0)
        while time.monotonic() < deadline:
            time.sleep(0.01)
    return number
