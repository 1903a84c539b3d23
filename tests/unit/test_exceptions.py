"""Exceptions that cross processes: themselves, with their chain, whatever their classes do."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import subprocess
import sys
import threading
import urllib.error
import xml.parsers.expat
from concurrent.futures.process import BrokenProcessPool
from json import JSONDecodeError

import awkward
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from second_process import SecondProcess

from taskrun.errors import (
    BackendUnavailableError,
    RemoteError,
    RemoteTraceback,
    SerializationError,
    TaskTimeoutError,
    WorkerCrashedError,
)
from taskrun.exceptions import dump_exception, load_exception
from taskrun.stand_in import stand_in


@pytest.fixture(scope="module")
def other():
    with SecondProcess() as process:
        yield process


def raised(error):
    """Return *error* as it is after it was raised."""
    try:
        raise error
    except BaseException as caught:
        return caught


def travel(error):
    return load_exception(dump_exception(error))


def causes(error):
    found = []
    while error is not None:
        found.append(error)
        error = error.__cause__
    return found


def unicode_error():
    try:
        return b"\xff".decode("utf-8")
    except UnicodeDecodeError as error:
        return error


def syntax_error():
    try:
        return compile("a b", "file.py", "exec")
    except SyntaxError as error:
        return error


def attribute_error():
    try:
        return [].nothing
    except AttributeError as error:
        return error


def file_error():
    try:
        return open("/no/such/file")
    except OSError as error:
        return error


# Errors with what has to be the same on the other side, besides type, args, str and __dict__.
SAMPLES = {
    "plain": (ValueError("a", 1, [2]), ()),
    "no args": (RuntimeError(), ()),
    "KeyError": (KeyError("k"), ()),
    "SystemExit": (SystemExit(3), ("code",)),
    "KeyboardInterrupt": (KeyboardInterrupt(), ()),
    "GeneratorExit": (GeneratorExit(), ()),
    "asyncio.CancelledError": (asyncio.CancelledError("x"), ()),
    "StopIteration": (StopIteration(5), ("value",)),
    "OSError": (OSError(2, "none", "file", None, "other"), ("errno", "strerror", "filename", "filename2")),
    "open": (file_error(), ("errno", "strerror", "filename")),
    "OSError with one arg": (OSError("only"), ("errno", "filename")),
    "BlockingIOError": (BlockingIOError(11, "again", 5), ("errno", "characters_written")),
    "UnicodeDecodeError": (unicode_error(), ("encoding", "object", "start", "end", "reason")),
    "SyntaxError": (syntax_error(), ("msg", "filename", "lineno", "offset", "text")),
    "ImportError": (ImportError("no", name="n", path="p"), ("msg", "name", "path")),
    "AttributeError": (attribute_error(), ("name",)),
    "NameError": (NameError("no", name="x"), ("name",)),
    "JSONDecodeError": (JSONDecodeError("bad", "doc", 1), ("msg", "doc", "pos", "lineno")),
    "HTTPError": (urllib.error.URLError("reason"), ("reason",)),
    "ExpatError": (xml.parsers.expat.ExpatError("x"), ()),
    "BrokenProcessPool": (BrokenProcessPool("x"), ()),
    "two arguments": (awkward.TwoArguments(5, "x"), ("code",)),
    "doubled": (awkward.Doubled(5), ()),
    "no arguments": (awkward.NoArguments(), ()),
    "keyword only": (awkward.KeywordOnly(reason="r"), ("reason",)),
    "__new__": (awkward.NewWithArguments(1, 2), ("two",)),
    "own reduce": (awkward.OwnReduce(1, 2), ("a", "b")),
    "bad reduce": (awkward.BadReduce("k"), ()),
    "reduces to an int": (awkward.ReducesToSomethingElse("m"), ()),
    "OSError subclass": (awkward.SubOSError("/p", 2), ("errno", "strerror", "filename", "path")),
    "slot that is None": (awkward.Slotted("m", None), ("extra",)),
    "forgetful reduce": (awkward.ForgetfulReduce("pool", "full"), ()),
    "slots": (awkward.Slotted("m", [1]), ("extra",)),
    "read only": (awkward.ReadOnly("m"), ()),
    "BaseException subclass": (awkward.Stop("s"), ()),
    "TaskTimeoutError": (TaskTimeoutError(limit=1, task="t"), ("limit", "task")),
    "WorkerCrashedError": (WorkerCrashedError("died", pid=3), ("pid",)),
    "BackendUnavailableError": (BackendUnavailableError("no", missing="ray"), ("name",)),
    "SerializationError": (SerializationError("no", value="result"), ("value",)),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_exceptions_come_back_as_themselves(name):
    error, fields = SAMPLES[name]
    back = travel(raised(error))
    assert type(back) is type(error)
    assert back.args == error.args
    assert str(back) == str(error)
    assert vars(back) == vars(error)
    assert [getattr(back, field) for field in fields] == [getattr(error, field) for field in fields]


def test_an_exception_kept_among_args_or_attributes_comes_back_as_itself_too():
    inner = awkward.ForgetfulReduce("pool", "full")
    outer = ConnectionError(inner)
    outer.reason, outer.itself, outer.__context__ = inner, outer, inner
    back = travel(outer)
    assert type(back.args[0]) is awkward.ForgetfulReduce
    assert str(back) == str(back.args[0]) == "pool: full"
    assert back.args[0] is back.reason is back.__context__
    assert back.itself is back


@pytest.mark.parametrize("name", SAMPLES)
def test_exceptions_come_back_as_themselves_from_another_process(name, other):
    error, fields = SAMPLES[name]

    def fail():
        raise pickle_free(name)

    def pickle_free(name):
        from test_exceptions import SAMPLES

        return SAMPLES[name][0]

    with pytest.raises(type(error)) as caught:
        other.call(fail)
    assert type(caught.value) is type(error)
    assert caught.value.args == error.args
    assert [getattr(caught.value, field) for field in fields] == [getattr(error, field) for field in fields]
    assert "in fail" in causes(caught.value)[-1].text


def test_a_constructor_that_raises_is_not_called(monkeypatch):
    data = dump_exception(awkward.RaisesInInit("m", 1))
    monkeypatch.setattr(awkward.RaisesInInit, "armed", True)
    back = load_exception(data)
    assert (type(back), back.args) == (awkward.RaisesInInit, ("m", 1))


def test_notes_come_along():
    error = ValueError("x")
    error.add_note("one")
    error.add_note("two")
    assert travel(error).__notes__ == ["one", "two"]


def test_odd_notes_do_no_harm():
    for notes in (5, ("a", 1), [3]):
        error = ValueError("x")
        error.__notes__ = notes
        assert travel(error).__notes__ == notes


def test_local_classes_come_back_as_the_same_class(other):
    class LocalError(ValueError):
        def __init__(self, a, b):
            super().__init__(a + b)
            self.a = a

    def fail():
        raise LocalError(1, 2)

    with pytest.raises(LocalError) as caught:
        other.call(fail)
    assert type(caught.value) is LocalError
    assert (caught.value.args, caught.value.a) == ((3,), 1)


def test_what_cannot_travel_is_replaced_by_its_text():
    back = travel(awkward.WithLock("m"))
    assert type(back) is awkward.WithLock
    assert back.args[0] == "m"
    assert back.args[1].startswith("<unlocked _thread.lock")
    assert back.lock.startswith("<unlocked _thread.lock")
    assert back.fine == 1


def test_what_does_not_unpickle_is_replaced_by_its_text():
    error = ValueError("m", awkward.RaisesAtLoad())
    error.attribute = [awkward.RaisesAtLoad()]
    back = travel(error)
    assert back.args[0] == "m"
    assert "RaisesAtLoad" in back.args[1]
    assert "RaisesAtLoad" in back.attribute


def test_other_exceptions_in_what_is_replaced_by_its_text_are_themselves_there():
    error = ValueError({"key": [threading.Lock(), KeyError(2)]})
    error.attribute = [threading.Lock(), TypeError("other")]
    back = travel(error)
    assert "KeyError(2)" in back.args[0]
    assert "TypeError('other')" in back.attribute


def test_an_exception_whose_text_cannot_be_made_travels():
    back = travel(raised(awkward.BadStr("m")))
    assert type(back) is awkward.BadStr
    assert back.args == ("m",)


def test_text_that_is_no_unicode_travels():
    back = travel(raised(ValueError("a \udcff b")))
    assert back.args == ("a \udcff b",)
    assert "boom" in str(stand_in("t", "boom", ()))


# -- chains --------------------------------------------------------------------------------------------------------------------


def test_the_whole_chain_of_causes_and_contexts_comes_back():
    def fail():
        try:
            try:
                raise KeyError("first")
            except KeyError as first:
                raise awkward.TwoArguments(1, "second") from first
        except awkward.TwoArguments:
            raise ValueError("third")  # noqa: B904

    try:
        fail()
    except ValueError as error:
        back = travel(error)
    assert [type(back), type(back.__context__), type(back.__context__.__cause__)] == [
        ValueError,
        awkward.TwoArguments,
        KeyError,
    ]
    assert back.__context__.__cause__ is back.__context__.__context__
    assert back.__context__.__suppress_context__ is True
    assert back.__suppress_context__ is False
    assert isinstance(back.__cause__, RemoteTraceback)
    assert "first" in back.__cause__.text
    assert "third" in back.__cause__.text


def test_the_remote_traceback_hangs_on_the_last_exception_without_a_cause():
    try:
        try:
            raise KeyError("root")
        except KeyError as root:
            raise ValueError("top") from root
    except ValueError as error:
        back = travel(error)
    assert [type(item) for item in causes(back)] == [ValueError, KeyError, RemoteTraceback]
    assert back.__suppress_context__ is True


def test_from_none_stays_so():
    try:
        try:
            raise KeyError("hidden")
        except KeyError:
            raise ValueError("shown") from None
    except ValueError as error:
        back = travel(error)
    assert back.__suppress_context__ is True
    assert isinstance(back.__context__, KeyError)
    assert isinstance(back.__cause__, RemoteTraceback)


def test_the_remote_traceback_has_the_lines_that_failed(other):
    def fails_here():
        return 1 / 0

    with pytest.raises(ZeroDivisionError) as caught:
        other.call(fails_here)
    text = caught.value.__cause__.text
    assert text.startswith("Traceback (most recent call last):")
    assert f'File "{__file__}"' in text
    assert "return 1 / 0" in text
    assert text.rstrip().endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize("link", ["__cause__", "__context__"])
def test_chains_that_go_round_in_circles_come_back(link):
    one, two = ValueError("1"), KeyError("2")
    setattr(one, link, two)
    setattr(two, link, one)
    back = travel(one)
    assert getattr(getattr(back, link), link) is back
    loop = ValueError("self")
    setattr(loop, link, loop)
    back = travel(loop)
    assert getattr(back, link) is back


def test_a_very_long_chain_is_cut_not_refused():
    error = None
    for n in range(5_000):
        following = ValueError(n)
        following.__cause__ = error
        error = following
    back = travel(error)
    assert back.args == (4_999,)
    assert 500 < len(causes(back)) < 5_000
    while error is not None:  # taken apart by hand: destructors recurse
        error.__cause__, error = None, error.__cause__


def test_an_error_that_crosses_two_processes_shows_both_tracebacks():
    back = travel(travel(raised(ValueError("x"))))
    assert [type(item) for item in causes(back)] == [ValueError, RemoteTraceback, RemoteTraceback]


def test_a_long_text_is_cut_in_the_middle():
    back = travel(ValueError("x" * 500_000))
    assert len(back.args[0]) == 500_000
    assert len(back.__cause__.text) < 110_000


# -- groups --------------------------------------------------------------------------------------------------------------------


def test_groups_come_back_with_their_members_and_the_members_chains():
    inner = ValueError("inner")
    inner.__cause__ = KeyError("why")
    inner.add_note("note")
    nested = ExceptionGroup("nested", [inner, awkward.TwoArguments(1, "x")])
    back = travel(raised(ExceptionGroup("outer", [nested, OSError(2, "no")])))
    assert type(back) is ExceptionGroup
    assert back.message == "outer"
    first, second = back.exceptions
    assert [type(item) for item in first.exceptions] == [ValueError, awkward.TwoArguments]
    assert first.exceptions[0].__notes__ == ["note"]
    assert isinstance(first.exceptions[0].__cause__, KeyError)
    assert second.errno == 2
    assert isinstance(back.__cause__, RemoteTraceback)


def test_groups_with_base_exceptions_and_of_other_classes_come_back():
    back = travel(BaseExceptionGroup("g", [KeyboardInterrupt(), ValueError()]))
    assert type(back) is BaseExceptionGroup
    error = awkward.Group("g", [ValueError("m")], 7)
    back = travel(error)
    assert type(back) is awkward.Group
    assert (back.message, back.code, repr(back.exceptions)) == ("g", 7, repr(error.exceptions))
    assert back.args[2] == 7
    assert back.args[1] == list(back.exceptions)


def test_the_same_member_twice_is_one_object():
    one = ValueError("x")
    back = travel(ExceptionGroup("g", [one, one]))
    assert back.exceptions[0] is back.exceptions[1]


# -- stand-ins -----------------------------------------------------------------------------------------------------------------

ONLY_THERE = """
class Base(LookupError):
    pass
class OnlyThere(Base, ValueError):
    def __init__(self, a, b):
        super().__init__(f"{a} {b}")
"""


@pytest.fixture
def only_there(other, tmp_path):
    """A module that only the other process can import."""
    (tmp_path / "only_there.py").write_text(ONLY_THERE)
    other.call(lambda path: sys.path.insert(0, path), str(tmp_path))
    yield
    other.call(lambda: sys.path.pop(0) and sys.modules.pop("only_there", None) and None)


def fail_only_there():
    from only_there import OnlyThere

    error = OnlyThere(1, 2)
    error.add_note("a note")
    raise error from KeyError("why")


def test_a_class_that_is_not_here_comes_back_as_a_remote_error_with_its_known_bases(other, only_there):
    with pytest.raises(ValueError, match=r"only_there\.OnlyThere: 1 2") as caught:
        other.call(fail_only_there)
    error = caught.value
    assert isinstance(error, RemoteError)
    assert isinstance(error, LookupError)
    assert (error.type_name, error.text) == ("only_there.OnlyThere", "1 2")
    assert "No module named 'only_there'" in str(error)
    assert error.__notes__ == ["a note"]
    assert "fail_only_there" in error.traceback
    assert [type(item) for item in causes(error)[1:]] == [KeyError, RemoteTraceback]


def test_a_stand_in_survives_pickle_and_copy(other, only_there):
    with pytest.raises(RemoteError) as caught:
        other.call(fail_only_there)
    for back in (pickle.loads(pickle.dumps(caught.value)), copy.copy(caught.value), travel(caught.value)):
        assert type(back) is type(caught.value)
        assert isinstance(back, ValueError)
        assert (str(back), back.type_name, back.text) == (str(caught.value), "only_there.OnlyThere", "1 2")


def test_stand_ins_take_as_many_bases_as_go_together():
    error = stand_in("lib.E", "text", ("builtins:OSError", "builtins:ImportError", "nowhere:X", "builtins:KeyError"))
    assert isinstance(error, (OSError,))
    assert isinstance(error, KeyError)
    assert not isinstance(error, ImportError)
    assert str(error).startswith("lib.E: text\n")
    for base in ("UnicodeDecodeError", "SyntaxError", "SystemExit", "StopIteration", "AttributeError"):
        one = stand_in("lib.E", "text", (f"builtins:{base}",))
        assert isinstance(one, getattr(__builtins__ if isinstance(__builtins__, type(sys)) else sys.modules["builtins"], base))
        assert str(pickle.loads(pickle.dumps(one))) == str(one)


def test_a_group_whose_class_is_not_here_comes_back_as_a_plain_group_that_says_so(other, tmp_path):
    def fail():
        import types

        module = types.ModuleType("made_there")
        module.__spec__ = json.__spec__  # passes for importable, and is not
        sys.modules["made_there"] = module
        exec("class G(ExceptionGroup):\n    pass", vars(module))
        raise module.G("g", [ValueError("m")])

    with pytest.raises(ExceptionGroup) as caught:
        other.call(fail)
    assert repr(caught.value.exceptions) == "(ValueError('m'),)"


def test_a_broken_message_gives_a_remote_error():
    data = dump_exception(ValueError("x"))
    for broken in (b"", data[:20], pickle.dumps(5), pickle.dumps(([], "", None))):
        assert type(load_exception(broken)) is RemoteError


class Hostile(Exception):
    """Everything that can be asked of it raises."""

    def __getattribute__(self, name):
        raise SystemExit(name)

    def __reduce_ex__(self, protocol):
        raise SystemExit


def test_an_exception_that_answers_nothing_still_gives_an_error_that_names_it():
    back = travel(Hostile("x"))
    assert isinstance(back, BaseException)
    assert "Hostile" in str(back) or type(back) is Hostile


# -- any -----------------------------------------------------------------------------------------------------------------------

leaf = st.builds(
    lambda cls, args: cls(*args),
    st.sampled_from([ValueError, KeyError, OSError, RuntimeError, SystemExit, KeyboardInterrupt]),
    st.lists(st.integers() | st.text() | st.none() | st.builds(threading.Lock), max_size=2),
)
trees = st.recursive(leaf, lambda inner: st.builds(BaseExceptionGroup, st.text(), st.lists(inner, min_size=1, max_size=3)))


@settings(max_examples=60, deadline=None)
@given(st.lists(trees, min_size=1, max_size=6), st.data())
def test_any_graph_of_exceptions_keeps_its_shape(errors, data):
    for error in errors:
        for link in ("__cause__", "__context__"):
            setattr(error, link, data.draw(st.none() | st.sampled_from(errors)))
        error.__suppress_context__ = data.draw(st.booleans())
    back = travel(errors[0])
    seen = {}

    def same(one, two):
        if one is None or isinstance(two, RemoteTraceback):
            assert two is None or isinstance(two, RemoteTraceback)
            return
        assert type(one) is type(two)
        if id(one) in seen:
            assert seen[id(one)] is two
            return
        seen[id(one)] = two
        assert one.__suppress_context__ == two.__suppress_context__
        same(one.__cause__, two.__cause__)
        same(one.__context__, two.__context__)
        if isinstance(one, BaseExceptionGroup):
            assert len(one.exceptions) == len(two.exceptions)
            for a, b in zip(one.exceptions, two.exceptions, strict=True):
                same(a, b)

    same(errors[0], back)


def test_loading_an_ordinary_exception_needs_no_cloudpickle():
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from taskrun.exceptions import dump_exception, load_exception\n"
        "assert load_exception(dump_exception(OSError(2, 'x', 'f'))).filename == 'f'\n"
        "assert not {'cloudpickle', 'multiprocessing', 'tenacity'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- what fresh eyes found -----------------------------------------------------------------------------------------------------


class Reducing(Exception):
    def __reduce__(self):
        return Reducing, self.args


class Collecting(Exception):
    """Needs a keyword, so that pickle alone could not make it again."""

    def __init__(self, *, errors):
        super().__init__(errors)
        self.errors = errors
        self.by_name = {"first": errors[0], "rest": tuple(errors[1:])}


class Restless(ValueError):
    @property
    def __notes__(self):
        raise RuntimeError

    @property
    def args(self):
        raise RuntimeError


def test_groups_with_many_members_arrive_whole():
    back = travel(ExceptionGroup("many", [ValueError(i) for i in range(3000)]))
    assert [error.args for error in back.exceptions] == [(i,) for i in range(3000)]


def test_notes_arrive_whatever_the_class_does_to_be_pickled():
    error = Reducing(1, 2)
    error.add_note("N1")
    assert travel(error).__notes__ == ["N1"]


def test_exceptions_in_lists_tuples_and_dicts_arrive_as_themselves():
    with_message = AwkwardInside(code=3)
    back = travel(Collecting(errors=[with_message, ValueError(2), OSError("three")]))
    assert [type(error) for error in back.errors] == [AwkwardInside, ValueError, OSError]
    assert back.errors[0].code == 3
    assert back.args[0] is back.errors
    assert back.by_name == {"first": back.errors[0], "rest": tuple(back.errors[1:])}


class AwkwardInside(Exception):
    def __init__(self, *, code):
        super().__init__(f"code {code}")
        self.code = code


def test_a_list_that_contains_itself_and_the_error_travels():
    error = ValueError("round")
    error.all = [error]
    error.all.append(error.all)
    back = travel(error)
    assert type(back) is ValueError
    assert str(back) == "round"


def test_what_is_nested_too_deep_is_replaced_and_the_rest_arrives():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    try:
        raise ValueError("deep", deep)
    except ValueError as error:
        back = travel(error)
    assert type(back) is ValueError
    assert back.args[0] == "deep"
    assert "test_what_is_nested" in str(back.__cause__)
    while deep:  # else its end is as deep
        deep = deep.pop()


def test_a_class_that_raises_when_it_is_asked_is_still_caught_by_its_base():
    back = travel(Restless("x"))
    assert isinstance(back, ValueError)
    assert "x" in str(back)
