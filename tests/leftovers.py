"""What a test may have left behind: threads, child processes, file descriptors. Linux; elsewhere threads only."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from contextlib import suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from patience import PATIENCE

from taskrun.backends.thread_like import frame_of

__all__ = ["Inventory", "children"]

HELPER_THREADS = {
    "taskrun-janitor": "one for the process: does what destructors must not do themselves",
}


LISTS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")
"""Most kernels are built with this list; without it each process of the machine is asked, before and after each test."""


class Inventory:
    """What there was at one moment."""

    def __init__(self) -> None:
        self.threads = set(threading.enumerate())
        self.processes = set(_processes())
        self.descriptors = _descriptors()

    def left(self) -> list[str]:
        """Return what is there now and was not then, the process-wide helpers excepted."""
        found = []
        for thread in set(threading.enumerate()) - self.threads:
            if thread.name not in HELPER_THREADS:
                found.append(f"thread {thread.name}{_stack(thread)}")
        found += [f"process {pid}: {_command(pid)}" for pid in _processes() if pid not in self.processes]
        helpers = _helpers_descriptors()
        for fd, target in _descriptors().items():
            if self.descriptors.get(fd) != target and fd not in helpers and not _is_for_good(target):
                found.append(f"descriptor {fd}: {target}")
        return found

    def left_for_good(self) -> list[str]:
        """Return what is left of what had time to end."""
        deadline = time.monotonic() + PATIENCE
        looks = 0
        while found := self.left():
            if time.monotonic() > deadline:
                return found
            if looks % 100 == 5:  # not at once: most need a moment only, and this takes longer than all of many a test
                import gc

                gc.collect()  # what a reference cycle holds is not lost; a thread that ends may let go of one at its very end
            looks += 1
            time.sleep(0.002)
        return []


def _template_pid() -> int | None:
    """Return the process from which workers are forked: one for the interpreter, kept for the next executor."""
    launch = sys.modules.get("taskrun.engine.launch")
    return None if launch is None else launch.TEMPLATE.pid


def _fork_server() -> Any:
    """Return multiprocessing's fork server, if it was started: one for the interpreter, likewise."""
    module = sys.modules.get("multiprocessing.forkserver")
    return None if module is None or module._forkserver._forkserver_pid is None else module._forkserver


def _helpers_descriptors() -> set[int]:
    """Return the descriptors of the process-wide helpers: of the template, and of multiprocessing's two."""
    fds = {resource_tracker._resource_tracker._fd}
    launch, server = sys.modules.get("taskrun.engine.launch"), _fork_server()
    if launch is not None:
        control = launch.TEMPLATE._control
        fds |= {launch.TEMPLATE._pidfd, None if control is None else control.fileno()}
    if server is not None:
        fds.add(server._forkserver_alive_fd)
    return {fd for fd in fds if fd is not None}


def _is_for_good(target: str) -> bool:
    """Return whether a library keeps a descriptor: libffi from ctypes' first callback on, multiprocessing of its heap."""
    return os.path.basename(target).startswith(("libffi.so", f"pym-{os.getpid()}-"))


def _processes() -> list[int]:
    """Return our children and those of the helpers, dead ones that nobody has reaped included, but not the helpers."""
    server = _fork_server()
    helpers = {_template_pid(), None if server is None else server._forkserver_pid}
    parents = {os.getpid(), *(pid for pid in helpers if pid is not None)}
    return [pid for pid in children(*parents) if pid not in {*helpers, resource_tracker._resource_tracker._pid}]


def children(*parents: int) -> list[int]:
    """Return the pids of the children of these processes, dead ones included that nobody has reaped."""
    if not LISTS_CHILDREN:
        return [pid for pid in map(int, filter(str.isdigit, _listed("/proc"))) if _parent(pid) in parents]
    found: list[int] = []
    for parent in parents:
        for thread in _listed(f"/proc/{parent}/task"):
            with suppress(OSError), open(f"/proc/{parent}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    return found


def _listed(folder: str) -> list[str]:
    """Return what is in *folder*; nothing when it is gone, or this is no Linux."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _parent(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[1])
    except OSError:
        return None


def _descriptors() -> dict[int, str]:
    """Return where each open descriptor leads; for sockets and pipes a number that is never used again."""
    found = {}
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return found
    for name in names:
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # that of the listing itself
            continue
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip() or "a zombie"
    except OSError:
        return "gone"


def _stack(thread: threading.Thread) -> str:
    frame = frame_of(thread)
    return "" if frame is None else "\n" + "".join(traceback.format_stack(frame))
