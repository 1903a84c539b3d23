"""``python -m benchmarks run``, then ``python -m benchmarks report``: measure, and say what came of it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.figures import Results
from benchmarks.goals import GOALS
from benchmarks.report import into, markdown
from benchmarks.runner import plan, run
from benchmarks.systems import SYSTEMS
from benchmarks.workloads import WORKLOADS
from benchmarks.workloads.base import SCALES

_LATEST = Path("build/benchmarks.json")


def main(arguments: list[str]) -> int:
    """Do as the command line says; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.command == "run":
        workloads = options.workload or list(WORKLOADS)
        pairs = plan(workloads, options.system, SCALES[options.scale])
        data = run(pairs, SCALES[options.scale], options.rounds, options.minutes * 60)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(data, indent=1) + "\n")
    results = Results(json.loads(options.json.read_text()))
    plots = {}
    if options.plots:
        from benchmarks.plots import draw

        plots = {name: f"{options.plots.name}/{name}.svg" for name in draw(results, options.plots)}
    text = markdown(results, plots)
    if options.into:
        into(options.into, text)
    else:
        print(text)
    return int(options.check and any(results.verdict(goal).says == "does not hold" for goal in GOALS))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="measure, and report")
    runs.add_argument("--scale", choices=SCALES, default="full")
    runs.add_argument("--rounds", type=int, default=15)
    runs.add_argument("--minutes", type=float, default=1e9, help="begin nothing new after so long, once a round is over")
    runs.add_argument("--workload", action="append", choices=WORKLOADS, metavar="NAME", help=f"one of {', '.join(WORKLOADS)}")
    runs.add_argument(
        "--system", action="append", default=[], choices=SYSTEMS, metavar="NAME", help=f"one of {', '.join(SYSTEMS)}"
    )
    reports = commands.add_parser("report", help="report what was measured before")
    for each in (runs, reports):
        each.add_argument("--json", type=Path, default=_LATEST, help="where the measurements are kept")
        each.add_argument("--into", type=Path, help="a page with a place for the report, between two marks")
        each.add_argument("--check", action="store_true", help="exit with 1 if a promise was measured and does not hold")
        each.add_argument("--plots", type=Path, help="a folder for pictures, beside that page")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
