"""Line 5: the end of the parent, however it comes. No worker outlives it, busy or idle; Ctrl-C ends it at once, as any program.

Each fault is a program of its own, with the same mark as the case, so that nothing of it can be overlooked.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import acts
from patience import PATIENCE, gone
from table import CONCURRENT, PROCESSES, fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from case import Case

START = """
import os, signal, subprocess, sys, threading, time, warnings
import acts, taskrun
warnings.simplefilter("ignore")
pids = sys.argv[1]

def executor(**options):
    return taskrun.Executor({backend!r}, **{{"max_workers": 2, **{options}, **options}})

def ready(count):
    assert acts.until(lambda: len(acts.lines(pids)) >= count)
    print("ready", flush=True)
"""


class Program:
    """A program that has written the pids of its workers and says that it is ready."""

    def __init__(self, case: Case, name: str, code: str) -> None:
        self.pids_file = case.log(f"{name}.pids")
        text = START.format(backend=case.backend, options=case.backend_options) + code
        # Its errors are read from a file: a pipe would be held open by what it leaves behind.
        self._err = open(case.log(f"{name}.err"), "w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-c", text, self.pids_file],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._err,
            text=True,
            process_group=0,
        )

    def until_ready(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "ready\n", self.errors()

    def pids(self) -> list[int]:
        return [int(line) for line in acts.lines(self.pids_file)]

    def errors(self) -> str:
        self._err.seek(0)
        return self._err.read()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._err.close()


@contextlib.contextmanager
def program(case: Case, name: str, code: str) -> Iterator[Program]:
    started = Program(case, name, code)
    try:
        started.until_ready()
        yield started
    finally:
        started.close()


WORKERS = {
    "holding the GIL in C": "ex = executor()\nfor _ in range(2): ex.submit(acts.hold_the_gil, pids)\nready(2)",
    "ignoring signals": "ex = executor()\nfor _ in range(2): ex.submit(acts.ignore_sigterm, pids)\nready(2)",
    "stopped": "ex = executor()\nfor _ in range(2): ex.submit(acts.stop_self, pids)\nready(2)",
    "in the initializer": "ex = executor(initializer=acts.sleep_on, initargs=(pids,))\nex.submit(abs, 1)\nready(1)",
    "starting": "ex = executor()\nfs = [ex.submit(abs, 1) for _ in range(50)]\nready(0)",
    "writing a result": "ex = executor()\nfs = [ex.submit(bytes, 100 << 20) for _ in range(9)]\n"
    "for f in fs: f.add_done_callback(lambda f: acts.write(pids, os.getpid()))\nready(1)",
    "with a sibling that the user forked": "ex = executor()\nfor _ in range(2): ex.submit(acts.spin, pids)\n"
    "assert acts.until(lambda: len(acts.lines(pids)) == 2)\n"
    "if os.fork() == 0:\n    os.closerange(0, 3); time.sleep(8); os._exit(0)\nready(2)",
    "with a child of the user's that inherits all": "ex = executor()\nfor _ in range(2): ex.submit(acts.spin, pids)\n"
    "assert acts.until(lambda: len(acts.lines(pids)) == 2)\n"
    "subprocess.Popen(['sleep', '8'], close_fds=False, stdin=-3, stdout=-3, stderr=-3)\nready(2)",
}
ENDS = {
    "SIGKILL": (lambda process: process.kill(), -signal.SIGKILL),
    "SIGTERM": (lambda process: process.terminate(), -signal.SIGTERM),
}


@fault("process", "pool", "fork", soak=PROCESSES)
def it_is_killed(case: Case) -> None:
    """With workers that do all sorts of things: they end with it; what the user started beside it may live on."""
    # In `make test` each backend is tried with half of them, the two halves taken together are all.
    half = list(WORKERS.items())[int(case.backend == "pool") :: 2]
    for name, code in WORKERS.items() if case.full else half:
        for end, (do, status) in ENDS.items() if case.full else list(ENDS.items())[:1]:
            with program(case, f"{name} {end}", code + "\ntime.sleep(60)") as started:
                do(started.process)
                assert started.process.wait(PATIENCE) == status
                for pid in started.pids():
                    assert gone(pid), (name, end)


@fault("fork", "process:fork", soak=PROCESSES)
def it_leaves_by_os_exit(case: Case) -> None:
    """In the middle of work, without a word."""
    code = "ex = executor()\nfor _ in range(2): ex.submit(acts.spin, pids)\nready(2)\nos._exit(5)"
    with program(case, "os._exit", code) as started:
        assert started.process.wait(PATIENCE) == 5
        # Who leaves in such a way leaves multiprocessing's tracker to unlink what has a name, and that says so: "spawn" only.
        said = [line for line in started.errors().splitlines() if "resource_tracker" not in line]
        assert not said, said
        assert all(gone(pid) for pid in started.pids())


STUBBORN = """
with executor(max_workers=3) as ex:
    for fn in (acts.ignore_sigterm, acts.swallow, acts.spin): ex.submit(fn, pids)
    for i in range(20): ex.submit(acts.write, pids, 0)
    ready(3)
    while True: time.sleep(0.01)
"""


@fault("process", "pool", "fork", soak=PROCESSES)
def ctrl_c_comes_twice(case: Case) -> None:
    """The second while the first is still at it: the program ends all the same, and so do workers that do not want to."""
    for i, pause in enumerate((0.0, 0.1) if not case.full else (*[0.0] * 10, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4)):
        with program(case, f"twice {i}", STUBBORN) as started:
            for _ in range(2):
                os.killpg(started.process.pid, signal.SIGINT)
                time.sleep(pause)
            assert started.process.wait(PATIENCE) == -signal.SIGINT, started.errors()
            assert "KeyboardInterrupt" in started.errors()
            assert "taskrun-" not in started.errors()
            assert len(started.pids()) == 3
            assert all(gone(pid) for pid in started.pids())


@fault("process", "pool", "fork", soak=PROCESSES)
def ctrl_c_comes_once_at_workers_that_do_not_want_to_go(case: Case) -> None:
    """To the group, and to the program alone: within a second it has ended, and they with it."""
    for send in (os.killpg, os.kill) if case.full else (os.kill,):
        with program(case, f"once {send.__name__}", STUBBORN) as started:
            send(started.process.pid, signal.SIGINT)
            assert started.process.wait(PATIENCE) == -signal.SIGINT, started.errors()
            assert started.errors().count("Traceback") == 1
            assert all(gone(pid) for pid in started.pids())


WITHOUT_A_BLOCK = """
ex = executor()
for _ in range(2): ex.submit(acts.sleep_on, pids)
for i in range(20): ex.submit(acts.write, pids, 0).add_done_callback(lambda f: acts.write(pids + ".cancelled", f.cancelled()))
ready(2)
while True: time.sleep(0.01)
"""


@fault("process", "pool", "fork", "thread", "asyncio", soak=CONCURRENT)
def ctrl_c_ends_a_program_whose_executor_is_in_no_block(case: Case) -> None:
    """It dies of it, and does not wait at its exit for what it has left to do."""
    with program(case, "without a block", WITHOUT_A_BLOCK) as started:
        os.killpg(started.process.pid, signal.SIGINT)
        assert started.process.wait(PATIENCE) == -signal.SIGINT, started.errors()
        assert started.errors().count("Traceback") == 1
        assert len(started.pids()) == 2
        assert all(gone(pid) for pid in started.pids())
        assert acts.lines(started.pids_file + ".cancelled") == ["True"] * 20


IN_A_TASK = """
def nested():
    with taskrun.Executor({inner!r}, max_workers=2) as inner:
        for _ in range(2): inner.submit(acts.spin, pids)
        time.sleep(60)
ex = executor()
ex.submit(nested)
ready(2)
time.sleep(60)
"""


@fault("process", "pool", "fork", soak=PROCESSES)
def it_is_killed_and_its_workers_have_workers(case: Case) -> None:
    """They end with their parent, which ends with its own."""
    for inner in ("process", "pool", "fork") if case.full else (case.backend,):
        with program(case, f"nested {inner}", IN_A_TASK.format(inner=inner)) as started:
            started.process.kill()
            started.process.wait(PATIENCE)
            assert len(started.pids()) == 2
            assert all(gone(pid) for pid in started.pids()), inner
