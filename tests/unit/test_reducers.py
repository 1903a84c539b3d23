"""What the standard library makes around a user's functions and types travels by value, too."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def main_prints(source: str) -> str:
    """Run *source* as a `__main__` with a second process `p` and what it needs; return what it prints."""
    head = "import abc, dataclasses, functools, typing\nfrom second_process import SecondProcess\nwith SecondProcess() as p:\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", head + textwrap.indent(textwrap.dedent(source), "    ")],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": f"{HERE}:{HERE.parents[1]}", "PATH": ""},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.strip()


CASES: dict[str, tuple[str, str]] = {
    "a cached function that calls itself": (
        """
        @functools.cache
        def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
        @functools.lru_cache(maxsize=3, typed=True)
        def other(n): return fib(n), other.cache_parameters(), other.__doc__
        other.__doc__ = "text"
        print(p.call(fib, 60), p.call(other, 10), p.call(lambda: fib(11)))
        """,
        "1548008755920 (55, {'maxsize': 3, 'typed': True}, 'text') 89",
    ),
    "a cached method, a cached property": (
        """
        class Shape:
            def __init__(self, side): self.side = side
            @functools.cached_property
            def area(self): return self.side ** 2
            @functools.cache
            def times(self, n): return self.area * n
        def use(s): return s.area, s.times(2), s.__dict__
        print(p.call(use, Shape(3)))
        """,
        "(9, 18, {'side': 3, 'area': 9})",
    ),
    "a singledispatch function and method": (
        """
        @functools.singledispatch
        def show(x): return "any"
        @show.register
        def _(x: int): return "int " + str(show("s"))
        class Mine: pass
        @show.register(Mine)
        def _(x): return "mine"
        class Shower:
            @functools.singledispatchmethod
            def do(self, x): return "any"
            @do.register
            def _(self, x: int): return "int"
        print([p.call(show, x) for x in (1, 2.0, Mine())], p.call(lambda: show(1)), p.call(lambda s: s.do(1), Shower()))
        """,
        "['int any', 'any', 'mine'] int any int",
    ),
    "type parameters and new types": (
        """
        UserId = typing.NewType("UserId", int)
        T, P, Ts = typing.TypeVar("T"), typing.ParamSpec("P"), typing.TypeVarTuple("Ts")
        class Box(typing.Generic[T]): pass
        class Many(typing.Generic[typing.Unpack[Ts]]): pass
        class Call(typing.Generic[P]): pass
        def f(x: UserId, y: Box[T] = None) -> list[UserId]: return UserId(x), f.__annotations__["x"].__name__
        print(p.call(f, UserId(3)), p.call(lambda x: x.__supertype__, UserId), p.call(lambda *x: len(x), Many(), Call(), Box()))
        print(p.call(lambda a, b: a is b and a is Ts, Ts, Ts), p.call(lambda: P.__name__))
        """,
        "(3, 'UserId') <class 'int'> 3\nTrue P",
    ),
    "a class whose bases do something with each subclass": (
        """
        class Plugin:
            known = []
            def __init_subclass__(cls, *, name, **more):
                super().__init_subclass__(**more)
                Plugin.known.append(name)
        class Final:
            def __init_subclass__(cls):
                if Final.closed: raise TypeError("no more subclasses")
        Final.closed = False
        class One(Plugin, Final, name="one"): pass
        Final.closed = True
        def use(x): return type(x).__name__, Plugin.known, x.__init_subclass__ is not None
        def more(x):
            class Two(type(x).__mro__[1], name="two"): pass
            return Plugin.known
        print(p.call(use, One()), p.call(more, One()), Plugin.known)
        """,
        "('One', ['one'], True) ['one', 'two'] ['one']",
    ),
    "a metaclass that does something with each class": (
        """
        class Meta(abc.ABCMeta):
            made = []
            def __new__(mcls, name, bases, namespace, *, table): return super().__new__(mcls, name, bases, namespace)
            def __init__(cls, name, bases, namespace, *, table):
                super().__init__(name, bases, namespace)
                Meta.made.append(table)
                cls.table = table
        class Row(metaclass=Meta, table="rows"):
            @abc.abstractmethod
            def get(self): ...
        class Real(Row, table="real"):
            def get(self): return self.table
        def use(x): return x.get(), Meta.made, type(type(x)).__name__, Row.__abstractmethods__, isinstance(x, Row)
        print(p.call(use, Real()))
        """,
        "('real', ['rows', 'real'], 'Meta', frozenset({'get'}), True)",
    ),
    "dataclasses keep the sentinels": (
        """
        @dataclasses.dataclass
        class Point:
            x: int
            y: list = dataclasses.field(default_factory=list)
        def use(point):
            @dataclasses.dataclass
            class More(type(point)):
                z: int = 1
            fields = dataclasses.fields(point)
            return More(1), [f.default is dataclasses.MISSING for f in fields], fields[0].default_factory is dataclasses.MISSING
        print(p.call(use, Point(1)), p.call(lambda: Point(2).y))
        """,
        "(use.<locals>.More(x=1, y=[], z=1), [True, True], True) []",
    ),
}
if sys.version_info >= (3, 12):
    CASES["the syntax of Python 3.12"] = (
        """
        type Number = int | float
        class Box[T: int]:
            def get(self, x: T) -> T: return x
        class Many[*Ts]: pass
        class Call[**P]: pass
        def f[T](x: T) -> Number: return x, len(f.__type_params__), Number.__value__
        print(p.call(f, 1), p.call(lambda *x: len(x), Box(), Many(), Call()))
        print(p.call(lambda x: x.get(2), Box()), p.call(lambda: Number))
        """,
        "(1, 1, int | float) 3\n2 Number",
    )


@pytest.mark.parametrize("name", CASES)
def test_of_main_it_travels(name: str) -> None:
    source, expected = CASES[name]
    assert main_prints(source) == expected


def test_what_can_be_imported_travels_by_name() -> None:
    from taskrun import reducers

    for obj in (cached_here, generic_here, reducers.reduce_wrapper, int, print):
        assert reducers.reduce_wrapper(obj) is None
    assert reducers.reduce_wrapper(dataclasses.MISSING) == "MISSING"


@functools.cache
def cached_here() -> int:
    return 1


@functools.singledispatch
def generic_here(_: Any) -> int:
    return 1
