"""The table of settings: what can be set, what it may be, how text becomes it, and where it may be written."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from taskrun import setting_checks as checks
from taskrun.errors import ConfigError, UnsupportedOptionError
from taskrun.hints import did_you_mean
from taskrun.setting_checks import WrongValueError
from taskrun.units import DURATIONS, SIZES, parse_boolean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = [
    "DEFAULT_BACKEND",
    "SETTINGS",
    "Mistake",
    "Setting",
    "Source",
    "check_setting",
    "checked_value",
    "misspelt",
    "mistake_of",
    "parsed_value",
    "raise_mistakes",
    "sentence",
    "unknown_option",
]

DEFAULT_BACKEND = "process"

Source = Literal["argument", "file", "environment"]
"""Where a value comes from: Python code (an argument, `using`), a TOML file, or an environment variable."""


class Setting(NamedTuple):
    """One setting: a parameter of `taskrun.Executor`."""

    name: str
    doc: str
    """One line for `taskrun config`."""
    allowed: str
    """What it may be, in words, for messages."""
    check: checks.Check
    """Turns a Python or TOML value into its proper form or raises WrongValueError."""
    parse: Callable[[str], Any] | None = str.strip
    """Turns the text of an environment variable into what `check` takes; None: not to be set by a variable."""
    default: Any = None
    check_written: checks.Check | None = None
    """In place of `check` for files and variables, where code is written as "module:function"."""
    optional: bool = False
    """The text "none" takes back what a weaker source says."""
    table: bool = False
    """Its value is a table whose keys merge across sources; the variable ``TASKRUN_NAME__KEY`` sets one key."""


def _number(text: str) -> Any:
    """Return the whole number in *text*, or the text for the check to complain about."""
    try:
        return int(text)
    except ValueError:
        return text


def _truth(text: str) -> Any:
    try:
        return parse_boolean(text)
    except ValueError:
        return text


def _number_or_text(text: str) -> Any:
    """Return a number of seconds or bytes where the text is a bare one."""
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text.strip()


_POSITIVE = "a whole number of at least 1"
_TABLE = (
    Setting(
        "backend",
        "How tasks run: a backend by name.",
        "the name of a backend (`taskrun backends` lists them), in code also a Backend or an Executor instance",
        checks.backend,
        default=DEFAULT_BACKEND,
        check_written=checks.text,
    ),
    Setting(
        "max_workers",
        "The most workers at a time; by default what this process may use of the CPUs (threads: more).",
        _POSITIVE,
        checks.integer(1, too_small="must be greater than 0"),
        _number,
        optional=True,
    ),
    Setting(
        "initializer",
        "Called in each worker before its first task.",
        'a callable; in a file or variable "module:function"',
        checks.function,
        check_written=checks.reference,
        optional=True,
    ),
    Setting("initargs", "Arguments for the initializer.", "a tuple or list", checks.sequence, None, default=()),
    Setting(
        "finalizer",
        "Called in each worker that ends in order.",
        'a callable; in a file or variable "module:function"',
        checks.function,
        check_written=checks.reference,
        optional=True,
    ),
    Setting(
        "max_tasks_per_child",
        "Replace a worker after this many tasks.",
        _POSITIVE,
        checks.integer(1, too_small="must be >= 1", exact=TypeError),
        _number,
        optional=True,
    ),
    Setting(
        "max_memory_per_child",
        "Replace a worker whose resident memory is above this after a task.",
        SIZES,
        checks.size,
        _number_or_text,
        optional=True,
    ),
    Setting(
        "max_age_per_child",
        "Replace a worker this long after its start, between tasks.",
        DURATIONS,
        checks.duration,
        _number_or_text,
        optional=True,
    ),
    Setting(
        "idle_timeout",
        "End a worker that had nothing to do for this long.",
        DURATIONS,
        checks.duration,
        _number_or_text,
        optional=True,
    ),
    Setting(
        "retry",
        "When a failed task runs again.",
        "a number of attempts or a table of taskrun.Retry's fields; in code also taskrun.Retry(...), tenacity objects",
        checks.retry,
        _number,
        optional=True,
        table=True,
    ),
    Setting("timeout", "How long an attempt may run.", DURATIONS, checks.duration, _number_or_text, optional=True),
    Setting(
        "soft_timeout",
        "When TaskTimeoutError is raised inside the task.",
        DURATIONS,
        checks.duration,
        _number_or_text,
        optional=True,
    ),
    Setting(
        "max_pending",
        "Tasks that may wait before `submit` blocks.",
        _POSITIVE,
        checks.integer(1),
        _number,
        optional=True,
    ),
    Setting("seed", "Where the tasks' random numbers start.", "a whole number", checks.integer(), _number, optional=True),
    Setting(
        "context_vars",
        "Context variables that travel to worker processes.",
        'a list of "module:attribute" (in code also ContextVar objects); in a variable separated by commas',
        checks.context_vars,
        default=(),
    ),
    Setting(
        "env",
        "Environment variables of the worker processes.",
        "a table of strings; as a variable TASKRUN_ENV__NAME=value",
        checks.variables,
        None,
        table=True,
    ),
    Setting(
        "cpu_affinity",
        "The CPUs that workers are pinned to, in turn.",
        'a list of CPU numbers, or text such as "0,2,4-7"',
        checks.cpus,
        optional=True,
    ),
    Setting(
        "inner_max_num_threads",
        "Threads that BLAS and OpenMP may use in each worker; by default CPUs divided by workers.",
        _POSITIVE,
        checks.integer(1),
        _number,
        optional=True,
    ),
    Setting(
        "require",
        "What the backend must be able to do.",
        "a list of fields of taskrun.backends.Capabilities; in a variable separated by commas",
        checks.capability_names,
        default=(),
    ),
    Setting(
        "strict",
        "An option that the backend cannot honour is an error, not a warning.",
        "true or false",
        checks.boolean,
        _truth,
        default=False,
    ),
    Setting("name", "The executor's name, in worker names and messages.", "a string", checks.text),
    Setting("profile", "Which [profiles.NAME] of the files applies.", "the name of a profile", checks.text),
)

SETTINGS: Mapping[str, Setting] = {setting.name: setting for setting in _TABLE}


class Mistake(NamedTuple):
    """One thing wrong in one source; all of them are told in one error."""

    setting: str
    origin: str
    """File and key, variable, or argument, as the message begins."""
    problem: str
    allowed: str = ""
    error: Exception | None = None
    """Raised in place of a plain ConfigError when this is the only mistake."""
    exact: type[Exception] | None = None
    """The class that the standard library raises for it."""

    def __str__(self) -> str:
        if not self.allowed:
            return f"{self.origin}: {self.problem}"
        allowed = f" (allowed: {self.allowed})" if self.problem.endswith("?") else f"; allowed: {self.allowed}"
        return f"{self.origin}: {self.problem}{allowed}"


def raise_mistakes(mistakes: Iterable[Mistake]) -> None:
    """Raise one ConfigError that tells all *mistakes*, if there are any; its attributes are those of the first.

    Raises TypeError instead where one of them is an argument for which the standard library raises that.
    """
    found = list(dict.fromkeys(mistakes))
    if not found:
        return
    first = found[0]
    if len(found) == 1:
        if first.error is not None:
            raise first.error
        text = str(first)
    else:
        text = f"{len(found)} mistakes in the configuration:" + "".join(f"\n  - {mistake}" for mistake in found)
    exact = next((mistake.exact for mistake in found if mistake.exact is not None), None)
    if exact is not None:
        raise exact(text)
    if all(isinstance(mistake.error, UnsupportedOptionError) for mistake in found):
        raise UnsupportedOptionError(text, option=first.setting, origin=first.origin, allowed=first.allowed)
    raise ConfigError(text, setting=first.setting, origin=first.origin, allowed=first.allowed or None)


def checked_value(setting: Setting, value: Any, source: Source) -> Any:
    """Return *value* in its proper form; raises WrongValueError."""
    if setting.optional and isinstance(value, str) and value.strip().lower() == "none":
        return None
    if source == "argument" or setting.check_written is None:
        return setting.check(setting.name, value)
    return setting.check_written(setting.name, value)


def parsed_value(setting: Setting, text: str) -> Any:
    """Return what the *text* of an environment variable means, checked; raises WrongValueError."""
    if setting.parse is None:
        how = f"set its keys: TASKRUN_{setting.name.upper()}__NAME" if setting.table else "write it in a file or in code"
        raise WrongValueError(f"{setting.name} cannot be set by one environment variable; {how}")
    return checked_value(setting, setting.parse(text), "environment")


def mistake_of(setting: Setting, wrong: WrongValueError, origin: str, source: Source) -> Mistake:
    """Return the mistake for the message: what, where, which value, what is allowed."""
    allowed = setting.allowed if wrong.allowed is None else wrong.allowed
    if allowed and setting.optional:
        allowed += ', or "none"'
    return Mistake(setting.name, origin, wrong.problem, allowed, exact=wrong.exact if source == "argument" else None)


def check_setting(name: str, value: Any, origin: str = "argument") -> Any:
    """Return *value* of the setting *name* in its proper form: seconds, bytes, tuples.

    *origin* begins the message: "argument" (what code gives), else a file and key. Raises ConfigError, or TypeError
    where the standard library does for an argument; UnsupportedOptionError for an unknown *name*.
    """
    where = f"argument {name}" if origin == "argument" else origin
    if name not in SETTINGS:
        raise_mistakes([unknown_option(name, where, SETTINGS)])
    setting = SETTINGS[name]
    source: Source = "argument" if origin.startswith(("argument", "taskrun.using")) else "file"
    try:
        return checked_value(setting, value, source)
    except WrongValueError as wrong:
        raise_mistakes([mistake_of(setting, wrong, where, source)])
        raise


def unknown_option(name: str, origin: str, known: Iterable[str], backend: str | None = None) -> Mistake:
    """Return the mistake of a *name* that is neither a setting nor an option of the backend."""
    known = sorted(known)
    owner = f"; backend {backend!r} has no such option" if backend else ""
    hint = sentence(did_you_mean(name, known))
    mistake = Mistake(name, origin, f"unknown option {name!r}{owner}{hint}", ", ".join(known))
    error = UnsupportedOptionError(str(mistake), option=name, backend=backend, origin=origin, allowed=mistake.allowed)
    return mistake._replace(error=error)


def sentence(hint: str) -> str:
    """Return *hint*, if there is one, as the sentence after a problem."""
    return f".{hint}" if hint else ""


def misspelt(name: str, origin: str) -> Mistake | None:
    """Return a mistake when *name* is almost a setting's, or None: then it may be an option of some backend."""
    return unknown_option(name, origin, SETTINGS) if _is_close(name) else None


@lru_cache(maxsize=256)  # asked for each unknown variable whenever an executor is made
def _is_close(name: str) -> bool:
    import difflib

    # Short words lie close to one another ("speed" and "seed"); whoever mistypes one hears of it from the backend's check.
    return len(name) >= 6 and bool(difflib.get_close_matches(name.lower(), SETTINGS, n=1, cutoff=0.82))
