"""Travel of functions, arguments and results, with a real second process for all that is said about by-value."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import importlib.util
import json
import operator
import pickle
import socket
import subprocess
import sys
import textwrap
import threading
import time
import types
import typing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from second_process import SecondProcess

import taskrun
from taskrun import serialization
from taskrun.errors import SerializationError
from taskrun.importable import importable
from taskrun.serialization import (
    dump_arguments,
    dump_function,
    dump_result,
    load_arguments,
    load_function,
    load_result,
)

HERE = Path(__file__).parent

ItemT = typing.TypeVar("ItemT")


@pytest.fixture(scope="module")
def other():
    with SecondProcess() as process:
        yield process


def run_script(source: str, *arguments: str) -> str:
    """Run *source* as a `__main__` that can import the helper, and return what it prints."""
    start = f"import sys; sys.path[:0] = {[str(HERE), *sys.path]!r}\n"
    code = start + textwrap.dedent(source)
    done = subprocess.run([sys.executable, *arguments, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout


SETTING = "as imported"


def module_function(x):
    return x + 1


class Module:
    attribute = 1

    def method(self):
        return "method"

    @classmethod
    def make(cls):
        return cls

    def __call__(self):
        return "called"


def identity(value):
    return value


# -- the hot path --------------------------------------------------------------------------------------------------------------


def test_importable_things_do_not_load_cloudpickle():
    run_script(
        """
        import functools, json, operator
        from taskrun.serialization import *
        import second_process  # stands for the user's own module
        fns = [len, operator.add, json.dumps, json.JSONEncoder().encode, functools.partial(json.dumps, indent=1),
               "x".join, int, second_process.SecondProcess.__enter__]
        for fn in fns:
            load_function(dump_function(fn))
            load_arguments(dump_arguments((1, [2]), {"a": {"b": (3.5, b"x")}}))
        load_result(dump_result([json.JSONEncoder]))
        assert "cloudpickle" not in sys.modules
        """
    )


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@settings(max_examples=40, deadline=None)
@given(st.lists(values), st.dictionaries(st.text(), values))
def test_plain_arguments_and_results_come_back_equal(args, kwargs):
    assert load_arguments(dump_arguments(tuple(args), kwargs)) == (tuple(args), kwargs)
    assert load_result(dump_result(args)) == args


def test_a_text_that_names_main_is_only_a_text(other):
    assert other.call(identity, "__main__") == "__main__"


def test_arguments_arrive_as_private_copies_and_keep_what_they_share():
    shared = [1]
    (one, two), kwargs = load_arguments(dump_arguments((shared, shared), {"c": shared}))
    assert one is two is kwargs["c"]
    assert one is not shared


# -- by value, from an imported module -----------------------------------------------------------------------------------------


def test_lambdas_closures_and_local_functions_travel(other):
    n = 10

    def local(x, *, k=n):
        return x + n + k

    assert other.call(lambda x: x * n, 4) == 40
    assert other.call(local, 1) == 21
    assert other.call(functools.partial(local, k=1), 1) == 12
    assert other.call(identity, lambda: n)() == 10


def test_recursive_and_mutually_recursive_local_functions_travel(other):
    def even(k):
        return True if k == 0 else odd(k - 1)

    def odd(k):
        return False if k == 0 else even(k - 1)

    assert other.call(even, 10) is True


def test_globals_are_copied_as_they_are_when_a_function_is_sent(other, monkeypatch):
    assert other.call(lambda: SETTING) == "as imported"
    monkeypatch.setitem(globals(), "SETTING", "changed")
    assert other.call(lambda: SETTING) == "changed"
    assert other.call(module_function, 1) == 2


def test_a_mutable_global_that_changed_is_sent_anew(other):
    global BAG
    BAG = [1]
    assert other.call(lambda: list(BAG)) == [1]
    BAG.append(2)
    assert other.call(lambda: list(BAG)) == [1, 2]


LOCK = threading.Lock()


def test_a_function_whose_module_has_a_lock_uses_the_workers_own(other):
    def with_lock(x):
        with LOCK:
            return x

    assert other.call(with_lock, 3) == 3


def test_local_classes_keep_their_identity_both_ways(other):
    @dataclasses.dataclass
    class Point:
        x: int
        y: int = 0

    back = other.call(identity, Point(1, 2))
    assert type(back) is Point
    assert back == Point(1, 2)
    assert other.call(identity, Point) is Point
    assert other.call(lambda a, b: type(a) is type(b) is Point, Point(1), Point(2))
    assert type(other.call(lambda: Point(5))) is Point
    assert type(other.call(identity, {"deep": [Point(1)]})["deep"][0]) is Point


def test_a_class_is_the_same_in_the_worker_each_time_it_is_sent(other):
    class Thing:
        pass

    def keep(thing):
        module = sys.modules["builtins"]
        first = getattr(module, "_first_seen", type(thing))
        module._first_seen = first
        return first is type(thing)

    assert other.call(keep, Thing())
    assert other.call(keep, Thing())
    assert other.call(lambda t: keep(t), Thing())


def test_the_original_class_is_not_touched_when_an_instance_returns(other):
    class Counter:
        total = 0

        def method(self):
            return "original"

    method = Counter.method

    def change(counter):
        type(counter).total += 100
        type(counter).method = lambda self: "changed"
        return counter

    back = other.call(change, Counter())
    assert type(back) is Counter
    assert (Counter.total, Counter.method) == (0, method)
    assert back.method() == "original"


def test_a_class_attribute_changed_between_two_sends_is_seen(other):
    class Config:
        level = 1

    assert other.call(lambda c: c.level, Config()) == 1
    Config.level = 2
    assert other.call(lambda c: c.level, Config()) == 2


def test_a_class_that_was_made_unpicklable_in_the_worker_still_returns(other):
    class Holder:
        pass

    def spoil(holder):
        import threading

        type(holder).lock = threading.Lock()
        return holder

    assert type(other.call(spoil, Holder())) is Holder


def test_a_class_made_in_the_worker_arrives_once_it_is_returned(other):
    def make():
        class Made:
            def hello(self):
                return "hello"

        return Made(), Made()

    one, two = other.call(make)
    assert one.hello() == "hello"
    assert type(one) is type(two)


def test_enums_namedtuples_and_slots_of_local_classes_keep_identity(other):
    class Color(enum.Enum):
        RED = 1
        BLUE = 2

    class Level(enum.IntFlag):
        A = 1
        B = 2

    Pair = collections.namedtuple("Pair", "a b")

    class Typed(typing.NamedTuple):
        a: int
        b: int = 2

    class Parametrised(typing.NamedTuple, typing.Generic[ItemT]):
        item: ItemT

    class Slotted:
        __slots__ = ("a",)

    slotted = Slotted()
    slotted.a = 5
    assert other.call(identity, Color.RED) is Color.RED
    assert other.call(lambda c: c is Color.BLUE, Color.BLUE)
    assert other.call(identity, Level.A | Level.B) == Level.A | Level.B
    for value in (Pair(1, 2), Typed(1), Parametrised[int](3)):
        back = other.call(identity, value)
        assert type(back) is type(value)
        assert back == value
    assert other.call(lambda: (hasattr(Typed(1), "__dict__"), Typed(5))) == (False, Typed(5))
    assert other.call(identity, slotted).a == 5


def test_classes_that_refer_to_each_other_and_inherit_travel(other):
    class Base:
        def other(self):
            return Derived()

    class Derived(Base):
        def own(self):
            return super().other()

    back = other.call(lambda d: d.own(), Derived())
    assert type(back) is Derived


def test_bound_methods_and_callable_objects_of_local_classes_travel(other):
    class Adder:
        def __init__(self, n):
            self.n = n

        def __call__(self, x):
            return x + self.n

        def add(self, x):
            return x + self.n

        @classmethod
        def make(cls, n):
            return cls(n)

    assert other.call(Adder(2), 3) == 5
    assert other.call(Adder(2).add, 3) == 5
    assert type(other.call(Adder.make, 3)) is Adder
    assert other.call(functools.partial(Adder(2).add, 3)) == 5


@pytest.mark.parametrize("callable_", [Module().method, Module.make, Module(), functools.partial(module_function, 1)])
def test_importable_methods_and_objects_travel(other, callable_):
    assert other.call(callable_) is not None


def test_a_second_instance_costs_a_small_message_and_no_second_class(monkeypatch):
    from taskrun import by_value

    class Point:
        def __init__(self, x):
            self.x = x

    dump_arguments((Point(1),), {})
    monkeypatch.setattr(by_value, "dumps_definition", None)  # would fail if it were called
    assert dump_arguments((Point(2),), {})


# -- modules that a fresh process cannot import --------------------------------------------------------------------------------


@pytest.mark.parametrize("registered", [True, False])
def test_functions_and_classes_of_exec_made_modules_travel_by_value(other, registered, monkeypatch):
    module = types.ModuleType("made_by_exec")
    if registered:
        monkeypatch.setitem(sys.modules, "made_by_exec", module)
    exec("def double(x): return x * factor\nfactor = 2\nclass C:\n  def hi(self): return 'hi'\n", vars(module))
    assert other.call(module.double, 4) == 8
    assert other.call(lambda: module.C().hi()) == "hi"


def test_code_made_by_exec_in_a_bare_dictionary_travels(other):
    namespace = {}
    exec("state = 0\ndef set_it():\n global state\n state = 5\ndef get(): return state\nclass C: pass\n", namespace)
    other.call(namespace["set_it"])
    assert other.call(namespace["get"]) == 5
    assert namespace["state"] == 0
    assert type(other.call(identity, namespace["C"]())) is namespace["C"]


def test_a_module_loaded_from_a_file_that_is_not_on_the_path_travels_by_value(other, tmp_path, monkeypatch):
    file = tmp_path / "off_the_path.py"
    file.write_text("def where():\n    return __name__\n")
    spec = importlib.util.spec_from_file_location("off_the_path", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "off_the_path", module)
    spec.loader.exec_module(module)
    assert not importable("off_the_path")
    assert other.call(module.where) == "off_the_path"


def test_what_is_importable():
    for name in ("json", "json.decoder", "builtins", "os.path", "_io", "concurrent.futures", __name__, "zipimport"):
        __import__(name)
        assert importable(name), name
    for name in ("__main__", "__mp_main__", "no_such_module", None, 5):
        assert not importable(name), name


def test_modules_registered_with_cloudpickle_travel_by_value(other, tmp_path, monkeypatch):
    import cloudpickle

    (tmp_path / "registered_by_user.py").write_text("VALUE = 1\ndef get():\n    return VALUE\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("registered_by_user")
    cloudpickle.register_pickle_by_value(module)
    try:
        assert other.call(module.get) == 1  # the other process does not have tmp_path in its sys.path
    finally:
        cloudpickle.unregister_pickle_by_value(module)


# -- a real __main__ -----------------------------------------------------------------------------------------------------------

MAIN = """
import collections, dataclasses, enum
from second_process import SecondProcess

print("main runs")

@dataclasses.dataclass
class Point:
    x: int
    def bump(self):
        global COUNT
        COUNT += 1
        return COUNT

class Color(enum.Enum):
    RED = 1

class MyError(ValueError):
    def __init__(self, a, b):
        super().__init__(f"{a}-{b}")
        self.both = (a, b)

COUNT = 0
model = None
cache = {}
counts = collections.defaultdict(lambda: cache.get("k", 0))  # plain pickle refuses it

def init():
    global model, late
    model, late = "loaded", 5
    cache["k"] = counts["k"] = 1

def task():
    assert counts["k"] == 1
    return model, late, dict(cache)

def fail():
    raise MyError(1, 2) from KeyError("k")

def fact(n):
    return 1 if n < 2 else n * fact(n - 1)

def ident(x):
    return x

original = Point.bump
with SecondProcess() as p:
    assert p.call(fact, 10) == 3628800
    assert type(p.call(ident, Point(1))) is Point
    assert Point.bump is original and p.call(ident, Point(1)).bump() == COUNT == 1
    assert p.call(ident, Color.RED) is Color.RED
    assert p.call(lambda c: c is Color.RED, Color.RED)
    assert p.call(ident, fact) is fact and p.call(ident, Point) is Point
    p.call(init)
    assert p.call(task) == ("loaded", 5, {"k": 1}), p.call(task)
    assert (model, cache) == (None, {}) and "late" not in globals()
    try:
        p.call(fail)
    except MyError as error:
        assert error.args == ("1-2",) and error.both == (1, 2)
        assert type(error.__cause__) is KeyError
    assert p.call(lambda: __import__("sys").modules["__main__"].__dict__.get("fact")) is None
print("done")
"""


def test_functions_classes_and_errors_of_main_work_without_a_guard_and_main_runs_once():
    assert run_script(MAIN) == "main runs\ndone\n"


def test_the_same_holds_for_a_script_file(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"import sys; sys.path[:0] = {[str(HERE), *sys.path]!r}\n{MAIN}")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=50)
    assert (done.stdout, done.returncode) == ("main runs\ndone\n", 0), done.stderr


def test_the_same_holds_in_an_interactive_session():
    code = f"import sys; sys.path[:0] = {[str(HERE), *sys.path]!r}\nexec({MAIN!r})\n"
    done = subprocess.run([sys.executable, "-i", "-q"], input=code, capture_output=True, text=True, timeout=50)
    assert "main runs\ndone\n" in done.stdout, done.stderr


def test_a_name_that_main_added_to_a_module_is_missing_in_the_worker_and_the_error_says_why(other, monkeypatch):
    def added():
        return 1

    added.__module__, added.__qualname__, added.__name__ = "json", "added", "added"
    monkeypatch.setattr(json, "added", added, raising=False)
    with pytest.raises(SerializationError, match="initializer=") as caught:
        other.call(identity, added)
    assert (caught.value.value, caught.value.direction, caught.value.side) == ("argument 0", "unpickling", "worker")
    with pytest.raises(SerializationError, match="initializer=") as caught:
        other.call(added)
    assert caught.value.value == "function"


# -- what cannot travel --------------------------------------------------------------------------------------------------------


class Job:
    def __init__(self, lock):
        self.name = "job"
        self.lock = lock


class Slots:
    __slots__ = ("lock",)

    def __init__(self, lock):
        self.lock = lock


lock = threading.Lock()


@pytest.mark.parametrize(
    ("args", "kwargs", "value", "path"),
    [
        ((1, lock), {}, "argument 1", ""),
        ((1,), {"x": lock}, "argument 'x'", ""),
        (([0, {"a": lock}],), {}, "argument 0", "the value under key 'a', of item 1 of a list"),
        ((Job(lock),), {}, "argument 0", "attribute 'lock' of Job"),
        ((1, Slots(lock)), {}, "argument 1", "attribute 'lock' of Slots"),
        ((1, [Job(lock)]), {}, "argument 1", "attribute 'lock' of Job, of item 0 of a list"),
        ((lambda held=lock: held,), {}, "argument 0", "a default of function"),
        ((functools.partial(print, lock),), {}, "argument 0", "argument 0 of a partial"),
    ],
)
def test_the_error_names_the_argument_and_the_way_to_what_does_not_pickle(args, kwargs, value, path):
    with pytest.raises(SerializationError) as caught:
        dump_arguments(args, kwargs, task="fetch")
    error = caught.value
    assert (error.value, error.direction, error.side, error.task) == (value, "pickling", "parent", "fetch")
    assert error.type_name == "_thread.lock"
    assert isinstance(error.__cause__, TypeError)
    for part in (value, "task 'fetch'", "_thread.lock", str(error.__cause__), path, "initializer="):
        assert part in str(error)


def test_a_closure_over_a_lock_names_the_variable():
    held = threading.Lock()
    with pytest.raises(SerializationError, match=r"function of task 't'.*variable 'held' of function") as caught:
        dump_function(lambda: held, task="t")
    assert caught.value.value == "function"


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda: (i for i in ()), r"list\(...\)"),
        (lambda: open(__file__), "pass the path"),  # noqa: SIM115
        (lambda: socket.socket(), "connect inside the task"),
        (lambda: sys._getframe(), "traceback module"),
        (lambda: threading.Thread(), "inside the task or in initializer"),
        (
            lambda: taskrun.Future(),
            r"item 0 of a list: a value of type taskrun\.future\.Future\. .*: wait for the result",
        ),
    ],
)
def test_the_error_says_what_to_do_instead(make, advice):
    value = make()
    try:
        with pytest.raises(SerializationError, match=advice) as caught:
            dump_result([value])
        assert (caught.value.value, caught.value.side) == ("result", "worker")
    finally:
        getattr(value, "close", lambda: None)()


class Raises:
    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


class RaisesAtLoad:
    def __init__(self, error, holder=None):
        self.error = error

    def __reduce__(self):
        return _raise, (self.error,)


def _raise(error):
    raise error


ANY = [ValueError("boom"), SystemExit(3), KeyboardInterrupt("ctrl"), MemoryError(), RecursionError("deep"), GeneratorExit()]


@pytest.mark.parametrize("raised", ANY, ids=lambda e: type(e).__name__)
def test_whatever_pickling_raises_is_the_cause_of_a_serialization_error(raised):
    for dump in (
        lambda bad: dump_arguments((0, bad), {}),
        lambda bad: dump_result(bad),
        lambda bad: dump_function(functools.partial(print, bad)),
    ):
        with pytest.raises(SerializationError) as caught:
            dump(Raises(raised))
        assert type(caught.value.__cause__) is type(raised)
        assert str(raised) in str(caught.value)


@pytest.mark.parametrize("raised", ANY, ids=lambda e: type(e).__name__)
def test_whatever_unpickling_raises_is_the_cause_of_a_serialization_error(raised):
    bad = RaisesAtLoad(raised)
    for load, data, side in (
        (load_arguments, dump_arguments((0, bad), {}), "worker"),
        (load_result, dump_result(bad), "parent"),
        (load_function, dump_function(functools.partial(print, bad)), "worker"),
    ):
        with pytest.raises(SerializationError) as caught:
            load(data)
        assert type(caught.value.__cause__) is type(raised)
        assert str(raised) in str(caught.value)
        assert (caught.value.direction, caught.value.side) == ("unpickling", side)


filler = st.sampled_from([0, "s", (), (1,), (1, 2), [], [1, 2], {}, {"a": (1,)}, None, b"x" * 300, "y" * 70_000, Job(1)])


@given(before=st.lists(filler, max_size=5), after=st.lists(filler, max_size=5), nested=st.booleans())
def test_the_argument_that_does_not_unpickle_is_found_at_any_position(before, after, nested):
    bad = RaisesAtLoad(ValueError("at load"))
    args = (*before, {"deep": [1, (bad,)]} if nested else bad, *after)
    with pytest.raises(SerializationError) as caught:
        load_arguments(dump_arguments(args, {"k": 1}))
    assert caught.value.value == f"argument {len(before)}"


def test_the_argument_that_does_not_unpickle_is_found_beside_classes_that_travel_by_value():
    class Local:
        pass

    bad = RaisesAtLoad(ValueError("at load"))
    with pytest.raises(SerializationError) as caught:
        load_arguments(dump_arguments((Local(), bad, Local()), {}))
    assert caught.value.value == "argument 1"
    with pytest.raises(SerializationError) as caught:
        load_arguments(dump_arguments((1,), {"k": bad}))
    assert caught.value.value == "a keyword argument"


def test_an_object_nested_too_deeply_is_an_error_not_a_crash():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SerializationError) as caught:
        dump_arguments((deep,), {})
    assert isinstance(caught.value.__cause__, RecursionError)
    while deep:  # taken apart by hand: the interpreter's own way may recurse
        deep = deep.pop()


@pytest.mark.parametrize("cut", [0, 1, 5, -1])
def test_a_message_that_was_cut_off_is_a_serialization_error(cut):
    data = dump_arguments(([1, 2, 3],), {})
    with pytest.raises(SerializationError):
        load_arguments(data[:cut])


def test_errors_that_describe_failures_survive_pickle():
    with pytest.raises(SerializationError) as caught:
        dump_arguments((lock,), {}, task="t")
    back = pickle.loads(pickle.dumps(caught.value))
    assert (str(back), vars(back)) == (str(caught.value), vars(caught.value))


def test_a_value_whose_attributes_cannot_even_be_looked_at_gives_an_error_all_the_same():
    class Hostile:
        def __getattr__(self, name):
            raise SystemExit(name)

        def __reduce_ex__(self, protocol):
            raise ValueError("no")

        @property
        def __dict__(self):
            raise RuntimeError

        def __repr__(self):
            raise RuntimeError

    with pytest.raises(SerializationError, match="ValueError: no"):
        dump_arguments((Hostile(), {Hostile(): 1}), {})


def test_public_names_are_there():
    assert all(hasattr(serialization, name) for name in serialization.__all__)
    assert operator is not None


# -- said by several at once, or by nobody -------------------------------------------------------------------------------------


def test_threads_that_pickle_by_value_for_the_first_time_agree_on_the_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an initializer sets its globals in another one than the tasks read."""
    from taskrun import by_value

    class Slow:
        """As `uuid4`, and gives the others their turn."""

        def __init__(self) -> None:
            time.sleep(0.05)
            self.hex = str(id(self))

    monkeypatch.setattr(by_value, "_process", None)
    monkeypatch.setattr(by_value.uuid, "uuid4", Slow)
    own: dict[str, Any] = {"__name__": "nowhere"}
    exec("def foreign(): pass", own)
    for fn in (Slow.__init__, own["foreign"]):
        with ThreadPoolExecutor(4) as threads:
            assert len(set(threads.map(by_value._namespace_key, [fn] * 4))) == 1


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no str")

    __repr__ = __str__


def _mute() -> None:
    raise Mute


class LoadsMute:
    def __reduce__(self) -> Any:
        return _mute, ()


@pytest.mark.parametrize("backend", ["process", "pool"])
def test_what_does_not_unpickle_is_told_though_its_error_says_nothing(backend: str) -> None:
    with taskrun.Executor(backend, max_workers=1) as ex:
        for future in (ex.submit(id, LoadsMute()), ex.submit(LoadsMute)):
            error = future.exception(40)
            assert isinstance(error, taskrun.SerializationError)
            assert error.direction == "unpickling"
            assert "Mute" in str(error)
