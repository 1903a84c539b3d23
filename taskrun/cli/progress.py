"""The progress bar of a run: on standard error, and only where somebody looks at it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from taskrun.cli.run import Tally

__all__ = ["progress_bar"]


@contextlib.contextmanager
def progress_bar(total: int | None, wanted: bool, stream: TextIO | None) -> Iterator[Callable[[Tally, int], None]]:
    """Show a bar while the block runs; gives a function to call with the tally and the weight of each finished item.

    *total* is the weight of all items (bytes of input, or files); None where it cannot be known: only the counts move.
    """
    if not wanted or stream is None or not stream.isatty():
        yield lambda tally, weight: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[done]:,} done, {task.fields[failed]:,} failed"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    # redirect_*: rich would replace sys.stdout, which carries what functions print, and which may be read by others.
    console = Console(file=stream)
    with Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False) as progress:
        bar = progress.add_task("", total=total, done=0, failed=0)

        def advance(tally: Tally, weight: int) -> None:
            progress.update(bar, advance=weight, done=tally.done, failed=tally.failed)

        yield advance
        if total is not None:  # headers and blank lines are bytes too, but no items
            progress.update(bar, completed=total)
