"""Configuration files: finding them, reading them, and turning each into layers of checked settings.

    project file    taskrun.toml, or [tool.taskrun] in pyproject.toml, in the working directory or above it
    user file       $XDG_CONFIG_HOME/taskrun/config.toml

Reading imports nothing that a file names and runs none of it. What is wrong in a file is collected, not raised: the caller
tells it together with the mistakes of the other sources.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

from taskrun.config_layers import Layer
from taskrun.setting_checks import WrongValueError, show
from taskrun.settings import SETTINGS, Mistake, checked_value, misspelt, mistake_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["ConfigFile", "find_project_file", "find_user_file", "read_config_file"]

PROJECT_FILE = "taskrun.toml"
PYPROJECT = "pyproject.toml"


class ConfigFile(NamedTuple):
    """A configuration file as read: its top level, its profiles, and what is wrong with it."""

    path: str
    top: Layer
    profiles: Mapping[str, Layer] = {}
    mistakes: Sequence[Mistake] = ()
    """All mistakes, those of the profiles included."""
    mentions: bool = True
    """Whether a pyproject.toml has a [tool.taskrun]."""
    parsed: bool = True
    """Whether it could be read at all."""


# -- finding -------------------------------------------------------------------------------------------------------------------


def find_project_file(start: str | None = None) -> ConfigFile | None:
    """Return the project file that applies in the directory *start* (default: the working directory), read, or None.

    Looks in *start* and every directory above it; the last one looked at is one with a ``.git``, or the home directory.
    """
    try:
        folder = os.path.abspath(start) if start is not None else os.getcwd()
    except FileNotFoundError:
        return None  # the working directory was deleted
    home = os.path.realpath(os.path.expanduser("~"))
    while True:
        found = _project_file_in(folder)
        if found is not None:
            return found
        above = os.path.dirname(folder)
        if above == folder or os.path.realpath(folder) == home or os.path.lexists(os.path.join(folder, ".git")):
            return None
        folder = above


def _project_file_in(folder: str) -> ConfigFile | None:
    own = os.path.join(folder, PROJECT_FILE)
    shared = os.path.join(folder, PYPROJECT)
    pyproject = read_config_file(shared, ignore_if_foreign=True) if os.path.isfile(shared) else None
    if not os.path.lexists(own):
        return pyproject if pyproject is not None and pyproject.mentions else None
    file = read_config_file(own)
    # A pyproject.toml that does not parse may well not mean us; the file that is all ours counts then.
    if pyproject is not None and pyproject.mentions and pyproject.parsed:
        problem = f"both {own} and [tool.taskrun] in {shared} configure taskrun; keep one of them"
        file = file._replace(mistakes=[Mistake("", own, problem), *file.mistakes])
    return file


def find_user_file() -> ConfigFile | None:
    """Return the user's file, read, or None when there is none."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):  # the XDG specification: relative ones are to be ignored
        base = os.path.join(os.path.expanduser("~"), ".config")
    path = os.path.join(base, "taskrun", "config.toml")
    return read_config_file(path) if os.path.lexists(path) else None


# -- reading -------------------------------------------------------------------------------------------------------------------

_cache: dict[str, tuple[tuple[int, ...], ConfigFile]] = {}


def read_config_file(path: str, *, ignore_if_foreign: bool = False) -> ConfigFile:
    """Return the file at *path*, read and checked; kept until its time or size changes.

    A ``pyproject.toml`` is read from its [tool.taskrun]; *ignore_if_foreign* says that it may be without one.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
            return _broken(path, f"this is {kind}; allowed: a TOML file")
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev, ignore_if_foreign)
        cached = _cache.get(path)
        if cached is None or cached[0] != stamp:
            with open(path, "rb") as file:
                data = file.read()
            _cache[path] = cached = (stamp, _parse_file(path, data, ignore_if_foreign))
    except OSError as error:
        return _broken(path, f"the configuration file cannot be read: {error.strerror or error}")
    return cached[1]


def _broken(path: str, problem: str) -> ConfigFile:
    return ConfigFile(path, Layer(), mistakes=[Mistake("", path, problem)], parsed=False)


def _parse_file(path: str, data: bytes, ignore_if_foreign: bool) -> ConfigFile:
    shared = os.path.basename(path) == PYPROJECT
    if shared and ignore_if_foreign and b"taskrun" not in data:
        return ConfigFile(path, Layer(), mentions=False)  # not ours to complain about, even when it does not parse
    table, problem = _parse_toml(data)
    if problem is not None:
        return _broken(path, problem)
    prefix = ""
    if shared:
        tool = table.get("tool")
        if not isinstance(tool, dict) or "taskrun" not in tool:
            if ignore_if_foreign:
                return ConfigFile(path, Layer(), mentions=False)
            return _broken(path, "there is no table [tool.taskrun]")
        table, prefix = tool["taskrun"], "tool.taskrun."
        if not isinstance(table, dict):
            return _broken(path, f"tool.taskrun must be a table, not {show(table)}")
    return _check_file(path, table, prefix)


def _parse_toml(data: bytes) -> tuple[dict[str, Any], str | None]:
    """Return the tables of a TOML file, or what is wrong with it and on which line."""
    import tomllib

    try:
        text = data.decode("utf-8-sig")  # some editors put a byte order mark in front
        return tomllib.loads(text.replace("\r\n", "\n")), None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return {}, f"the file is not UTF-8: byte 0x{data[error.start]:02x} on line {line}; save it as UTF-8"
    except tomllib.TOMLDecodeError as error:
        lines = data.count(b"\n") + 1
        where = str(error).replace("at end of document", f"at end of document, line {lines}")
        return {}, f"the file does not parse as TOML: {where}"
    except RecursionError:
        return {}, "the file does not parse as TOML: its arrays or tables are nested too deeply"


def _check_file(path: str, table: Mapping[str, Any], prefix: str) -> ConfigFile:
    profiles = table.get("profiles", {})
    top = _check_table(path, {k: v for k, v in table.items() if k != "profiles"}, prefix)
    read: dict[str, Layer] = {}
    mistakes = list(top.mistakes)
    file = ConfigFile(path, top, read, mistakes)
    if not isinstance(profiles, dict):
        problem = f"profiles must be a table of tables, not {show(profiles)}"
        mistakes.append(Mistake("profiles", _key(path, f"{prefix}profiles"), problem, "[profiles.NAME]"))
        return file
    for name, content in profiles.items():
        origin = f"{prefix}profiles.{name}"
        if not isinstance(content, dict):
            problem = f"a profile must be a table, not {show(content)}"
            mistakes.append(Mistake("profiles", _key(path, origin), problem, f"[profiles.{name}]"))
            continue
        inner = {key: value for key, value in content.items() if key not in ("profile", "profiles")}
        layer = _check_table(path, inner, f"{origin}.")
        for nested in ("profile", "profiles"):
            if nested in content:
                problem = "a profile cannot choose or hold another profile"
                layer.mistakes.append(Mistake(nested, _key(path, f"{origin}.{nested}"), problem))
        read[name] = layer
        mistakes += layer.mistakes
    return file


def _check_table(path: str, table: Mapping[str, Any], prefix: str) -> Layer:
    layer = Layer()
    for key, value in table.items():
        origin = _key(path, f"{prefix}{key}")
        setting = SETTINGS.get(key)
        if setting is None:
            mistake = misspelt(key, origin)
            if mistake is not None:
                layer.mistakes.append(mistake)
            else:
                layer.options[key] = (value, origin)
            continue
        try:
            layer.put(key, checked_value(setting, value, "file"), origin, f"{origin}.{{}}")
        except WrongValueError as wrong:
            layer.mistakes.append(mistake_of(setting, wrong, origin, "file"))
    return layer


def _key(path: str, key: str) -> str:
    return f"{path}, key {key}"
