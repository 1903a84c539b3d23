"""Which settings apply, and where each of them comes from.

An argument wins over `taskrun.using`, that over environment variables, these over the project file, that over the user
file, and what nobody sets has its default. In each file the chosen profile wins over the top level. Everything that is
wrong in any of the sources is told in one error.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from taskrun.config_apply import import_object, options_for, report_unsupported, wrong_options
from taskrun.config_files import ConfigFile, find_project_file, find_user_file, read_config_file
from taskrun.config_layers import CONFIG_VARIABLE, Layer, Resolved, SettingInfo, environment_layer, python_layer
from taskrun.cpus import cpu_count
from taskrun.errors import ConfigError, UnknownBackendError
from taskrun.hints import did_you_mean
from taskrun.settings import DEFAULT_BACKEND, SETTINGS, Mistake, check_setting, raise_mistakes, sentence

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from taskrun.retry import Retry

__all__ = [
    "DEFAULT",
    "DEFAULT_BACKEND",
    "Resolved",
    "SettingInfo",
    "check_setting",
    "cpu_count",
    "describe",
    "import_object",
    "options_for",
    "report_unsupported",
    "resolve",
    "using",
]

DEFAULT = "default"
"""The origin of what nobody sets."""


# -- using ---------------------------------------------------------------------------------------------------------------------

_using: ContextVar[tuple[Layer, ...]] = ContextVar("taskrun_using", default=())
"""The layers of the `using` blocks around the running code, the innermost first."""


def using(**settings: Any) -> AbstractContextManager[None]:
    """Return a context manager in which *settings* (also ``profile=`` and backend options) apply to new executors.

    They hold in this thread or asyncio task only; blocks nest, the inner one wins. None means "not given". Raises
    ConfigError, for all mistakes at once, at the call.
    """
    layer = python_layer(settings, origin="taskrun.using(...)")
    mistakes = list(layer.mistakes)
    if "backend" in layer.settings:
        mistakes += _unknown_backend(*layer.settings["backend"])
    raise_mistakes(mistakes)
    return _in_use(layer)


@contextmanager
def _in_use(layer: Layer) -> Iterator[None]:
    token = _using.set((layer, *_using.get()))
    try:
        yield
    finally:
        _using.reset(token)


# -- resolving -----------------------------------------------------------------------------------------------------------------


def resolve(arguments: Mapping[str, Any], *, profile: str | None = None) -> Resolved:
    """Return the settings that apply to an executor made with *arguments* (settings and backend options by name).

    An argument of None is not given. Raises ConfigError, once for all mistakes of all sources: UnknownBackendError or
    UnsupportedOptionError when that is the only one; TypeError where the standard library raises it for an argument.
    """
    given = dict(arguments) if profile is None else {**arguments, "profile": profile}
    layers = [python_layer(given, origin="argument"), *_using.get(), environment_layer()]
    mistakes = [mistake for layer in layers for mistake in layer.mistakes]
    files = _config_files()
    for file in files:
        mistakes += file.mistakes
    chosen = _chosen_profile(layers, files)
    if chosen is not None:
        mistakes += _unknown_profile(*chosen, files)
    for file in files:
        if chosen is not None and chosen[0] in file.profiles:
            layers.append(file.profiles[chosen[0]])
        layers.append(file.top)
    merged = _merge(layers, mistakes)
    resolved = Resolved(merged.settings, merged.origins, merged.options, frozenset(merged.weaker), _paths(files))
    if mistakes:  # else whoever makes the backend asks it
        mistakes += wrong_options(resolved)
    raise_mistakes(mistakes)
    return resolved


def describe(profile: str | None = None) -> list[SettingInfo]:
    """Return every setting with its value and origin, the keys of tables and backend options too; raises as `resolve`."""
    resolved = resolve({}, profile=profile)
    raise_mistakes(wrong_options(resolved))
    rows: list[SettingInfo] = []
    for name, setting in SETTINGS.items():
        value = resolved.settings[name]
        rows.append(SettingInfo(name, value, resolved.origins[name], setting.doc))
        for key in (item.removeprefix(f"{name}.") for item in resolved.origins if item.startswith(f"{name}.")):
            part = value[key] if isinstance(value, dict) else getattr(value, key)
            rows.append(SettingInfo(f"{name}.{key}", part, resolved.origins[f"{name}.{key}"], f"Part of {name}."))
    for name, option in resolved.backend_options.items():
        rows.append(SettingInfo(name, option, resolved.origins[name], "An option of the backend."))
    return rows


def _config_files() -> list[ConfigFile]:
    """Return the files that apply, the strongest first."""
    asked = os.environ.get(CONFIG_VARIABLE, "").strip()
    if asked:
        path = os.path.abspath(os.path.expanduser(asked))
        file = read_config_file(path)
        where = f"environment variable {CONFIG_VARIABLE}"
        if not file.parsed:  # whoever named it may have meant another one
            told = [mistake._replace(origin=f"{where}: {mistake.origin}") for mistake in file.mistakes]
            file = file._replace(mistakes=told)
        if not os.path.lexists(path):
            problem = f"there is no file {path}"
            file = ConfigFile(path, Layer(), mistakes=[Mistake("", where, problem, "the path of a TOML file")])
        project: ConfigFile | None = file
    else:
        project = find_project_file()
    return [file for file in (project, find_user_file()) if file is not None]


def _paths(files: list[ConfigFile]) -> tuple[str, ...]:
    return tuple(file.path for file in files)


def _chosen_profile(layers: list[Layer], files: list[ConfigFile]) -> tuple[str, str] | None:
    """Return the name of the profile that applies and its origin."""
    for layer in (*layers, *(file.top for file in files)):
        if "profile" in layer.settings:
            return layer.settings["profile"]
    return None


def _unknown_profile(name: str, origin: str, files: list[ConfigFile]) -> list[Mistake]:
    known = sorted({profile for file in files for profile in file.profiles})
    # A file that could not be read may well define it; that file's mistake is told already.
    if name in known or not all(file.parsed for file in files):
        return []
    read = ", ".join(_paths(files)) or "no configuration file was found"
    allowed = ", ".join(known) or f"none is defined ({read})"
    return [Mistake("profile", origin, f"unknown profile {name!r}{sentence(did_you_mean(name, known))}", allowed)]


def _unknown_backend(backend: Any, origin: str) -> list[Mistake]:
    """Return a mistake when *backend* is a name that nobody registers; imports no plugin."""
    from taskrun.plugins import BUILTIN, known_backends

    if not isinstance(backend, str) or backend in BUILTIN:
        return []
    known = known_backends()
    if backend in known:
        return []
    error = UnknownBackendError(backend, known, origin=origin)
    problem = f"unknown backend {backend!r}{sentence(did_you_mean(backend, known))}"
    return [Mistake("backend", origin, problem, ", ".join(known), error)]


class _Merged:
    __slots__ = ("options", "origins", "settings", "weaker")

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self.options: dict[str, Any] = {}
        self.weaker: set[str] = set()


def _merge(layers: list[Layer], mistakes: list[Mistake]) -> _Merged:
    """Lay *layers*, the strongest first, over one another; what turns out to be wrong goes into *mistakes*."""
    merged = _Merged()
    for name, setting in SETTINGS.items():
        if setting.table:
            _merge_table(name, layers, merged, mistakes)
            continue
        for layer in layers:
            if name in layer.settings:
                merged.settings[name], merged.origins[name] = layer.settings[name]
                break
        else:
            merged.settings[name], merged.origins[name] = setting.default, DEFAULT
    mistakes += _unknown_backend(merged.settings["backend"], merged.origins["backend"])
    chooser = next((place for place, layer in enumerate(layers) if "backend" in layer.settings), len(layers))
    for place, layer in enumerate(layers):
        for name, (value, origin) in layer.options.items():
            if name not in merged.options:
                merged.options[name], merged.origins[name] = value, origin
                if place > chooser:
                    merged.weaker.add(name)
    return merged


def _merge_table(name: str, layers: list[Layer], merged: _Merged, mistakes: list[Mistake]) -> None:
    """Merge `retry` or `env` key by key, down to the first source that gives it whole (``retry=Retry(...)``, "none")."""
    keys: dict[str, tuple[Any, str]] = {}
    base, base_origin = None, DEFAULT
    for layer in layers:
        keys = {**layer.tables.get(name, {}), **keys}
        if name in layer.settings:
            base, base_origin = layer.settings[name]
            break
    origins = [base_origin] if base is not None or not keys else []
    origins += [origin for _, origin in keys.values()]
    merged.origins[name] = "; ".join(dict.fromkeys(origins))
    merged.origins.update({f"{name}.{key}": origin for key, (_, origin) in keys.items()})
    values = {key: value for key, (value, _) in keys.items()}
    if name == "env":
        merged.settings[name] = values or None
        return
    try:
        merged.settings[name] = _retry_of(base, values)
    except ConfigError as error:
        merged.settings[name] = None
        mistakes.append(Mistake(name, merged.origins[name], str(error)))


def _retry_of(base: Retry | None, values: dict[str, Any]) -> Retry | None:
    """Return the policy *base* with the fields in *values* changed."""
    if not values:
        return base
    from dataclasses import fields

    from taskrun.retry import Retry

    if base is not None:
        values = {item.name: getattr(base, item.name) for item in fields(base) if item.init} | values
    return Retry.of(values)
