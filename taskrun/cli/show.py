"""`taskrun backends` and `taskrun config`: what is here, as tables or as JSON; and how any answer is printed."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from taskrun.cli import capabilities
from taskrun.cli.exits import CommandError, ExitCode, writing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskrun.plugins import BackendInfo

__all__ = ["show_backends", "show_config", "show_text"]


def show_text(text: str) -> None:
    """Print *text*."""
    with _standard_output():
        print(text)


def show_backends(*, as_json: bool, as_markdown: bool) -> None:
    """Print every registered backend with what it can do, or why it cannot be used and what to do about it.

    As Markdown: the built-in ones only, as docs/reference/backends.md has them.
    """
    from taskrun.plugins import describe_backends

    if as_json and as_markdown:
        raise CommandError("--json and --markdown exclude each other")
    backends = describe_backends()
    if as_json:
        _print_json([_backend(info) for info in backends])
    elif as_markdown:
        _print_markdown(backends)
    else:
        _print_backends(backends)


def _backend(info: BackendInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "source": info.source,
        "available": info.problem is None,
        "problem": info.problem,
        "capabilities": capabilities.able(info),
        "options": {} if info.cls is None else dict(info.cls.option_names),
        "task_options": {} if info.cls is None else dict(info.cls.task_option_names),
    }


def _print_markdown(backends: list[BackendInfo]) -> None:
    try:
        page = capabilities.as_markdown(backends)
    except OSError:
        raise CommandError("--markdown explains the rows by taskrun's source, which is not installed here") from None
    with _standard_output():
        print(page, end="")


def _print_backends(backends: list[BackendInfo]) -> None:
    here = [info for info in backends if info.problem is None]
    can = [[name.replace("_", " "), *words] for name, *words in capabilities.capability_rows(here)]
    _print_table(["can it", *(info.name for info in here)], can)
    described = capabilities.option_rows(here)
    if described:
        _print_table(["backend", "option", "given to", "what it takes"], described)
    others = [[info.name, info.source] for info in here if info.source != "taskrun"]
    if others:
        _print_table(["backend", "comes from"], others)
    missing = [[info.name, info.source, info.problem] for info in backends if info.problem is not None]
    if missing:
        _print_table(["not usable", "comes from", "why, and what to do"], missing)


def show_config(profile: str | None, *, as_json: bool) -> None:
    """Print every setting with its value and where that was written.

    Raises CommandError listing all mistakes, with their places, when the configuration has any.
    """
    from taskrun.config import describe
    from taskrun.errors import ConfigError

    try:
        settings = describe(profile)
    except ConfigError as error:
        raise CommandError(str(error)) from None
    if as_json:
        plain = [{"name": s.name, "value": _plain(s.value), "origin": s.origin, "doc": s.doc} for s in settings]
        _print_json(plain)
        return
    _print_table(
        ["setting", "value", "from", "what it is"],
        [[s.name, "" if s.value is None else str(_plain(s.value)), s.origin, s.doc] for s in settings],
    )


def _plain(value: Any) -> Any:
    """Return a setting's value as JSON can hold it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return repr(value)


def _print_json(document: Any) -> None:
    show_text(json.dumps(document, indent=2, ensure_ascii=False))


@contextlib.contextmanager
def _standard_output() -> Iterator[None]:
    """Write what is printed to its end; raises CommandError where that fails."""
    if sys.stdout is None:
        raise CommandError("standard output is closed", ExitCode.OUTPUT)
    try:
        with writing("the answer", "standard output"):
            yield
            sys.stdout.flush()
    except CommandError:
        # What is left in the buffer would fail again at exit, with a traceback.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        raise


def _print_table(header: list[str], rows: list[list[str]]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE)
    for number, name in enumerate(header):
        table.add_column(name, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*map(Text, row))  # Text: a value may contain what rich reads as markup

    # Written to a file or a pipe a table is as wide as it needs to be, so that grep finds whole values.
    class Shown(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would end the program with a code of its own

    with _standard_output():
        Shown(file=sys.stdout, width=None if sys.stdout.isatty() else 1000).print(table)
