"""From resolved settings to what an executor uses: imported functions, and the options that its backend has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskrun import setting_checks as checks
from taskrun.errors import (
    ConfigError,
    TaskrunError,
    UnsupportedOptionError,
    UnsupportedOptionWarning,
)
from taskrun.hints import did_you_mean, warn_outside
from taskrun.settings import SETTINGS, Mistake, raise_mistakes, sentence, unknown_option

if TYPE_CHECKING:
    from taskrun.backends.base import Backend
    from taskrun.config_layers import Resolved

__all__ = ["import_object", "options_for", "report_unsupported", "wrong_options"]


def import_object(reference: str, setting: str, origin: str) -> Any:
    """Import and return the callable that "module:attribute" names, for the *setting* that *origin* gives.

    Raises ConfigError when there is no such module or attribute, when importing the module fails (as `__cause__`), or when
    what is found cannot be called.
    """
    import importlib

    def wrong(problem: str) -> ConfigError:
        allowed = '"module:attribute" of a module that can be imported'
        text = f"{origin}: {setting} is {reference!r}, but {problem}; allowed: {allowed}"
        return ConfigError(text, setting=setting, origin=origin, allowed=allowed)

    try:
        module_name, _, path = checks.reference(setting, reference).partition(":")
    except checks.WrongValueError:
        raise wrong("that is not of this form") from None
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise wrong(f"there is no module {error.name!r} on sys.path") from error
        raise wrong(f"importing {module_name} failed: {error}") from error
    except (Exception, SystemExit) as error:
        # Importing runs the user's module, which may fail in any way; the message has to say for which setting.
        raise wrong(f"importing {module_name} failed with {type(error).__name__}: {error}") from error
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise wrong(f"{module_name} has no {part!r}{sentence(did_you_mean(part, dir(found)))}") from error
    if not callable(found):
        raise wrong(f"that is {checks.show(found)}, which cannot be called")
    return found


def options_for(cls: type[Backend], resolved: Resolved) -> dict[str, Any]:
    """Return those backend options in *resolved* that *cls* has; the others are errors or warnings, never dropped silently.

    An option of another backend, and one from a source that was overruled in choosing the backend, is warned of once
    (UnsupportedOptionWarning; an error when `strict` is set). Any other is an UnsupportedOptionError that tells them all.
    """
    taken = {name: value for name, value in resolved.backend_options.items() if name in cls.option_names}
    unknown = _unknown(cls, resolved)
    raise_mistakes(unknown.values())
    for name in resolved.backend_options:
        if name not in taken:
            report_unsupported(name, cls.name, resolved.origins[name], strict=resolved.settings["strict"])
    return taken


def wrong_options(resolved: Resolved) -> list[Mistake]:
    """Return the mistakes in backend options, unknown ones and wrong values, if no plugin has to be imported to tell them."""
    from taskrun.plugins import BUILTIN, load_backend

    name = resolved.settings["backend"]
    if not isinstance(name, str) or name not in BUILTIN:
        return []
    try:
        cls = load_backend(name)
    except TaskrunError:  # it cannot be used on this machine
        return []
    mistakes = list(_unknown(cls, resolved).values())
    try:
        cls().configure({name: value for name, value in resolved.backend_options.items() if name in cls.option_names})
    except ConfigError as error:
        setting = error.setting or ""
        mistakes.append(Mistake(setting, resolved.origins.get(setting, f"backend {name!r}"), str(error)))
    return mistakes


def _unknown(cls: type[Backend], resolved: Resolved) -> dict[str, Mistake]:
    """Return a mistake for each backend option that neither *cls* nor another backend can have been meant by."""
    others = [name for name in resolved.backend_options if name not in cls.option_names and name not in resolved.weaker_options]
    foreign = _options_of_all() if others else frozenset()
    known = {*cls.option_names, *SETTINGS}
    return {name: unknown_option(name, resolved.origins[name], known, cls.name) for name in others if name not in foreign}


def _options_of_all() -> frozenset[str]:
    """Return the options of every built-in backend that can be loaded, and those of the standard executors."""
    from taskrun.plugins import BUILTIN, load_backend

    names = {"mp_context", "thread_name_prefix"}
    for backend in BUILTIN:
        try:
            names.update(load_backend(backend).option_names)
        except TaskrunError:  # not on this machine; its options are unknown here
            continue
    return frozenset(names)


def report_unsupported(option: str, backend: str, origin: str, *, strict: bool, why: str = "") -> None:
    """Say that *backend* cannot honour *option*: UnsupportedOptionWarning, or UnsupportedOptionError when *strict*.

    The warning points at the first caller outside of taskrun, so that Python shows it once for each such place.
    """
    reason = why or f"backend {backend!r} cannot honour the option {option!r}"
    if strict:
        text = f"{origin}: {reason}; remove it, choose another backend, or allow it with strict=False"
        raise UnsupportedOptionError(text, option=option, backend=backend, origin=origin)
    warn_outside(f"{origin}: {reason}; it is ignored. strict=True makes this an error", UnsupportedOptionWarning)
