"""The results as text: what was promised and what came of it, then every figure."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from benchmarks.goals import GOALS
from benchmarks.workloads import WORKLOADS

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.figures import Figure, Results

__all__ = ["into", "markdown"]

BEGIN, END = "<!-- benchmarks: begin, written by `make bench` -->", "<!-- benchmarks: end -->"


def markdown(results: Results, plots: dict[str, str] | None = None) -> str:
    """Return the report; *plots* are addresses of pictures by workload."""
    parts = [_circumstances(results), _promises(results)]
    parts += [_table(results, name, (plots or {}).get(name)) for name in results.workloads()]
    return "\n\n".join(parts) + "\n"


def into(page: Path, text: str) -> None:
    """Put *text* between the marks in *page*."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} has no place for the figures: a line {BEGIN!r} and one {END!r}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def _circumstances(results: Results) -> str:
    data = results.data
    machine, usages = data["machine"], [each["usage"] for each in data["measurements"]]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    middle = {key: statistics.median(usage[key] for usage in usages) for key in ("load", "ours", "others", "steal")}
    rounds = 1 + max(each["round"] for each in data["measurements"])
    taken = (
        f"Measured {data['began']} in {data['minutes']} minutes, scale `{data['scale']}`, up to {rounds} rounds: "
        f"Python {machine['python']}, {machine['cpus']} CPUs ({machine['model']}), Linux {machine['kernel']}; {packages}."
    )
    disturbed = (
        f"Noise (medians over {len(usages)} measurements): load {middle['load']:.1f}; of the CPUs the measurement itself used "
        f"{middle['ours']:.0%}, others {middle['others']:.0%}, stolen {middle['steal']:.1%}."
    )
    lines = [taken, disturbed]
    noise = results.noise()
    if noise:
        lines.append("**This run was disturbed**: " + " ".join(noise) + " Trust ratios, and only those with a narrow range.")
    if data["absent"]:
        lines.append("Not measured: " + "; ".join(f"{name} ({why})" for name, why in data["absent"].items()) + ".")
    return "\n\n".join(lines)


def _promises(results: Results) -> str:
    """Return the table of what was promised; the range is that of the middle half of the rounds."""
    rows = [("line", "workload", "promise", "measured", "range", "rounds", "verdict")]
    for goal in GOALS:
        verdict = results.verdict(goal)
        figure = verdict.figure
        words = goal.words() + (f" ({verdict.beside})" if len(goal.theirs) > 1 and verdict.beside else "")
        unit = "x" if goal.theirs else f" {WORKLOADS[goal.workload].metrics[goal.metric].unit}"
        cells = ("", "", "") if figure is None else (_short(figure.median) + unit, _range(figure), str(figure.rounds))
        rows.append((str(goal.line), f"{goal.workload} {goal.metric}", words, *cells, verdict.says))
    return "### What was promised\n\n" + _rows(rows)


def _table(results: Results, name: str, plot: str | None) -> str:
    workload = WORKLOADS[name]
    rows: list[tuple[str, ...]] = [("", *(f"{metric} ({about.unit})" for metric, about in workload.metrics.items()), "rounds")]
    first, about = next(iter(workload.metrics.items()))

    def key(contestant: str) -> float:
        figure = results.figure(name, contestant, first)
        return 0.0 if figure is None else (-1 if about.more_is_better else 1) * figure.median

    for contestant in sorted(results.contestants(name), key=key):
        figures = [results.figure(name, contestant, metric) for metric in workload.metrics]
        rounds = figures[0].rounds if figures[0] else 0
        rows.append((contestant, *(_cell(figure) for figure in figures), str(rounds)))
    remarks = [f"- {who}: {why}" for (where, who), why in results.remarks.items() if where == name]
    parts = [f"### {name}", workload.question]
    if len(rows) > 1:
        parts.append(_rows(rows))
    if plot:
        parts.append(f"![{name}]({plot})")
    if remarks:
        parts.append("\n".join(remarks))
    return "\n\n".join(parts)


def _rows(rows: list[tuple[Any, ...]]) -> str:
    head, *rest = rows
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rest])


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return _short(figure.median) + (f" ± {figure.spread / 2:.0%}" if figure.rounds > 1 else "")


def _range(figure: Figure) -> str:
    return f"{_short(figure.low)} - {_short(figure.high)}" if figure.rounds > 1 else ""


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
