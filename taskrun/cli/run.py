"""`taskrun run`: one call per input, results as JSON lines, a summary, and an exit code that says how it went."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from taskrun.cli.exits import CommandError, ExitCode, say
from taskrun.cli.flow import Flow, in_order
from taskrun.cli.inputs import Format, Item, items, plan, total_weight
from taskrun.cli.output import Record, Results, record_of
from taskrun.cli.progress import progress_bar
from taskrun.cli.target import load_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future
    from types import FrameType

    from taskrun import Executor

__all__ = ["Run", "Tally", "run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What `taskrun run` was asked to do."""

    target: str
    inputs: list[str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Arguments for `taskrun.Executor`; what is not here comes from the configuration."""
    format: Format = Format.AUTO
    expand: bool = False
    """Objects (and CSV rows) as keyword arguments, arrays as positional ones."""
    output: str = "-"
    unordered: bool = False
    fail_fast: bool = False
    as_repr: bool = False
    tracebacks: bool = False
    progress: bool = True


@dataclass(slots=True)
class Tally:
    """What happened so far."""

    done: int = 0
    failed: int = 0
    not_run: int = 0
    causes: dict[str, tuple[int, str]] = field(default_factory=dict)
    """For each type of error: how often, and the first one with its place."""
    interrupted: bool = False
    stopped_early: bool = False

    def count(self, record: Record) -> None:
        """Count one record as done or failed."""
        if record["ok"]:
            self.done += 1
            return
        self.failed += 1
        error = record["error"]
        times, first = self.causes.get(error["type"], (0, ""))
        if not times:
            # A problem of an input begins with its place already.
            place = record.get("source") or _shortened(str(record["input"]), 80)
            text = _shortened(error["message"].partition("\n")[0], 200)
            first = f"index {record['index']}: " + (text if text.startswith(place) else f"{place}: {text}")
        self.causes[error["type"]] = (times + 1, first)


def run(wanted: Run) -> ExitCode:
    """Carry out a run and return how it ended.

    Raises CommandError where nothing could be run, and where results could not be written.
    """
    sources = plan(wanted.inputs, wanted.format)
    if wanted.expand and any(source.format in (Format.LINES, Format.FILES) for source in sources):
        raise CommandError("--expand needs JSONL or CSV inputs: a line of text or a path is one argument")
    tally = Tally()
    started = time.monotonic()
    with Results(wanted.output) as results:
        function = load_target(wanted.target)
        with _executor(wanted.settings) as executor:
            results.open(sources)
            flow = Flow(
                items(sources),
                _submitter(executor, function, wanted.expand),
                concurrent=executor.capabilities.concurrent,
                before_waiting=results.flush,  # let the reader see what there is
            )
            who = _backend_text(executor)
            try:
                with (
                    _ctrl_c(flow, tally),
                    progress_bar(total_weight(sources), wanted.progress, sys.stderr) as advance,
                ):
                    _collect(flow, wanted, results, tally, advance)
            except KeyboardInterrupt:
                tally.interrupted = True
                say(_summary(tally, time.monotonic() - started, who))
                raise  # through the executor's `with`: that stops what still runs
            except CommandError:  # the results cannot be written: nobody would ever see what still runs
                flow.stop()
                executor.kill_workers()
                raise
            finally:
                flow.stop()
    say(_summary(tally, time.monotonic() - started, who))
    if tally.interrupted:
        return ExitCode.INTERRUPTED
    return ExitCode.FAILED_ITEMS if tally.failed else ExitCode.OK


def _collect(flow: Flow, wanted: Run, results: Results, tally: Tally, advance: Callable[[Tally, int], None]) -> None:
    with contextlib.closing(flow.outcomes()) as outcomes:
        for outcome in outcomes if wanted.unordered else in_order(outcomes):
            if outcome.not_run:
                tally.not_run += 1
            else:
                record = record_of(outcome, tracebacks=wanted.tracebacks, as_repr=wanted.as_repr)
                results.write(record)
                tally.count(record)
            advance(tally, outcome.item.weight)
            flow.release(outcome)
            if wanted.fail_fast and tally.failed and not tally.stopped_early:
                tally.stopped_early = True
                flow.stop()


def _executor(settings: Mapping[str, Any]) -> Executor:
    """Make the executor; what is wrong with its settings, from wherever they came, is a CommandError."""
    import taskrun
    from taskrun.errors import TaskrunError

    try:
        return taskrun.Executor(**settings)
    except (TaskrunError, TypeError, ValueError) as error:
        raise CommandError(str(error)) from error


def _submitter(executor: Executor, function: Callable[..., Any], expand: bool) -> Callable[[Item], Future[Any]]:
    def submit(item: Item) -> Future[Any]:
        if not expand:
            return executor.submit(function, item.value)
        if isinstance(item.value, dict):
            return executor.submit(function, **item.value)
        if isinstance(item.value, list):
            return executor.submit(function, *item.value)
        from concurrent.futures import Future

        failed: Future[Any] = Future()
        kind = type(item.value).__name__
        failed.set_exception(TypeError(f"--expand needs an object or an array on each line, this one is a {kind}"))
        return failed

    return submit


def _backend_text(executor: Executor) -> str:
    facts = executor.stats()
    workers = facts["max_workers"]
    return f"{facts['backend']} ({workers} worker{'' if workers == 1 else 's'})"


@contextlib.contextmanager
def _ctrl_c(flow: Flow, tally: Tally) -> Iterator[None]:
    """The first Ctrl-C starts nothing more and waits for what runs; the second one is a KeyboardInterrupt."""

    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # `nohup`, or `&` in a script: not for us
    if ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: SimpleQueue[bool] = SimpleQueue()

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        tally.interrupted = True
        asked.put(True)

    def stopper() -> None:
        # Not in the handler: what it interrupts may hold the flow's lock, or the stream's. Nor in the main thread, which
        # may be stuck in writing. Told only when it holds: of what the message calls the rest, nothing starts any more.
        if asked.get():
            flow.stop()
            with contextlib.suppress(OSError):
                os.write(2, b"\ntaskrun: interrupted; waiting for what runs, Ctrl-C again stops it at once\n")

    threading.Thread(target=stopper, name="taskrun-stopper", daemon=True).start()
    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        asked.put(False)


def _summary(tally: Tally, seconds: float, who: str) -> str:
    total = tally.done + tally.failed
    lines = [f"taskrun: {total:,} item{'' if total == 1 else 's'} in {seconds:.1f} s on {who}: {_counts(tally)}"]
    if tally.interrupted or tally.stopped_early:
        why = "interrupted" if tally.interrupted else "stopped at the first failure"
        lines.append(f"  {why}: the rest of the input was not run ({tally.not_run:,} of it read already)")
    for kind, (times, first) in sorted(tally.causes.items(), key=lambda cause: -cause[1][0]):
        lines.append(f"  {times:,} x {kind}, first at {first}")
    return "\n".join(lines)


def _counts(tally: Tally) -> str:
    return f"{tally.done:,} done, {tally.failed:,} failed"


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
