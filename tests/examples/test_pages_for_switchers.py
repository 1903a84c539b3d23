"""The pages for those who come from the standard library: old programs and new ones print what the page says they print.

On a page "```python new=NAME" holds the file of that name in the page's folder of examples, "```python old=NAME" before it what
it replaces, and "```text" after it what both print. "needs=primitives", "needs=concurrent" after the name: a backend on which
tasks can be passed all primitives, and one on which, besides, they run beside the caller.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest
from programs.running import EVERY_BACKEND, ROOT, program_in

from taskrun.plugins import describe_backends

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from programs.running import Program

DOCS = ROOT / "docs"
PAGES = {"from-multiprocessing": "from_multiprocessing", "from-concurrent-futures": "from_concurrent_futures"}


class Example(NamedTuple):
    old: str
    new: str
    prints: str
    needs: str = ""


def examples(page: str) -> dict[str, Example]:
    text = (DOCS / "how-to" / f"{page}.md").read_text()
    blocks = re.findall(r"^```(\w+)(?: (old|new)=(\w+)(?: needs=(\w+))?)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    found: dict[str, dict[str, str]] = {}
    name = ""
    for language, what, named, needs, code in blocks:
        if what:
            name = named
            found.setdefault(name, {})[what] = code
            if needs:
                found[name]["needs"] = needs
        elif language == "text":
            found[name]["prints"] = code
    return {name: Example(**parts) for name, parts in found.items()}


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    yield from program_in(tmp_path)


@pytest.mark.parametrize(("page", "folder"), PAGES.items())
def test_the_page_shows_every_file_of_its_folder_as_it_is(page: str, folder: str) -> None:
    files = {file.stem: file.read_text() for file in (DOCS / "examples" / folder).glob("*.py")}
    assert {name: example.new for name, example in examples(page).items()} == files
    assert len(files) >= 6


EXAMPLES = [pytest.param(page, name, id=name) for page in PAGES for name in examples(page)]


@pytest.mark.parametrize(("page", "name"), EXAMPLES)
def test_an_old_program_prints_what_the_page_says(program: Program, page: str, name: str) -> None:
    example = examples(page)[name]
    # Not with warnings as errors: the original forks while it has threads, of which Python 3.12 warns.
    command = [sys.executable, program.write(f"{name}.py", example.old)]
    process = subprocess.Popen(
        command, cwd=program.directory, env=program.env, stdout=subprocess.PIPE, text=True, process_group=0
    )
    program.started.append(process)
    assert program.end(process)[:2] == (0, example.prints)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_the_new_programs_print_the_same_on_every_backend_that_can(program: Program, backend: str) -> None:
    (able,) = [info.cls.capabilities for info in describe_backends() if info.name == backend and info.cls]
    expected = {}
    for page, folder in PAGES.items():
        for name, example in examples(page).items():
            if not example.needs or (able.primitives == "yes" and (able.concurrent or example.needs != "concurrent")):
                expected[str(DOCS / "examples" / folder / f"{name}.py")] = example.prints
    runner = str(ROOT / "tests" / "examples" / "one_after_another.py")
    status, out, err = program.end(program.start(runner, *expected, env={"TASKRUN_BACKEND": backend}))
    # Of Python 3.12.0 and 3.12.1, where the collector finds a lock of the example before while another one is registered.
    if "ResourceTracker called reentrantly" not in err:
        assert err == ""
    assert status == 0
    assert json.loads(out) == expected
