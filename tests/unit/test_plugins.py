"""The registry, with real distributions: a module and a `.dist-info` directory on sys.path."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

import taskrun
from taskrun import plugins
from taskrun.backends.base import Backend
from taskrun.errors import BackendUnavailableError, ConfigError, UnknownBackendError
from taskrun.plugins import BUILTIN, PLUGINS, describe_backends, known_backends, load_backend

if TYPE_CHECKING:
    from pathlib import Path

Install = Callable[..., None]

GOOD = """
from taskrun.backends.base import Backend, Capabilities

class {cls}(Backend):
    name = "{name}"
    capabilities = Capabilities()
    option_names = {{"speed": "how fast"}}
    def start(self, scheduler, settings): ...
    def wake(self): ...
    def stop(self, task, error, cause): return False
    def shutdown(self): ...
    def abort(self, *, force): ...
    def join(self, timeout=None): return True
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Return a function that installs a distribution with the given modules and entry points."""
    count = 0

    def install(distribution: str, entries: str, **modules: str) -> None:
        nonlocal count
        count += 1
        site = tmp_path / f"site{count}"
        info = site / f"{distribution.replace('-', '_')}-1.5.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(f"[taskrun.backends]\n{entries}\n")
        for name, code in modules.items():
            (site / f"{name}.py").write_text(code)
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(str(site))

    before = set(sys.modules)
    yield install
    for name in set(sys.modules) - before:
        if name.startswith("plug"):
            del sys.modules[name]


def good(name: str, cls: str = "Good") -> str:
    return GOOD.format(name=name, cls=cls)


def problem_of(name: str) -> str:
    (info,) = [info for info in describe_backends() if info.name == name]
    assert info.problem is not None
    return info.problem


def test_a_plugin_is_loaded_by_its_entry_name(install: Install) -> None:
    install("fast-lane", "lane = plug_lane:Good", plug_lane=good("lane"))
    cls = load_backend("lane")
    assert issubclass(cls, Backend)
    assert cls.name == "lane"
    assert "lane" in known_backends()
    (info,) = [info for info in describe_backends() if info.name == "lane"]
    assert info.cls is cls
    assert info.problem is None
    assert info.source == "fast-lane 1.5 (plug_lane:Good)"


def test_a_plugin_installed_later_is_found(install: Install) -> None:
    with pytest.raises(UnknownBackendError):
        load_backend("later")
    install("later-dist", "later = plug_later:Good", plug_later=good("later"))
    assert load_backend("later").name == "later"


def test_listing_and_loading_one_plugin_import_no_other(install: Install) -> None:
    install("lane-one", "one = plug_one:Good", plug_one=good("one"))
    install("lane-two", "two = plug_two:Good", plug_two="raise SystemExit('must not be imported')")
    assert {"one", "two"} <= set(known_backends())
    assert "plug_one" not in sys.modules
    load_backend("one")
    assert "plug_two" not in sys.modules


def test_built_in_names_come_first_and_in_order() -> None:
    assert known_backends()[: len(BUILTIN)] == list(BUILTIN)


def test_an_unknown_name_lists_the_known_ones_and_suggests(install: Install) -> None:
    install("fast-lane", "lane = plug_lane:Good", plug_lane=good("lane"))
    with pytest.raises(UnknownBackendError) as caught:
        load_backend("proces", origin="environment variable TASKRUN_BACKEND")
    text = str(caught.value)
    assert 'Did you mean "process"?' in text
    assert "environment variable TASKRUN_BACKEND" in text
    for name in (*BUILTIN, "lane"):
        assert name in text


@pytest.mark.parametrize(
    ("name", "entry", "code", "words"),
    [
        ("odd", "odd = plug_odd:Odd", "class Odd: ...", "no subclass of taskrun.backends.Backend"),
        ("odd", "odd = plug_odd:Odd", "Odd = 3", "no subclass of taskrun.backends.Backend but 3"),
        ("odd", "odd = plug_odd:Missing", "class Odd: ...", "there is no such class"),
        ("odd", "odd = plug_odd", "", 'must be written as "module:class"'),
        ("odd", "odd = plug_gone:Odd", "", "there is no module 'plug_gone'; reinstall odd-dist"),
        ("odd", "odd = plug_odd:Good", good("other"), "the entry's name is 'odd' but plug_odd.Good.name is 'other'"),
        ("odd", "odd = plug_odd:Good", good("odd").replace("def join", "def joint"), "lacks the methods join"),
        ("odd", "odd = plug_odd:Good", good("odd").replace('{"speed": "how fast"}', "3"), "option_names must map"),
        ("odd", "odd = plug_odd:Good", "1 / 0", "importing it failed with ZeroDivisionError"),
        ("odd", "odd = plug_odd:Good", "def", "importing it failed with SyntaxError"),
        ("odd", "odd = plug_odd:Good", "raise SystemExit(4)", "importing it failed with SystemExit: 4"),
    ],
)
def test_a_bad_registration_names_both_sides_and_hurts_only_itself(
    install: Install, name: str, entry: str, code: str, words: str
) -> None:
    install("fast-lane", "lane = plug_lane:Good", plug_lane=good("lane"))
    install("odd-dist", entry, plug_odd=code)
    with pytest.raises(ConfigError) as caught:
        load_backend(name)
    text = str(caught.value)
    assert words in text
    assert "backend 'odd'" in text
    assert "odd-dist 1.5" in text
    assert words in problem_of("odd")
    assert load_backend("lane").name == "lane"


def test_two_distributions_with_one_name_are_both_named(install: Install) -> None:
    install("first-dist", "twin = plug_first:Good", plug_first=good("twin"))
    install("second-dist", "twin = plug_second:Good", plug_second=good("twin"))
    with pytest.raises(ConfigError) as caught:
        load_backend("twin")
    assert "first-dist 1.5" in str(caught.value)
    assert "second-dist 1.5" in str(caught.value)
    twins = [info for info in describe_backends() if info.name == "twin"]
    assert len(twins) == 2
    assert all(info.cls is None and "registered more than once" in (info.problem or "") for info in twins)


def test_the_same_distribution_found_twice_on_the_path_counts_once(install: Install) -> None:
    install("again-dist", "again = plug_again:Good", plug_again=good("again"))
    install("again-dist", "again = plug_again:Good", plug_again=good("again"))
    assert load_backend("again").name == "again"


def test_a_built_in_name_stays_the_built_in_backend_and_the_pretender_is_shown(install: Install) -> None:
    install("thief-dist", "thread = plug_thief:Good", plug_thief=good("thread"))
    assert load_backend("thread").__module__ == "taskrun.backends.thread"
    rows = [info for info in describe_backends() if info.name == "thread"]
    assert [info.source for info in rows] == ["taskrun", "thief-dist 1.5 (plug_thief:Good)"]
    assert rows[0].problem is None
    assert "taskrun.backends.thread:ThreadBackend" in (rows[1].problem or "")
    assert "plug_thief" not in sys.modules


def test_a_missing_package_says_what_to_install(install: Install) -> None:
    install("cluster-dist", "cluster = plug_cluster:Good", plug_cluster="import plugs_missing_part.sub\n")
    with pytest.raises(BackendUnavailableError) as caught:
        load_backend("cluster", origin="argument")
    assert caught.value.backend == "cluster"
    assert caught.value.missing == "plugs_missing_part"
    assert caught.value.install == "pip install plugs_missing_part"
    assert "pip install plugs_missing_part" in str(caught.value)
    assert not isinstance(caught.value, ConfigError)
    assert "pip install plugs_missing_part" in problem_of("cluster")


def test_what_unavailable_says_is_the_message_and_the_class_is_still_described(install: Install) -> None:
    code = good("soon") + "    @classmethod\n    def unavailable(cls): return 'needs Python 3.99; get it from python.org'\n"
    install("soon-dist", "soon = plug_soon:Good", plug_soon=code)
    with pytest.raises(BackendUnavailableError, match=r"needs Python 3\.99; get it from python\.org"):
        load_backend("soon")
    (info,) = [info for info in describe_backends() if info.name == "soon"]
    assert info.cls is not None
    assert "3.99" in (info.problem or "")


def test_a_failing_unavailable_is_that_backends_fault_alone(install: Install) -> None:
    code = good("grim") + "    @classmethod\n    def unavailable(cls): raise RuntimeError('grim news')\n"
    install("grim-dist", "grim = plug_grim:Good", plug_grim=code)
    with pytest.raises(ConfigError, match="grim news"):
        load_backend("grim")
    assert "grim news" in problem_of("grim")


def test_damaged_metadata_of_one_distribution_leaves_the_others(install: Install, tmp_path: Path) -> None:
    install("fast-lane", "lane = plug_lane:Good", plug_lane=good("lane"))
    install("torn-dist", "torn = plug_torn:Good")
    (entry_points,) = tmp_path.glob("*/torn_dist-1.5.dist-info/entry_points.txt")
    entry_points.write_bytes(b"[taskrun.backends]\n\xff\xfe = \xff")
    sys.path.append(str(tmp_path))  # another path: the registry looks again
    try:
        assert load_backend("lane").name == "lane"
    finally:
        sys.path.remove(str(tmp_path))


def test_extras_in_an_entry_point_are_no_part_of_the_class(install: Install) -> None:
    install("extra-dist", "extra = plug_extra:Good [fast]", plug_extra=good("extra"))
    assert load_backend("extra").name == "extra"


def test_asking_for_a_built_in_backend_reads_no_metadata() -> None:
    code = (
        "import sys; from taskrun.plugins import load_backend; load_backend('serial');"
        "print([name for name in ('importlib.metadata', 'multiprocessing', 'asyncio') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_of_ours_that_is_not_installed_is_known(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_registered", dict)
    with pytest.raises(BackendUnavailableError, match=f"pip install {PLUGINS[name]}") as caught:
        load_backend(name, origin="TASKRUN_BACKEND")
    assert "TASKRUN_BACKEND" in str(caught.value)
    assert (caught.value.backend, caught.value.install) == (name, f"pip install {PLUGINS[name]}")
    assert name in known_backends()
    assert "pip install" in problem_of(name)


def test_a_plugin_of_ours_that_is_installed_is_listed_once(install: Install) -> None:
    install("taskrun-dask", "dask = plug_dask:Good", plug_dask=good("dask"))
    assert load_backend("dask").name == "dask"
    assert known_backends().count("dask") == 1
    assert [info.problem for info in describe_backends() if info.name == "dask"] == [None]


@pytest.mark.parametrize("wrong", ["{'kill': 'yes'}", "Capabilities"])
def test_capabilities_of_another_type_are_a_bad_registration(install: Install, wrong: str) -> None:
    install("no-say", "nosay = plug_nosay:Good", plug_nosay=good("nosay").replace("Capabilities()", wrong))
    with pytest.raises(ConfigError, match=r"plug_nosay\.Good\.capabilities must be taskrun\.backends\.Capabilities"):
        load_backend("nosay")


def test_a_backend_that_does_not_say_what_it_can_do_is_refused_when_it_is_used(install: Install) -> None:
    silent = good("silent").replace("    capabilities = Capabilities()\n", "")
    install("no-word", "silent = plug_silent:Good", plug_silent=silent)
    with pytest.raises(ConfigError, match=r"plug_silent\.Good\.capabilities must be .*set by the class or in configure"):
        taskrun.Executor("silent")
