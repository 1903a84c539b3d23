"""The commands and their options; what they do is in `run` and `show`. Each returns its exit code."""

from __future__ import annotations

import click

import taskrun
from taskrun.cli.exits import ExitCode, say
from taskrun.cli.inputs import Format
from taskrun.cli.run import Run, run
from taskrun.cli.settings import executor_settings
from taskrun.cli.show import show_backends, show_config, show_text

__all__ = ["app"]

EXIT_CODES = (
    "Exit codes: 0 all done; 1 some items failed; 2 a mistake in arguments, configuration or inputs, nothing ran; "
    "3 the results could not be written; 130 interrupted; 141 the reader of the results went away."
)


def _show_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        show_text(f"taskrun {taskrun.__version__}")
        context.exit()


def _show_help(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        show_text(context.get_help())  # click's own way knows nothing of our exit codes
        context.exit()


_help = click.help_option("-h", "--help", callback=_show_help)


@click.group(epilog=EXIT_CODES, invoke_without_command=True)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version and exit."
)
@_help
@click.pass_context
def app(context: click.Context) -> None:
    """Run a function over many inputs, on threads, processes or any other backend of taskrun."""
    if context.invoked_subcommand is None:
        say(context.get_help())
        context.exit(ExitCode.USAGE)


@app.command("run", epilog=EXIT_CODES)
@click.argument("target")
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option("--backend", metavar="NAME", help="Where calls run; see `taskrun backends`.")
@click.option("--max-workers", type=int, metavar="N", help="The most calls at a time.")
@click.option("--timeout", metavar="TIME", help="The most time for a call, such as 30s or 5m.")
@click.option("--retries", type=click.IntRange(min=0), metavar="N", help="How often a failed call is tried again.")
@click.option("--profile", metavar="NAME", help="A [profiles.NAME] of the configuration.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any other setting; see `taskrun config`.")
@click.option(
    "--format",
    "input_format",
    type=click.Choice([each.value for each in Format]),
    default=Format.AUTO.value,
    show_default=True,
    help="How inputs are cut into items; auto: by extension.",
)
@click.option("--expand", is_flag=True, help="JSON objects and CSV rows as keyword arguments, arrays as positional ones.")
@click.option("-o", "--output", metavar="FILE", default="-", show_default=True, help="Results; '-': standard output.")
@click.option("--unordered", is_flag=True, help="Results as they come, not in input order.")
@click.option("--fail-fast", is_flag=True, help="Start nothing more once an item failed.")
@click.option("--repr", "as_repr", is_flag=True, help="Write what is not JSON in a result as its repr.")
@click.option("--traceback", "tracebacks", is_flag=True, help="Put the traceback into each failed result.")
@click.option("--no-progress", is_flag=True, help="No progress bar on the terminal.")
@_help
def run_command(
    *,
    target: str,
    inputs: tuple[str, ...],
    backend: str | None,
    max_workers: int | None,
    timeout: str | None,
    retries: int | None,
    profile: str | None,
    settings: tuple[str, ...],
    input_format: str,
    expand: bool,
    output: str,
    unordered: bool,
    fail_fast: bool,
    as_repr: bool,
    tracebacks: bool,
    no_progress: bool,
) -> int:
    """Call a function once for each input and write the results as JSON lines.

    TARGET is MODULE:FUNCTION or FILE.py:FUNCTION. INPUT... are files or patterns ('data/**/*.json'): .jsonl, .csv and .txt are
    read item by item, any other file is one item: its path. '-' is standard input, by lines.

    Each result holds index, input, ok, and value or error. An item that fails, even one that cannot be read, does not stop
    the others. A summary goes to standard error. Ctrl-C starts nothing more and waits for what runs; a second one stops at
    once.
    """
    wanted = Run(
        target=target,
        inputs=list(inputs),
        settings=executor_settings(
            settings,
            backend=backend,
            max_workers=max_workers,
            timeout=timeout,
            profile=profile,
            retries=retries,
        ),
        format=Format(input_format),
        expand=expand,
        output=output,
        unordered=unordered,
        fail_fast=fail_fast,
        as_repr=as_repr,
        tracebacks=tracebacks,
        progress=not no_progress,
    )
    return run(wanted)


@app.command("backends")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.option(
    "--markdown", "as_markdown", is_flag=True, help="The built-in ones, as in taskrun's documentation, whether usable or not."
)
@_help
def backends_command(*, as_json: bool, as_markdown: bool) -> int:
    """Show which backends are here, what each can do, and what is missing and how to get it."""
    show_backends(as_json=as_json, as_markdown=as_markdown)
    return ExitCode.OK


@app.command("config")
@click.option("--profile", metavar="NAME", help="A [profiles.NAME] of the configuration.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@_help
def config_command(*, profile: str | None, as_json: bool) -> int:
    """Show every setting, its value, and where it comes from."""
    show_config(profile, as_json=as_json)
    return ExitCode.OK
