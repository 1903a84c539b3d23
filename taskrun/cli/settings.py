"""From the options of `taskrun run` to the arguments of `taskrun.Executor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskrun.cli.exits import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["executor_settings"]


def executor_settings(assignments: Iterable[str], *, retries: int | None = None, **given: str | int | None) -> dict[str, Any]:
    """Return the settings given on the command line; those that are not there come from the configuration.

    *assignments* are "key=value" or "table.key=value". The value is read as that of the environment variable for the same
    setting, for an option of a backend as TOML (and what is not TOML as text). *retries* N makes N + 1 attempts.
    Raises CommandError naming the option that is wrong and what is allowed.
    """
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if retries is not None:
        settings["retry"] = {"max_attempts": retries + 1}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        name, dot, inner = key.strip().partition(".")
        if not equals or not name or (dot and not inner):
            raise CommandError(f"--set {assignment}: write --set KEY=VALUE, for example --set max_tasks_per_child=100")
        if dot:
            table = settings.setdefault(name, {})
            if not isinstance(table, dict) or inner in table:
                raise CommandError(f"--set {assignment}: {key} is given twice")
            table[inner] = _from_toml(text)
        elif name in settings:
            raise CommandError(f"--set {assignment}: {name} is given twice")
        else:
            settings[name] = _value(name, text)
    return settings


def _value(name: str, text: str) -> Any:
    from taskrun.setting_checks import WrongValueError
    from taskrun.settings import SETTINGS, parsed_value

    setting = SETTINGS.get(name)
    if setting is None:
        return _from_toml(text)
    if setting.parse is None:
        return _from_toml(text)
    if name in ("initializer", "finalizer"):
        from taskrun.cli.target import load_target

        return load_target(text)
    try:
        return parsed_value(setting, text)
    except WrongValueError as error:
        raise CommandError(f"--set {name}={text}: {error}; allowed: {setting.allowed}") from None


def _from_toml(text: str) -> Any:
    """Return *text* as a TOML value, numbers, booleans and lists say, or as it is."""
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
