"""A target is found, or the message says what there is instead."""

from __future__ import annotations

import sys

import pytest

from taskrun.cli.exits import CommandError
from taskrun.cli.target import load_target


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory whose modules are forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def message(target: str) -> str:
    with pytest.raises(CommandError) as caught:
        load_target(target)
    return str(caught.value)


def test_a_function_of_an_importable_module(place):
    assert load_target("math:sqrt")(9) == 3
    assert load_target("collections:Counter.fromkeys") is not None


def test_a_module_in_the_working_directory(place):
    (place / "jobs_here.py").write_text("def double(x): return 2 * x\n")
    assert load_target("jobs_here:double")(4) == 8


def test_a_file_is_imported_under_its_own_name_without_its_main_part(place):
    (place / "sub").mkdir()
    (place / "sub" / "sibling_x.py").write_text("factor = 3\n")
    (place / "sub" / "my-job.py").write_text(
        "import sibling_x\ndef triple(x): return sibling_x.factor * x\nif __name__ == '__main__': raise SystemExit(5)\n"
    )
    triple = load_target("sub/my-job.py:triple")
    assert triple(2) == 6
    assert triple.__module__ == "my-job"
    assert str(place / "sub") == sys.path[0]
    assert load_target("sub/my-job.py:triple") is triple


def test_a_file_in_a_package_may_import_relatively(place):
    (place / "pack_a" / "inner").mkdir(parents=True)
    for name in ("pack_a/__init__.py", "pack_a/inner/__init__.py"):
        (place / name).write_text("")
    (place / "pack_a" / "base.py").write_text("value = 7\n")
    (place / "pack_a" / "inner" / "job.py").write_text("from ..base import value\ndef get(x): return value\n")
    assert load_target("pack_a/inner/job.py:get")(0) == 7


@pytest.mark.parametrize("target", ["math", "math:", ":sqrt", "file.py"])
def test_a_target_without_both_parts_says_how_to_write_it(place, target):
    assert "write MODULE:FUNCTION" in message(target)


def test_an_unknown_function_suggests_the_close_ones_or_lists_what_there_is(place):
    (place / "jobs_b.py").write_text("from os import path\ndef resize(x): pass\ndef crop(x): pass\nsize = 3\n")
    assert message("jobs_b.py:resise") == "jobs_b.py has no function 'resise'; did you mean 'resize'?"
    assert message("jobs_b:unrelated") == "jobs_b has no function 'unrelated'; it has crop, resize"
    assert message("jobs_b:resize.x") == "jobs_b:resize has no function 'x'; it has no functions"
    assert "jobs_b:size is a int, which cannot be called" in message("jobs_b:size")


def test_an_unknown_module_is_told_apart_from_a_module_that_lacks_something(place):
    (place / "jobs_c.py").write_text("import not_installed_xyz\n")
    assert message("jsn:loads").startswith("there is no module 'jsn', neither installed nor in ")
    assert message("jsn:loads").endswith("did you mean 'json'?")
    assert "(there is no 'nowhere_q')" in message("nowhere_q.sub:f")
    lacking = message("jobs_c:f")
    assert lacking.startswith("cannot import jobs_c: ModuleNotFoundError: No module named 'not_installed_xyz'")
    assert f"({place}/jobs_c.py:1)" in lacking


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("x = 1\nraise SystemExit('bye')\n", "SystemExit: bye ({place}/jobs_d.py:2)"),
        ("def f(:\n", "SyntaxError: invalid syntax ({place}/jobs_d.py:1)"),
        ("1 / 0\n", "ZeroDivisionError: division by zero ({place}/jobs_d.py:1)"),
    ],
)
def test_a_module_that_fails_while_it_is_imported_is_told_with_the_line(place, code, told):
    (place / "jobs_d.py").write_text(code)
    assert message("jobs_d.py:f") == "cannot import jobs_d.py: " + told.format(place=place)


def test_a_file_that_is_missing_or_hides_another_module_is_refused(place):
    assert message("absent.py:f") == f"absent.py: no such file (looked from {place})"
    (place / "random.py").write_text("def f(x): pass\n")
    assert "another module is already called 'random'" in message("random.py:f")
    (place / "notes.txt").write_text("")
    assert "is not a .py file" in message("./notes.txt:f")
