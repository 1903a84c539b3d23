"""What was sent by value is sent again when something that it is made of has changed."""

from __future__ import annotations

import functools
import gc
import types
import weakref
from typing import Any, ClassVar

import pytest

from taskrun.engine.functions import Functions
from taskrun.reach import Reach, digest, new_moment

# A module that workers cannot import: as `__main__`, or a notebook.
SOURCE = """
import functools

number = 1
table = {"k": 1}
large = list(range(100_000))

def deco(fn):
    @functools.wraps(fn)
    def inner(*args):
        return fn(*args)
    return inner

def helper():
    return number

def direct():
    return number

def through_a_helper():
    return helper()

@deco
def decorated():
    return number

by_name = {"helper": helper}
def through_a_table():
    return by_name["helper"]()

bound = functools.partial(helper)
def through_a_partial():
    return bound()

class Base:
    level = 1
    def read(self):
        return number

class Child(Base):
    @staticmethod
    def static():
        return number
    @property
    def prop(self):
        return number

def through_a_method():
    return Child().read()

def through_a_static_method():
    return Child.static()

def through_a_property():
    return Child().prop

one = Child()
def through_an_instance():
    return one.read()

def of_a_class():
    return Child.level

def in_a_table():
    return table["k"]

def in_a_large_list():
    return large[0]

def made_by_a_factory():
    count = 1
    def set_count(value):
        nonlocal count
        count = value
    def read():
        return count
    return set_count, read
set_count, closure = made_by_a_factory()

def default(value=1):
    return value

def attribute():
    return attribute.value
attribute.value = 1

@functools.cache
def cached():
    return number

def through_a_cached_function():
    return cached()
"""


def set_number(m: Any) -> None:
    m.number = 2


CHANGES = {
    "direct": set_number,
    "through_a_helper": set_number,
    "decorated": set_number,
    "through_a_table": set_number,
    "through_a_partial": set_number,
    "through_a_method": set_number,
    "through_a_static_method": set_number,
    "through_a_property": set_number,
    "through_an_instance": set_number,
    "through_a_cached_function": set_number,
    "of_a_class": lambda m: setattr(m.Base, "level", 2),
    "in_a_table": lambda m: m.table.update(k=2),
    "in_a_large_list": lambda m: setattr(m, "large", [2, *m.large]),
    "closure": lambda m: m.set_count(2),
    "default": lambda m: setattr(m.default, "__defaults__", (2,)),
    "attribute": lambda m: setattr(m.attribute, "value", 2),
}


@pytest.fixture
def module() -> Any:
    made = types.ModuleType("typed_in")
    exec(SOURCE, made.__dict__)
    return made


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_seen_and_nothing_else_is_taken_for_one(module: Any, name: str) -> None:
    reach = Reach(getattr(module, name))
    new_moment()
    assert reach.unchanged()
    CHANGES[name](module)
    new_moment()
    assert not reach.unchanged()


@pytest.mark.parametrize("name", CHANGES)
def test_a_worker_is_sent_the_new_state_once(module: Any, name: str) -> None:
    functions, fn = Functions(), getattr(module, name)
    slot = functions.slot(fn)
    assert slot is not None
    versions, payloads = [], []
    for change in (None, None, CHANGES[name], None):
        if change is not None:
            change(module)
        new_moment()
        payloads.append(functions.data(slot, fn))
        versions.append(slot.version)
    assert versions == [versions[0], versions[0], versions[2], versions[2]] != [versions[0]] * 4
    assert payloads[0] is payloads[1]
    assert payloads[2] is payloads[3] != payloads[0]


def test_in_one_moment_it_is_looked_at_once(module: Any) -> None:
    new_moment()
    reach = Reach(module.direct)
    module.number = 2
    assert reach.unchanged()
    new_moment()
    assert not reach.unchanged()


def test_an_object_at_the_place_of_a_dead_one_is_not_taken_for_it(module: Any) -> None:
    for value in range(50):
        module.number = None
        module.number = [value]  # most likely where the one before was
        reach = Reach(module.direct)
        module.number = None
        module.number = [value + 1]
        new_moment()
        assert not reach.unchanged(), value


def test_what_a_class_or_function_reaches_is_not_kept_alive() -> None:
    class Held:
        registry: ClassVar[dict[str, type]] = {}
        only: ClassVar[Any] = None

        def method(self) -> type:
            return __class__  # type: ignore[name-defined]  # the compiler makes it

    Held.registry["held"] = Held
    Held.only = Held()

    def made() -> Any:
        def fn() -> Any:
            return fn

        return fn

    kept = [Held, made()]
    reaches = [Reach(each) for each in kept]
    refs = [weakref.ref(each) for each in kept]
    del Held, kept
    gc.collect()
    assert [ref() for ref in refs] == [None, None]
    new_moment()
    assert not any(reach.unchanged() for reach in reaches)


class Hostile:
    """Answers no question but with an error."""

    @property
    def __class__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")

    def __hash__(self) -> int:
        raise RuntimeError("no")

    def __reduce__(self) -> Any:
        raise RuntimeError("no")


def test_hostile_objects_are_told_apart_by_what_they_are() -> None:
    held: Any = Hostile()

    def fn() -> Any:
        return held

    reach = Reach(fn)
    new_moment()
    assert reach.unchanged()
    held = Hostile()
    new_moment()
    assert not reach.unchanged()


def test_only_so_much_is_digested() -> None:
    assert digest(list(range(1000))) == digest(list(range(1000))) != digest(list(range(1001)))
    assert digest("x" * 70_000) is None
    assert digest("x" * 70_000, None) is not None
    assert digest(lambda: None) is None


def test_cycles_and_much_of_everything_end() -> None:
    namespace: dict[str, Any] = {}
    source = "\n".join(f"def f{n}(): return f{(n + 1) % 3000}()" for n in range(3000))
    exec(source, namespace)
    assert Reach(functools.partial(namespace["f0"]).func).unchanged()
