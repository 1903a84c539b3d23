"""However a program is started, its functions run on every backend, and nothing of it runs twice."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from running import BACKENDS, EVERY_BACKEND

import taskrun

if TYPE_CHECKING:
    from running import Program

WAYS = [
    {"TASKRUN_BACKEND": "serial"},
    {"TASKRUN_BACKEND": "thread"},
    {"TASKRUN_BACKEND": "process"},
    {"TASKRUN_BACKEND": "process", "START": "spawn"},
    {"TASKRUN_BACKEND": "process", "START": "fork"},
    {"TASKRUN_BACKEND": "pool"},
    {"TASKRUN_BACKEND": "pool", "START": "spawn"},
]
way = pytest.mark.parametrize("env", WAYS, ids=lambda env: " ".join(env.values()))

# Options of one backend only come from the environment of the test, to leave the others without a warning.
MAKE = """
import os, taskrun
START = {"start_method": os.environ["START"]} if "START" in os.environ else {}
"""

NO_GUARD = (
    MAKE
    + """
with open("ran", "a") as log:
    log.write("x")
class Box:
    def __init__(self, value): self.value = value
def double(box): return Box(box.value * 2)
with taskrun.Executor(max_workers=2, **START) as ex:
    boxes = list(ex.map(double, map(Box, [1, 2, 3])))
print([type(box) is Box and box.value for box in boxes])
"""
)


@way
def test_a_script_without_a_guard_runs_once(program: Program, env: dict[str, str]) -> None:
    assert program.prints(NO_GUARD, env=env) == "[2, 4, 6]\n"
    assert (program.directory / "ran").read_text() == "x"


@way
@pytest.mark.parametrize("arguments", [("-c", NO_GUARD), ("-m", "package.module"), ("-m", "package"), ("-",), ("app.zip",)])
def test_started_in_any_other_way_it_does_too(program: Program, env: dict[str, str], arguments: tuple[str, ...]) -> None:
    program.write("package/__init__.py", "")
    program.write("package/module.py", NO_GUARD)
    program.write("package/__main__.py", NO_GUARD)
    with zipfile.ZipFile(program.directory / "app.zip", "w") as app:
        app.writestr("__main__.py", NO_GUARD)
    stdin = {"stdin": subprocess.PIPE} if arguments == ("-",) else {}
    status, out, err = program.end(program.start(*arguments, env=env, **stdin), NO_GUARD if stdin else None)
    assert (status, out, err) == (0, "[2, 4, 6]\n", "")
    assert (program.directory / "ran").read_text() == "x"


@way
def test_exec_made_code_runs(program: Program, env: dict[str, str]) -> None:
    code = (
        MAKE
        + '''
import types
source = """
import math
FACTOR = 3
class Made:
    def __init__(self, x): self.x = x
def make(x): return Made(math.floor(x) * FACTOR)
"""
bare = {}
exec(source, bare)
named = types.ModuleType("made_up")
exec(source, vars(named))
with taskrun.Executor(max_workers=1, **START) as ex:
    for names in (bare, vars(named)):
        made = ex.submit(names["make"], 2.5).result()
        print(type(made) is names["Made"], made.x)
        print(ex.submit(eval("lambda x: x + 1"), 1).result())
'''
    )
    assert program.prints(code, env=env) == "True 6\n2\n" * 2


@way
def test_modules_beside_the_script_the_directory_and_the_environment_are_there(program: Program, env: dict[str, str]) -> None:
    program.write("helpers/beside.py", "LIMIT = 5\ndef check(x): return x < LIMIT\n")
    program.write("helpers/elsewhere/here.txt", "found")
    script = program.write(
        "helpers/script.py",
        MAKE
        + """
import beside, pathlib, sys
os.chdir("helpers/elsewhere")
os.environ["COLOUR"] = "blue"
sys.path.append("/somewhere/special")
def look(): return beside.check(3), pathlib.Path("here.txt").read_text(), os.environ["COLOUR"], sys.path[-1]
with taskrun.Executor(max_workers=1, **START) as ex:
    print(ex.submit(look).result(), ex.submit(beside.check, 7).result())
""",
    )
    status, out, err = program.end(program.start(script, env=env))
    assert (status, out, err) == (0, "(True, 'found', 'blue', '/somewhere/special') False\n", "")


SESSION = """
import os, taskrun
start = {"start_method": os.environ["START"]} if "START" in os.environ else {}
ex = taskrun.Executor(max_workers=1, **start)
def work(x):
    return helper(x) + 1

def helper(x):
    return x * 10

ex.submit(work, 1).result()
def helper(x):
    return x * 100

ex.submit(work, 1).result()
class Thing:
    size = 1

type(ex.submit(Thing).result()) is Thing
class Thing:
    size = 2

ex.submit(lambda: Thing.size).result()
[y for y in ex.map(lambda x: x ** 2, range(4))]
ex.submit(lambda: 1 / 0).exception()
ex.shutdown()
"""
ANSWERS = ["11", "101", "True", "2", "[0, 1, 4, 9]", "ZeroDivisionError('division by zero')"]


@way
def test_the_interactive_interpreter_sends_what_was_typed_and_typed_again(program: Program, env: dict[str, str]) -> None:
    process = program.start("-i", "-q", env=env, stdin=subprocess.PIPE)
    status, out, err = program.end(process, SESSION)
    assert out.split("\n")[: len(ANSWERS)] == ANSWERS
    assert status == 0
    assert "Error" not in err


@pytest.mark.parametrize("backend", BACKENDS)
def test_at_a_terminal_too(program: Program, backend: str) -> None:
    ours, theirs = os.openpty()
    process = program.start(
        "-i", "-q", env={"TASKRUN_BACKEND": backend, "PYTHON_BASIC_REPL": "1", "TERM": "dumb"},
        stdin=theirs, stdout=theirs, stderr=theirs, text=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        os.write(ours, (SESSION + "exit()\n").encode())
        shown = b""
        while True:
            try:
                data = os.read(ours, 4096)
            except OSError:  # the terminal is closed at the end
                break
            shown += data
            if not data:
                break
        assert process.wait(40) == 0
    finally:
        os.close(ours)
    lines = shown.decode().replace("\r", "").split("\n")
    assert [line for line in lines if line in ANSWERS] == ANSWERS


@pytest.mark.parametrize("backend", BACKENDS)
def test_consoles_made_of_the_code_module_work(program: Program, backend: str) -> None:
    code = '''
import code
console = code.InteractiveConsole({"__name__": "__console__"})
for line in """
import taskrun
ex = taskrun.Executor(max_workers=1)
def twice(x): return 2 * x

print(ex.submit(twice, 21).result())
ex.shutdown()
""".splitlines():
    console.push(line)
'''
    assert program.prints(code, env={"TASKRUN_BACKEND": backend}) == "42\n"


@pytest.mark.parametrize("outer", EVERY_BACKEND)
def test_tasks_make_executors_of_their_own(program: Program, outer: str) -> None:
    refused = {"pool": "needs daemon threads", "dummy": "needs daemon threads", "fork": "a sub-interpreter allows no fork"}
    if outer != "interpreter":
        refused = {}
    inside = [inner for inner in EVERY_BACKEND if inner not in refused]
    code = f"""
import taskrun
def square(x): return x * x
def total(inner, n):
    with taskrun.Executor(inner, max_workers=2) as ex:
        return sum(ex.map(square, range(n)))
with taskrun.Executor({outer!r}, max_workers=2) as ex:
    for inner in {inside}:
        print(inner, list(ex.map(total, [inner] * 5, range(5))))
"""
    assert program.prints(code) == "".join(f"{inner} [0, 0, 1, 5, 14]\n" for inner in inside)
    for inner, why in refused.items():
        status, _, err = program.run(code.replace(str(inside), repr([inner])))
        assert status == 1
        assert why in err
        assert "import modules afresh" not in err  # it is an ImportError, and not for that reason


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_of_the_program_share_an_executor(program: Program, backend: str) -> None:
    code = """
import taskrun, threading
found = []
def use(ex, n):
    found.append(sum(ex.map(abs, range(-n, 0))))
with taskrun.Executor(max_workers=2) as ex:
    threads = [threading.Thread(target=use, args=(ex, n)) for n in range(6)]
    for t in threads: t.start()
    for t in threads: t.join()
def own():
    with taskrun.Executor(max_workers=1) as ex:
        found.append(ex.submit(abs, -99).result())
thread = threading.Thread(target=own)
thread.start(); thread.join()
print(sorted(found))
"""
    assert program.prints(code, env={"TASKRUN_BACKEND": backend}) == "[0, 1, 3, 6, 10, 15, 99]\n"


def test_taskrun_itself_can_be_imported_from_a_zip_file(program: Program) -> None:
    package = Path(taskrun.__file__).parent
    with zipfile.ZipFile(program.directory / "lib.zip", "w") as lib:
        for file in package.rglob("*.py"):
            lib.write(file, Path("taskrun") / file.relative_to(package))
    code = "import sys; sys.path.insert(0, 'lib.zip')\n" + NO_GUARD + "print('lib.zip' in taskrun.__file__)\n"
    assert program.prints(code, env={"TASKRUN_BACKEND": "process", "PYTHONPATH": ""}) == "[2, 4, 6]\nTrue\n"


def test_workers_know_the_key_of_a_multiprocessing_that_was_loaded_after_them(program: Program) -> None:
    code = """
import sys, taskrun
def push(outer):
    outer["list"].append(5)  # a proxy within a proxy has no key of its own
    return len(outer["list"])
with taskrun.Executor("process", max_workers=1) as ex:
    assert ex.submit(abs, -3).result() == 3
    with ex.context.Manager() as manager:
        outer = manager.dict()
        outer["list"] = manager.list()
        print(ex.submit(push, outer).result())
"""
    assert program.run(code) == (0, "1\n", "")
