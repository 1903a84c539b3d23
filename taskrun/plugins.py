"""The registry: from a backend's name to its class.

Built-in backends are named here; third parties register theirs by the entry-point group ``taskrun.backends``, where the
entry's name is the backend's. Nothing is imported before a backend is asked for by name, and a bad registration hurts
only the backend that it registers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from taskrun.errors import BackendUnavailableError, ConfigError, UnknownBackendError

if TYPE_CHECKING:
    from taskrun.backends.base import Backend

__all__ = ["BUILTIN", "GROUP", "PLUGINS", "BackendInfo", "describe_backends", "known_backends", "load_backend"]

GROUP = "taskrun.backends"

BUILTIN: Mapping[str, str] = {
    "serial": "taskrun.backends.serial:SerialBackend",
    "thread": "taskrun.backends.thread:ThreadBackend",
    "process": "taskrun.backends.process:ProcessBackend",
    "pool": "taskrun.backends.pool:PoolBackend",
    "dummy": "taskrun.backends.dummy:DummyBackend",
    "fork": "taskrun.backends.fork:ForkBackend",
    "asyncio": "taskrun.backends.asyncio:AsyncioBackend",
    "interpreter": "taskrun.backends.interpreter:InterpreterBackend",
}
"""Name -> "module:class". A built-in name always means the built-in backend, whatever else registers it."""

PLUGINS: Mapping[str, str] = {"dask": "taskrun-dask", "ray": "taskrun-ray"}
"""Name -> the distribution that registers it; known where that is not installed, too."""


class BackendInfo(NamedTuple):
    """One registered backend, for `taskrun backends`."""

    name: str
    source: str
    """"taskrun" or the distribution that registers it, with its version, and where the class is."""
    cls: type[Backend] | None
    """The class; set also for a backend that could be used if what it needs were here."""
    problem: str | None
    """Why it cannot be used, and what to do; None when it can."""


class _Entry(NamedTuple):
    """What somebody registered."""

    name: str
    target: str
    """"module:class"."""
    distribution: str
    """Name and version; "taskrun" for what is built in."""
    project: str
    """The name of the distribution without its version; for `pip install`."""

    @property
    def source(self) -> str:
        return f"{self.distribution} ({self.target})"


# -- what the rest of taskrun asks ---------------------------------------------------------------------------------------------


def load_backend(name: str, *, origin: str | None = None) -> type[Backend]:
    """Return the class of the backend *name*, importing it now; *origin* says in messages who asked for it.

    Raises UnknownBackendError for a name that nobody knows, BackendUnavailableError when what it needs is not on
    this machine (saying what to install), ConfigError for a bad registration. Never returns another backend instead.
    """
    target = BUILTIN.get(name)
    if target is not None:
        entry = _Entry(name, target, "taskrun", "taskrun-executor")
    else:
        entries = _registered().get(name, ())
        if not entries and name in PLUGINS:
            raise _not_installed(name, origin)
        if not entries:
            raise UnknownBackendError(name, known_backends(), origin=origin)
        if len(entries) > 1:
            raise _bad(entries[0], _clash(entries), origin)
        entry = entries[0]
    cls = _load(entry, origin)
    missing = _unavailable(cls, entry, origin)
    if missing is not None:
        raise BackendUnavailableError(f"backend {name!r} cannot be used here{_from(origin)}: {missing}", backend=name)
    return cls


def known_backends() -> list[str]:
    """Return the names of all backends there are, the built-in ones first; imports none of them."""
    return [*BUILTIN, *sorted({*_registered(), *PLUGINS} - set(BUILTIN))]


def describe_backends() -> list[BackendInfo]:
    """Return every registration, the bad ones with what is wrong, and the plugins that are not here; imports all of them."""
    found = [_describe(_Entry(name, target, "taskrun", "taskrun-executor"), None) for name, target in BUILTIN.items()]
    for name, entries in sorted(_registered().items()):
        for entry in entries:
            problem = None
            if name in BUILTIN:
                problem = f"{_clash((entry,))} with taskrun itself ({BUILTIN[name]}), which is used"
            elif len(entries) > 1:
                problem = _clash(entries)
            found.append(_describe(entry, problem))
    missing = [name for name in PLUGINS if name not in _registered()]
    return found + [BackendInfo(name, PLUGINS[name], None, str(_not_installed(name, None))) for name in missing]


def _describe(entry: _Entry, problem: str | None) -> BackendInfo:
    source = "taskrun" if entry.name in BUILTIN and entry.distribution == "taskrun" else entry.source
    if problem is not None:
        return BackendInfo(entry.name, source, None, str(_bad(entry, problem, None)))
    try:
        cls = _load(entry, None)
        return BackendInfo(entry.name, source, cls, _unavailable(cls, entry, None))
    except (ConfigError, BackendUnavailableError) as error:
        return BackendInfo(entry.name, source, None, str(error))


# -- loading one ---------------------------------------------------------------------------------------------------------------


def _load(entry: _Entry, origin: str | None) -> type[Backend]:
    """Import what *entry* names and check that it is a backend."""
    import importlib

    module_name, _, attribute = entry.target.partition(":")
    if not module_name or not attribute:
        raise _bad(entry, 'the entry must be written as "module:class"', origin)
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ImportError as error:
        raise _not_importable(entry, module_name, error, origin) from error
    except AttributeError as error:
        raise _bad(entry, f"there is no such class: {error}", origin) from error
    except (Exception, SystemExit) as error:
        # Importing runs the plugin's code, which may fail in any way; the program goes on without that backend.
        raise _bad(entry, f"importing it failed with {type(error).__name__}: {error}", origin) from error
    problem = _fault(entry.name, found)
    if problem is not None:
        raise _bad(entry, problem, origin)
    cls: type[Backend] = found
    return cls


def _fault(name: str, found: object) -> str | None:
    """Return why *found* cannot be the backend *name*, naming what the contract asks for, or None."""
    from taskrun.backends.base import Backend, Capabilities

    if not isinstance(found, type) or not issubclass(found, Backend):
        return f"it is no subclass of taskrun.backends.Backend but {found!r}"
    label = f"{found.__module__}.{found.__qualname__}"
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        return f"{label} lacks the methods {', '.join(missing)} that taskrun.backends.Backend asks for"
    own = getattr(found, "name", None)
    if own != name:
        return f"the entry's name is {name!r} but {label}.name is {own!r}; they must be the same"
    can = getattr(found, "capabilities", None)
    if not (can is None or isinstance(can, (Capabilities, property))):  # none: `configure` sets them
        return f"{label}.capabilities must be taskrun.backends.Capabilities(...), not {can!r}"
    for table in ("option_names", "task_option_names"):
        if not isinstance(getattr(found, table), Mapping):
            return f"{label}.{table} must map option names to a line each, not {getattr(found, table)!r}"
    return None


def _unavailable(cls: type[Backend], entry: _Entry, origin: str | None) -> str | None:
    """Ask the class whether it can be used on this machine."""
    try:
        missing = cls.unavailable()
    except (Exception, SystemExit) as error:
        # A plugin's code; as for importing it.
        raise _bad(entry, f"its unavailable() failed with {type(error).__name__}: {error}", origin) from error
    return None if missing is None else str(missing)


def _not_importable(entry: _Entry, module: str, error: ImportError, origin: str | None) -> Exception:
    """Return the error for a backend whose import failed: its own module is missing, or something that it needs."""
    missing = error.name
    if isinstance(error, ModuleNotFoundError) and missing and f"{module}.".startswith(f"{missing}."):
        return _bad(entry, f"there is no module {missing!r}; reinstall {entry.project}", origin)
    needed = missing.partition(".")[0] if isinstance(error, ModuleNotFoundError) and missing else None
    install = f"pip install {needed}" if needed else f"pip install --force-reinstall {entry.project}"
    step = f"Install the package that provides {needed!r}, for example: {install}" if needed else f"Try: {install}"
    message = f"backend {entry.name!r} of {entry.source} cannot be used here{_from(origin)}: {error}. {step}"
    return BackendUnavailableError(message, backend=entry.name, missing=needed or missing, install=install)


def _not_installed(name: str, origin: str | None) -> BackendUnavailableError:
    install = f"pip install {PLUGINS[name]}"
    message = (
        f"backend {name!r} cannot be used here{_from(origin)}: it comes with a plugin that is not installed. Try: {install}"
    )
    return BackendUnavailableError(message, backend=name, missing=PLUGINS[name], install=install)


def _bad(entry: _Entry, problem: str, origin: str | None) -> ConfigError:
    message = f"bad registration of backend {entry.name!r} by {entry.source}{_from(origin)}: {problem}"
    return ConfigError(message, setting="backend", origin=origin)


def _clash(entries: tuple[_Entry, ...]) -> str:
    return "the name is registered more than once, by " + " and ".join(entry.source for entry in entries)


def _from(origin: str | None) -> str:
    return f" (chosen by {origin})" if origin else ""


# -- finding the registrations -------------------------------------------------------------------------------------------------

_cache: tuple[object, dict[str, tuple[_Entry, ...]]] | None = None


def _registered() -> dict[str, tuple[_Entry, ...]]:
    """Return what installed distributions register, by name; reads their metadata only.

    Kept until `sys.path`, a finder or one of the path's directories changes: reading every distribution's metadata
    takes some ten milliseconds, asking the directories for their times some ten microseconds.
    """
    global _cache
    key = (tuple(sys.path), tuple(map(id, sys.meta_path)), tuple(map(_modified, sys.path)))
    cached = _cache
    if cached is None or cached[0] != key:
        _cache = cached = (key, _scan())
    return cached[1]


def _modified(path: str) -> int | None:
    try:
        return os.stat(path or os.curdir).st_mtime_ns
    except (OSError, ValueError):
        return None


def _scan() -> dict[str, tuple[_Entry, ...]]:
    import importlib.metadata

    found: dict[str, list[_Entry]] = {}
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        try:
            # Most distributions register nothing with us: look before parsing their metadata, which is slow.
            if GROUP not in (distribution.read_text("entry_points.txt") or ""):
                continue
            name = distribution.metadata["Name"] or "a distribution without a name"
            # The same distribution further down the path (an editable install, say) is hidden by the first.
            if name.lower().replace("_", "-") in seen:
                continue
            seen.add(name.lower().replace("_", "-"))
            for point in distribution.entry_points:
                if point.group == GROUP:
                    target = point.value.partition("[")[0].strip()  # without extras
                    entry = _Entry(point.name, target, f"{name} {distribution.version}", name)
                    found.setdefault(point.name, []).append(entry)
        except Exception:  # noqa: S112
            # Damaged metadata of one distribution, in whatever way, must not take the other backends away.
            continue
    return {name: tuple(entries) for name, entries in found.items()}
