"""The commands and their options; what they do is in `run` and `show`."""

# Without `from __future__ import annotations` on purpose: typer reads the annotations of the commands when they run.
from typing import Annotated

import typer

from taskrun.cli.exits import ExitCode
from taskrun.cli.inputs import Format
from taskrun.cli.run import Run, run
from taskrun.cli.settings import executor_settings
from taskrun.cli.show import show_backends, show_config, show_version

__all__ = ["app"]

EXIT_CODES = (
    "Exit codes: 0 all done; 1 some items failed; 2 a mistake in arguments, configuration or inputs, nothing ran; "
    "3 the results could not be written; 130 interrupted; 141 the reader of the results went away."
)

app = typer.Typer(
    help="Run a function over many inputs, on threads, processes or any other backend of taskrun.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # help texts contain brackets that are no markup
    pretty_exceptions_enable=False,  # a bug in taskrun shows as Python shows it
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        show_version()
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Run a function over many inputs, on threads, processes or any other backend of taskrun."""


@app.command("run", epilog=EXIT_CODES)
def run_command(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="MODULE:FUNCTION or FILE.py:FUNCTION.")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Files or patterns ('data/**/*.json'); .jsonl, .csv and .txt are read item by item, any other file is "
            "one item: its path. '-' is standard input, by lines.",
        ),
    ],
    backend: Annotated[str | None, typer.Option(help="Where calls run; see `taskrun backends`.")] = None,
    max_workers: Annotated[int | None, typer.Option(help="The most calls at a time.")] = None,
    timeout: Annotated[str | None, typer.Option(help="The most time for a call, such as 30s or 5m.")] = None,
    retries: Annotated[int | None, typer.Option(help="How often a failed call is tried again.", min=0)] = None,
    profile: Annotated[str | None, typer.Option(help="A [profiles.NAME] of the configuration.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting; see `taskrun config`.")
    ] = None,
    input_format: Annotated[
        Format, typer.Option("--format", help="How inputs are cut into items; auto: by extension.")
    ] = Format.AUTO,
    expand: Annotated[
        bool, typer.Option("--expand", help="JSON objects and CSV rows as keyword arguments, arrays as positional ones.")
    ] = False,
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Results; '-': standard output.")] = "-",
    unordered: Annotated[bool, typer.Option("--unordered", help="Results as they come, not in input order.")] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Start nothing more once an item failed.")] = False,
    as_repr: Annotated[bool, typer.Option("--repr", help="Write what is not JSON in a result as its repr.")] = False,
    tracebacks: Annotated[bool, typer.Option("--traceback", help="Put the traceback into each failed result.")] = False,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="No progress bar on the terminal.")] = False,
) -> None:
    """Call a function once for each input and write the results as JSON lines.

    Each result holds index, input, ok, and value or error. An item that fails, even one that cannot be read, does not stop
    the others. A summary goes to standard error. Ctrl-C starts nothing more and waits for what runs; a second one stops at
    once.
    """
    wanted = Run(
        target=target,
        inputs=inputs,
        settings=executor_settings(
            settings or (),
            backend=backend,
            max_workers=max_workers,
            timeout=timeout,
            profile=profile,
            retries=retries,
        ),
        format=input_format,
        expand=expand,
        output=output,
        unordered=unordered,
        fail_fast=fail_fast,
        as_repr=as_repr,
        tracebacks=tracebacks,
        progress=not no_progress,
    )
    raise typer.Exit(run(wanted))


@app.command("backends")
def backends_command(
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="The built-in ones, as in taskrun's documentation, whether usable here or not.")
    ] = False,
) -> None:
    """Show which backends are here, what each can do, and what is missing and how to get it."""
    show_backends(as_json=as_json, as_markdown=as_markdown)
    raise typer.Exit(ExitCode.OK)


@app.command("config")
def config_command(
    profile: Annotated[str | None, typer.Option(help="A [profiles.NAME] of the configuration.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Show every setting, its value, and where it comes from."""
    show_config(profile, as_json=as_json)
    raise typer.Exit(ExitCode.OK)
