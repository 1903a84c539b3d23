"""Runs faults at their full counts, each in an interpreter of its own, in random order, and reports: ``make soak``.

::

    python tests/faults/soak.py [--minutes 10] [--jobs 2] [--seed N] [--json FILE] [--only WORD]

Begins nothing more when its time is up; ``--minutes 0`` runs the whole table, once. The random sequences of `tests/properties`
have their turn in between, one backend at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE), str(HERE.parent)]

from outside import run_case  # noqa: E402
from patience import hear_ctrl_c  # noqa: E402
from table import EVERY, THEMES, faults_of  # noqa: E402

PROPERTIES = ("serial", "thread", "dummy", "asyncio", "process", "pool", "fork")
A_ROW = 900.0
"""Seconds that one row may take, on a machine that is busy."""


class Row(NamedTuple):
    """Something to try."""

    theme: str
    configuration: str
    name: str


def rows(only: str) -> list[Row]:
    """Return the full table, and the random sequences."""
    found = [
        Row(theme, configuration, fault.name)
        for theme in THEMES
        for fault in faults_of(theme)
        for configuration in EVERY
        if configuration in fault.everywhere
    ]
    found += [Row("sequences", backend, "at random") for backend in PROPERTIES]
    return [row for row in found if only in "/".join(row)]


def try_row(row: Row) -> str:
    """Run one; return "" or what was wrong."""
    try:
        if row.theme == "sequences":
            return _sequences(row.configuration)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
            run_case(row.theme, row.configuration, Path(directory), "full", [row.name], limit=A_ROW)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        return str(error)
    return ""


def _sequences(backend: str) -> str:
    test = f"{ROOT}/tests/properties/test_machine.py::test_each_future_resolves_once_with_what_the_model_allows[{backend}]"
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", test]
    path = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(
        command, env=os.environ | {"FAULTS": "full", "PYTHONPATH": path}, cwd=ROOT, capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stdout[-4000:]


class Soak:
    """Several threads that work the table off until time is up."""

    def __init__(self, table: list[Row], until: float | None) -> None:
        self._table = iter(table)
        self._until = until
        self._lock = threading.Lock()
        self.tried: Counter[tuple[str, str]] = Counter()
        self.failed: list[tuple[Row, str]] = []

    def work(self) -> None:
        while True:
            with self._lock:
                row = next(self._table, None)
            if row is None or (self._until is not None and time.monotonic() > self._until):
                return
            began = time.monotonic()
            wrong = try_row(row)
            with self._lock:
                self.tried[row.theme, row.configuration] += 1
                print(f"{'FAILED' if wrong else 'ok    '} {time.monotonic() - began:7.1f} s  {'/'.join(row)}", flush=True)
                if wrong:
                    self.failed.append((row, wrong))

    def run(self, jobs: int) -> None:
        threads = [threading.Thread(target=self.work) for _ in range(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--only", default="", help="rows with this in theme/configuration/name")
    asked = parser.parse_args()
    hear_ctrl_c()
    table = rows(asked.only)
    random.Random(asked.seed).shuffle(table)
    print(
        f"Python {platform.python_version()}; {len(table)} rows, seed {asked.seed}, load {os.getloadavg()[0]:.1f}", flush=True
    )
    began = time.monotonic()
    soak = Soak(table, began + 60 * asked.minutes if asked.minutes else None)
    soak.run(asked.jobs)
    report(soak, len(table), time.monotonic() - began)
    if asked.json:
        text = {"seed": asked.seed, "tried": {"/".join(key): count for key, count in soak.tried.items()}}
        Path(asked.json).write_text(json.dumps(text | {"failed": ["/".join(row) for row, _ in soak.failed]}, indent=1))
    return 1 if soak.failed else 0


def report(soak: Soak, rows_: int, seconds: float) -> None:
    """Say what was tried where, and what went wrong."""
    configurations = [each for each in EVERY if any(key[1] == each for key in soak.tried)]
    print(f"\n{'rows tried':12}" + "".join(f"{each:>15}" for each in configurations))
    for theme in (*THEMES, "sequences"):
        counts = [soak.tried[theme, each] for each in configurations]
        if any(counts):
            print(f"{theme:12}" + "".join(f"{count or '-':>15}" for count in counts))
    for row, wrong in soak.failed:
        print(f"\n== {'/'.join(row)}\n{wrong}")
    print(f"\n{sum(soak.tried.values())} of {rows_} rows in {seconds / 60:.1f} minutes, {len(soak.failed)} failed")


if __name__ == "__main__":
    sys.exit(main())
