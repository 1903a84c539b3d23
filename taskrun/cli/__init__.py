"""The command line, `taskrun`. Its libraries come with the extra "cli"; without them it says how to get them."""

from __future__ import annotations

import os

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line with *arguments* (default: those of the process) and return its exit code, an `ExitCode`.

    Never raises for a user's mistake: that is told on standard error, without a traceback.
    """
    from taskrun.cli.exits import CommandError, ExitCode, say, writing

    _occupy_closed_outputs()
    try:
        from taskrun.cli.app import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in {"typer", "rich", "click"}:
            raise
        missing = f"taskrun: the command line needs the package {error.name!r}, which is not installed"
        say(f"{missing}: pip install 'taskrun-executor[cli]'")
        return ExitCode.USAGE
    try:
        with writing("the help", "standard output"):  # that is typer's own; what commands write has its own handling
            app(arguments, prog_name="taskrun")
    except CommandError as error:
        if str(error):
            say(f"taskrun: {error}")
        return error.code
    except SystemExit as ending:  # how typer ends: after --help, a mistake in the arguments, or a command's own code
        return ending.code if isinstance(ending.code, int) else ExitCode.OK if ending.code is None else ExitCode.USAGE
    return ExitCode.OK


def _occupy_closed_outputs() -> None:
    """Open the null device in the place of standard output and standard error, if these are closed.

    Else the next file that is opened, the results say, would get the number, and with it all that is written there.
    """
    for number in (1, 2):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere == number:
                os.set_inheritable(number, True)
            else:
                os.dup2(nowhere, number)
                os.close(nowhere)
