"""`taskrun backends`, `taskrun config` and `--version`."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import taskrun

ROOT = Path(__file__).parents[2]


def test_backends_are_shown_with_what_they_can_do(command):
    done = command("backends")
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("serial", "thread", "process", "crash isolation"))


def test_backends_as_json(command):
    done = command("backends", "--json")
    found = {backend["name"]: backend for backend in json.loads(done.stdout)}
    assert found["process"]["available"]
    assert found["process"]["capabilities"]["crash_isolation"] is True
    assert found["thread"]["capabilities"]["kill"] == "slot only"
    assert "start_method" in found["process"]["options"]


def test_a_backend_that_cannot_be_used_is_shown_with_the_reason(command):
    info = command.directory / "broken_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[taskrun.backends]\nbroken = no_such_module_q:Backend\n")
    command.env["PYTHONPATH"] += f":{command.directory}"
    done = command("backends")
    assert done.returncode == 0, done.stderr
    assert "no_such_module_q" in done.stdout
    assert "broken" in done.stdout
    found = {backend["name"]: backend for backend in json.loads(command("backends", "--json").stdout)}
    assert found["broken"]["available"] is False
    assert "no_such_module_q" in found["broken"]["problem"]


SOON = """
from taskrun.backends.thread import ThreadBackend

class Soon(ThreadBackend):
    name = "soon"
    task_option_names = {"colour": "str: any"}

    @classmethod
    def unavailable(cls):
        return "needs Python 3.99; get it from python.org"
"""


def test_a_backend_that_misses_something_says_what_and_how_to_get_it_and_its_class_is_still_described(command):
    info = command.directory / "soon_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: soon-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[taskrun.backends]\nsoon = soon:Soon\n")
    command.write("soon.py", SOON)
    command.env["PYTHONPATH"] += f":{command.directory}"
    done = command("backends")
    assert done.returncode == 0, done.stderr
    table, found, missing = done.stdout.partition("not usable")
    assert found
    assert "soon" not in table  # what cannot be used is no column of what can
    (line,) = [line for line in missing.splitlines() if "soon" in line]
    assert "soon-plugin 1.0 (soon:Soon)" in line
    assert "needs Python 3.99; get it from python.org" in line
    described = {backend["name"]: backend for backend in json.loads(command("backends", "--json").stdout)}["soon"]
    assert described["problem"] == "needs Python 3.99; get it from python.org"
    assert described["capabilities"]["kill"] == "slot only"
    assert described["task_options"] == {"colour": "str: any"}


def test_backends_as_markdown_are_those_of_the_documentation(command):
    page = (ROOT / "docs" / "reference" / "backends.md").read_text(encoding="utf-8")
    done = command("backends", "--markdown")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("| field | `serial` |")
    assert done.stdout in page
    both = command("backends", "--markdown", "--json")
    assert (both.returncode, both.stdout, both.stderr) == (2, "", "taskrun: --json and --markdown exclude each other\n")


def test_config_shows_values_and_origins(command):
    command.write("taskrun.toml", 'max_workers = 3\n[profiles.night]\ntimeout = "2h"\n')
    command.env["TASKRUN_BACKEND"] = "thread"
    found = {setting["name"]: setting for setting in json.loads(command("config", "--json", "--profile", "night").stdout)}
    assert found["backend"]["value"] == "thread"
    assert "TASKRUN_BACKEND" in found["backend"]["origin"]
    assert found["max_workers"]["value"] == 3
    assert "taskrun.toml" in found["max_workers"]["origin"]
    assert found["timeout"]["value"] == 7200
    assert found["strict"] == found["strict"] | {"value": False, "origin": "default"}
    table = command("config").stdout
    assert "TASKRUN_BACKEND" in table
    assert "max_workers" in table


def test_version_and_help(command):
    assert command("--version").stdout == f"taskrun {taskrun.__version__}\n"
    for arguments in (["--help"], ["run", "--help"]):
        done = command(*arguments)
        assert done.returncode == 0
        assert "Exit codes: 0 all done; 1 some items failed" in done.stdout
    assert command("rum").returncode == 2
    alone = command()
    assert (alone.returncode, alone.stdout) == (2, "")
    assert "Commands:" in alone.stderr


def test_a_mistake_in_the_arguments_is_told_with_the_usage(command):
    done = command("run", "x:y", "z", "--format", "nope")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: taskrun run [OPTIONS] TARGET INPUT..." in done.stderr
    assert "'nope' is not one of 'auto', 'jsonl'" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["config"], ["backends"], ["backends", "--markdown"], ["--version"], ["config", "--json"], ["--help"], ["run", "-h"]],
)
def test_what_cannot_be_written_ends_with_its_exit_code_and_no_traceback(arguments):
    command = [sys.executable, "-W", "error", "-X", "dev", "-m", "taskrun", *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1), done.stderr
    assert "No space left on device" in done.stderr
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
    done = subprocess.run(["/bin/sh", "-c", f"{shlex.join(command)} >&-"], stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (3, "taskrun: standard output is closed\n")
