"""What one source of settings says, checked: the arguments of a call, `taskrun.using`, or the environment.

Files make their layers in `config_files`; `config` lays all of them over one another.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from taskrun.setting_checks import WrongValueError, retry_table, variables
from taskrun.settings import SETTINGS, Mistake, Setting, checked_value, misspelt, mistake_of, parsed_value
from taskrun.units import parse_boolean

__all__ = ["CONFIG_VARIABLE", "PREFIX", "Layer", "Resolved", "SettingInfo", "environment_layer", "python_layer"]

PREFIX = "TASKRUN_"
CONFIG_VARIABLE = "TASKRUN_CONFIG"


class Layer:
    """What one source says, each value with its origin. Never changed once it is made: files' layers are shared."""

    __slots__ = ("mistakes", "options", "settings", "tables")

    def __init__(self) -> None:
        self.settings: dict[str, tuple[Any, str]] = {}
        self.tables: dict[str, dict[str, tuple[Any, str]]] = {}
        """The keys of `retry` and `env`, which merge across sources key by key."""
        self.options: dict[str, tuple[Any, str]] = {}
        """Names that are no settings: options of the backend, if it knows them."""
        self.mistakes: list[Mistake] = []

    def put(self, name: str, value: Any, origin: str, key_origin: str) -> None:
        """Enter a checked value; *key_origin* is the origin of a table's key, which goes in place of ``{}``."""
        if SETTINGS[name].table and isinstance(value, Mapping):
            keys = self.tables.setdefault(name, {})
            keys.update({key: (item, key_origin.format(key)) for key, item in value.items()})
        else:
            self.settings[name] = (value, origin)


class Resolved(NamedTuple):
    """The settings that apply to an executor, durations in seconds, sizes in bytes."""

    settings: dict[str, Any]
    """Every setting by name. `initializer` and `finalizer` are "module:function" strings when a file or variable names
    them (`import_object` makes them functions); `retry` is a `Retry` or None."""
    origins: dict[str, str]
    """Where each setting, each key of a table ("retry.on") and each backend option comes from, in words."""
    backend_options: dict[str, Any]
    """Names that are no settings; `options_for` checks them against the backend's own."""
    weaker_options: frozenset[str] = frozenset()
    """Those whose source is weaker than the one that chose the backend: they may be meant for another backend."""
    files: tuple[str, ...] = ()
    """The configuration files that were read, the strongest first."""


class SettingInfo(NamedTuple):
    """One line of `taskrun config`."""

    name: str
    value: Any
    origin: str
    doc: str


# -- Python code ---------------------------------------------------------------------------------------------------------------


def python_layer(values: Mapping[str, Any], *, origin: str) -> Layer:
    """Return the layer of an executor's arguments (*origin* "argument") or of `taskrun.using` ("taskrun.using(...)").

    None means "not given"; so does an argument that is its parameter's default (``strict=False``, ``initargs=()``).
    """
    layer = Layer()
    argument = origin == "argument"
    for name, value in values.items():
        if value is None:
            continue
        # What a message begins with names the argument; the origin of a good value does not need to.
        where = f"argument {name}" if argument else f"taskrun.using({name}=...)"
        setting = SETTINGS.get(name)
        if setting is None:
            mistake = misspelt(name, where)
            if mistake is not None:
                layer.mistakes.append(mistake)
            else:
                layer.options[name] = (value, origin)
        elif not (argument and not setting.default and value is setting.default):
            try:
                layer.put(name, checked_value(setting, value, "argument"), origin, origin)
            except WrongValueError as wrong:
                layer.mistakes.append(mistake_of(setting, wrong, where, "argument"))
    return layer


# -- the environment -----------------------------------------------------------------------------------------------------------


def environment_layer() -> Layer:
    """Return the layer of the ``TASKRUN_...`` variables; one that is empty counts as not set."""
    layer = Layer()
    for variable in sorted(key for key in os.environ if key.startswith(PREFIX) and key != CONFIG_VARIABLE):
        text = os.environ.get(variable, "")
        if not text.strip():
            continue
        name, double, key = variable.removeprefix(PREFIX).partition("__")
        name, origin = name.lower(), f"environment variable {variable}"
        setting = SETTINGS.get(name)
        if setting is None:
            mistake = misspelt(name, origin)
            if mistake is not None:
                layer.mistakes.append(mistake)
            else:
                layer.options[variable.removeprefix(PREFIX).lower()] = (_scalar(text), origin)
            continue
        try:
            if double:
                layer.put(name, _table_key(setting, key, text), origin, origin)
            else:
                layer.settings[name] = (parsed_value(setting, text), origin)
        except WrongValueError as wrong:
            layer.mistakes.append(mistake_of(setting, wrong, origin, "environment"))
    return layer


def _table_key(setting: Setting, key: str, text: str) -> dict[str, Any]:
    """Return the one key that ``TASKRUN_SETTING__KEY=text`` sets, checked."""
    if setting.name == "retry":
        return retry_table("retry", {key.lower(): _retry_value(key.lower(), text.strip())})
    if setting.name == "env":
        return variables("env", {key: text})
    raise WrongValueError(f"{setting.name} is no table, it has no key {key!r}; set {PREFIX}{setting.name.upper()}")


def _retry_value(key: str, text: str) -> Any:
    """Return the text of a retry policy's key in its type; what does not fit is left to the check."""
    if key == "on":
        return [name.strip() for name in text.split(",") if name.strip()]
    try:
        if key == "max_attempts":
            return int(text)
        if key in ("jitter", "on_crash", "on_timeout"):
            return parse_boolean(text)
    except ValueError:
        pass
    return text


def _scalar(text: str) -> Any:
    """Return the value of a backend's option as TOML would read it: true, false, a number; any other text is itself."""
    bare = text.strip()
    if bare in ("true", "false"):
        return bare == "true"
    for kind in (int, float):
        try:
            return kind(bare)
        except ValueError:
            continue
    return text
