"""Ctrl-C at any moment ends the program as it ends any other, and leaves nothing running."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from patience import eventually, gone
from running import EVERY_BACKEND, PATIENCE

if TYPE_CHECKING:
    import subprocess

    from running import Program

# A task tells that it runs, and would run for a minute; those behind it tell too, if they ever run.
START = """
import os, sys, taskrun, threading, time
from pathlib import Path

def work(i):
    Path(f"{i}.{os.getpid()}.ran").touch()
    end = time.monotonic() + 60
    while time.monotonic() < end: time.sleep(0.01)

def ready():
    while not list(Path(".").glob("0.*.ran")): time.sleep(0.001)
    print("ready", flush=True)

def ready_when_closed(ex):
    def wait():
        while not ex.closed: time.sleep(0.001)
        ready()
    threading.Thread(target=wait, daemon=True).start()
"""

MOMENTS = {
    "in the block": """
with taskrun.Executor(max_workers=1) as ex:
    for i in range(20): ex.submit(work, i)
    ready()
    while True: time.sleep(0.01)  # a Ctrl-C just before Python begins to sleep ends no sleep: it would be a long one
""",
    "while the block is left": """
with taskrun.Executor(max_workers=1) as ex:
    for i in range(20): ex.submit(work, i)
    ready_when_closed(ex)
""",
    "in shutdown": """
ex = taskrun.Executor(max_workers=1)
for i in range(20): ex.submit(work, i)
ready_when_closed(ex)
ex.shutdown()
""",
    "waiting for a result": """
with taskrun.Executor(max_workers=1) as ex:
    futures = [ex.submit(work, i) for i in range(20)]
    ready()
    futures[5].result()
""",
    "waiting for all": """
with taskrun.Executor(max_workers=1) as ex:
    futures = [ex.submit(work, i) for i in range(20)]
    ready()
    taskrun.wait(futures)
""",
    "in a map": """
with taskrun.Executor(max_workers=1) as ex:
    results = ex.map(work, range(20))
    ready()
    list(results)
""",
    "in an unordered map": """
with taskrun.Executor(max_workers=1) as ex:
    results = ex.map_unordered(work, iter(range(20)))
    ready()
    list(results)
""",
    "among many submits": """
with taskrun.Executor(max_workers=1) as ex:
    ex.submit(work, 0)
    ready()
    while True: ex.submit(work, 1)
""",
    "waiting for room": """
with taskrun.Executor(max_workers=1, max_pending=2) as ex:
    ex.submit(work, 0)
    ready()
    while True: ex.submit(work, 1)
""",
    # Told by a thread once the exit hook runs: Python itself may swallow a Ctrl-C between the program and its exit.
    "at the end of the interpreter": """
ex = taskrun.Executor(max_workers=1)
for i in range(20): ex.submit(work, i)
while not list(Path(".").glob("0.*.ran")): time.sleep(0.001)  # Python 3.12.0 to 3.12.2 may start no worker any more
ready_when_closed(ex)
""",
    "in asyncio": """
import asyncio
async def main():
    with taskrun.Executor(max_workers=1) as ex:
        future = ex.submit(work, 0)
        while not list(Path(".").glob("0.*.ran")): await asyncio.sleep(0.001)
        print("ready", flush=True)
        await future
asyncio.run(main())
""",
}

# At a terminal it comes to the whole group; to the program alone where that says more.
STRUCK = [(moment, backend, "its group") for moment in MOMENTS for backend in EVERY_BACKEND[1:]]
STRUCK += [(moment, "process", "the program") for moment in MOMENTS]


def until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def ran(program: Program) -> dict[int, int]:
    """Return which tasks ran, and in which process."""
    names = [path.name.split(".") for path in program.directory.glob("*.ran")]
    return {int(task): int(pid) for task, pid, _ in names}


@pytest.mark.parametrize(("moment", "backend", "whom"), STRUCK)
def test_it_ends_the_program_and_all_that_it_started(program: Program, moment: str, backend: str, whom: str) -> None:
    process = program.start(program.write("program.py", START + MOMENTS[moment]), env={"TASKRUN_BACKEND": backend})
    until_ready(process)
    (os.kill if whom == "the program" else os.killpg)(process.pid, signal.SIGINT)
    status, out, err = program.end(process)
    # Of a Ctrl-C in the exit hooks of threading Python says that it is ignored; so it is with the standard executors.
    assert status == (0 if moment == "at the end of the interpreter" else -signal.SIGINT), err
    assert out == ""
    assert err.rstrip().rstrip(":").endswith("KeyboardInterrupt")
    assert err.count("Traceback") <= 2  # the program's own, and in asyncio the one it comes from
    assert "taskrun-" not in err  # no thread of ours complains
    found = ran(program)
    assert set(found) == {0}
    assert found[0] == process.pid or gone(found[0])


def test_serial_is_interrupted_as_any_code_is(program: Program) -> None:
    code = (
        START
        + """
threading.Thread(target=ready).start()
with taskrun.Executor("serial") as ex:
    ex.submit(work, 0)
    ex.submit(work, 1)
"""
    )
    process = program.start(program.write("program.py", code))
    until_ready(process)
    os.kill(process.pid, signal.SIGINT)
    status, _, err = program.end(process)
    assert status == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert set(ran(program)) == {0}


def test_a_program_that_catches_it_goes_on_with_another_executor(program: Program) -> None:
    code = (
        START
        + """
for backend in ("thread", "process", "asyncio"):
    for path in Path(".").glob("*.ran"): path.unlink()
    try:
        with taskrun.Executor(backend, max_workers=1) as ex:
            running, waiting = ex.submit(work, 0), ex.submit(work, 1)
            ready()
            while True: time.sleep(0.01)
    except KeyboardInterrupt:
        with taskrun.Executor(backend) as ex:
            print(type(running.exception(0)).__name__, waiting.cancelled(), ex.submit(abs, -3).result(), flush=True)
"""
    )
    process = program.start(program.write("program.py", code))
    out = []
    for _ in range(3):
        until_ready(process)
        os.kill(process.pid, signal.SIGINT)
        assert process.stdout is not None
        out.append(process.stdout.readline())
    assert program.end(process) == (0, "", "")
    assert out == ["TaskKilledError True 3\n"] * 3


METHODS = ("forkserver", "spawn", "fork")
KILLED = [
    *(("process", method, number) for method in METHODS for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)),
    *(("pool", method, signal.SIGKILL) for method in METHODS),
    ("fork", None, signal.SIGKILL),
]


@pytest.mark.parametrize(("backend", "method", "number"), KILLED)
@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
def test_no_worker_outlives_a_program_that_is_killed(
    program: Program, backend: str, method: str | None, number: signal.Signals, busy: bool
) -> None:
    options = {} if method is None else {"start_method": method}
    code = f"""
import os, signal, sys, taskrun, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored
def work(i):
    with open("pids", "a") as file: file.write(f"{{os.getpid()}}\\n")
    end = time.monotonic() + 60
    while {busy} and time.monotonic() < end: pass
ex = taskrun.Executor({backend!r}, max_workers=2, **{options})
futures = [ex.submit(work, i) for i in range(2)]
while not os.path.exists("pids") or len(open("pids").readlines()) < 2:
    failed = [f.exception() for f in futures if f.done() and f.exception()]
    if failed: sys.exit(f"failed: {{failed}}")
    time.sleep(0.001)
if not {busy}: taskrun.wait(futures)
print("ready", flush=True)
time.sleep(60)
"""
    process = program.start("-W", "ignore", program.write("program.py", code))
    until_ready(process)
    process.send_signal(number)
    assert process.wait(PATIENCE) == -number
    for pid in set(map(int, (program.directory / "pids").read_text().split())):
        assert gone(pid)
    assert Path("/proc").exists()


SWALLOWED = re.compile(r"Exception ignored .*<function (_get_module_lock|_WeakValueDictionary)")
"""What Python says of a Ctrl-C that comes in a callback of its import system: nobody else hears of it."""


def test_it_comes_at_any_moment(program: Program) -> None:
    """Once at each of many moments, from the import on: it never hangs, and no worker is left."""
    code = """
import sys, os
print(os.getpid(), flush=True)
import taskrun
def work(i): return i
while True:
    with taskrun.Executor("process", max_workers=2) as ex:
        futures = [ex.submit(work, i) for i in range(50)]
        list(ex.map(work, range(100)))
        for f in futures: f.result()
"""
    script = program.write("program.py", code)
    for step in range(20):
        told = program.directory / f"{step}.err"
        with told.open("w") as file:
            process = program.start(script, stderr=file)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.02 * step)  # the moments are the point here; none of them may fail
        os.kill(process.pid, signal.SIGINT)
        ended = eventually(lambda: process.poll() is not None or SWALLOWED.search(told.read_text()))  # noqa: B023 - at once
        assert ended, (step, told.read_text())
        if SWALLOWED.search(told.read_text()):  # by Python itself, one in a thousand: the program knows nothing of it
            os.kill(process.pid, signal.SIGINT)
        status, _, _ = program.end(process)
        err = told.read_text()
        assert status in (-signal.SIGINT, 1), err
        assert "KeyboardInterrupt" in err
