"""The backend of docs/how-to/write-a-backend.md, as a distribution of its own, with its test of a few lines."""

from __future__ import annotations

import json
import re
import tomllib
from typing import TYPE_CHECKING

import pytest
from running import ROOT

if TYPE_CHECKING:
    from running import Program

SUITE_PATIENCE = 200.0
"""Seconds for a whole conformance suite, which takes ten on a machine that has nothing else to do."""

PAGE = ROOT / "docs" / "how-to" / "write-a-backend.md"
FILES = dict(re.findall(r"^```\w+ file=(\S+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL))


@pytest.fixture
def installed(program: Program) -> Program:
    """Install what the page says as pip would: the module, and a `.dist-info` directory beside it."""
    project = tomllib.loads(FILES["pyproject.toml"])["project"]
    info = f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    program.write(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    entries = "".join(f"{name} = {value}\n" for name, value in project["entry-points"]["taskrun.backends"].items())
    program.write(f"{info}/entry_points.txt", f"[taskrun.backends]\n{entries}")
    program.write("taskrun_eager.py", FILES["taskrun_eager.py"])
    program.write("test_eager.py", FILES["test_eager.py"])
    program.env["PYTHONPATH"] += f":{program.directory}"
    return program


def test_a_program_that_uses_it_ends(installed: Program) -> None:
    """Python 3.12.0 to 3.12.2 give no threads at interpreter exit: what needs one is not done there, and says so to nobody."""
    code = """
import taskrun, time
def work(n):
    time.sleep(0.05)
    print(n, flush=True)
ex = taskrun.Executor("eager", max_workers=1)
for n in range(3): ex.submit(work, n)
"""
    assert "0\n1\n2\n".startswith(installed.prints(code))


def test_its_join_waits_no_longer_than_it_is_told(installed: Program) -> None:
    code = """
import taskrun, threading, time
go_on, together = threading.Event(), threading.Barrier(9)
def hold():
    together.wait()
    go_on.wait()
ex = taskrun.Executor("eager", max_workers=8)
for _ in range(8): ex.submit(hold)
together.wait()
began = time.monotonic()
gone = ex._backend.join(0.5)
print(gone, time.monotonic() - began < 3.5)
go_on.set()
ex.shutdown()
"""
    assert installed.prints(code) == "False True\n"


def test_it_is_found_by_its_name(installed: Program) -> None:
    code = "import taskrun\nwith taskrun.Executor(max_workers=3) as ex: print(ex.backend_name, *ex.map(abs, range(-3, 0)))"
    assert installed.prints(code, env={"TASKRUN_BACKEND": "eager"}) == "eager 3 2 1\n"
    status, out, _ = installed.end(installed.start("-m", "taskrun", "backends", "--json"))
    assert status == 0
    assert "eager" in {backend["name"] for backend in json.loads(out)}


@pytest.mark.timeout(SUITE_PATIENCE)
def test_it_keeps_what_tasks_promise(installed: Program) -> None:
    suite = installed.start("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_eager.py")
    status, out, err = installed.end(suite, patience=SUITE_PATIENCE)
    assert (status, err) == (0, ""), out
    assert int(re.search(r"(\d+) passed", out)[1]) >= 70  # type: ignore[index]
    assert "skipped" not in out
    assert len(FILES["test_eager.py"].splitlines()) <= 10


@pytest.mark.timeout(SUITE_PATIENCE)
@pytest.mark.parametrize(
    ("right", "wrong", "caught_by"),
    [
        ("self._room = settings.max_workers", "self._room = settings.max_workers + 1", "not_three"),
        ("shares_context = True", "shares_context = False", "submitters"),
        ("return False\n\n    def owns", "return True\n\n    def owns", "test_timeout_fails_the_future"),
    ],
)
def test_a_fault_in_it_is_found(installed: Program, right: str, wrong: str, caught_by: str) -> None:
    assert right in FILES["taskrun_eager.py"]
    installed.write("taskrun_eager.py", FILES["taskrun_eager.py"].replace(right, wrong))
    installed.write("test_eager.py", FILES["test_eager.py"] + "    patience = 2.0\n")
    suite = installed.start("-m", "pytest", "-q", "-x", "-k", caught_by, "test_eager.py")
    status, out, _ = installed.end(suite, patience=SUITE_PATIENCE)
    assert status == 1, out
