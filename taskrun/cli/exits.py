"""How the command line ends: its exit codes, and the one exception that carries a code and a message."""

from __future__ import annotations

import contextlib
import sys
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CommandError", "ExitCode", "say", "writing"]


class ExitCode(IntEnum):
    """What `taskrun` reports to the shell."""

    OK = 0
    """Everything asked for was done."""
    FAILED_ITEMS = 1
    """The run went to its end, or `--fail-fast` ended it, and an item failed; the results say which and why."""
    USAGE = 2
    """Nothing ran: a mistake in the arguments, the configuration, the function's name or the names of the inputs."""
    OUTPUT = 3
    """The results could not be written, for example to a full disk; the run was stopped."""
    INTERRUPTED = 130
    """Ctrl-C (128 + SIGINT, as shells count); results of what had begun are written, unless it was pressed twice."""
    BROKEN_PIPE = 141
    """The reader of the results went away, as `head` does (128 + SIGPIPE); the run was stopped."""


class CommandError(Exception):
    """A reason to stop, told to the user in plain words and without a traceback; ends the program with *code*."""

    def __init__(self, message: str, code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(message)
        self.code = code


def say(text: str) -> None:
    """Print *text* on standard error, if that is there and takes it: the exit code says the rest."""
    if sys.stderr is not None:  # print would take standard output
        try:
            print(text, file=sys.stderr, flush=True)
        except (OSError, ValueError):
            sys.stderr = None  # else Python tries again at exit, and makes the exit code 120


@contextlib.contextmanager
def writing(what: str, where: str) -> Iterator[None]:
    """Turn the errors of writing into the ends of the program that they are."""
    try:
        yield
    except BrokenPipeError:
        raise CommandError("", ExitCode.BROKEN_PIPE) from None
    except OSError as error:
        raise CommandError(f"cannot write {what} to {where}: {error.strerror or error}", ExitCode.OUTPUT) from None
