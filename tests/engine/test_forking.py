"""What other threads are in the middle of when a process is forked."""

from __future__ import annotations

import importlib
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import taskrun

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Script

FORKING: list[tuple[str, dict[str, Any]]] = [
    ("fork", {}),
    ("process", {"start_method": "fork"}),
    ("pool", {"start_method": "fork"}),
]
PATIENCE = 40

HALTING = """
import threading
GATE = threading.Event()
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


def names_in(module: str) -> list[str]:
    return [name for name in ("GATE", "VALUE") if hasattr(importlib.import_module(module), name)]


@pytest.mark.filterwarnings("ignore::taskrun.UnsafeForkWarning")
@pytest.mark.parametrize(("backend", "options"), FORKING)
def test_a_child_does_not_wait_for_the_import_of_another_thread(modules: Path, backend: str, options: dict[str, Any]) -> None:
    (modules / "halting.py").write_text(HALTING)
    thread = threading.Thread(target=importlib.import_module, args=("halting",))
    thread.start()
    while not hasattr(sys.modules.get("halting"), "GATE"):
        assert thread.is_alive()
    try:
        with taskrun.Executor(backend, max_workers=1, **options) as ex:
            future = ex.submit(names_in, "halting")
            try:
                assert future.result(PATIENCE) == ["GATE"]  # as far as it was loaded
            except TimeoutError:
                ex.kill_workers()
                raise
    finally:
        sys.modules["halting"].GATE.set()
        thread.join()


def test_a_module_may_fork_tasks_while_it_is_imported(modules: Path) -> None:
    (modules / "busy.py").write_text(BUSY)
    assert importlib.import_module("busy").VALUES == [0, 2, 4, 6]


@pytest.mark.parametrize("backend", ["process", "pool"])
def test_no_thread_of_ours_imports_what_workers_need_while_one_is_forked(script: Script, backend: str) -> None:
    code = f"""
import os, sys, threading, taskrun, warnings
warnings.simplefilter("ignore", taskrun.UnsafeForkWarning)
FORKER = []
PID = os.getpid()
def watch(event, args):
    if event == "import" and args[0] in ("taskrun.by_value", "cloudpickle") and FORKER and os.getpid() == PID:
        if threading.get_ident() not in FORKER: print(f"{{threading.current_thread().name}} imports {{args[0]}}")
sys.addaudithook(watch)
os.register_at_fork(before=lambda: FORKER.append(threading.get_ident()))
with taskrun.Executor({backend!r}, max_workers=2, start_method="fork") as ex:
    print(list(ex.map(lambda n: 2 * n, range(4))))
"""
    assert script.run(code) == "[0, 2, 4, 6]\n"
