"""What each setting may be, in code, files and variables, and what the messages say."""

from __future__ import annotations

import concurrent.futures
from contextvars import ContextVar
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskrun.backends.base import Capabilities
from taskrun.errors import ConfigError, UnsupportedOptionError
from taskrun.retry import Retry
from taskrun.settings import SETTINGS, check_setting, misspelt
from taskrun.units import parse_boolean, parse_duration, parse_size

VARIABLE: ContextVar[int] = ContextVar("VARIABLE")
FILE = "/p/taskrun.toml, key it"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), ("1.5h", 5400), ("250ms", 0.25), ("2d", 172800), ("1h30m", 5400), (" 7 ", 7), (".5", 0.5)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "5 parsecs", "-3s", "1 30", "5m 3", "1s1s", "1e400", "nan", "inf", "9" * 400])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("512MB", 512 * 10**6), ("1GiB", 2**30), ("2G", 2 * 10**9), ("1.5 GiB", 3 * 2**29), ("10b", 10), ("4k", 4000), ("7", 7)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "5 bits", "-3", "1e3", "0x10", "1.2.3"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError):
        parse_size(text)


@given(st.text(max_size=12))
def test_the_parsers_answer_or_raise_value_error_whatever_the_text(text: str) -> None:
    for parse in (parse_duration, parse_size, parse_boolean):
        try:
            parse(text)
        except ValueError:
            pass


@pytest.mark.parametrize(
    ("name", "value", "proper"),
    [
        ("backend", "thread", "thread"),
        ("max_workers", 8, 8),
        ("max_workers", "none", None),
        ("initargs", [1, 2], (1, 2)),
        ("max_memory_per_child", "512MB", 512 * 10**6),
        ("max_memory_per_child", 2**30, 2**30),
        ("max_age_per_child", "1h", 3600.0),
        ("idle_timeout", 2.5, 2.5),
        ("timeout", "30s", 30.0),
        ("timeout", "none", None),
        ("soft_timeout", 3, 3.0),
        ("retry", 4, Retry(max_attempts=4)),
        ("retry", "none", None),
        ("retry", {"max_attempts": 2, "initial": "250ms"}, {"max_attempts": 2, "initial": 0.25}),
        ("max_pending", 10, 10),
        ("seed", -3, -3),
        ("context_vars", ["a.b:c", VARIABLE], ("a.b:c", VARIABLE)),
        ("context_vars", VARIABLE, (VARIABLE,)),
        ("context_vars", "a:b, c:d", ("a:b", "c:d")),
        ("env", {"A": "1", "B": 2}, {"A": "1", "B": "2"}),
        ("cpu_affinity", [3, 1, 3], (3, 1)),
        ("cpu_affinity", "0,2,4-6", (0, 2, 4, 5, 6)),
        ("cpu_affinity", {5}, (5,)),
        ("inner_max_num_threads", 1, 1),
        ("require", ["crash_isolation"], ("crash_isolation",)),
        ("require", "kill, retry", ("kill", "retry")),
        ("strict", True, True),
        ("name", "etl", "etl"),
    ],
)
def test_good_values_get_their_proper_form(name: str, value: Any, proper: Any) -> None:
    assert check_setting(name, value) == proper


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("backend", 3, "backend must be a name or an instance, not 3"),
        ("backend", "", "must not be empty"),
        ("backend", concurrent.futures.ThreadPoolExecutor, "not the class ThreadPoolExecutor itself"),
        ("max_workers", 0, "max_workers must be greater than 0, not 0"),
        ("max_workers", -1, "max_workers must be greater than 0"),
        ("max_workers", "8", "max_workers must be an integer, not '8' (str) (write it without quotes)"),
        ("max_workers", 2.5, "max_workers must be an integer, not 2.5"),
        ("max_workers", True, "max_workers must be an integer, not True"),
        ("initargs", "abc", "initargs must be a tuple or list"),
        ("max_tasks_per_child", 0, "max_tasks_per_child must be >= 1"),
        ("max_memory_per_child", "much", "no size: 'much'"),
        ("max_memory_per_child", 1.5, "must be a size, not 1.5"),
        ("max_memory_per_child", 0, "must be greater than 0"),
        ("timeout", "soon", "timeout is no duration: 'soon'"),
        ("timeout", 0, "timeout must be greater than 0"),
        ("timeout", -1.5, "timeout must be greater than 0"),
        ("timeout", float("nan"), "timeout must be a finite number of seconds"),
        ("timeout", float("inf"), 'write "none" for no limit'),
        ("timeout", True, "timeout must be a duration, not True"),
        ("timeout", [1], "timeout must be a duration, not [1] (list)"),
        ("retry", {"max_attempts": 0}, "retry.max_attempts is 0"),
        ("retry", {"attempts": 3}, 'Did you mean "max_attempts"?'),
        ("retry", {"initial": "soon"}, "retry.initial is no duration: 'soon'"),
        ("retry", "twice", "is no retry policy"),
        ("max_pending", 0, "max_pending must be at least 1"),
        ("seed", "x", "seed must be an integer"),
        ("context_vars", ["nocolon"], 'must be written as "module:function"'),
        ("env", ["A"], "env must be a table of variables"),
        ("env", {"A=B": "1"}, "cannot be the name of a variable"),
        ("env", {"A": "secret\0word"}, "env.A must be a string without NUL"),
        ("env", {"A": True}, "env.A must be a string"),
        ("cpu_affinity", "3-1", "no list of CPU numbers"),
        ("cpu_affinity", [-1], "cpu_affinity[0] must be at least 0"),
        ("cpu_affinity", [], "must not be empty"),
        ("inner_max_num_threads", 0, "inner_max_num_threads must be at least 1"),
        ("require", ["kil"], 'Did you mean "kill"?'),
        ("strict", "yes", "strict must be true or false"),
        ("name", "  ", "name must not be empty"),
        ("name", 5, "name must be a string, not 5"),
    ],
)
@pytest.mark.parametrize("origin", ["argument", FILE])
def test_bad_values_are_refused_with_what_where_and_what_is_allowed(name: str, value: Any, words: str, origin: str) -> None:
    if name == "backend" and origin == FILE and not isinstance(value, str):
        words = "backend must be a string"
    with pytest.raises(ConfigError) as caught:
        check_setting(name, value, origin)
    text = str(caught.value)
    assert words in text
    assert "allowed: " in text or "known: " in text
    assert text.startswith(f"argument {name}: " if origin == "argument" else f"{FILE}: ")
    assert caught.value.setting == name
    assert "secret" not in text


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("initializer", 3, "initializer must be a callable"),
        ("initializer", "module:function", "initializer must be a callable"),
        ("finalizer", "x", "finalizer must be a callable"),
        ("max_tasks_per_child", 1.5, "max_tasks_per_child must be an integer"),
        ("max_tasks_per_child", "5", "max_tasks_per_child must be an integer"),
    ],
)
def test_arguments_fail_with_the_standard_librarys_type_error(name: str, value: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words) as caught:
        check_setting(name, value)
    assert not isinstance(caught.value, ConfigError)


def test_a_file_names_functions_as_text_and_nothing_is_imported() -> None:
    assert check_setting("initializer", "no.such.module:start", FILE) == "no.such.module:start"
    with pytest.raises(ConfigError, match="written as \"module:function\", not 'start'"):
        check_setting("initializer", "start", FILE)


def test_an_unknown_setting_is_an_unsupported_option_with_a_suggestion() -> None:
    with pytest.raises(UnsupportedOptionError, match='Did you mean "max_workers"'):
        check_setting("max_worker", 3)


@pytest.mark.parametrize("name", ["max_worker", "max_wokers", "time_out", "Backend", "initialiser", "cpu_afinity"])
def test_a_name_close_to_a_setting_is_a_misspelling(name: str) -> None:
    assert misspelt(name, "here") is not None


@pytest.mark.parametrize(
    "name",
    ["start_method", "mp_context", "thread_name_prefix", "address", "check_pickle", "preload", "resources", "speed", "retries"],
)
def test_options_of_backends_are_no_misspellings(name: str) -> None:
    assert misspelt(name, "here") is None


def test_a_value_whose_repr_fails_still_gets_a_message() -> None:
    class Sullen:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    with pytest.raises(ConfigError, match="an object of type Sullen"):
        check_setting("max_workers", Sullen())


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(ConfigError) as caught:
        check_setting("timeout", "x" * 10_000)
    assert len(str(caught.value)) < 500


def test_every_setting_is_documented() -> None:
    assert all(setting.doc.endswith(".") and setting.allowed for setting in SETTINGS.values())


def test_every_capability_can_be_required() -> None:
    names = Capabilities._fields
    assert check_setting("require", names) == names
