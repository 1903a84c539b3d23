"""What other threads are in the middle of when a process is forked."""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from patience import PATIENCE

import taskrun
from taskrun.engine.crash import SILENT_FOR
from taskrun.engine.doorbell import Doorbell
from taskrun.engine.forking import fork

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Script

FORKING: list[tuple[str, dict[str, Any]]] = [
    ("fork", {}),
    ("process", {"start_method": "fork"}),
    ("pool", {"start_method": "fork"}),
]

HALTING = """
import threading
GATE = threading.Event()
assert GATE.wait(60)
VALUE = 6
"""

BUSY = """
import taskrun
def double(n): return 2 * n
with taskrun.Executor("fork", max_workers=2) as ex:
    VALUES = list(ex.map(lambda n: double(n), range(4)))
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for modules, which are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def names_in(module: str) -> list[str]:
    return [name for name in ("GATE", "VALUE") if hasattr(importlib.import_module(module), name)]


@pytest.mark.filterwarnings("ignore::taskrun.UnsafeForkWarning")
@pytest.mark.parametrize(("backend", "options"), FORKING)
def test_a_child_does_not_wait_for_the_import_of_another_thread(modules: Path, backend: str, options: dict[str, Any]) -> None:
    (modules / "halting.py").write_text(HALTING)
    thread = threading.Thread(target=importlib.import_module, args=("halting",))
    thread.start()
    while not hasattr(sys.modules.get("halting"), "GATE"):
        assert thread.is_alive()
    try:
        with taskrun.Executor(backend, max_workers=1, **options) as ex:
            future = ex.submit(names_in, "halting")
            try:
                assert future.result(PATIENCE) == ["GATE"]  # as far as it was loaded
            except TimeoutError:
                ex.kill_workers()
                raise
    finally:
        sys.modules["halting"].GATE.set()
        thread.join()


def test_a_module_may_fork_tasks_while_it_is_imported(modules: Path) -> None:
    (modules / "busy.py").write_text(BUSY)
    assert importlib.import_module("busy").VALUES == [0, 2, 4, 6]


@pytest.mark.parametrize("backend", ["process", "pool"])
def test_no_thread_of_ours_imports_what_workers_need_while_one_is_forked(script: Script, backend: str) -> None:
    code = f"""
import os, sys, threading, taskrun, warnings
warnings.simplefilter("ignore", taskrun.UnsafeForkWarning)
FORKER = []
PID = os.getpid()
def watch(event, args):
    if event == "import" and args[0] in ("taskrun.by_value", "cloudpickle") and FORKER and os.getpid() == PID:
        if threading.get_ident() not in FORKER: print(f"{{threading.current_thread().name}} imports {{args[0]}}")
sys.addaudithook(watch)
os.register_at_fork(before=lambda: FORKER.append(threading.get_ident()))
with taskrun.Executor({backend!r}, max_workers=2, start_method="fork") as ex:
    print(list(ex.map(lambda n: 2 * n, range(4))))
"""
    assert script.run(code) == "[0, 2, 4, 6]\n"


@pytest.mark.parametrize(("backend", "options"), FORKING)
def test_threads_of_the_standard_library_may_be_loaded_in_the_middle_of_a_fork(
    script: Script, backend: str, options: dict[str, Any]
) -> None:
    """Its hook for after the fork would release a lock that the one for before has not acquired."""
    code = f"""
import os, taskrun, warnings
warnings.simplefilter("ignore", taskrun.UnsafeForkWarning)
with taskrun.Executor({backend!r}, max_workers=1, **{options!r}) as ex:
    os.register_at_fork(before=lambda: __import__("concurrent.futures.thread"))  # another thread would, at the wrong moment
    print(ex.submit(abs, -3).result())
"""
    assert script.run(code) == "3\n"


@pytest.mark.filterwarnings("ignore::taskrun.UnsafeForkWarning", "ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize(("backend", "options"), [("process", {}), ("pool", {}), *FORKING])
def test_a_copy_made_while_descriptors_are_closed_closes_nobody_elses(
    monkeypatch: pytest.MonkeyPatch, backend: str, options: dict[str, Any]
) -> None:
    """Another thread forks right after each close: by then the number may be that of a file which was opened meanwhile."""
    close, parent, verdicts = os.close, os.getpid(), list[int]()

    def close_and_fork(fd: int) -> None:
        close(fd)
        if os.getpid() != parent or not threading.current_thread().name.startswith("closing-"):
            return
        other = os.open(os.devnull, os.O_RDONLY)  # the lowest number that is free: this one, mostly
        child = os.fork()
        if child == 0:
            still_open = False
            with contextlib.suppress(OSError):
                os.fstat(other)
                still_open = True
            os._exit(0 if still_open else 1)
        close(other)
        verdicts.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    with taskrun.Executor(backend, max_workers=2, name="closing", **options) as ex:
        monkeypatch.setattr(os, "close", close_and_fork)
        assert [ex.submit(abs, -i).result(PATIENCE) for i in range(3)] == [0, 1, 2]
    monkeypatch.undo()
    assert verdicts
    assert set(verdicts) == {0}


def test_a_copy_made_while_the_fork_server_is_started_starts_its_own(script: Script) -> None:
    """Another thread starts it for a pool, with locks held and functions of multiprocessing replaced."""
    code = f"""
import os, taskrun, threading, warnings
from multiprocessing import forkserver, process, resource_tracker, util
warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
started, go, ensure = threading.Event(), threading.Event(), forkserver.ensure_running
def ensure_running():
    with resource_tracker._resource_tracker._lock:
        started.set()
        go.wait({PATIENCE})
    ensure()
forkserver.ensure_running = ensure_running
flags, daemon = util._args_from_interpreter_flags, process.current_process()._config.get("daemon")
outer = taskrun.Executor("pool", max_workers=1)
future = outer.submit(abs, -1)
assert started.wait({PATIENCE})
pid = os.fork()
if pid == 0:
    forkserver.ensure_running = ensure
    assert util._args_from_interpreter_flags is flags
    assert process.current_process()._config.get("daemon") is daemon
    with taskrun.Executor("pool", max_workers=1) as ex:
        print(ex.submit(abs, -2).result({PATIENCE // 4}), flush=True)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
go.set()
print(future.result({PATIENCE}))
outer.shutdown()
"""
    assert script.run(code) == "2\n0\n1\n"


@pytest.mark.parametrize("lock", ["fork_server._patching", "without_main._patch"])
def test_no_lock_of_ours_around_multiprocessing_stays_held_in_a_copy(script: Script, lock: str) -> None:
    module, name = lock.split(".")
    code = f"""
import os, threading, warnings
from taskrun.engine import {module} as module
warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
module.{name}.acquire()
pid = os.fork()
if pid == 0:
    os._exit(module.{name}.locked())
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert script.run(code) == "0\n"


def test_a_bell_that_is_closed_rings_nothing() -> None:
    """Its number may be somebody else's: eight bytes would be written there."""
    read, write = os.pipe()
    bell = Doorbell()
    number = bell.fd
    bell.close()
    try:
        os.dup2(write, number)
        bell.ring()
        os.set_blocking(read, False)
        with pytest.raises(BlockingIOError):
            os.read(read, 8)
    finally:
        for fd in {read, write, number}:
            os.close(fd)


LOGGING = """
import logging, sys, threading, warnings, taskrun
warnings.simplefilter("ignore", taskrun.UnsafeForkWarning)
log = logging.getLogger("busy")
log.addHandler(logging.FileHandler(sys.argv[4]))
log.setLevel("INFO")
over = threading.Event()
def write():
    while not over.is_set(): log.info("x" * 200)
def also(i):
    log.info("from a task")
    return i
for _ in range(2): threading.Thread(target=write, daemon=True).start()
with taskrun.Executor(sys.argv[1], max_workers=2, **eval(sys.argv[2])) as ex:
    print(all(list(ex.map(also, range(8), chunksize=1)) == list(range(8)) for _ in range(int(sys.argv[3]))))
    for _ in range(3):
        print(ex.options(retry=taskrun.Retry(max_attempts=2, on_crash=True)).submit(also, 1).result())
over.set()
"""


@pytest.mark.parametrize(("backend", "options", "rounds"), [(*FORKING[0], 5), (*FORKING[1], 1), (*FORKING[2], 1)])
def test_a_log_that_other_threads_write_to_is_free_in_the_child(
    script: Script, backend: str, options: dict[str, Any], rounds: int, tmp_path: Path
) -> None:
    out = script.run(LOGGING, backend, repr(options), str(rounds), str(tmp_path / "log"))
    assert out.split() == ["True", "1", "1", "1"]


def test_what_holds_a_log_for_ever_holds_up_no_fork(script: Script) -> None:
    code = """
import logging, os, threading, warnings, taskrun
warnings.simplefilter("ignore", taskrun.UnsafeForkWarning)
stuck = logging.StreamHandler()
logging.getLogger().addHandler(stuck)
held = threading.Event()
def hold():
    stuck.acquire()
    held.set()
    threading.Event().wait(600)
threading.Thread(target=hold, daemon=True).start()
held.wait()
with taskrun.Executor("fork") as ex:
    print(ex.submit(abs, -3).result(), flush=True)
os._exit(0)  # the interpreter's own end would wait for it
"""
    assert script.run(code).split() == ["3"]


@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
@pytest.mark.filterwarnings("ignore::taskrun.UnsafeForkWarning")
def test_a_worker_of_a_pool_lives_as_long_as_it_is_wanted(start_method: str) -> None:
    """The child that is forked keeps its end of the lines that tell whether it is alive."""
    with taskrun.Executor("pool", max_workers=1, start_method=start_method) as ex:
        first = ex.submit(os.getpid).result(PATIENCE)
        assert ex.submit(time.sleep, 2 * SILENT_FOR).result(PATIENCE) is None
        assert ex.submit(os.getpid).result(PATIENCE) == first
        time.sleep(2 * SILENT_FOR)  # idle
        assert ex.submit(os.getpid).result(PATIENCE) == first


@pytest.mark.parametrize(
    ("module", "lock"),
    [("primitives", "_registry"), ("thread_process", "_registry"), ("sharing", "_loaded"), ("by_value", "_naming")],
)
def test_locks_that_another_thread_held_are_free_in_a_forked_copy(module: str, lock: str) -> None:
    owner = importlib.import_module(f"taskrun.{module}")
    held, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with getattr(owner, lock):
            held.set()
            leave.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(PATIENCE)
        pid = fork()
        if pid == 0:
            os._exit(int(not getattr(owner, lock).acquire(blocking=False)))
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        leave.set()
        thread.join()


@pytest.mark.parametrize("backend", ["process", "pool", "fork"])
@pytest.mark.parametrize("way", ["taskrun.Executor({0!r}, **how)", "taskrun.get_executor()"])
def test_the_warning_of_threads_points_at_who_makes_the_executor(script: Script, backend: str, way: str) -> None:
    code = f"""
import taskrun, threading, warnings
gate = threading.Event()
threading.Thread(target=gate.wait, daemon=True).start()
how = {{}} if {backend!r} == "fork" else {{"start_method": "fork"}}
with warnings.catch_warnings(record=True) as caught, taskrun.using(backend={backend!r}, **how):
    warnings.simplefilter("always")
    {way.format(backend)}
print([(each.category.__name__, each.filename == __file__) for each in caught])
gate.set()
"""
    assert script.run(code) == "[('UnsafeForkWarning', True)]\n"


@pytest.mark.parametrize("backend", ["process", "pool"])
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("value", ["", "0", "1", "2"])
def test_options_of_the_interpreter_hold_in_workers_whatever_the_environment_says(
    modules: Path, monkeypatch: pytest.MonkeyPatch, backend: str, method: str, value: str
) -> None:
    path = modules / "flags.py"
    path.write_text(f"""
import sys, taskrun
FLAGS = ["dont_write_bytecode", "no_user_site"]
def flags(): return [int(getattr(sys.flags, name, 0)) for name in FLAGS]
if __name__ == "__main__":
    with taskrun.Executor({backend!r}, max_workers=1, start_method={method!r}) as ex:
        assert ex.submit(flags).result(60) == flags(), (ex.submit(flags).result(60), flags())
""")
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONNOUSERSITE"):
        monkeypatch.setenv(name, value)
    for options in ([], ["-B", "-s"]):
        subprocess.run([sys.executable, *options, str(path)], check=True, timeout=PATIENCE)
