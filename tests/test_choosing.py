"""The comparison that docs/explanation/choosing.md speaks of: runs on every backend, and checks that all say the same."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from taskrun.backends.thread import ThreadBackend
from taskrun.plugins import BUILTIN, BackendInfo, describe_backends

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "docs" / "examples" / "choosing.py"


@pytest.fixture
def choosing():
    spec = importlib.util.spec_from_file_location("example_choosing", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_usable_backend_is_measured_and_all_come_to_the_same(tmp_path):
    command = [sys.executable, "-W", "error", "-X", "dev", str(SCRIPT), "--workers", "2", "--scale", "0.01"]
    (tmp_path / ".git").mkdir()  # the search for configuration files ends here
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=50
    )
    assert (done.returncode, done.stderr) == (0, "")
    _, _, *lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(BUILTIN)
    for info, line in zip(describe_backends(), lines, strict=False):
        if info.problem is None:
            assert line.count("x") - info.name.count("x") == 2
            assert line.endswith(" us")
        else:
            assert info.problem in line


def test_the_work_is_what_it_says(choosing):
    assert choosing.count_primes(1_000_000, 1_000_100) == 6  # 1000003, ...33, ...37, ...39, ...81, ...99
    found = choosing.measure("thread", 2, 0.02)
    primes, waited, numbers = found.results
    assert (len(primes), waited, numbers) == (choosing.PIECES, [0, 1], list(range(10)))
    assert sum(primes) > 100


def figures(choosing, cpu=1.0, waiting=1.0, first=0.5, task=0.25, results=("a",)):
    return choosing.Figures(cpu, waiting, first, task, list(results))


def test_the_least_of_several_runs_is_shown_against_the_first_backend(choosing, monkeypatch, capsys):
    runs = iter(
        [
            figures(choosing, cpu=4.0, waiting=9.0),
            figures(choosing, cpu=6.0, waiting=8.0),
            figures(choosing, cpu=2.0, waiting=1.0, first=0.002, task=0.00001),
            figures(choosing, cpu=3.0, waiting=2.0, first=0.001, task=0.00002),
        ]
    )
    monkeypatch.setattr(choosing, "measure", lambda backend, workers, scale: next(runs))
    assert choosing.main(["--backend", "serial", "thread", "--repeat", "2"]) == 0
    _, _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["serial", "4.00", "s", "1.0x", "8.00", "s", "1.0x", "500.0", "ms", "250000", "us"],
        ["thread", "2.00", "s", "2.0x", "1.00", "s", "8.0x", "1.0", "ms", "10", "us"],
    ]


def test_other_results_on_one_backend_are_told_and_are_a_failure(choosing, monkeypatch, capsys):
    of = {"serial": ["a"], "thread": ["b"], "process": ["a"]}
    monkeypatch.setattr(choosing, "measure", lambda backend, workers, scale: figures(choosing, results=of[backend]))
    assert choosing.main(["--backend", *of]) == 1
    told = [line for line in capsys.readouterr().out.splitlines() if "DIFFER" in line]
    assert len(told) == 1
    assert told[0].startswith("thread")


def test_a_backend_that_is_not_usable_here_says_why(choosing, monkeypatch, capsys):
    infos = [BackendInfo("missing", "taskrun", ThreadBackend, "needs Python 3.99")]
    monkeypatch.setattr(choosing, "describe_backends", lambda: infos)
    assert choosing.main([]) == 0
    assert "missing     not usable here: needs Python 3.99" in capsys.readouterr().out
