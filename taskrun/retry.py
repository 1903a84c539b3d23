"""When a task that failed is run again, and after how long: a value, compiled to tenacity's objects.

tenacity is imported when an attempt first fails, not before.
"""

from __future__ import annotations

import builtins
import math
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from taskrun.errors import ConfigError, RemoteError, TaskTimeoutError
from taskrun.exception_text import add_note, is_a
from taskrun.hints import did_you_mean

if TYPE_CHECKING:
    import tenacity

__all__ = ["Retry"]

Cause = Literal["raised", "crashed", "timeout", "killed", "serialization", "initializer", "cancelled"]
"""As `taskrun.task.Cause`, which lies in a layer above."""

_WAITS = ("exponential", "linear", "fixed", "none")
_ON_ALLOWED = (
    "an exception class, a dotted name such as 'OSError' or 'requests.exceptions.ConnectionError', a list of these, "
    "a predicate callable(exception) -> bool, or a tenacity retry object"
)


class _Compiled(NamedTuple):
    """The policy in tenacity's terms."""

    stop: Callable[[tenacity.RetryCallState], bool]
    wait: Callable[[tenacity.RetryCallState], float]
    retry: Callable[[tenacity.RetryCallState], bool]


@dataclass(frozen=True, slots=True)
class Retry:
    """Run a failed task again, up to `max_attempts` attempts in all. In seconds; bad values raise ConfigError.

    Crashes and timeouts have switches of their own; what could not be pickled, was killed or cancelled, and a failed
    initializer are never retried. `Retry.of` makes one from a number, a table of a config file or tenacity's objects.
    """

    max_attempts: Any = 3
    """Attempts in all, the first included; None for no limit; or a tenacity stop object."""
    on: Any = Exception
    """Which errors of the task's own code: a class, a dotted name, a list of these, a predicate run in the parent, or a
    tenacity retry object. Names are compared along the class's bases; nothing is imported. What is no Exception
    (SystemExit, KeyboardInterrupt) is retried only where a class or name says so; a predicate is not asked about it."""
    wait: Any = "exponential"
    """"exponential" (`initial`, doubled each time), "linear" (multiples of `initial`), "fixed" (`initial`), "none"; or
    a tenacity wait object, to which `initial`, `max_wait` and `jitter` do not apply."""
    initial: float = 0.1
    max_wait: float = 60
    """The longest single wait."""
    jitter: bool = True
    """Wait a random part, between half and all, of the time; the same part in each run when the executor has a seed."""
    on_crash: bool = True
    """Run again when the worker died while it ran the task."""
    on_timeout: bool = False
    """Run again after TaskTimeoutError."""
    max_time: float | None = None
    """No new attempt once this many seconds have passed since the first was queued."""
    _compiled: _Compiled | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not (self.max_attempts is None or callable(self.max_attempts)):
            _check(
                _is_int(self.max_attempts) and self.max_attempts >= 1,
                "max_attempts",
                self.max_attempts,
                "a whole number of at least 1, None for no limit, or a tenacity stop object",
            )
        object.__setattr__(self, "on", _checked_on(self.on))
        if not callable(self.wait):
            known = ", ".join(repr(name) for name in _WAITS)
            hint = did_you_mean(self.wait, _WAITS) if isinstance(self.wait, str) else ""
            allowed = f"one of {known}, or a tenacity wait object"
            _check(isinstance(self.wait, str) and self.wait in _WAITS, "wait", self.wait, allowed, hint)
        for name in ("initial", "max_wait"):
            value = getattr(self, name)
            _check(_is_number(value) and value >= 0, name, value, "a number of seconds, 0 or more")
        for name in ("jitter", "on_crash", "on_timeout"):
            _check(isinstance(getattr(self, name), bool), name, getattr(self, name), "True or False")
        if self.max_time is not None:
            _check(
                _is_number(self.max_time) and self.max_time > 0,
                "max_time",
                self.max_time,
                "a number of seconds above 0, or None for no limit",
            )

    @classmethod
    def of(cls, value: object) -> Retry | None:
        """Return the policy that *value* stands for; None stays None.

        Accepts a Retry, a number of attempts, a mapping with this class's fields (a table of a config file), a
        `tenacity.Retrying`, or one of tenacity's stop, wait and retry objects. Raises ConfigError for anything else.
        """
        if value is None or isinstance(value, Retry):
            return value
        if _is_int(value):
            return cls(max_attempts=value)
        if isinstance(value, Mapping):
            return cls._of_table(value)
        tenacity: Any = sys.modules.get("tenacity")  # not loaded, or not whole yet: then the value is none of its objects
        if hasattr(tenacity, "BaseRetrying"):
            if isinstance(value, tenacity.BaseRetrying):
                return cls._of_retrying(value)
            if isinstance(value, tenacity.stop.stop_base):
                return cls(max_attempts=value)
            if isinstance(value, tenacity.wait.wait_base):
                return cls(wait=value)
            if isinstance(value, tenacity.retry_base):
                return cls(on=value)
        allowed = "taskrun.Retry(...), a number of attempts, a table of its fields, tenacity.Retrying(...) or None"
        raise ConfigError(f"retry={value!r} is no retry policy; allowed: {allowed}", setting="retry", allowed=allowed)

    @classmethod
    def _of_table(cls, table: Mapping[Any, Any]) -> Retry:
        known = [item.name for item in fields(cls) if item.init]
        for key in table:
            if key not in known:
                raise ConfigError(
                    f"unknown setting retry.{key}; allowed: {', '.join(known)}.{did_you_mean(str(key), known)}",
                    setting=f"retry.{key}",
                    allowed=tuple(known),
                )
        return cls(**table)

    @classmethod
    def _of_retrying(cls, retrying: tenacity.BaseRetrying) -> Retry:
        """Take the three strategies of a `tenacity.Retrying`; refuse what it says beyond them rather than drop it."""
        import tenacity

        plain = tenacity.Retrying()
        hooks = ("sleep", "before", "after", "before_sleep", "retry_error_callback")
        extra = [name for name in hooks if getattr(retrying, name, None) is not getattr(plain, name, None)]
        if isinstance(retrying, tenacity.AsyncRetrying):
            extra = ["being asynchronous"]
        if extra:
            raise ConfigError(
                f"retry={type(retrying).__name__}(...): taskrun decides in the parent when to run a task again and "
                f"calls no hooks of tenacity; it cannot honour {', '.join(extra)}. Give stop=, wait= and retry= only",
                setting="retry",
                allowed="tenacity.Retrying with stop=, wait= and retry=",
            )
        # A plain callable is allowed there too, but as `on` it would be taken for a predicate on the exception.
        on = retrying.retry
        return cls(
            max_attempts=retrying.stop,
            wait=retrying.wait,
            on=on if isinstance(on, tenacity.retry_base) else tenacity.retry_any(on),
        )

    @property
    def asks(self) -> bool:
        """Whether code of the user's decides, which may take its time."""
        return any(callable(rule) and not isinstance(rule, type) for rule in (self.on, self.wait, self.max_attempts))

    # -- what the scheduler asks -----------------------------------------------------------------------------------------------

    def wants_retry(self, error: BaseException, cause: Cause, attempt: int, elapsed: float, seed: int | None = None) -> bool:
        """Return whether to run the task again after its attempt number *attempt* ended in *error*.

        *elapsed* is the seconds since the first attempt was queued, *seed* what `delay` will be given. Never raises: a
        predicate that does is told of in a note on *error*, and the task is not run again. Runs the user's predicate: hold no
        lock.
        """
        try:
            if not self._may_retry(error, cause):
                return False
            state = self._state(error, attempt, elapsed)
            if callable(self.max_attempts):  # one of tenacity's may ask how long the wait would be
                state.upcoming_sleep = self.delay(attempt, error, seed)
            if self._compile().stop(state):
                return False
            if self.max_time is not None and elapsed + self.delay(attempt, error, seed) >= self.max_time:
                return False
            return cause != "raised" or bool(self._named(error) or self._compile().retry(state))
        except BaseException as problem:  # user code, asked in a thread of ours that must go on
            add_note(error, f"taskrun: not retried, the retry policy itself failed with {problem!r}")
            return False

    def delay(self, attempt: int, error: BaseException, seed: int | None = None) -> float:
        """Return the seconds to wait after attempt number *attempt*; with a *seed* the jitter depends on nothing else.

        Never raises: if a tenacity wait object of the user's does, `initial` is used and a note on *error* tells.
        """
        try:
            # Time plays no part in any wait of tenacity's.
            seconds = float(self._compile().wait(self._state(error, attempt, 0.0)))
            if not math.isfinite(seconds):
                raise ValueError(f"the wait is {seconds}")
        except BaseException as problem:  # as above
            add_note(error, f"taskrun: the retry policy's wait failed with {problem!r}; waited {self.initial} s instead")
            return float(self.initial)
        if self.jitter and not callable(self.wait):
            part = random.random() if seed is None else random.Random(f"taskrun retry {seed} {attempt}").random()
            seconds *= 0.5 + 0.5 * part
        return max(0.0, seconds)

    def note(self, attempts: int, elapsed: float) -> str:
        """Return the note for the error of the last attempt, such as "failed after 3 attempts in 1.2 s"."""
        plural = "" if attempts == 1 else "s"
        return f"failed after {attempts} attempt{plural} in {elapsed:.1f} s"

    # -- inside ----------------------------------------------------------------------------------------------------------------

    def _may_retry(self, error: BaseException, cause: Cause) -> bool:
        """Decide by the cause alone, before any user code is asked."""
        if cause == "crashed":
            return self.on_crash
        # A soft timeout is raised inside the task and may arrive as "raised"; on=OSError must not catch it.
        if cause == "timeout" or (cause == "raised" and is_a(error, TaskTimeoutError) and error.soft):
            return self.on_timeout
        if cause != "raised":
            return False
        return is_a(error, Exception) or self._named(error)

    def _named(self, error: BaseException) -> bool:
        """Return whether *error* is let through by a switch or a name that is no matter of the compiled `retry`."""
        if is_a(error, TaskTimeoutError) and error.soft:
            return self.on_timeout
        if is_a(error, Exception):
            return False
        return any(
            _matches(error, rule) for rule in _rules(self.on) if isinstance(rule, str) or not issubclass(rule, Exception)
        )

    def _compile(self) -> _Compiled:
        compiled = self._compiled
        if compiled is None:
            import tenacity

            # A race makes it twice, to the same effect.
            compiled = _Compiled(self._stop(tenacity), self._wait(tenacity), self._retry(tenacity))
            object.__setattr__(self, "_compiled", compiled)
        return compiled

    def _stop(self, tenacity: Any) -> Any:
        stop = self.max_attempts
        if stop is None:
            stop = tenacity.stop_never
        elif not callable(stop):
            stop = tenacity.stop_after_attempt(stop)
        return stop if self.max_time is None else tenacity.stop_any(stop, tenacity.stop_after_delay(self.max_time))

    def _wait(self, tenacity: Any) -> Any:
        # tenacity's own jitter draws from the global `random`, which a seed of ours must not depend on: see `delay`.
        match self.wait:
            case "exponential":
                return tenacity.wait_exponential(multiplier=self.initial, max=self.max_wait)
            case "linear":
                return tenacity.wait_incrementing(start=self.initial, increment=self.initial, max=self.max_wait)
            case "fixed":
                return tenacity.wait_fixed(min(self.initial, self.max_wait))
            case "none":
                return tenacity.wait_none()
        return self.wait

    def _retry(self, tenacity: Any) -> Any:
        on = self.on
        if isinstance(on, tenacity.retry_base):
            return on
        rules = _rules(on)
        if not rules:
            return tenacity.retry_if_exception(on) if callable(on) else tenacity.retry_never
        return tenacity.retry_if_exception(lambda error: any(_matches(error, rule) for rule in rules))

    def _state(self, error: BaseException, attempt: int, elapsed: float) -> tenacity.RetryCallState:
        """Describe the failed attempt the way tenacity's strategies read it."""
        import tenacity

        compiled = self._compile()
        # A fresh Retrying each time: it keeps statistics in thread-local storage.
        owner = tenacity.Retrying(stop=compiled.stop, wait=compiled.wait, retry=compiled.retry)
        state = tenacity.RetryCallState(owner, fn=None, args=(), kwargs={})
        state.attempt_number = attempt
        state.outcome = tenacity.Future(attempt)
        state.outcome.set_exception(error)
        state.outcome_timestamp = state.start_time + elapsed
        return state

    def __reduce__(self) -> tuple[Callable[..., Retry], tuple[Any, ...]]:
        # Without what is compiled.
        return type(self), tuple(getattr(self, item.name) for item in fields(self) if item.init)


def _rules(on: Any) -> tuple[type[BaseException] | str, ...]:
    """Return the classes and names in `on`; empty for a predicate or a tenacity object."""
    if isinstance(on, tuple):
        return on
    return (on,) if isinstance(on, (type, str)) else ()


def _matches(error: BaseException, rule: type[BaseException] | str) -> bool:
    if not isinstance(rule, str):
        return isinstance(error, rule)
    bases = type(error).__mro__
    if any(rule in (f"{base.__module__}.{base.__qualname__}", _builtin_name(base)) for base in bases):
        return True
    if isinstance(error, RemoteError) and error.type_name == rule:
        return True
    # A name under which the class is also known, such as requests.ConnectionError or socket.timeout. If the class is
    # here, so as a rule is the module; `vars` runs no module's __getattr__.
    module_name, _, name = rule.rpartition(".")
    module = sys.modules.get(module_name or "builtins")
    alias = vars(module).get(name) if module is not None else None
    return isinstance(alias, type) and alias in bases


def _builtin_name(cls: type) -> str | None:
    return cls.__qualname__ if cls.__module__ == "builtins" else None


def _checked_on(on: Any) -> Any:
    """Return `on` with a list made a tuple, so that a policy can be hashed."""
    if isinstance(on, (list, tuple, set, frozenset)):
        on = tuple(on)
        for rule in on:
            _check_rule(rule)
        return on
    if isinstance(on, (type, str)):
        _check_rule(on)
    else:
        _check(callable(on), "on", on, _ON_ALLOWED)
        if _asks_about_results(on):
            allowed = "a policy on exceptions: raise one in the task where its value is not wanted"
            _check(False, "on", on, allowed)
    return on


def _asks_about_results(on: Any) -> bool:
    """Return whether *on* is one of tenacity's objects that look at what a task returned: a value ends a task here."""
    tenacity: Any = sys.modules.get("tenacity")
    if not hasattr(tenacity, "BaseRetrying") or not isinstance(on, tenacity.retry_base):
        return False
    kinds = (tenacity.retry_if_result, tenacity.retry_if_not_result)
    return isinstance(on, kinds) or any(map(_asks_about_results, getattr(on, "retries", ())))


def _check_rule(rule: Any) -> None:
    if isinstance(rule, str):
        parts = rule.split(".")
        _check(all(part.isidentifier() or part == "<locals>" for part in parts), "on", rule, _ON_ALLOWED)
        if len(parts) == 1:
            names = [name for name, item in vars(builtins).items() if _is_exception_class(item)]
            hint = did_you_mean(rule, names)
            _check(rule in names, "on", rule, "a built-in exception's name, or module.name of any other", hint)
        return
    _check(_is_exception_class(rule), "on", rule, _ON_ALLOWED)


def _is_exception_class(item: object) -> bool:
    return isinstance(item, type) and issubclass(item, BaseException)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check(good: bool, name: str, value: object, allowed: str, hint: str = "") -> None:
    if not good:
        raise ConfigError(
            f"retry.{name} is {value!r}; allowed: {allowed}{'.' + hint if hint else ''}",
            setting=f"retry.{name}",
            allowed=allowed,
        )
