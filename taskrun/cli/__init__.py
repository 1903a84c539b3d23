"""The command line, `taskrun`. Its libraries come with the extra "cli"; without them it says how to get them."""

from __future__ import annotations

import os
import sys

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line with *arguments* (default: those of the process) and return its exit code, an `ExitCode`.

    Never raises for a user's mistake: that is told on standard error, without a traceback.
    """
    from taskrun.cli.exits import CommandError, ExitCode, say

    _occupy_closed_outputs()
    try:
        import click

        from taskrun.cli.app import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in {"click", "rich"}:
            raise
        missing = f"taskrun: the command line needs the package {error.name!r}, which is not installed"
        say(f"{missing}: pip install 'taskrun-executor[cli]'")
        return ExitCode.USAGE
    try:
        # Not `main` of click, which has ways of its own with Ctrl-C and with a reader that went away.
        with app.make_context("taskrun", sys.argv[1:] if arguments is None else list(arguments)) as context:
            code: int = app.invoke(context)
    except CommandError as error:
        if str(error):
            say(f"taskrun: {error}")
        return error.code
    except click.UsageError as error:  # a mistake in the arguments
        usage = "" if error.ctx is None else f"{error.ctx.get_usage()}\nTry '{error.ctx.command_path} --help' for help.\n\n"
        say(f"{usage}Error: {error.format_message()}")
        return ExitCode.USAGE
    except click.exceptions.Exit as ending:  # after the help or the version
        return ending.exit_code
    except KeyboardInterrupt:  # where a command does not wait for it
        return ExitCode.INTERRUPTED
    return code


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
