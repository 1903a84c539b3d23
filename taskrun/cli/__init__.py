"""The command line, `taskrun`. Its libraries come with the extra "cli"; without them it says how to get them."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line with *arguments* (default: those of the process) and return its exit code, an `ExitCode`.

    Never raises for a user's mistake: that is told on standard error, without a traceback.
    """
    from taskrun.cli.exits import CommandError, ExitCode

    try:
        from taskrun.cli.app import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in {"typer", "rich", "click"}:
            raise
        missing = f"taskrun: the command line needs the package {error.name!r}, which is not installed"
        print(f"{missing}: pip install 'taskrun-executor[cli]'", file=sys.stderr)
        return ExitCode.USAGE
    try:
        app(arguments, prog_name="taskrun")
    except CommandError as error:
        if str(error):
            print(f"taskrun: {error}", file=sys.stderr)
        return error.code
    except SystemExit as ending:  # how typer ends: after --help, a mistake in the arguments, or a command's own code
        return ending.code if isinstance(ending.code, int) else ExitCode.OK if ending.code is None else ExitCode.USAGE
    return ExitCode.OK
