"""Whole programs with a Pool: what happens at their end, on Ctrl-C, and that importing costs nothing."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from programs.running import EVERY_BACKEND, program_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from programs.running import Program

CONCURRENT = tuple(name for name in EVERY_BACKEND if name != "serial")


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    yield from program_in(tmp_path)


AT_EXIT = """
import itertools, sys, time, warnings
import taskrun

warnings.simplefilter("ignore", ResourceWarning)
pool = taskrun.Pool(2, backend={backend!r})

def endless(path):
    open(path, "w").close()
    while True:
        time.sleep(0.01)

print(pool.apply(abs, (-3,)))
pool.apply_async(endless, ("started",))
results = pool.imap(abs, itertools.count())
print(next(results))
import os
while not os.path.exists("started"):
    time.sleep(0.001)
{close}
print("end")
"""


@pytest.mark.parametrize("close", ["", "pool.close()"])
@pytest.mark.parametrize("backend", CONCURRENT)
def test_at_the_end_of_the_program_a_pool_is_terminated(program: Program, backend: str, close: str) -> None:
    assert program.prints(AT_EXIT.format(backend=backend, close=close)).split() == ["3", "0", "end"]


@pytest.mark.parametrize("backend", CONCURRENT)
def test_ctrl_c_ends_get_join_and_the_pool(program: Program, backend: str) -> None:
    code = """
import sys, time
import taskrun

def wait(number):
    print("started", flush=True)
    time.sleep(60)

with taskrun.Pool(2, backend=sys.argv[1]) as pool:
    pool.map(wait, range(1))
"""
    process = program.start(program.write("program.py", code), backend)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    status, _, err = program.end(process)
    assert status == -signal.SIGINT, err
    assert err.rstrip().endswith("KeyboardInterrupt")


def test_importing_pool_loads_no_multiprocessing_and_nor_does_running_it_on_threads(program: Program) -> None:
    code = """
import sys
from taskrun import Pool

with Pool(2, backend="thread") as pool:
    assert pool.map(abs, [-1, 2]) == [1, 2]
    assert list(pool.imap(abs, iter([-1]))) == [1]
print("multiprocessing" in sys.modules)
"""
    assert program.prints(code) == "False\n"


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_no_guard_is_needed_in_the_main_script(program: Program, backend: str) -> None:
    code = """
import sys
import taskrun

offset = 10

def shifted(number):
    return number + offset

pool = taskrun.Pool(2, backend=sys.argv[1])
print(pool.map(shifted, range(3)), pool.map(lambda number: number * offset, [2]))
pool.close()
pool.join()
"""
    assert program.end(program.start(program.write("program.py", code), backend)) == (0, "[10, 11, 12] [20]\n", "")
