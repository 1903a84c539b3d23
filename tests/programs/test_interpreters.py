"""Sub-interpreters and the process: one whose task was given up neither holds up its end nor changes its exit status."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from taskrun.backends.interpreter import InterpreterBackend

if TYPE_CHECKING:
    from running import Program

UNAVAILABLE = InterpreterBackend.unavailable()
pytestmark = pytest.mark.skipif(UNAVAILABLE is not None, reason=str(UNAVAILABLE))

STUCK = """
import sys, taskrun, threading, time
def in_c():
    time.sleep(600)
def in_python():
    while True: pass
def with_a_thread():
    threading.Thread(target=time.sleep, args=(600,)).start()
    time.sleep(600)
def waking_up():
    while True: time.sleep(0.0005)
def allocating():
    while True: [bytearray(9000) for _ in range(99)]
def in_a_coroutine_of_its_own():
    import asyncio
    asyncio.run(asyncio.sleep(600))
with taskrun.Executor("interpreter", max_workers=2, timeout=0.3) as ex:
    futures = [ex.submit(globals()[sys.argv[1]]) for _ in range(2)]
    for future in futures:
        print(type(future.exception()).__name__)
    print(ex.options(timeout=None).submit(abs, -1).result())
"""
WAYS = ("in_c", "in_python", "with_a_thread", "waking_up", "allocating", "in_a_coroutine_of_its_own")


@pytest.mark.parametrize("way", WAYS)
def test_at_the_end_of_a_program(program: Program, way: str) -> None:
    status, out, err = program.end(program.start(program.write("program.py", STUCK), way))
    assert (status, out.split(), err) == (0, ["TaskTimeoutError", "TaskTimeoutError", "1"], "")


@pytest.mark.parametrize("way", WAYS)
def test_the_exit_status_is_the_programs_own(program: Program, way: str) -> None:
    status, _, err = program.end(program.start(program.write("program.py", STUCK + "sys.exit(3)"), way))
    assert (status, err) == (3, "")


def test_after_ctrl_c_too(program: Program) -> None:
    code = STUCK.split("with taskrun")[0] + "\nex = taskrun.Executor('interpreter', max_workers=1)\n"
    code += "with ex:\n    f = ex.submit(in_python)\n    while not f.running(): pass\n    raise KeyboardInterrupt"
    _, _, err = program.run(code)
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert "remaining" not in err


def test_after_ctrl_c_while_a_thread_that_a_task_has_left_is_waited_for(program: Program) -> None:
    code = """
import os, signal, taskrun, threading, time
def leave():
    threading.Thread(target=time.sleep, args=(600,)).start()
ex = taskrun.Executor("interpreter", max_workers=1)
ex.submit(leave).result()
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    ex.shutdown()
except KeyboardInterrupt:
    print("interrupted")
"""
    assert program.prints(code) == "interrupted\n"


def test_a_stuck_task_with_a_soft_timeout_that_it_cannot_feel(program: Program) -> None:
    code = """
import taskrun, time
with taskrun.Executor("interpreter", max_workers=1, soft_timeout=0.1, timeout=0.3) as ex:
    print(type(ex.submit(time.sleep, 600).exception()).__name__)
"""
    assert program.prints(code) == "TaskTimeoutError\n"


def test_a_stuck_task_with_an_executor_of_its_own(program: Program) -> None:
    code = """
import taskrun, time
def nested():
    with taskrun.Executor("thread", max_workers=1) as ex:
        ex.submit(time.sleep, 600).result()
with taskrun.Executor("interpreter", max_workers=1, timeout=0.5) as ex:
    print(type(ex.submit(nested).exception()).__name__)
"""
    assert program.prints(code) == "TaskTimeoutError\n"


def test_an_idle_executor_that_nobody_shut_down(program: Program) -> None:
    assert program.prints("import taskrun\nex = taskrun.Executor('interpreter')\nprint(ex.submit(abs, -1).result())") == "1\n"


def test_a_task_that_is_given_up_and_ends_as_the_program_does(program: Program) -> None:
    code = """
import taskrun, time
for i in range(8):
    with taskrun.Executor("interpreter", max_workers=1, timeout=0.01) as ex:
        ex.submit(time.sleep, 0.01 + 0.02 * i).exception()
print("end")
"""
    # CPython frees what such a thread looks at when it wakes up, and -X dev would have it overwritten: see decision 0015.
    assert program.prints(code, env={"PYTHONMALLOC": "pymalloc"}) == "end\n"


def test_a_fork_beside_live_interpreters_is_warned_of_and_one_after_them_works(program: Program) -> None:
    code = """
import os, sys, taskrun
def child():
    pid = os.fork()
    if not pid: os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
with taskrun.Executor("interpreter", max_workers=1) as ex:
    ex.submit(abs, -1).result()
    child()
    child()
print(child())
"""
    status, out, err = program.run(code)  # in the hook of a fork even an error is only shown
    assert (status, out) == (0, "7\n")
    assert err.count("os.fork with sub-interpreters in this process") == 1
    assert "UnsafeForkWarning" in err
