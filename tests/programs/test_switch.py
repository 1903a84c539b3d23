"""One unchanged program prints the same on every backend; only a setting differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from running import EVERY_BACKEND

if TYPE_CHECKING:
    from running import Program

# No guard: a worker that ran this file again would print, and start executors, without end.
PROGRAM = '''
import asyncio, concurrent.futures, dataclasses, enum, functools, operator, typing
import taskrun

FACTOR = 10

class Colour(enum.Enum):
    RED = 1
    BLUE = 2

@dataclasses.dataclass(order=True)
class Point:
    x: int
    y: int = 0
    def moved(self, by): return Point(self.x + by, self.y)

class Pair(typing.NamedTuple):
    left: int
    right: int

class Account:
    """Knows its class, its super and a private name."""
    count = 0
    def __init__(self, owner):
        self.owner, self.__secret = owner, len(owner)
    @classmethod
    def of(cls, owner): return cls(owner)
    @property
    def secret(self): return self.__secret

class Savings(Account):
    def __init__(self, owner):
        super().__init__(owner.title())

class TooLarge(ValueError):
    def __init__(self, number, limit):
        super().__init__(f"{number} is larger than {limit}")
        self.number, self.limit = number, limit

def scaled(x): return x * FACTOR

def checked(x, limit=3):
    if x > limit:
        raise TooLarge(x, limit)
    return x

def fibonacci(n): return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

async def later(x):
    await asyncio.sleep(0)
    return x + 1

def flaky():
    if taskrun.current_task().attempt < 3:
        raise OSError("try again")
    return taskrun.current_task().attempt

def makers():
    offset = 100
    def nested(x): return x + offset
    return nested, lambda x: x - offset, functools.partial(operator.add, offset)

def about():
    task = taskrun.current_task()
    return task.name, task.index, task.seed, round(task.rng.random(), 6)

with taskrun.Executor(max_workers=2, seed=7) as ex:
    print(ex.submit(pow, 2, 10).result())
    print(list(ex.map(scaled, range(5))))
    FACTOR = 20
    print(list(ex.map(scaled, range(5))))
    print(sorted(ex.map_unordered(fibonacci, range(12))))
    print(list(ex.starmap(Pair, [(1, 2), (3, 4)])))
    for make in makers():
        print(ex.submit(make, 1).result())
    for value in (Colour.BLUE, Point(1, 2), Pair(5, 6), Savings("ann"), Account.of("bob"), {Colour.RED: [Point(3)]}):
        back = ex.submit(lambda v: v, value).result()
        print(type(back) is type(value), back.secret if isinstance(back, Account) else back)
    print(ex.submit(Point(1).moved, 4).result() == Point(5), ex.submit(Colour, 2).result() is Colour.BLUE)
    print(ex.submit(Savings, "eve").result().owner)
    print(ex.submit(later, 41).result(), list(ex.map(later, [1, 2])))
    futures = [ex.submit(checked, x) for x in range(6)]
    print(sorted(f.result() for f in taskrun.as_completed(futures) if not f.exception()))
    done, not_done = taskrun.wait(futures)
    print(len(done), len(not_done))
    try:
        futures[5].result()
    except TooLarge as error:
        print(type(error) is TooLarge, error, error.number, error.limit)
    print([type(e).__name__ for e in ex.options(return_exceptions=True).map(checked, [1, 9])])
    retried = ex.options(retry=taskrun.Retry(max_attempts=5, on=OSError, initial=0.001)).submit(flaky)
    print(retried.result(), len(retried.attempts))
    print(ex.options(name="me").submit(about).result())
    seen = []
    ex.submit(scaled, 3).add_done_callback(lambda f: seen.append(f.result()))
    results = ex.map(scaled, range(3))
    shouting = ex.submit(print, "printed by a task", flush=True)
print(seen, list(results), shouting.result())
try:
    ex.submit(pow, 1, 1)
except RuntimeError as error:
    print(error)

async def main():
    asyncio.get_running_loop().slow_callback_duration = 60  # the end of the block waits for workers
    with taskrun.Executor(max_workers=2) as ex:
        print(await ex.submit(scaled, 1), await asyncio.gather(*(asyncio.wrap_future(ex.submit(scaled, i)) for i in range(3))))
asyncio.run(main())
'''


def test_it_prints_the_same_by_the_environment_alone(program: Program) -> None:
    printed = {backend: program.prints(PROGRAM, env={"TASKRUN_BACKEND": backend}) for backend in EVERY_BACKEND}
    assert "True" in printed["serial"]
    assert "(9, 10)" not in printed["serial"]
    for backend in EVERY_BACKEND:
        assert printed[backend] == printed["serial"]
    expected = ["1024", "[0, 10, 20, 30, 40]", "[0, 20, 40, 60, 80]", "[0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89]"]
    assert printed["serial"].splitlines()[:4] == expected
    assert "True 5 is larger than 3 5 3" in printed["serial"]
    assert "cannot schedule new futures after shutdown" in printed["serial"]


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_it_prints_the_same_whatever_starts_the_workers(program: Program, method: str) -> None:
    serially = program.prints(PROGRAM, env={"TASKRUN_BACKEND": "serial"})
    program.write("taskrun.toml", f'backend = "process"\nstart_method = "{method}"\n')
    assert program.prints(PROGRAM) == serially


WHERE = """
import os, threading, taskrun
with taskrun.Executor() as ex:
    pid, thread = ex.submit(lambda: (os.getpid(), threading.current_thread() is threading.main_thread())).result()
    print(ex.backend_name, pid == os.getpid(), thread)
with taskrun.using(backend="serial"), taskrun.Executor() as ex:
    print(ex.backend_name)
print(taskrun.get_executor().backend_name, taskrun.get_executor() is taskrun.get_executor())
"""


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("taskrun.toml", 'backend = "{}"'),
        ("pyproject.toml", '[tool.taskrun]\nbackend = "{}"'),
        ("config/taskrun/config.toml", 'backend = "{}"'),
        ("taskrun.toml", 'backend = "serial"\n[profiles.day]\nbackend = "{}"'),
    ],
)
@pytest.mark.parametrize(("backend", "where"), [("thread", "True False"), ("process", "False True"), ("serial", "True True")])
def test_any_file_of_settings_switches_it(program: Program, file: str, text: str, backend: str, where: str) -> None:
    program.write(file, text.format(backend))
    env = {"TASKRUN_PROFILE": "day"} if "day" in text else {}
    assert program.prints(WHERE, env=env) == f"{backend} {where}\nserial\n{backend} True\n"
