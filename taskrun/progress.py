"""`options(progress=...)`: how far a `map` is, as a bar on standard error or told to a function of the user's."""

from __future__ import annotations

import logging
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskrun.callbacks import CallbackRunner

__all__ = ["Reporter", "bar_available"]

_log = logging.getLogger("taskrun")


def bar_available() -> bool:
    """Return whether the library that draws the bar is installed."""
    return find_spec("rich") is not None


class Reporter:
    """Tells a function (done, total or None) where callbacks run, not for every task but as fast as the function can take it.

    `_lock` guards the numbers; the function never runs under it, and only in one thread at a time.
    """

    def __init__(self, show: bool | Callable[[int, int | None], object], total: int | None, runner: CallbackRunner) -> None:
        self._bar = _Bar() if show is True else None
        self._show: Any = show if self._bar is None else self._bar.show
        self._total = total
        self._runner = runner
        self._lock = threading.RLock()  # re-entrant: a signal handler may submit, and on `serial` run, in the middle
        self._done = 0
        self._told = -1
        self._queued = False
        self._closed = False

    def ended(self, items: int) -> None:
        """Count items that are over, and were not cancelled."""
        with self._lock:
            self._done += items
        self._queue()

    def close(self) -> None:
        """Tell the last number, and end the bar."""
        with self._lock:
            self._closed = True
        self._queue()

    def _queue(self) -> None:
        with self._lock:
            if self._queued:
                return
            self._queued = True
        self._runner.add(self._tell)
        self._runner.run()

    def _tell(self) -> None:
        with self._lock:
            self._queued = False
            done, closed, news = self._done, self._closed, self._done != self._told
            self._told = done
        try:
            if news:
                self._show(done, self._total)
            if closed and self._bar is not None:
                self._bar.end()
        except Exception:  # as with callbacks: the user's error is told and hurts nobody
            _log.exception("error in the progress function of a map")


class _Bar:
    """A progress bar, drawn by rich at its own pace."""

    def __init__(self) -> None:
        self._progress: Any = None

    def show(self, done: int, total: int | None) -> None:
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TimeElapsedColumn

            columns = (SpinnerColumn(), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn())
            # redirect_*: rich would replace sys.stdout, which belongs to the program.
            console = Console(stderr=True)
            self._progress = Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False)
            self._task = self._progress.add_task("", total=total)
            self._progress.start()
        self._progress.update(self._task, completed=done)

    def end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
