"""What new users do wrong gets a clear answer, at once, and costs nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from running import BACKENDS

if TYPE_CHECKING:
    from running import Program

on_every_backend = pytest.mark.parametrize("backend", BACKENDS)
concurrent = pytest.mark.parametrize("backend", BACKENDS[1:])


def fails(program: Program, code: str, backend: str, **options: object) -> str:
    """Run a program that ends in an error; return the last line it says."""
    status, out, err = program.run(code, env={"TASKRUN_BACKEND": backend}, **options)
    assert (status, out) == (1, "")
    return err.strip().splitlines()[-1]


@on_every_backend
def test_submit_after_the_block(program: Program, backend: str) -> None:
    code = "import taskrun\nwith taskrun.Executor() as ex: pass\nex.submit(pow, 2, 3)"
    assert fails(program, code, backend) == "RuntimeError: cannot schedule new futures after shutdown"


@on_every_backend
def test_results_are_read_after_the_block(program: Program, backend: str) -> None:
    code = """
import taskrun
with taskrun.Executor() as ex:
    future, results = ex.submit(pow, 2, 3), ex.map(abs, [-1, -2])
print(future.result(), list(results))
"""
    assert program.prints(code, env={"TASKRUN_BACKEND": backend}) == "8 [1, 2]\n"


@on_every_backend
def test_no_shutdown_at_all_runs_everything(program: Program, backend: str) -> None:
    code = """
import taskrun
def work(i):
    with open("log", "a") as log: log.write(f"{i} ")
ex = taskrun.Executor(max_workers=1)
for i in range(20): ex.submit(work, i)
ex.map(work, range(20, 40))
"""
    program.prints(code, env={"TASKRUN_BACKEND": backend})
    assert (program.directory / "log").read_text().split() == [str(i) for i in range(40)]


@on_every_backend
def test_an_executor_that_nobody_keeps(program: Program, backend: str) -> None:
    code = "import taskrun\nprint(taskrun.Executor().submit(pow, 2, 3).result(), *taskrun.Executor().map(abs, [-1]))"
    assert program.prints(code, env={"TASKRUN_BACKEND": backend}) == "8 1\n"


@on_every_backend
def test_an_error_in_the_block_goes_through_and_the_work_is_done(program: Program, backend: str) -> None:
    code = """
import taskrun
with taskrun.Executor() as ex:
    ex.submit(print, "done", flush=True)
    raise KeyError("mine")
"""
    status, out, err = program.run(code, env={"TASKRUN_BACKEND": backend})
    assert (status, out) == (1, "done\n")
    assert err.endswith("KeyError: 'mine'\n")


@concurrent
def test_sys_exit_in_the_block_drops_what_waits(program: Program, backend: str) -> None:
    code = """
import sys, taskrun, time
from pathlib import Path
def work(i):
    Path(f"ran{i}").touch()
    time.sleep(0.01 if i else 60)
with taskrun.Executor(max_workers=1) as ex:
    for i in range(50): ex.submit(work, i)
    while not Path("ran0").exists(): time.sleep(0.001)
    sys.exit(3)
"""
    assert program.run(code, env={"TASKRUN_BACKEND": backend}) == (3, "", "")
    assert not (program.directory / "ran49").exists()


def test_a_misspelt_backend_is_told_with_what_it_may_have_meant(program: Program) -> None:
    told = fails(program, "import taskrun\ntaskrun.Executor()", "proces")
    assert "UnknownBackendError" in told
    assert "TASKRUN_BACKEND" in told
    assert 'Did you mean "process"' in told


@on_every_backend
@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("taskrun.Executor(max_wokers=3)", 'Did you mean "max_workers"?'),
        ("taskrun.Executor(max_workers='many')", "max_workers"),
        ("taskrun.Executor(max_workers=0)", "max_workers must be greater than 0"),
        ("taskrun.Executor(timeout='soon')", "timeout"),
        ("taskrun.Executor().options(timout=3)", 'Did you mean "timeout"?'),
        ("taskrun.Executor().options(priority='high')", "priority"),
        ("taskrun.Executor(require=['teleport'])", "teleport"),
    ],
)
def test_a_wrong_setting_is_told_with_what_is_allowed(program: Program, backend: str, call: str, told: str) -> None:
    assert told in fails(program, f"import taskrun\n{call}", backend)


def test_all_mistakes_of_a_file_are_told_at_once(program: Program) -> None:
    program.write("taskrun.toml", 'backend = "threads"\nmax_workers = "x"\ntimeout = "3 parsecs"\n[retry]\nattempts = 3\n')
    status, _, err = program.run("import taskrun\ntaskrun.Executor()")
    assert status == 1
    for told in ("taskrun.toml", "threads", "max_workers", "3 parsecs", "attempts"):
        assert told in err


def test_a_file_that_does_not_parse_is_told_with_its_line(program: Program) -> None:
    program.write("taskrun.toml", 'backend = "thread"\nmax_workers = \n')
    told = fails(program, "import taskrun\ntaskrun.Executor()", "serial")
    assert "taskrun.toml" in told
    assert "line 2" in told


def test_an_argument_that_cannot_travel_is_named_and_its_neighbours_run(program: Program) -> None:
    code = """
import taskrun, threading
with taskrun.Executor("process", max_workers=1) as ex:
    futures = [ex.submit(max, 1, 2), ex.submit(max, 3, threading.Lock()), ex.submit(max, 5, 6)]
print(futures[0].result(), type(futures[1].exception()).__name__, futures[1].exception(), futures[2].result())
"""
    out = program.prints(code)
    assert out.startswith("2 SerializationError ")
    assert out.endswith(" 6\n")
    assert "argument 1" in out
    assert "_thread.lock" in out


def test_what_main_changed_in_other_modules_is_missing_and_the_error_says_so(program: Program) -> None:
    code = """
import json, taskrun
json.extra = lambda: 1
def work(): return json.extra()
with taskrun.Executor("process", max_workers=1) as ex:
    ex.submit(work).result()
"""
    status, _, err = program.run(code)
    assert status == 1
    assert "has no attribute 'extra'" in err
    assert "initializer=" in err


@on_every_backend
def test_callbacks_that_raise_are_logged_and_hurt_nobody(program: Program, backend: str) -> None:
    code = """
import logging, taskrun
logging.basicConfig(format="%(name)s: %(message)s")
seen = []
with taskrun.Executor(max_workers=1) as ex:
    future = ex.submit(abs, -1)
    future.add_done_callback(lambda f: 1 / 0)
    future.add_done_callback(lambda f: seen.append("second"))
    seen.append(ex.submit(abs, -2).result())
print(len(seen), 2 in seen, "second" in seen)
"""
    status, out, err = program.run(code, env={"TASKRUN_BACKEND": backend})
    assert (status, out) == (0, "2 True True\n")
    assert err.startswith("concurrent.futures: exception calling callback for")
    assert "ZeroDivisionError" in err


@on_every_backend
def test_what_tasks_print_appears_once(program: Program, backend: str) -> None:
    code = """
import taskrun
print("before", end=" ")  # in the buffer when workers are made
with taskrun.Executor(max_workers=2) as ex:
    list(ex.map(print, ["one"] * 50))
print("after")
"""
    out = program.prints(code, env={"TASKRUN_BACKEND": backend})
    assert (out.count("before"), out.count("one"), out.count("after")) == (1, 50, 1)


@on_every_backend
def test_a_generator_function_is_no_task(program: Program, backend: str) -> None:
    code = """
import taskrun
def numbers():
    yield 1
with taskrun.Executor(max_workers=1) as ex:
    try:
        print(list(ex.submit(numbers).result()))
    except taskrun.SerializationError as error:
        print("generator" in str(error))
"""
    assert program.prints(code, env={"TASKRUN_BACKEND": backend}) == ("True\n" if backend in ("process", "fork") else "[1]\n")


@on_every_backend
def test_endless_recursion_in_a_task_is_its_error(program: Program, backend: str) -> None:
    code = """
import taskrun
def down(x): return down(x + 1)
with taskrun.Executor(max_workers=1) as ex:
    print(type(ex.submit(down, 0).exception()).__name__, ex.submit(abs, -1).result())
"""
    assert program.prints(code, env={"TASKRUN_BACKEND": backend}) == "RecursionError 1\n"


@on_every_backend
def test_a_library_in_a_task_gets_an_executor_of_its_own(program: Program, backend: str) -> None:
    code = """
import taskrun
def work(x): return sum(taskrun.get_executor().map(abs, [-x, x]))
with taskrun.Executor(max_workers=2) as ex:
    print(list(ex.map(work, range(4))))
"""
    assert program.prints(code, env={"TASKRUN_BACKEND": backend}) == "[0, 2, 4, 6]\n"


@on_every_backend
def test_an_executor_does_not_travel_and_says_so(program: Program, backend: str) -> None:
    code = """
import pickle, taskrun
with taskrun.Executor(max_workers=1) as ex:
    pickle.dumps(ex)
"""
    assert "an executor cannot be pickled" in fails(program, code, backend)
