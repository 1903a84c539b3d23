"""Results as JSON lines: what a record holds, and writing it where the user wants it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from taskrun.cli.exits import CommandError, writing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from taskrun.cli.inputs import Input, Item

__all__ = ["INPUT_ERROR", "RESULT_ERROR", "Outcome", "Record", "Results", "error_type", "record_of"]

INPUT_ERROR: Final = "InputError"
"""The `error.type` of an item whose line, row or file could not be read: the function was not called."""
RESULT_ERROR: Final = "ResultNotJSON"
"""The `error.type` of an item whose value cannot be written as JSON: the function did return."""
SHOWN_REPR: Final = 10_000

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item."""

    item: Item
    value: Any = None
    error: BaseException | None = None
    seconds: float | None = None
    """Run time in the worker, all attempts together; None when no worker took it up."""
    attempts: int = 0
    not_run: bool = False
    """It was cancelled before it began, because the run was stopped."""


def error_type(error: BaseException) -> str:
    """Return the name of an exception's class, with its module unless that is builtins."""
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def record_of(outcome: Outcome, *, tracebacks: bool = False, as_repr: bool = False) -> Record:
    """Return the record of an outcome: index, input, (source,) ok, value or error, seconds, attempts.

    With *as_repr* what JSON cannot express in a value is its `repr`; otherwise such a value makes the record a failed
    one that says which part it was, and keeps the `repr` of the whole, so that the work is not lost.
    """
    item = outcome.item
    record: Record = {"index": item.index, "input": item.value}
    if item.source is not None:
        record["source"] = item.source
    cost = {"seconds": None if outcome.seconds is None else round(outcome.seconds, 6), "attempts": outcome.attempts}
    if item.problem is not None:
        return {**record, "ok": False, "error": {"type": INPUT_ERROR, "message": item.problem}, **cost}
    if outcome.error is not None:
        error = {"type": error_type(outcome.error), "message": _safe(str, outcome.error)}
        if tracebacks:
            error["traceback"] = "".join(traceback.format_exception(outcome.error))
        return {**record, "ok": False, "error": error, **cost}
    problem, value = _as_json(outcome.value, as_repr)
    if problem is None:
        return {**record, "ok": True, "value": value, **cost}
    error = {"type": RESULT_ERROR, "message": problem, "repr": _safe(repr, outcome.value)[:SHOWN_REPR]}
    return {**record, "ok": False, "error": error, **cost}


def _as_json(value: Any, as_repr: bool) -> tuple[str | None, Any]:
    """Return (problem or None, the value as JSON can hold it)."""
    try:
        json.dumps(value, allow_nan=False)
        clash = _clash(value)
        if clash is not None:
            raise ValueError(clash)
    except Exception as error:  # subclasses of dict, list and str are the user's code and may raise anything
        if not as_repr:
            hint = "return plain values, or use --repr"
            return f"the function returned what JSON cannot hold: {_where(value) or error}; {hint}", None
    else:
        return None, value
    try:
        if _clash(value) is None:
            return None, json.loads(json.dumps(value, default=lambda part: _safe(repr, part), allow_nan=False))
        return None, _safe(repr, value)
    except Exception:  # as above; and keys that are no strings, cycles, NaN: the whole value as text
        return None, _safe(repr, value)


def _clash(value: Any, path: str = "value") -> str | None:
    """Return which keys of a dict in *value* are the same once they are strings, as JSON has them, or None."""
    parts: Iterator[tuple[object, Any]] = iter(())
    if isinstance(value, dict):
        parts = iter(value.items())
        if any(type(key) is not str for key in value):
            names: dict[str, object] = {}
            for key in value:
                name = next(iter(json.loads(json.dumps({key: None}))))
                if name in names:
                    return f"{path} has the keys {names[name]!r} and {key!r}, which are one key in JSON"
                names[name] = key
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    found = (_clash(part, f"{path}[{key!r}]") for key, part in parts if isinstance(part, dict | list | tuple))
    return next((clash for clash in found if clash is not None), None)


def _where(value: Any, path: str = "value", depth: int = 0) -> str | None:
    """Return which part of *value* is not JSON, "value['when'] is a datetime.datetime" say, or None if not found."""
    if value is None or isinstance(value, str | bool | int):
        return None
    if isinstance(value, float):
        return f"{path} is {value}" if value != value or value in (float("inf"), float("-inf")) else None
    if depth > 20:
        return None
    parts: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        for key, part in value.items():
            if key is not None and not isinstance(key, str | int | float | bool):
                return f"{path} has a key of type {type(key).__qualname__}"
            parts.append((f"{path}[{key!r}]", part))
    elif isinstance(value, list | tuple):
        parts = [(f"{path}[{number}]", part) for number, part in enumerate(value)]
    else:
        return f"{path} is a {type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")
    return next((found for name, part in parts if (found := _where(part, name, depth + 1))), None)


def _safe(show: Any, thing: object) -> str:
    try:
        return cast("str", show(thing))
    except Exception as error:  # a user's __str__ or __repr__ may raise anything; the item's record matters more
        return f"<{type(thing).__qualname__} whose text cannot be made: {type(error).__name__}>"


def _line(record: Record) -> bytes:
    try:
        return json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a lone surrogate, as file names that are not UTF-8 have: written as \\udcXX
        return json.dumps(record).encode()


def _flatten(record: Record) -> None:
    """Put text in the place of what is nested too deeply to be written."""
    record["input"] = _shallow(record["input"])
    if "value" in record:
        problem = "the function returned what is nested too deeply to be written as JSON"
        record.update(ok=False, error={"type": RESULT_ERROR, "message": problem, "repr": _shallow(record.pop("value"))})


def _shallow(value: Any) -> str:
    kind = f"a {type(value).__qualname__} that is nested too deeply to be written"
    try:
        return repr(value)[:SHOWN_REPR]
    except RecursionError:
        return kind


class Results:
    """Where the records go: a file, or standard output (`-`).

    Standard output then carries records and nothing else: what functions print meanwhile, here and in workers, goes to
    standard error. A context manager, entered before workers start and before the user's module is imported.
    Raises CommandError with `ExitCode.BROKEN_PIPE` or `ExitCode.OUTPUT` where writing fails.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._stream: BinaryIO | None = None
        self._stdout: int | None = None
        self._saved = -1

    def __enter__(self) -> Results:
        if self._path == "-":
            self._stream = self._take_stdout()
        return self

    def open(self, inputs: list[Input]) -> None:
        """Create the file, once it is known that the run can start; refuses to overwrite one of the inputs."""
        if self._path == "-":
            return
        if os.path.exists(self._path):
            for source in inputs:
                if source.path != "-" and os.path.samefile(source.path, self._path):
                    raise CommandError(f"--output {self._path} is also an input; it would be overwritten")
        try:
            self._stream = open(self._path, "wb")  # noqa: SIM115  # closed by __exit__
        except OSError as error:
            raise CommandError(f"--output {self._path} cannot be written: {error.strerror or error}") from None

    def write(self, record: Record) -> None:
        """Write one record as one line, in UTF-8; it may stay in the buffer until `flush`.

        What is nested too deeply to be written becomes text in *record*, a value so that the record is a failed one.
        """
        try:
            line = _line(record)
        except RecursionError:
            _flatten(record)
            line = _line(record)
        with self._told():
            self._out.write(line + b"\n")

    def flush(self) -> None:
        """Hand what is buffered to the reader."""
        with self._told():
            self._out.flush()

    @property
    def _out(self) -> BinaryIO:
        if self._stream is None:
            raise RuntimeError("Results is not open")
        return self._stream

    def _told(self) -> contextlib.AbstractContextManager[None]:
        return writing("results", "standard output" if self._path == "-" else self._path)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            with self._told():
                self._close()
        except CommandError:
            if error is None:  # else the first error is the one to tell
                raise
        finally:
            self._give_back_stdout()

    def _close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is None:
            return
        if self._path == "-" and self._stdout is None:
            stream.flush()  # somebody else's stream
            return
        try:
            stream.close()
        except OSError:
            # The buffer could not be written. A second close finds its file closed and so gives the rest up in silence.
            with contextlib.suppress(OSError, ValueError):
                stream.close()
            raise

    def _take_stdout(self) -> BinaryIO:
        if sys.stdout is None:
            raise CommandError("standard output is closed; name a file with --output")
        try:
            number = sys.stdout.fileno()
        except (AttributeError, OSError, ValueError):  # replaced by an object without a descriptor, as test runners do
            return cast("BinaryIO", sys.stdout.buffer)
        sys.stdout.flush()
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True)
        self._stdout, self._saved = number, os.dup(number)
        try:
            os.dup2(2, number)
        except OSError:  # standard error is closed: what is printed goes nowhere
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
        return open(os.dup(self._saved), "wb")  # closed by __exit__

    def _give_back_stdout(self) -> None:
        if self._stdout is None:
            return
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()  # what was printed meanwhile still belongs to standard error
        os.dup2(self._saved, self._stdout)
        os.close(self._saved)
        self._stdout = None
