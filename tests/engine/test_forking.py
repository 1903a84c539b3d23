"""What other threads are in the middle of when a process is forked."""

from __future__ import annotations

import importlib
import itertools
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import taskrun
from taskrun.engine import forking

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FORKING: list[tuple[str, dict[str, Any]]] = [
    ("fork", {}),
    ("process", {"start_method": "fork"}),
    ("pool", {"start_method": "fork"}),
]
PATIENCE = 60

HALTING = """
import threading
BEGUN, GATE = threading.Event(), threading.Event()
BEGUN.set()
assert GATE.wait(60)
VALUE = 6
"""

BUSY = """
import taskrun
def double(n): return 2 * n
with taskrun.Executor("fork", max_workers=2) as ex:
    VALUES = list(ex.map(lambda n: double(n), range(4)))
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for modules, which are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def value_of(name: str) -> Any:
    return importlib.import_module(name).VALUE


@pytest.mark.filterwarnings("ignore::taskrun.UnsafeForkWarning")
@pytest.mark.parametrize("begun", ["before", "in between"])
@pytest.mark.parametrize(("backend", "options"), FORKING)
def test_a_child_has_no_module_half_loaded(
    modules: Path, monkeypatch: pytest.MonkeyPatch, backend: str, options: dict[str, Any], begun: str
) -> None:
    monkeypatch.setattr(forking, "_WAIT", PATIENCE)
    asked = threading.Event()
    importing, parent, looks = forking._importing, os.getpid(), itertools.count()

    def noticed() -> set[str]:
        found = importing()
        if "halting" in found and os.getpid() == parent:
            if begun == "in between" and next(looks) == 0:
                return set()  # the first child finds it out, and ends
            asked.set()
        return found

    monkeypatch.setattr(forking, "_importing", noticed)
    (modules / "halting.py").write_text(HALTING)
    thread = threading.Thread(target=value_of, args=("halting",))
    thread.start()
    while not hasattr(sys.modules.get("halting"), "GATE"):
        assert thread.is_alive()
    halting = sys.modules["halting"]
    with taskrun.Executor(backend, max_workers=1, **options) as ex:
        try:
            future = ex.submit(value_of, "halting")
            assert asked.wait(PATIENCE)  # the fork waits
            assert not future.done()
        finally:
            halting.GATE.set()
            thread.join()
        assert future.result(PATIENCE) == 6


def test_an_import_that_waits_for_the_fork_is_not_waited_for(modules: Path) -> None:
    (modules / "busy.py").write_text(BUSY)
    assert importlib.import_module("busy").VALUES == [0, 2, 4, 6]
    assert not forking._importing()
