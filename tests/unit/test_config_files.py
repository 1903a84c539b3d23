"""Finding and reading configuration files, and what is said about broken ones."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from taskrun import config_files
from taskrun.config import resolve
from taskrun.config_files import find_project_file, find_user_file, read_config_file
from taskrun.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in HOME/a/b of a home of its own; no file of the machine is seen."""
    for name in [name for name in os.environ if name.startswith("TASKRUN_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "top" / "home"
    (home / "a" / "b").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.chdir(home / "a" / "b")
    return home


def found() -> str | None:
    file = find_project_file()
    return None if file is None else file.path


def mistakes() -> str:
    with pytest.raises(ConfigError) as caught:
        resolve({})
    return str(caught.value)


# -- where ---------------------------------------------------------------------------------------------------------------------


def test_the_nearest_file_upwards_is_the_project_file(home: Path) -> None:
    assert found() is None
    for folder in (home, home / "a", home / "a" / "b"):
        (folder / "taskrun.toml").write_text("")
        assert found() == str(folder / "taskrun.toml")


def test_the_search_ends_at_the_home_directory(home: Path) -> None:
    (home.parent / "taskrun.toml").write_text("")
    assert found() is None


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_the_search_ends_at_a_directory_with_git(home: Path, kind: str) -> None:
    (home / "taskrun.toml").write_text("")
    git = home / "a" / ".git"
    git.mkdir() if kind == "directory" else git.write_text("gitdir: elsewhere")
    assert found() is None
    (home / "a" / "taskrun.toml").write_text("")
    assert found() == str(home / "a" / "taskrun.toml")


def test_outside_of_the_home_directory_the_search_goes_to_the_root(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(home / "elsewhere"))
    (home.parent / "taskrun.toml").write_text("")
    assert found() == str(home.parent / "taskrun.toml")


def test_a_deleted_working_directory_has_no_project_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = home / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert found() is None
    assert resolve({}).files == ()


def test_pyproject_counts_only_with_our_table(home: Path) -> None:
    (home / "taskrun.toml").write_text("max_workers = 1\n")
    pyproject = home / "a" / "pyproject.toml"
    pyproject.write_text("[project]\nname = 'x'\ndependencies = ['taskrun-executor']\n")
    assert found() == str(home / "taskrun.toml")
    pyproject.write_text("[tool.taskrun]\nmax_workers = 2\n[tool.taskrun.profiles.big]\nmax_workers = 64\n")
    resolved = resolve({}, profile="big")
    assert resolved.settings["max_workers"] == 64
    assert resolved.origins["max_workers"] == f"{pyproject}, key tool.taskrun.profiles.big.max_workers"
    assert resolved.files == (str(pyproject),)


def test_a_broken_pyproject_that_does_not_mention_us_is_not_our_business(home: Path) -> None:
    (home / "a" / "pyproject.toml").write_text("[broken")
    (home / "taskrun.toml").write_text("max_workers = 3\n")
    assert resolve({}).settings["max_workers"] == 3


def test_two_files_for_us_in_one_directory_are_a_mistake_naming_both(home: Path) -> None:
    own, shared = home / "a" / "taskrun.toml", home / "a" / "pyproject.toml"
    own.write_text("max_workers = 0\n")
    shared.write_text("[project]\nname = 'taskrun-user'\n")
    assert "both" not in mistakes()
    shared.write_text("[tool.taskrun]\nmax_workers = 2\n")
    text = mistakes()
    assert f"both {own} and [tool.taskrun] in {shared}" in text
    assert "max_workers must be greater than 0" in text


def test_the_user_file_is_under_the_configured_directory(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_user_file() is None
    for base, value in ((home / ".config", "relative/is/ignored"), (home / "cfg", str(home / "cfg"))):
        (base / "taskrun").mkdir(parents=True)
        (base / "taskrun" / "config.toml").write_text("max_workers = 5\n")
        monkeypatch.setenv("XDG_CONFIG_HOME", value)
        file = find_user_file()
        assert file is not None
        assert file.path == str(base / "taskrun" / "config.toml")


def test_the_variable_names_a_file_in_place_of_the_search(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "taskrun.toml").write_text("max_workers = 1\nseed = 1\n")
    (home / "other.toml").write_text("max_workers = 2\n")
    for path in (str(home / "other.toml"), "../../other.toml", "~/other.toml"):
        monkeypatch.setenv("TASKRUN_CONFIG", path)
        resolved = resolve({})
        assert (resolved.settings["max_workers"], resolved.settings["seed"]) == (2, None)
        assert resolved.files == (str(home / "other.toml"),)


def test_the_variable_can_name_a_pyproject_with_our_table(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "pyproject.toml"
    monkeypatch.setenv("TASKRUN_CONFIG", str(path))
    path.write_text("[tool.taskrun]\nmax_workers = 6\n")
    assert resolve({}).settings["max_workers"] == 6
    path.write_text("[tool.other]\n")
    assert "there is no table [tool.taskrun]" in mistakes()


def test_a_file_named_by_the_variable_has_to_be_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKRUN_CONFIG", "missing.toml")
    text = mistakes()
    assert text.startswith(f"environment variable TASKRUN_CONFIG: there is no file {home}/a/b/missing.toml")


# -- broken ones ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"max_workers = 8\ntimeout = \n", "does not parse as TOML: Invalid value (at line 2"),
        (b"max_workers = 8\n\nname = '", "line 3"),
        (b"a = [" + b"[" * 5000, "TOML"),
        (b"seed = 1\nseed = 2\n", "does not parse as TOML"),
        (b"name = 'x'\nenv = '\xff'\n", "not UTF-8: byte 0xff on line 2"),
        (b"profiles = 3\n", "key profiles: profiles must be a table of tables, not 3; allowed: [profiles.NAME]"),
        (b"[profiles]\nbig = 3\n", "key profiles.big: a profile must be a table, not 3"),
        (b"[profiles.a]\nprofile = 'b'\n", "key profiles.a.profile: a profile cannot choose or hold another profile"),
        (b"[profiles.a.profiles.b]\n", "key profiles.a.profiles: a profile cannot choose or hold another profile"),
        (b"retry = [1]\n", "key retry: retry=[1] is no retry policy"),
        (b"[[env]]\nA = '1'\n", "key env: env must be a table of variables"),
        (b"timeout = 2020-01-01\n", "key timeout: timeout must be a duration, not datetime.date(2020, 1, 1) (date)"),
        (b"max_workers = nan\n", "key max_workers: max_workers must be an integer, not nan"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_place(home: Path, content: bytes, words: str) -> None:
    path = home / "taskrun.toml"
    path.write_bytes(content)
    text = mistakes()
    assert text.startswith(str(path))
    assert words in text


def test_our_table_in_a_pyproject_must_be_a_table(home: Path) -> None:
    (home / "pyproject.toml").write_text("[tool]\ntaskrun = 3\n")
    assert "tool.taskrun must be a table, not 3" in mistakes()


def test_a_directory_in_place_of_the_file(home: Path) -> None:
    (home / "taskrun.toml").mkdir()
    assert mistakes() == f"{home}/taskrun.toml: this is a directory; allowed: a TOML file"


def test_a_dangling_link_is_told_and_not_passed_over(home: Path) -> None:
    (home / "taskrun.toml").symlink_to("nowhere.toml")
    assert "cannot be read: No such file or directory" in mistakes()


def test_a_file_that_may_not_be_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "taskrun.toml"
    path.write_text("seed = 1\n")

    # The tests may run as root, whom no mode keeps out.
    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(config_files, "open", refuse, raising=False)
    assert mistakes() == f"{path}: the configuration file cannot be read: Permission denied"


def test_a_pipe_in_place_of_the_file_is_not_waited_for(home: Path) -> None:
    os.mkfifo(home / "taskrun.toml")
    assert "no regular file" in mistakes()


def test_a_byte_order_mark_and_windows_line_ends_are_no_mistake(home: Path) -> None:
    (home / "taskrun.toml").write_bytes(b"\xef\xbb\xbfmax_workers = 3\r\nseed = 4\r\n")
    settings = resolve({}).settings
    assert (settings["max_workers"], settings["seed"]) == (3, 4)


# -- kept ----------------------------------------------------------------------------------------------------------------------


def test_a_file_is_parsed_once_and_again_when_it_changes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "taskrun.toml"
    path.write_text("max_workers = 3\n")
    parsed: list[str] = []
    parse = config_files._parse_file
    monkeypatch.setattr(config_files, "_parse_file", lambda path, *rest: parsed.append(path) or parse(path, *rest))
    first = read_config_file(str(path))
    assert read_config_file(str(path)) is first
    assert len(parsed) == 1
    path.write_text("max_workers = 44\n")
    assert resolve({}).settings["max_workers"] == 44
    assert len(parsed) == 2
    os.utime(path, ns=(1, 1))
    read_config_file(str(path))
    assert len(parsed) == 3


def test_a_file_that_was_removed_no_longer_counts(home: Path) -> None:
    path = home / "taskrun.toml"
    path.write_text("max_workers = 3\n")
    assert resolve({}).settings["max_workers"] == 3
    path.unlink()
    assert resolve({}).settings["max_workers"] is None
