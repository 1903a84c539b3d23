"""What the backends share that let the user choose how worker processes are made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskrun.errors import ConfigError, UnsafeForkWarning
from taskrun.hints import warn_outside
from taskrun.threads import in_subinterpreter, threads_of_others

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskrun.engine.launch import StartMethod

__all__ = ["MP_CONTEXT", "chosen_method", "warn_of_threads"]

MP_CONTEXT = {"mp_context": "the standard executors' synonym: a multiprocessing context, or the name of its start method"}

_METHODS: tuple[StartMethod, ...] = ("forkserver", "spawn", "fork")


def chosen_method(options: Mapping[str, Any]) -> StartMethod:
    """Return the start method that the backend's *options* name. Raises ConfigError."""
    chosen = options.get("start_method")
    synonym = options.get("mp_context")
    if synonym is not None and not isinstance(synonym, str):
        ask = getattr(synonym, "get_start_method", None)
        if ask is None:
            raise ConfigError(
                f"mp_context={synonym!r} is not a multiprocessing context; allowed: one from "
                f"multiprocessing.get_context(), or one of {', '.join(_METHODS)}",
                setting="mp_context",
                allowed=_METHODS,
            )
        synonym = ask()
    if chosen is not None and synonym is not None and chosen != synonym:
        raise ConfigError(
            f"start_method={chosen!r} and mp_context ({synonym!r}) contradict each other; give one of them",
            setting="start_method",
            allowed=_METHODS,
        )
    method = chosen if chosen is not None else synonym if synonym is not None else "forkserver"
    setting = "start_method" if chosen is not None else "mp_context"
    if method == "fork" and in_subinterpreter():
        text = f"{setting}='fork' cannot be used here: a sub-interpreter allows no fork"
        raise ConfigError(text, setting=setting, allowed=_METHODS[:2])
    for known in _METHODS:
        if method == known:
            return known
    raise ConfigError(f"{setting}={method!r} is unknown; allowed: {', '.join(_METHODS)}", setting=setting, allowed=_METHODS)


def warn_of_threads(how: str, better: str) -> None:
    """Warn of a fork while threads run that are not ours. Called by `Backend.start`; *how* says which setting asks for it."""
    others = threads_of_others()
    if others:
        warn_outside(
            f"{how} with other threads running ({', '.join(others[:5])}): locks they hold at that moment stay locked in the "
            f"new process; use {better}",
            UnsafeForkWarning,
        )
