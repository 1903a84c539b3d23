"""Line 12: channels are private and anonymous, workers inherit what they need, and nothing has a name that outlives a crash."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import acts
from outside import MARK, tree_of
from patience import PATIENCE
from table import CONCURRENT, PROCESSES, fault

if TYPE_CHECKING:
    from case import Case


def listening() -> dict[str, str]:
    """Return the inodes of all sockets of this machine that listen, and where."""
    found = {}
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[3], 16) & 0x10000:  # __SO_ACCEPTCON
            found[fields[6]] = fields[7] if len(fields) > 7 else "a socket without a name"
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path("/proc/net", name).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A":
                    found[fields[9]] = f"{name} {fields[1]}"
    return found


def sockets_of(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{fd}")):
                    found.add(match[1])
    return found


@fault("process", "pool", "fork", "thread", "asyncio", soak=CONCURRENT)
def nothing_listens(case: Case) -> None:
    """In no process of ours; but multiprocessing's fork server does, at a socket in a directory that is the user's alone."""
    with case.executor() as run:
        go = case.log("go")
        futures = [run.submit(acts.tell_pid_and_hold, case.log("pids"), go) for _ in range(2)]
        assert acts.until(lambda: len(acts.lines(case.log("pids"))) == 2)
        try:
            everywhere = listening()
            ours = {
                where for pid in tree_of(os.environ[MARK]) for inode, where in everywhere.items() if inode in sockets_of(pid)
            }
        finally:
            acts.write(go, "")
        for future in futures:
            assert future.result(PATIENCE) == "went on"
    if case.configuration == "pool":
        ours = {where for where in ours if not private(where)}
    assert not ours, ours


def private(path: str) -> bool:
    """Return whether nobody else can come at this path."""
    directory = Path(path).parent
    return path.startswith("/") and directory.stat().st_uid == os.getuid() and not directory.stat().st_mode & 0o077


def descriptors() -> list[str]:
    found = []
    for fd in sorted(map(int, os.listdir("/proc/self/fd"))):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return found


@fault("process", "process:spawn", "pool", soak=("pool:spawn",))
def workers_inherit_what_they_need(case: Case) -> None:
    """None of the user's descriptors, though they are inheritable; none of another worker's."""
    secret = case.directory / "secret"
    secret.write_text("x")
    server, pipe = socket.create_server(("127.0.0.1", 0)), os.pipe()
    file = os.open(secret, os.O_RDONLY)
    try:
        for fd in (file, server.fileno(), *pipe):
            os.set_inheritable(fd, True)
        mine = {os.readlink(f"/proc/self/fd/{fd}") for fd in (file, server.fileno(), *pipe)}
        with case.executor() as run:
            meeting = case.directory / "workers"
            meeting.mkdir()
            both = [run.submit(describe_and_meet, str(meeting), i) for i in range(2)]
            first, second = (set(future.result(PATIENCE)) for future in both)
            assert not mine & (first | second), mine & (first | second)
            own = ("socket:", "pipe:", "/memfd:")
            shared = {each for each in first & second if each.startswith(own) and each not in standard_streams()}
            # multiprocessing gives each of its processes the resource tracker and its fork server's own lifeline.
            assert len(shared) <= (3 if case.backend == "pool" else 0), shared
            assert max(len(first), len(second)) < 16, (first, second)
    finally:
        server.close()
        for fd in (file, *pipe):
            os.close(fd)


def standard_streams() -> set[str]:
    return {os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)}


def describe_and_meet(directory: str, name: int) -> list[str]:
    acts.meet(directory, name, 2, 20)
    return descriptors()


CRASH = """
import os, signal, sys, taskrun, time, warnings
import acts
warnings.simplefilter("ignore")
ex = taskrun.Executor(sys.argv[1], max_workers=2, **({"start_method": sys.argv[2]} if sys.argv[2] else {}))
data = taskrun.shared(bytes(4 << 20))
for f in [ex.submit(len, data) for _ in range(4)]: f.result()
for _ in range(2): ex.submit(acts.sleep_on, sys.argv[3])
assert acts.until(lambda: len(acts.lines(sys.argv[3])) == 2)
print("ready", flush=True)
time.sleep(60)
"""


def named_objects(directory: str, mark: str) -> dict[str, int]:
    """Return the modes of what there is in a temporary directory, and of what the case has open in /dev/shm."""
    paths = {f"{directory}/{name}" for name in os.listdir(directory)}
    for pid in tree_of(mark):
        with contextlib.suppress(OSError):
            paths |= set(re.findall(r"/dev/shm/\S+", Path(f"/proc/{pid}/maps").read_text()))
    found = {}
    for path in paths:
        with contextlib.suppress(OSError):
            found[path] = stat.S_IMODE(os.lstat(path).st_mode)
    return found


@fault("process", "pool", "fork", soak=PROCESSES)
def everything_is_killed_at_once(case: Case) -> None:
    """What had a name was private; what is ours is gone (the fork server of multiprocessing leaves its directory, empty)."""
    mark = f"{os.environ[MARK]}-crash"
    with tempfile.TemporaryDirectory() as temporary:
        method = str(case.backend_options.get("start_method", ""))
        program = subprocess.Popen(
            [sys.executable, "-c", CRASH, case.backend, method, case.log("pids")],
            env=os.environ | {"TMPDIR": temporary, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        assert program.stdout is not None
        try:
            assert program.stdout.readline() == "ready\n"
            named = named_objects(temporary, mark)
        finally:
            for pid in {program.pid, *tree_of(mark)}:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            program.wait()
            program.stdout.close()
        assert acts.until(lambda: not tree_of(mark))
        assert not {path: oct(mode) for path, mode in named.items() if mode & 0o077}
        left = {path for path in named if os.path.exists(path)}
        if case.backend == "pool":
            left = {path for path in left if not Path(path).name.startswith(("pymp-", "sem.mp-"))}
        assert not left, left
