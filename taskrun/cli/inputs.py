"""From the INPUT arguments of `taskrun run` to a stream of items, one call each, without ever holding a whole input.

A line, row or file that cannot be used becomes an item with a `problem`: it fails by itself, under its own index, and
its neighbours run. Only what is wrong before anything ran (a missing file, say) raises `CommandError`.
"""

from __future__ import annotations

import csv
import glob
import json
import math
import os
import sys
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from taskrun.cli.exits import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Format", "Input", "Item", "items", "plan", "total_weight"]

STDIN: Final = "-"
SUFFIXES: Final = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".txt": "lines"}
BOM: Final = b"\xef\xbb\xbf"
SHOWN_TEXT: Final = 2000
"""Characters of a broken CSV row that its result repeats: an open quote makes a row of the whole rest of the file."""


class Format(StrEnum):
    """How an input is cut into items."""

    AUTO = "auto"
    """By the file's extension: .jsonl and .ndjson, .csv, .txt (lines); any other file is one item, its path."""
    JSONL = "jsonl"
    """One JSON value a line; blank lines are skipped."""
    CSV = "csv"
    """Comma separated, the first row names the columns; a dict for each further row."""
    LINES = "lines"
    """The text of each line, without its line end; blank lines are skipped."""
    FILES = "files"
    """The path of each file, as a string; the file itself is not read."""


@dataclass(frozen=True, slots=True)
class Input:
    """One source of items: a file to read, standard input, or a file that is an item itself."""

    path: str
    format: Format

    @property
    def shown(self) -> str:
        """The name used in messages."""
        return "<stdin>" if self.path == STDIN else self.path

    @property
    def weight(self) -> int | None:
        """Its share of the progress bar: 1 for a file that is an item, bytes for one that is read, None if unknown."""
        if self.format is Format.FILES:
            return 1
        try:
            return None if self.path == STDIN else os.path.getsize(self.path)
        except OSError:  # it went away meanwhile: that is reported when it is its turn
            return None


@dataclass(frozen=True, slots=True)
class Item:
    """One call to make: its position among all items, the value, and where it came from."""

    index: int
    value: Any
    """What the function gets; the raw text where there is a problem."""
    source: str | None
    """"file:line", or None for an item that is a file."""
    weight: int
    """Its share of its input's weight: bytes read for it, or 1."""
    problem: str | None = None
    """Why it cannot be run, with file and line."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """An item before it has its index."""

    value: Any
    line: int | None
    weight: int
    problem: str | None = None


def plan(arguments: list[str], wanted: Format) -> list[Input]:
    """Return the inputs that *arguments* name, in order, with patterns expanded (sorted) and formats decided.

    Raises CommandError listing every missing or unreadable file, directory and pattern without a match.
    """
    found: list[Input] = []
    mistakes: list[str] = []
    for argument in arguments:
        if argument == STDIN:
            if not _is_open(0):
                mistakes.append("'-': standard input is closed")
            found.append(Input(STDIN, Format.LINES if wanted is Format.AUTO else wanted))
            continue
        for path in _expand(argument, mistakes):
            chosen = _format_of(path) if wanted is Format.AUTO else wanted
            found.append(Input(path, chosen))
            if chosen is not Format.FILES and not os.access(path, os.R_OK):
                mistakes.append(f"{path}: no permission to read it")
    if sum(source.path == STDIN for source in found) > 1:
        mistakes.append("'-' (standard input) can be given once only")
    if any(source.path == STDIN and source.format is Format.FILES for source in found):
        mistakes.append("'-' with --format files: to pass the file names that come on standard input use --format lines")
    if mistakes:
        raise CommandError("nothing was run, there is a mistake in the inputs:\n" + "\n".join(f"  {m}" for m in mistakes))
    return found


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def total_weight(inputs: list[Input]) -> int | None:
    """Return the weight of all inputs together, or None when it is unknown or counted in different units."""
    weights = [source.weight for source in inputs]
    kinds = {source.format is Format.FILES for source in inputs}
    if len(kinds) > 1 or None in weights:
        return None
    return sum(weight for weight in weights if weight is not None)


def items(inputs: list[Input]) -> Iterator[Item]:
    """Yield the items of all inputs in order, reading each input only as far as is asked for."""
    numbers = count()
    for source in inputs:
        for piece in _pieces(source):
            place = None if source.format is Format.FILES else _place(source, piece.line)
            problem = None if piece.problem is None else f"{place or source.shown}: {piece.problem}"
            yield Item(next(numbers), piece.value, place, piece.weight, problem)


def _place(source: Input, line: int | None) -> str:
    return source.shown if line is None else f"{source.shown}:{line}"


def _expand(argument: str, mistakes: list[str]) -> list[str]:
    """Return the files that one argument names; a name that exists is itself, whatever characters it has."""
    if os.path.isdir(argument):
        mistakes.append(f"{argument}: is a directory; to pass the files in it write '{os.path.join(argument, '**/*')}'")
        return []
    if os.path.lexists(argument):
        if not os.path.exists(argument):
            mistakes.append(f"{argument}: is a symbolic link to nothing")
            return []
        return [argument]
    if not glob.has_magic(argument):
        mistakes.append(f"{argument}: no such file (looked from {os.getcwd()})")
        return []
    # Sorted, so that two runs over the same files number them alike; the names are all that is held.
    matches = sorted(path for path in glob.iglob(argument, recursive=True) if not os.path.isdir(path))
    if not matches:
        mistakes.append(f"{argument}: no file matches this pattern (looked from {os.getcwd()})")
    return matches


def _format_of(path: str) -> Format:
    return Format(SUFFIXES.get(Path(path).suffix.lower(), "files"))


def _pieces(source: Input) -> Iterator[_Piece]:
    if source.format is Format.FILES:
        yield _Piece(source.path, None, 1)
        return
    readers = {Format.JSONL: _json_lines, Format.CSV: _csv_rows, Format.LINES: _text_lines}
    line = 0
    try:
        # Standard input is opened anew: a thread that still reads `sys.stdin` when the interpreter ends would abort it.
        with open(0 if source.path == STDIN else source.path, "rb", closefd=source.path != STDIN) as stream:
            for piece in readers[source.format](stream):
                line = piece.line or line
                yield piece
    except OSError as error:
        where = f"reading failed after line {line}" if line else "cannot be read"
        yield _Piece(None, None, 0, f"{where}: {error.strerror or error}; the rest of it was not run")


def _lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield (line number, raw line) without a byte order mark."""
    for number, raw in enumerate(stream, 1):
        yield number, raw.removeprefix(BOM) if number == 1 else raw


def _text_lines(stream: IO[bytes]) -> Iterator[_Piece]:
    for number, raw in _lines(stream):
        text, problem = _decode(raw)
        if problem or text.strip():
            yield _Piece(text.rstrip("\r\n"), number, len(raw), problem)


def _json_lines(stream: IO[bytes]) -> Iterator[_Piece]:
    for number, raw in _lines(stream):
        text, problem = _decode(raw)
        if problem is None and not text.strip():
            continue
        value: Any = text.rstrip("\r\n")
        if problem is None:
            try:
                value = json.loads(value, parse_constant=_refuse_number, parse_float=_finite)
            except json.JSONDecodeError as error:
                problem = f"not valid JSON: {error.msg} (column {error.colno})"
            except (ValueError, RecursionError) as error:  # a number of too many digits; brackets nested too deep
                problem = f"JSON that Python cannot hold: {error}"
        yield _Piece(value, number, len(raw), problem)


def _refuse_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):  # it could not be written as JSON again
        raise ValueError(f"the number {text} is too large")
    return number


def _decode(raw: bytes) -> tuple[str, str | None]:
    """Return the text of a line and what is wrong with it; what does not decode is shown escaped."""
    try:
        return raw.decode("utf-8"), None
    except UnicodeDecodeError as error:
        byte = f"byte 0x{raw[error.start]:02x} at position {error.start}"
        return raw.decode("utf-8", "backslashreplace"), f"not UTF-8: {byte}: {error.reason}"


class _DecodedLines:
    """The lines of a stream for `csv.reader`: counts them, and notes what does not decode instead of raising."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._lines = _lines(stream)
        self.number = 0
        self.taken = 0
        """Bytes handed out so far."""
        self.bad: str | None = None
        """What was wrong with a line of the row being read."""
        self.text = ""
        """That row as it is written, or its beginning; shown when it is broken."""

    def next_row(self) -> None:
        self.bad, self.text = None, ""

    def __iter__(self) -> _DecodedLines:
        return self

    def __next__(self) -> str:
        self.number, raw = next(self._lines)
        self.taken += len(raw)
        text, problem = _decode(raw)
        self.bad = self.bad or problem
        if len(self.text) < SHOWN_TEXT:
            self.text = (self.text + text)[:SHOWN_TEXT]
        return text


def _csv_rows(stream: IO[bytes]) -> Iterator[_Piece]:
    # The standard limit of 128 KiB for a field protects nobody here. 2**31 - 1 is what a C long holds everywhere.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    lines = _DecodedLines(stream)
    rows = csv.reader(lines, strict=True)
    header: list[str] | None = None
    while True:
        first, taken = lines.number + 1, lines.taken
        lines.next_row()
        row: list[str] = []
        problem = None
        try:
            row = next(rows)
        except StopIteration:
            break
        except csv.Error as error:
            problem = f"not valid CSV: {error}"
            if lines.number > first and str(error) == "unexpected end of data":
                left = f"the {lines.number - first} lines after it were taken for one field and not run"
                problem = f"not valid CSV: a quote is opened in this row and not closed; {left}"
        problem = lines.bad or problem
        if not row and problem is None:
            continue  # a blank line
        if header is None:
            header, problem = row, problem or _header_problem(row)
            if problem is not None:
                yield _Piece(row, first, lines.taken, f"in the header: {problem}; the file was not run")
                return
            continue
        problem = problem or _row_problem(row, header)
        value = lines.text.rstrip("\r\n") if problem else dict(zip(header, row, strict=True))
        yield _Piece(value, first, lines.taken - taken, problem)
    if header is None:
        yield _Piece(None, None, 0, "has no header row; the first row of a CSV file names its columns")


def _header_problem(header: list[str]) -> str | None:
    twice = sorted({name for name in header if header.count(name) > 1})
    return f"the column names {twice} are there more than once" if twice else None


def _row_problem(row: list[str], header: list[str]) -> str | None:
    if len(row) == len(header):
        return None
    kind = "many" if len(row) > len(header) else "few"
    return f"too {kind} columns: {len(row)}, the header has {len(header)}"
