"""What the documentation takes from the code is what the code says, on every machine."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from taskrun.backends.base import Capabilities
from taskrun.backends.thread import ThreadBackend
from taskrun.cli.capabilities import as_markdown, explanations
from taskrun.plugins import BUILTIN, BackendInfo, describe_backends

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_backends_is_what_the_code_says(generate):
    page = generate.PAGE.read_text(encoding="utf-8")
    assert generate.renewed(page) == page, "the code has changed: run `make docs`"


def test_the_page_of_contexts_is_what_the_code_says(generate):
    page = generate.CONTEXTS.read_text(encoding="utf-8")
    assert generate.renewed(page, generate.contexts_as_markdown()) == page, "the code has changed: run `make docs`"


def test_what_a_context_has_is_looked_up_in_it(generate, monkeypatch):
    table = generate.contexts_as_markdown()
    monkeypatch.setattr(ThreadBackend, "capabilities", ThreadBackend.capabilities._replace(primitives="no"))
    changed = generate.contexts_as_markdown()
    cells = {row.split("|")[1].strip(): row.split("|")[3].strip() for row in changed.splitlines()}
    assert (cells["`Lock`"], cells["`Queue`"], cells["`Pool`"], cells["arguments of tasks"]) == ("-", "-", "yes", "no")
    assert changed != table


@pytest.mark.parametrize(
    "change",
    [
        {"capabilities": ThreadBackend.capabilities._replace(kill="no")},
        {"option_names": {"thread_name_prefix": "something else"}},
        {"task_option_names": {"colour": "str: of the thread"}},
    ],
)
def test_a_change_of_the_code_is_a_change_of_the_page_and_of_nothing_beside_it(generate, monkeypatch, change):
    page = generate.PAGE.read_text(encoding="utf-8")
    for name, value in change.items():
        monkeypatch.setattr(ThreadBackend, name, value)
    changed = generate.renewed(page)
    assert changed != page
    for mark, part in ((generate.START, 0), (generate.END, 2)):
        assert changed.partition(mark)[part] == page.partition(mark)[part]


@pytest.mark.parametrize("cut", ["{start}", "{end}", "{end}{start}", "{start}{start}{end}", "{start}{end}{end}"])
def test_a_page_without_its_marks_is_refused(generate, cut):
    with pytest.raises(ValueError, match="needs these two lines"):
        generate.renewed("# Backends\n" + cut.format(start=generate.START, end=generate.END))


def test_the_table_is_the_same_where_a_backend_is_not_usable_and_others_are_registered(monkeypatch):
    table = as_markdown(describe_backends())
    monkeypatch.setattr(ThreadBackend, "unavailable", classmethod(lambda cls: "threads; buy some"))
    here = describe_backends()
    assert next(info.problem for info in here if info.name == "thread") == "threads; buy some"
    assert as_markdown([*here, BackendInfo("lane", "fast-lane 1.5 (lane:Lane)", ThreadBackend, None)]) == table
    header = table.splitlines()[0]
    assert header == "| field | " + " | ".join(f"`{name}`" for name in BUILTIN) + " |"


def test_each_field_of_capabilities_is_explained():
    assert list(explanations()) == list(Capabilities._fields)
    assert all(explanations().values())


PAGES = sorted([*DOCS.rglob("*.md"), *DOCS.parent.glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_link_to_a_file_leads_to_one(page):
    linked = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    files = [target.partition("#")[0] for target in linked if "://" not in target and not target.startswith("#")]
    assert [target for target in files if not (page.parent / target).exists()] == []


def test_there_are_links_to_the_pages_of_backends():
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert "](docs/reference/backends.md)" in readme
    assert "](docs/explanation/choosing.md)" in readme


def test_what_markdown_reads_as_a_column_is_escaped(monkeypatch):
    monkeypatch.setattr(ThreadBackend, "option_names", {"pipe": 'str: "a|b",\n    or none'})
    assert r'| `thread` | `pipe` | `Executor(...)` | str: "a\|b", or none |' in as_markdown(describe_backends()).splitlines()


def test_each_promise_of_reliability_is_linked_to_faults_that_exist_and_each_fault_is_named():
    sys.path[:0] = [str(DOCS.parent / "tests" / "faults")]
    try:
        table = importlib.import_module("table")
        known = {f"{fault.theme}.{fault.name}" for theme in table.THEMES for fault in table.faults_of(theme)}
    finally:
        del sys.path[0]
    page = (DOCS / "reliability.md").read_text(encoding="utf-8")
    named = {name for name in re.findall(r"`(\w+\.\w+)`", page) if name.partition(".")[0] in table.THEMES}
    assert named == known


def test_the_example_of_injecting_faults_does_what_the_page_says():
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "how-to" / "inject-faults.md").read_text(encoding="utf-8"), re.DOTALL)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_the_architecture_tells_of_every_file():
    text = (DOCS / "architecture.md").read_text()
    package = DOCS.parent / "taskrun"
    files = [path.relative_to(package).with_suffix("") for path in package.rglob("*.py") if not path.stem.startswith("__")]
    missing = [str(file) for file in files if f"`{file.stem}`" not in text and f"`{file}`" not in text]
    assert len(files) > 100
    assert [file for file in missing if not file.startswith("testing/")] == []  # those are told of as a whole
