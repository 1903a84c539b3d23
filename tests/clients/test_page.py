"""The programs of docs/how-to/use-with-other-libraries.md, run as they stand there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from libraries import library
from programs.running import ROOT, program_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from programs.running import Program

PAGE = ROOT / "docs" / "how-to" / "use-with-other-libraries.md"
PROGRAMS = dict(re.findall(r"^```python file=(\S+)\.py\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL))

REFUSED = "HTTPConnectionPool(host='127.0.0.1', port=1): Max retries exceeded with url: /{} (Caused by "
SMALL = {
    "with_asyncio": ["[0, 2, 4]", "6"],
    "with_tornado": ["3", "8"],
    "with_tqdm": ["9900", "9900"],
    "with_apscheduler": ["6"],
    "with_requests": [REFUSED.format("a"), REFUSED.format("b")],
    "with_more_executors": ["1025"],
    "with_joblib": ["[0, 1, 4, 9, 16]"],
}
LARGE = {
    "with_dask": ("dask", ["([0, 2, 4],)", "12"]),
    "with_scipy": ("scipy", ["[1. 1.]"]),
    "with_numpy": ("numpy", ["[-2. -1.  0.  1.  2.] [0. 1. 2. 3. 4.]"]),
}


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    yield from program_in(tmp_path)


def test_every_program_of_the_page_is_here() -> None:
    assert set(PROGRAMS) == {*SMALL, *LARGE}


def test_the_programs_print_what_they_should(program: Program) -> None:
    started = {name: program.start(program.write(f"{name}.py", PROGRAMS[name])) for name in SMALL}  # at once: it saves time
    for name, process in started.items():
        check(program.end(process), SMALL[name], name)


@pytest.mark.parametrize("name", LARGE)
def test_a_program_with_a_large_library_prints_what_it_should(program: Program, name: str) -> None:
    needed, lines = LARGE[name]
    library(needed)
    check(program.run(PROGRAMS[name]), lines, name)


def check(ended: tuple[int, str, str], lines: list[str], name: str) -> None:
    status, out, err = ended
    assert status == 0, err
    assert len(out.splitlines()) == len(lines), out
    assert all(said.startswith(line) for said, line in zip(out.splitlines(), lines, strict=True)), out
    assert name != "with_tqdm" or "100/100" in err
