"""How programs end: at exit, by the garbage collector, in forked children, in the middle of everything."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from patience import gone
from running import EVERY_BACKEND

if TYPE_CHECKING:
    from running import Program

on_every_backend = pytest.mark.parametrize("backend", EVERY_BACKEND)
concurrent = pytest.mark.parametrize("backend", EVERY_BACKEND[1:])

FORKABLE = [name for name in EVERY_BACKEND if name != "interpreter"]
"""Beside sub-interpreters Python itself crashes in a forked child: see decision 0015 and test_interpreters.py."""

FORKS_AT_EXIT = not (3, 12) <= sys.version_info < (3, 12, 3)
"""Python 3.12.0 to 3.12.2 do not."""
WORK_AT_EXIT = [name for name in EVERY_BACKEND if name != "fork" or FORKS_AT_EXIT]
WORKERS_AT_EXIT = [name for name in WORK_AT_EXIT if name != "pool" or FORKS_AT_EXIT]
"""Each worker of a pool comes with threads, and these versions start none either."""


@pytest.mark.parametrize("backend", WORK_AT_EXIT[1:])
def test_at_exit_everything_submitted_runs_retries_and_callbacks_included(program: Program, backend: str) -> None:
    code = """
import os, taskrun, threading, time
def work(i):
    time.sleep(0.01)
    if taskrun.current_task().attempt == 1 and i == 3:
        raise OSError("once")
    return i
ex = taskrun.Executor(max_workers=2)
again = ex.options(retry=taskrun.Retry(max_attempts=2, on=OSError, initial=0.05))
done = []
for i in range(10):
    again.submit(work, i).add_done_callback(lambda f: os.write(1, f"{f.result()} ".encode()))
# Python 3.12.0 to 3.12.2 start no thread at exit: the timer's has to be there.
while not any(thread.name.endswith("-timer") for thread in threading.enumerate()): time.sleep(0.001)
"""
    out = program.prints(code, env={"TASKRUN_BACKEND": backend})
    assert sorted(map(int, out.split())) == list(range(10))


@pytest.mark.parametrize("backend", ["thread", "dummy"])
def test_where_no_thread_can_be_had_at_exit_the_rest_fails_and_says_so(program: Program, backend: str) -> None:
    code = """
import atexit, taskrun, threading, time
ex = taskrun.Executor(max_workers=2, max_tasks_per_child=1)
futures = [ex.submit(time.sleep, 0.05) for _ in range(10)]
def refuse(*_, **__): raise RuntimeError("can't start new thread")  # as Python 3.12.0 to 3.12.2 do at exit
start = "_start_new_thread" if hasattr(threading, "_start_new_thread") else "_start_joinable_thread"
threading._register_atexit(setattr, threading, start, refuse)  # called before what is registered already
atexit.register(lambda: print(*sorted({type(future.exception()).__name__ for future in futures})))
"""
    assert program.prints(code, env={"TASKRUN_BACKEND": backend}) == "InitializerError NoneType\n"


def test_a_worker_that_crashes_at_exit_fails_only_its_own_task(program: Program) -> None:
    code = """
import os, taskrun
ex = taskrun.Executor("process", max_workers=1)
for fn, value in ((os._exit, 3), (abs, -5)):  # what the error for a crash is made from may not have been loaded by now
    ex.submit(fn, value).add_done_callback(lambda f: os.write(1, repr(type(f.exception())).encode()))
"""
    assert program.prints(code) == "<class 'taskrun.errors.WorkerCrashedError'><class 'NoneType'>"


@on_every_backend
def test_what_user_threads_submit_at_exit_is_refused_clearly(program: Program, backend: str) -> None:
    code = """
import taskrun, threading
ex = taskrun.Executor(max_workers=1)
ex.submit(abs, -1).result()
def late():
    threading.main_thread().join()
    while not ex.closed: pass
    try:
        ex.submit(abs, -2)
    except RuntimeError as error:
        print(error, flush=True)
threading.Thread(target=late).start()
"""
    expected = "cannot schedule new futures after interpreter shutdown\n"
    assert program.prints(code, env={"TASKRUN_BACKEND": backend}) == expected


@pytest.mark.parametrize("backend", WORKERS_AT_EXIT)
def test_exit_handlers_of_the_program_come_after_the_work(program: Program, backend: str) -> None:
    code = """
import atexit, taskrun
def late():
    try:
        ex.submit(abs, -2)
    except RuntimeError as error:
        print(future.result(), error)
atexit.register(late)
ex = taskrun.Executor(max_workers=1)
future = ex.submit(abs, -1)
"""
    expected = "1 cannot schedule new futures after interpreter shutdown\n"
    assert program.prints(code, env={"TASKRUN_BACKEND": backend}) == expected


@on_every_backend
def test_an_executor_first_made_at_exit_is_refused_in_the_same_words(program: Program, backend: str) -> None:
    code = """
import atexit, taskrun
def late():
    try:
        taskrun.Executor().submit(abs, -2)
    except RuntimeError as error:
        print(error)
atexit.register(late)
"""
    expected = "cannot schedule new futures after interpreter shutdown\n"
    assert program.prints(code, env={"TASKRUN_BACKEND": backend}) == expected


@on_every_backend
def test_what_a_destructor_maps_at_the_very_end_is_refused_in_the_same_words(program: Program, backend: str) -> None:
    """Nothing can be imported any more then."""
    code = """
import taskrun
class Last:
    def __init__(self): self.ex = taskrun.Executor(max_workers=1)
    def __del__(self, print=print, list=list, abs=abs, RuntimeError=RuntimeError):
        for call in (self.ex.map, self.ex.options(name="x").starmap):
            print(list(call(abs, [])))
            try: list(call(abs, [(1,)]))
            except RuntimeError as error: print(error)
last = Last()
"""
    expected = "[]\ncannot schedule new futures after interpreter shutdown\n"
    assert program.prints(code, env={"TASKRUN_BACKEND": backend}) == 2 * expected


@concurrent
def test_an_executor_dropped_with_work_to_do_does_it_and_ends_its_workers(program: Program, backend: str) -> None:
    code = """
import gc, os, taskrun, threading, time, weakref
ex = taskrun.Executor(max_workers=2)
pids = {f.result() for f in [ex.submit(os.getpid) for _ in range(20)]}
futures = [ex.submit(time.sleep, 0.01) for _ in range(20)]
alive = weakref.ref(ex)
del ex
gc.collect()
print(alive() is None, all(f.exception() is None for f in futures))
def left():
    ours = [t.name for t in threading.enumerate() if t.name.startswith(("taskrun-thread", "taskrun-process"))]
    workers = [pid for pid in pids if pid != os.getpid() and os.path.exists(f"/proc/{pid}")]
    return ours + workers
end = time.monotonic() + 20
while left() and time.monotonic() < end: time.sleep(0.005)
print(left())
"""
    assert program.prints(code, env={"TASKRUN_BACKEND": backend}) == "True True\n[]\n"


@pytest.mark.parametrize("backend", FORKABLE)
def test_a_forked_child_is_told_that_its_copy_is_no_use_and_ends_well(program: Program, backend: str) -> None:
    code = """
import os, taskrun, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later warn of any fork with threads
ex = taskrun.Executor(max_workers=1)
before = ex.submit(abs, -1)
before.result()
waiting = ex.submit(abs, -2)
pid = os.fork()
if pid == 0:
    for use in (lambda: ex.submit(abs, -3), lambda: ex.map(abs, [-3])):
        try:
            use()
        except RuntimeError as error:
            print("made before the fork" in str(error), flush=True)
    print(before.result(), flush=True)
    ex.shutdown()
    with taskrun.Executor(max_workers=1) as own:
        print(own.submit(abs, -4).result(), flush=True)
    raise SystemExit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), waiting.result(), ex.submit(abs, -5).result())
"""
    out = program.prints(code, env={"TASKRUN_BACKEND": backend})
    assert out.split("\n") == ["True", "True", "1", "4", "7 2 5", ""]


@pytest.mark.parametrize("backend", FORKABLE[1:])
def test_a_child_that_exits_at_once_disturbs_nothing(program: Program, backend: str) -> None:
    code = """
import os, sys, taskrun, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
with taskrun.Executor(max_workers=2) as ex:
    futures = [ex.submit(time.sleep, 0.005) for _ in range(50)]
    for ending in (os._exit, sys.exit) * 3:
        pid = os.fork()
        if pid == 0:
            ending(0)
        os.waitpid(pid, 0)
    print([f.exception() for f in futures] == [None] * 50, list(ex.map(abs, [-1])))
"""
    assert program.prints(code, env={"TASKRUN_BACKEND": backend}) == "True [1]\n"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_of_multiprocessing_use_executors_of_their_own(program: Program, method: str) -> None:
    code = f"""
import multiprocessing, taskrun, warnings
warnings.simplefilter("ignore", DeprecationWarning)
def child(backend):
    with taskrun.Executor(backend, max_workers=2) as ex:
        assert list(ex.map(abs, [-1, -2])) == [1, 2]
if __name__ == "__main__":
    with taskrun.Executor("process", max_workers=1) as ex:
        ex.submit(abs, -1).result()
        for backend in {EVERY_BACKEND}:
            process = multiprocessing.get_context({method!r}).Process(target=child, args=(backend,))
            process.start()
            process.join()
            print(process.exitcode)
"""
    assert program.prints(code) == "0\n" * len(EVERY_BACKEND)


@pytest.mark.parametrize("backend", ["process", "pool"])
def test_os_exit_in_the_middle_leaves_no_worker(program: Program, backend: str) -> None:
    code = f"""
import os, taskrun, time
ex = taskrun.Executor({backend!r}, max_workers=2)
pids = {{f.result() for f in [ex.submit(os.getpid) for _ in range(20)]}}
ex.submit(time.sleep, 60)
print(*pids, flush=True)
os._exit(5)
"""
    status, out, err = program.run(code)
    assert (status, err) == (5, "")
    assert all(gone(int(pid)) for pid in out.split())


@on_every_backend
def test_sys_exit_in_a_task_is_its_outcome(program: Program, backend: str) -> None:
    code = """
import sys, taskrun
with taskrun.Executor(max_workers=1) as ex:
    print(repr(ex.submit(sys.exit, 3).exception()), ex.submit(abs, -1).result())
"""
    assert program.prints(code, env={"TASKRUN_BACKEND": backend}) == "SystemExit(3) 1\n"


@concurrent
def test_an_abandoned_task_holds_up_neither_shutdown_nor_exit(program: Program, backend: str) -> None:
    code = """
import taskrun, time
with taskrun.Executor(max_workers=1) as ex:
    future = ex.options(timeout=0.05).submit(time.sleep, 60)
    print(type(future.exception()).__name__, ex.submit(abs, -1).result())
"""
    assert program.prints(code, env={"TASKRUN_BACKEND": backend}) == "TaskTimeoutError 1\n"


def test_the_template_process_ends_with_the_program(program: Program) -> None:
    code = """
import os, taskrun
from taskrun.engine.launch import TEMPLATE
with taskrun.Executor("process", max_workers=1) as ex:
    ex.submit(abs, -1).result()
print(TEMPLATE.pid)
"""
    assert gone(int(program.prints(code)))


def test_standard_output_that_is_gone_is_the_programs_trouble_only(program: Program) -> None:
    code = """
import taskrun
with taskrun.Executor("process", max_workers=2) as ex:
    for i in range(100000): print(ex.submit(abs, -i).result())
"""
    reading, writing = os.pipe()
    process = program.start(program.write("program.py", code), stdout=writing)
    os.close(writing)
    os.read(reading, 10)
    os.close(reading)
    status, _, err = program.end(process)
    assert status in (1, 120)
    assert "BrokenPipeError" in err
    assert status != -signal.SIGPIPE


def test_on_serial_the_rest_of_a_map_that_nobody_reads_runs_in_the_users_thread(program: Program) -> None:
    code = """
import gc, os, taskrun, threading
def work(i): os.write(1, f"{i} {threading.current_thread().name}\\n".encode())
taskrun.Executor("serial").map(work, range(3))
gc.collect()
other = taskrun.Executor("thread")
assert other.submit(abs, -1).result() == 1
"""
    assert program.prints(code) == "0 MainThread\n1 MainThread\n2 MainThread\n"


@pytest.mark.parametrize("backend", ["fork", "process"])
def test_exit_handlers_of_the_program_do_not_run_in_forked_workers(program: Program, backend: str) -> None:
    code = f"""
import atexit, os, taskrun
atexit.register(lambda: os.write(1, b"bye"))
with taskrun.Executor({backend!r}, **({{"start_method": "fork"}} if {backend!r} == "process" else {{}})) as ex:
    assert list(ex.map(abs, [-1, -2, -3])) == [1, 2, 3]
"""
    assert program.prints(code) == "bye"


def test_where_no_process_can_be_forked_at_exit_the_rest_is_cancelled_and_said(program: Program) -> None:
    code = """
import os, taskrun, time
ex = taskrun.Executor("fork", max_workers=1)
first = ex.submit(time.sleep, 0.5)
while not first.running(): time.sleep(0.001)
for n in range(3): ex.submit(abs, n).add_done_callback(lambda f: os.write(1, b"cancelled " if f.cancelled() else b"done "))
"""
    status, out, err = program.run(code)
    assert status == 0
    if FORKS_AT_EXIT:
        assert (out, err) == ("done done done ", "")
    else:
        assert out == "cancelled cancelled cancelled "
        assert "that have not begun are cancelled: can't fork at interpreter shutdown" in err
