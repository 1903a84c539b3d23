"""Which source wins, what is merged, where a value comes from, and how mistakes are told."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

import taskrun
from taskrun import config
from taskrun.backends.base import Backend
from taskrun.config import describe, import_object, options_for, report_unsupported, resolve, using
from taskrun.config_files import find_project_file
from taskrun.errors import ConfigError, UnknownBackendError, UnsupportedOptionError, UnsupportedOptionWarning
from taskrun.retry import Retry
from taskrun.settings import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable


class Sources:
    """Sets one setting in one source, or in several; made anew for each test in a directory of its own."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.work = root / "home" / "project"
        self.project = self.work / "taskrun.toml"
        self.user = root / "xdg" / "taskrun" / "config.toml"
        self.monkeypatch = monkeypatch

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def setenv(self, **variables: str) -> None:
        for name, value in variables.items():
            self.monkeypatch.setenv(name, value)


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sources:
    made = Sources(tmp_path, monkeypatch)
    made.work.mkdir(parents=True)
    for name in [name for name in os.environ if name.startswith("TASKRUN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(made.work.parent))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(made.work)
    return made


def mistakes_of(call: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    return str(caught.value)


# -- precedence ----------------------------------------------------------------------------------------------------------------

ORDER = ["argument", "using inner", "using outer", "environment", "project profile", "project", "user profile", "user"]


@pytest.mark.parametrize("weaker", range(1, len(ORDER)))
@pytest.mark.parametrize("stronger", range(len(ORDER) - 1))
def test_of_any_two_sources_the_stronger_wins(sources: Sources, stronger: int, weaker: int) -> None:
    if stronger >= weaker:
        stronger, weaker = weaker - 1, stronger + 1
    said = {ORDER[stronger]: 100 + stronger, ORDER[weaker]: 100 + weaker}
    for where, path in (("project", sources.project), ("user", sources.user)):
        top = f"max_workers = {said[where]}\n" if where in said else ""
        profile = f"max_workers = {said[f'{where} profile']}\n" if f"{where} profile" in said else ""
        sources.write(path, f"{top}[profiles.big]\n{profile}")
    sources.setenv(TASKRUN_PROFILE="big")
    if "environment" in said:
        sources.setenv(TASKRUN_MAX_WORKERS=str(said["environment"]))
    with using(max_workers=said.get("using outer")), using(max_workers=said.get("using inner")):
        resolved = resolve({"max_workers": said.get("argument")})
    assert resolved.settings["max_workers"] == 100 + stronger
    origin = resolved.origins["max_workers"]
    assert origin == {
        "argument": "argument",
        "using inner": "taskrun.using(...)",
        "using outer": "taskrun.using(...)",
        "environment": "environment variable TASKRUN_MAX_WORKERS",
        "project profile": f"{sources.project}, key profiles.big.max_workers",
        "project": f"{sources.project}, key max_workers",
        "user profile": f"{sources.user}, key profiles.big.max_workers",
    }.get(ORDER[stronger], "")


def test_without_any_source_everything_has_its_default(sources: Sources) -> None:
    resolved = resolve({})
    assert resolved.settings == {name: setting.default for name, setting in SETTINGS.items()}
    assert set(resolved.origins.values()) == {"default"}
    assert resolved.settings["backend"] == config.DEFAULT_BACKEND == "process"
    assert resolved.files == ()


def test_an_explicit_backend_that_is_the_default_one_still_wins(sources: Sources) -> None:
    sources.setenv(TASKRUN_BACKEND="thread")
    assert resolve({"backend": "process"}).settings["backend"] == "process"
    assert resolve({}).settings["backend"] == "thread"


def test_arguments_that_are_none_or_empty_as_in_the_signature_are_not_given(sources: Sources) -> None:
    sources.setenv(TASKRUN_STRICT="yes", TASKRUN_REQUIRE="kill", TASKRUN_MAX_WORKERS="3")
    resolved = resolve({"strict": False, "require": (), "max_workers": None, "start_method": None})
    assert resolved.settings["strict"] is True
    assert resolved.settings["require"] == ("kill",)
    assert resolved.settings["max_workers"] == 3
    assert resolved.backend_options == {}


def test_the_word_none_takes_back_what_a_weaker_source_says(sources: Sources) -> None:
    sources.write(sources.project, 'timeout = "5s"\nretry = 3\n')
    sources.setenv(TASKRUN_TIMEOUT="none", TASKRUN_RETRY="none")
    resolved = resolve({})
    assert resolved.settings["timeout"] is None
    assert resolved.settings["retry"] is None
    assert resolved.origins["timeout"] == "environment variable TASKRUN_TIMEOUT"


def test_objects_as_arguments_pass_through(sources: Sources) -> None:
    with ThreadPoolExecutor(1) as pool:
        resolved = resolve({"backend": pool, "initializer": print, "initargs": (1,), "mp_context": pool})
        assert resolved.settings["backend"] is pool
        assert resolved.settings["initializer"] is print
        assert resolved.backend_options == {"mp_context": pool}


def test_every_kind_of_variable(sources: Sources) -> None:
    sources.setenv(
        TASKRUN_BACKEND=" thread ",
        TASKRUN_MAX_WORKERS="4",
        TASKRUN_INITIALIZER="no.such.module:start",
        TASKRUN_MAX_MEMORY_PER_CHILD="1GiB",
        TASKRUN_MAX_AGE_PER_CHILD="90",
        TASKRUN_TIMEOUT="1.5",
        TASKRUN_SEED="-1",
        TASKRUN_CONTEXT_VARS="a:b,c:d",
        TASKRUN_ENV__OMP_NUM_THREADS="2",
        TASKRUN_ENV__mixedCase="x",
        TASKRUN_CPU_AFFINITY="0-2",
        TASKRUN_STRICT="On",
        TASKRUN_START_METHOD="spawn",
        TASKRUN_CHECK_PICKLE="true",
        TASKRUN_PORT="8786",
        TASKRUN_IDLE_TIMEOUT="",
    )
    resolved = resolve({})
    expected = {
        "backend": "thread",
        "max_workers": 4,
        "initializer": "no.such.module:start",
        "max_memory_per_child": 2**30,
        "max_age_per_child": 90.0,
        "timeout": 1.5,
        "seed": -1,
        "context_vars": ("a:b", "c:d"),
        "env": {"OMP_NUM_THREADS": "2", "mixedCase": "x"},
        "cpu_affinity": (0, 1, 2),
        "strict": True,
        "idle_timeout": None,
    }
    assert {name: resolved.settings[name] for name in expected} == expected
    assert resolved.backend_options == {"start_method": "spawn", "check_pickle": True, "port": 8786}
    assert resolved.origins["start_method"] == "environment variable TASKRUN_START_METHOD"
    assert "no.such.module" not in sys.modules


# -- tables --------------------------------------------------------------------------------------------------------------------


def test_retry_merges_key_by_key_across_sources(sources: Sources) -> None:
    sources.write(sources.user, '[retry]\nmax_attempts = 2\nwait = "fixed"\ninitial = "250ms"\n')
    sources.write(sources.project, '[retry]\nmax_attempts = 5\non = ["OSError", "requests.ConnectionError"]\n')
    sources.setenv(TASKRUN_RETRY__JITTER="false", TASKRUN_RETRY__MAX_TIME="2m")
    with using(retry={"on_crash": False}):
        resolved = resolve({"retry": {"max_attempts": 9}})
    assert resolved.settings["retry"] == Retry(
        max_attempts=9,
        on=("OSError", "requests.ConnectionError"),
        wait="fixed",
        initial=0.25,
        jitter=False,
        on_crash=False,
        max_time=120.0,
    )
    assert resolved.origins["retry.max_attempts"] == "argument"
    assert resolved.origins["retry.jitter"] == "environment variable TASKRUN_RETRY__JITTER"
    assert resolved.origins["retry.on"] == f"{sources.project}, key retry.on"
    assert resolved.origins["retry.wait"] == f"{sources.user}, key retry.wait"
    assert "argument" in resolved.origins["retry"]
    assert str(sources.user) in resolved.origins["retry"]


def test_a_whole_policy_hides_weaker_sources_and_stronger_keys_change_it(sources: Sources) -> None:
    sources.write(sources.project, "[retry]\nmax_attempts = 5\njitter = false\n")
    assert resolve({"retry": Retry(max_attempts=2)}).settings["retry"] == Retry(max_attempts=2)
    assert resolve({"retry": 7}).settings["retry"] == Retry(max_attempts=7)
    with using(retry=Retry(max_attempts=2, initial=3)):
        merged = resolve({"retry": {"max_attempts": 4}}).settings["retry"]
    assert merged == Retry(max_attempts=4, initial=3)


def test_each_key_of_a_retry_variable_is_read_in_its_type(sources: Sources) -> None:
    sources.setenv(
        TASKRUN_RETRY__MAX_ATTEMPTS="none",
        TASKRUN_RETRY__ON="OSError, ValueError",
        TASKRUN_RETRY__WAIT="linear",
        TASKRUN_RETRY__INITIAL="2",
        TASKRUN_RETRY__ON_TIMEOUT="1",
    )
    assert resolve({}).settings["retry"] == Retry(
        max_attempts=None, on=("OSError", "ValueError"), wait="linear", initial=2.0, on_timeout=True
    )


def test_env_merges_name_by_name(sources: Sources) -> None:
    sources.write(sources.project, '[env]\nA = "file"\nB = 2\n')
    sources.setenv(TASKRUN_ENV__A="variable")
    assert resolve({"env": {"C": "argument"}}).settings["env"] == {"A": "variable", "B": "2", "C": "argument"}


def test_what_is_resolved_can_be_changed_without_harm(sources: Sources) -> None:
    sources.write(sources.project, '[env]\nA = "1"\n')
    resolve({}).settings["env"]["A"] = "changed"
    assert resolve({}).settings["env"] == {"A": "1"}


# -- profiles ------------------------------------------------------------------------------------------------------------------

PROFILES = 'profile = "small"\n[profiles.small]\nmax_workers = 1\n[profiles.big]\nmax_workers = 64\nbackend = "dusk"\n'


def test_the_profile_is_chosen_by_argument_using_variable_and_file_in_this_order(sources: Sources) -> None:
    names = ["file", "variable", "using", "argument"]
    sources.write(
        sources.project,
        'profile = "file"\n' + "".join(f"[profiles.{n}]\nmax_workers = {i + 1}\n" for i, n in enumerate(names)),
    )
    assert resolve({}).settings["max_workers"] == 1
    sources.setenv(TASKRUN_PROFILE="variable")
    assert resolve({}).settings["max_workers"] == 2
    with using(profile="using"):
        assert resolve({}).settings["max_workers"] == 3
        assert resolve({}, profile="argument").settings["max_workers"] == 4
        resolved = resolve({"profile": "argument"})
    assert (resolved.settings["max_workers"], resolved.settings["profile"]) == (4, "argument")
    assert resolved.origins["profile"] == "argument"


def test_an_unknown_profile_lists_the_known_ones(sources: Sources) -> None:
    sources.write(sources.project, PROFILES)
    text = mistakes_of(lambda: resolve({}, profile="bigg"))
    assert "unknown profile 'bigg'" in text
    assert 'Did you mean "big"?' in text
    assert "allowed: big, small" in text


def test_an_unknown_profile_without_any_file_says_so(sources: Sources) -> None:
    sources.setenv(TASKRUN_PROFILE="big")
    text = mistakes_of(lambda: resolve({}))
    assert text.startswith("environment variable TASKRUN_PROFILE: unknown profile 'big'")
    assert "no configuration file was found" in text


def test_a_backend_that_is_not_here_matters_only_in_the_chosen_profile(sources: Sources) -> None:
    sources.write(sources.project, PROFILES)
    assert resolve({}).settings["backend"] == "process"
    with pytest.raises(UnknownBackendError, match=r"key profiles\.big\.backend"):
        resolve({}, profile="big")
    assert resolve({"backend": "thread"}, profile="big").settings["max_workers"] == 64


# -- mistakes ------------------------------------------------------------------------------------------------------------------


def test_all_mistakes_of_all_sources_are_told_at_once(sources: Sources) -> None:
    sources.write(
        sources.project,
        'max_workers = 0\ntimeout = "soon"\nmax_worker = 3\n[retry]\nmax_attempts = -1\n[profiles.other]\nstrict = "yes"\n',
    )
    sources.write(sources.user, "seed = 1.5\n")
    sources.setenv(TASKRUN_MAX_PENDING="few", TASKRUN_BAKEND="thread", TASKRUN_RETRY__JITTER="perhaps")
    text = mistakes_of(lambda: resolve({"max_memory_per_child": "lots"}, profile="none-such"))
    for expected in (
        "11 mistakes in the configuration:",
        "argument max_memory_per_child: max_memory_per_child is no size: 'lots' (str); allowed: bytes as a whole number",
        "environment variable TASKRUN_MAX_PENDING: max_pending must be an integer, not 'few' (str)",
        "environment variable TASKRUN_BAKEND: unknown option 'bakend'. Did you mean \"backend\"?",
        "environment variable TASKRUN_RETRY__JITTER: retry.jitter is 'perhaps'; allowed: True or False",
        f"{sources.project}, key max_workers: max_workers must be greater than 0, not 0; allowed: a whole number of at",
        f"{sources.project}, key timeout: timeout is no duration: 'soon' (str); allowed: seconds as a number",
        f"{sources.project}, key max_worker: unknown option 'max_worker'. Did you mean \"max_workers\"?",
        f"{sources.project}, key retry: retry.max_attempts is -1; allowed: a whole number of at least 1",
        f"{sources.project}, key profiles.other.strict: strict must be true or false, not 'yes' (str)",
        f"{sources.user}, key seed: seed must be an integer, not 1.5; allowed: a whole number",
        "unknown profile 'none-such'",
    ):
        assert expected in text


def test_quotes_are_blamed_only_where_they_are_to_blame(sources: Sources) -> None:
    sources.write(sources.project, 'seed = "1.5"\nstrict = "1"\n')
    sources.setenv(TASKRUN_MAX_WORKERS="2.5")
    assert "(write it without quotes)" not in mistakes_of(describe)
    sources.write(sources.project, 'seed = "15"\nstrict = "true"\n')
    assert mistakes_of(describe).count("(write it without quotes)") == 2


def test_max_workers_of_zero_has_the_standard_words_from_every_source(sources: Sources) -> None:
    words = "max_workers must be greater than 0"
    assert words in mistakes_of(lambda: resolve({"max_workers": 0}))
    assert words in mistakes_of(lambda: using(max_workers=-5))
    sources.setenv(TASKRUN_MAX_WORKERS="0")
    assert words in mistakes_of(lambda: resolve({}))


def test_an_unknown_backend_is_an_error_of_its_own_class(sources: Sources) -> None:
    with pytest.raises(UnknownBackendError, match='Did you mean "thread"'):
        resolve({"backend": "thred"})
    sources.setenv(TASKRUN_BACKEND="thred")
    with pytest.raises(UnknownBackendError, match="environment variable TASKRUN_BACKEND"):
        resolve({})


def test_an_unknown_backend_is_told_with_the_other_mistakes(sources: Sources) -> None:
    text = mistakes_of(lambda: resolve({"backend": "thred", "max_workers": 0}))
    assert "unknown backend 'thred'" in text
    assert "max_workers must be greater than 0" in text


def test_a_misspelt_argument_is_an_unsupported_option(sources: Sources) -> None:
    with pytest.raises(UnsupportedOptionError, match=r'argument max_worker: unknown option .* Did you mean "max_workers"'):
        resolve({"max_worker": 3})


def test_an_argument_of_the_wrong_kind_is_a_type_error_that_tells_the_rest_too(sources: Sources) -> None:
    sources.setenv(TASKRUN_SEED="x")
    with pytest.raises(TypeError, match="initializer must be a callable") as caught:
        resolve({"initializer": 3})
    assert "TASKRUN_SEED" in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("TASKRUN_INITARGS", "[1]", "initargs cannot be set by one environment variable; write it in a file or in code"),
        ("TASKRUN_ENV", "A=1", "set its keys: TASKRUN_ENV__NAME"),
        ("TASKRUN_TIMEOUT__X", "1", "timeout is no table, it has no key 'X'; set TASKRUN_TIMEOUT"),
        ("TASKRUN_RETRY__ATTEMPTS", "1", 'Did you mean "max_attempts"?'),
        ("TASKRUN_STRICT", "perhaps", "strict must be true or false, not 'perhaps'"),
        ("TASKRUN_INITIALIZER", "start", 'must be written as "module:function"'),
    ],
)
def test_mistakes_in_variables(sources: Sources, variable: str, value: str, words: str) -> None:
    sources.setenv(**{variable: value})
    text = mistakes_of(lambda: resolve({}))
    assert text.startswith(f"environment variable {variable}: ")
    assert words in text


# -- using ---------------------------------------------------------------------------------------------------------------------


def test_using_is_over_when_the_block_is_also_after_an_error(sources: Sources) -> None:
    with pytest.raises(KeyError), using(backend="thread"):
        raise KeyError
    assert resolve({}).origins["backend"] == "default"


def test_using_refuses_mistakes_before_the_block_begins(sources: Sources) -> None:
    with pytest.raises(UnknownBackendError):
        using(backend="thred")
    text = mistakes_of(lambda: using(timeout="soon", max_worker=1))
    assert "taskrun.using(timeout=...)" in text
    assert "taskrun.using(max_worker=...)" in text
    assert resolve({}).origins["timeout"] == "default"


def test_using_holds_in_its_own_thread_only(sources: Sources) -> None:
    seen: list[Any] = []
    with using(max_workers=7):
        thread = threading.Thread(target=lambda: seen.append(resolve({}).settings["max_workers"]))
        thread.start()
        thread.join()
    # From 3.14 on threads may inherit the context; this project's Pythons do not.
    assert seen == [None]


def test_using_keeps_to_its_asyncio_task(sources: Sources) -> None:
    async def one(count: int, barrier: asyncio.Barrier) -> Any:
        with using(max_workers=count):
            await barrier.wait()
            return resolve({}).settings["max_workers"]

    async def both() -> list[Any]:
        barrier = asyncio.Barrier(2)
        return list(await asyncio.gather(one(3, barrier), one(4, barrier)))

    assert asyncio.run(both()) == [3, 4]


# -- backend options -----------------------------------------------------------------------------------------------------------


class Fast(Backend):
    name = "fast"
    option_names: ClassVar[dict[str, str]] = {"speed": "how fast"}  # type: ignore[misc]


def test_a_backends_own_options_are_taken_from_every_source(sources: Sources) -> None:
    sources.write(sources.project, "speed = 3\n")
    assert options_for(Fast, resolve({})) == {"speed": 3}
    assert options_for(Fast, resolve({"speed": 4})) == {"speed": 4}


def test_options_that_nobody_knows_are_errors_told_together(sources: Sources) -> None:
    sources.write(sources.project, "speeed = 3\nbackend = 'thread'\n")
    sources.setenv(TASKRUN_COLOUR="red")
    with pytest.raises(UnsupportedOptionError) as caught:
        options_for(Fast, resolve({}))
    text = str(caught.value)
    assert f"{sources.project}, key speeed: unknown option 'speeed'; backend 'fast' has no such option" in text
    assert 'Did you mean "speed"?' in text
    assert "environment variable TASKRUN_COLOUR: unknown option 'colour'" in text


def test_an_option_written_for_an_overruled_backend_is_warned_of(sources: Sources) -> None:
    sources.write(sources.project, "backend = 'process'\ngear = 3\n")
    sources.setenv(TASKRUN_BACKEND="thread")
    with pytest.warns(UnsupportedOptionWarning, match=r"taskrun\.toml, key gear.*'fast'.*'gear'"):
        assert options_for(Fast, resolve({})) == {}
    with pytest.raises(UnsupportedOptionError, match="gear"):
        options_for(Fast, resolve({"strict": True}))


def test_the_standard_executors_synonyms_are_warned_of_where_they_do_nothing(sources: Sources) -> None:
    with pytest.warns(UnsupportedOptionWarning, match="thread_name_prefix"):
        assert options_for(Fast, resolve({"thread_name_prefix": "x"})) == {}


def test_the_warning_points_at_the_users_code_and_comes_once_for_each_place() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            report_unsupported("gear", "fast", "argument", strict=False)
    assert [warning.filename for warning in caught] == [__file__]


# -- functions named in files --------------------------------------------------------------------------------------------------


def test_an_object_is_imported_by_its_name() -> None:
    assert import_object("os.path:join", "initializer", "here") is os.path.join
    assert import_object("pathlib:Path.cwd", "initializer", "here")() == Path.cwd()


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("no_such_module:start", "there is no module 'no_such_module' on sys.path"),
        ("os:no_such_thing", "os has no 'no_such_thing'"),
        ("os.path:jion", 'Did you mean "join"?'),
        ("just_a_name", "not of this form"),
        ("broken_module:start", "importing broken_module failed with ZeroDivisionError: division by zero"),
        ("needy_module:start", "importing needy_module failed: No module named 'not_there_at_all'"),
    ],
)
def test_what_cannot_be_imported_is_told_with_setting_and_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, words: str
) -> None:
    (tmp_path / "broken_module.py").write_text("1 / 0")
    (tmp_path / "needy_module.py").write_text("import not_there_at_all")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = mistakes_of(lambda: import_object(reference, "finalizer", "/p/taskrun.toml, key finalizer"))
    assert words in text
    assert text.startswith(f"/p/taskrun.toml, key finalizer: finalizer is '{reference}'")


# -- describing ----------------------------------------------------------------------------------------------------------------


def test_describe_lists_every_setting_with_value_origin_and_meaning(sources: Sources) -> None:
    sources.write(sources.project, 'max_workers = 8\nstart_method = "spawn"\n[retry]\nmax_attempts = 5\n[env]\nA = "1"\n')
    rows = {row.name: row for row in describe()}
    assert set(SETTINGS) <= set(rows)
    assert (rows["max_workers"].value, rows["max_workers"].origin) == (8, f"{sources.project}, key max_workers")
    assert rows["timeout"].origin == "default"
    assert (rows["retry.max_attempts"].value, rows["env.A"].value, rows["start_method"].value) == (5, "1", "spawn")
    assert all(row.doc for row in rows.values())


def test_describe_takes_a_profile(sources: Sources) -> None:
    sources.write(sources.project, "[profiles.big]\nmax_workers = 64\n")
    assert {row.name: row.value for row in describe("big")}["max_workers"] == 64


# -- cost ----------------------------------------------------------------------------------------------------------------------


def test_reading_a_configuration_imports_nothing_that_it_names(sources: Sources) -> None:
    (sources.work / "trap.py").write_text("raise SystemExit('imported')")
    sources.write(sources.project, 'initializer = "trap:start"\ncontext_vars = ["trap:var"]\n[retry]\non = "trap.Oops"\n')
    root = str(Path(config.__file__).parents[1])
    code = (
        f"import sys; sys.path[:0] = ['.', {root!r}]; from taskrun.config import describe; describe();"
        "heavy = 'trap multiprocessing asyncio sqlite3 tenacity structlog cloudpickle click rich importlib.metadata';"
        "print([name for name in heavy.split() if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"


def test_resolving_again_takes_less_than_a_millisecond(sources: Sources) -> None:
    sources.write(sources.project, PROFILES + "[retry]\nmax_attempts = 5\n")
    sources.write(sources.user, 'timeout = "30s"\n')
    resolve({})
    best = 1.0
    for _ in range(20):
        began = time.perf_counter()
        resolve({"max_workers": 2})
        best = min(best, time.perf_counter() - began)
    assert best < 0.001


def test_an_option_of_no_backend_is_told_together_with_all_else(sources: Sources) -> None:
    sources.write(sources.project, 'max_workers = "8"\nbogus_thing = 3\n')
    for call in (resolve_all, describe, taskrun.Executor):
        text = mistakes_of(call)
        assert "key max_workers" in text
        assert "key bogus_thing" in text
    sources.write(sources.project, "bogus_thing = 3\n")
    for call in (describe, taskrun.Executor):
        assert "key bogus_thing: unknown option" in mistakes_of(call)


def resolve_all() -> object:
    return resolve({})


@pytest.mark.parametrize(
    ("backend", "line", "told"),
    [
        ("process", 'start_method = "forky"', "start_method='forky' is unknown; allowed: forkserver, spawn, fork"),
        ("pool", 'mp_context = "forky"', "mp_context='forky' is unknown; allowed: forkserver, spawn, fork"),
        ("serial", 'check_pickle = "yes"', "check_pickle must be True or False, not 'yes'"),
    ],
)
def test_a_wrong_option_of_the_backend_is_told_with_the_other_mistakes(
    sources: Sources, backend: str, line: str, told: str
) -> None:
    sources.write(sources.project, f'backend = "{backend}"\n{line}\n')
    assert f"{sources.project}, key {line.split()[0]}: {told}" in mistakes_of(describe)
    sources.write(sources.project, f'backend = "{backend}"\n{line}\nmax_workers = 0\nfoo = 3\n')
    for call in (describe, taskrun.Executor):
        text = mistakes_of(call)
        assert "3 mistakes in the configuration:" in text
        assert f"{sources.project}, key {line.split()[0]}: {told}" in text


def test_all_variables_that_cannot_be_are_told_at_once(sources: Sources) -> None:
    sources.write(sources.project, '[env]\nA = [1]\n"B=C" = "x"\n')
    text = mistakes_of(describe)
    assert "env.A must be a string" in text
    assert "'B=C' (str), which cannot be the name of a variable" in text


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('start_method = "bogus"', "start_method='bogus' is unknown"),
        ('mp_context = "x"', "mp_context='x' is unknown"),
        ('context_vars = ["os:nope"]', "'os:nope' cannot be found"),
        ("cpu_affinity = [99999]", "CPUs that this process may not use: 99999"),
        ('initializer = "os:environ"', "which cannot be called"),
        ('finalizer = "os:path"', "which cannot be called"),
    ],
)
def test_what_only_the_backend_can_tell_names_its_origin_too(sources: Sources, line: str, told: str) -> None:
    sources.write(sources.project, f'backend = "process"\n{line}\n')
    with pytest.raises(taskrun.ConfigError) as caught:
        taskrun.Executor()
    text = str(caught.value)
    assert text.startswith(f"{sources.project}, key {line.split()[0]}: ")
    assert told in text
    assert "allowed: " in text


def test_a_capability_that_a_file_requires_in_vain_names_the_file(sources: Sources) -> None:
    sources.write(sources.project, 'backend = "serial"\nrequire = ["kill"]\n')
    with pytest.raises(taskrun.UnsupportedOptionError, match=r"key require: backend 'serial' lacks .*kill"):
        taskrun.Executor()


def test_the_search_ends_at_the_home_directory_under_whichever_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    (real / "work").mkdir(parents=True)
    link.symlink_to(real)
    (tmp_path / "taskrun.toml").write_text("max_workers = 7\n")
    monkeypatch.setenv("HOME", str(link))
    for folder in (real / "work", link / "work"):
        assert find_project_file(str(folder)) is None
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    found = find_project_file(str(real / "work"))
    assert found is not None


def test_the_variable_that_names_an_unreadable_file_is_told(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKRUN_CONFIG", str(tmp_path))
    assert f"environment variable TASKRUN_CONFIG: {tmp_path}: this is a directory" in mistakes_of(resolve_all)


class SameName:
    """Two of them look the same and are not."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "<SameName>"

    def __call__(self, *_: object) -> None: ...


class Unhashable(SameName):
    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("kind", [SameName, Unhashable])
def test_the_shared_executor_is_told_apart_by_values_not_by_how_they_look(sources: Sources, kind: type[SameName]) -> None:
    one, two = kind(1), kind(2)
    made = []
    for initializer in (one, two, one):
        with taskrun.using(backend="serial", initializer=initializer, initargs=([1], {"a": 1})):
            made.append(taskrun.get_executor())
    assert made[0] is made[2] is not made[1]
