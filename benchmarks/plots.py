"""Pictures of the results, one SVG for each workload (matplotlib, in the benchmarks' own environment only)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.systems import OURS
from benchmarks.workloads import WORKLOADS

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.figures import Results

__all__ = ["draw"]

_OURS, _THEIRS, _FLOOR = "#1f77b4", "#b8b8b8", "#e8c15a"
_WIDE = 50  # largest over smallest value above which the axis is logarithmic


def draw(results: Results, folder: Path) -> list[str]:
    """Write the pictures into *folder*; return the names of the workloads that have one (two contestants at least)."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "taskrun"  # the same figures give the same file
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name in results.workloads():
        if len(results.contestants(name)) > 1 and _bars(results, name, folder / f"{name}.svg"):
            drawn.append(name)
    return drawn


def _bars(results: Results, name: str, path: Path) -> bool:
    from matplotlib.figure import Figure as Canvas

    metric, about = next(iter(WORKLOADS[name].metrics.items()))
    figures: list[Any] = [(who, results.figure(name, who, metric)) for who in results.contestants(name)]
    figures = sorted((pair for pair in figures if pair[1].median > 0), key=lambda pair: pair[1].median)
    if not figures:
        return False
    if not about.more_is_better:
        figures.reverse()
    names, values = [who for who, _ in figures], [figure.median for _, figure in figures]
    canvas = Canvas(figsize=(8, 0.7 + 0.28 * len(names)), layout="constrained")
    axes = canvas.subplots()
    errors = [
        [figure.median - figure.low for _, figure in figures],
        [figure.high - figure.median for _, figure in figures],
    ]
    axes.barh(names, values, xerr=errors, color=[_colour(who) for who in names], error_kw={"elinewidth": 0.8})
    if max(values) > _WIDE * min(values):
        axes.set_xscale("log")
    axes.set_xlabel(f"{metric}, {about.unit} ({'more' if about.more_is_better else 'less'} is better)")
    axes.spines[["top", "right"]].set_visible(False)
    canvas.savefig(path, metadata={"Date": None})
    return True


def _colour(contestant: str) -> str:
    return _OURS if contestant in OURS else _FLOOR if contestant.startswith("floor") else _THEIRS
