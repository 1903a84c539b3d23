"""From measurements to figures: medians, spreads, ratios of the same round, and whether a promise holds."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.goals import Goal

__all__ = ["Figure", "Results", "Verdict"]

TOO_MANY_OTHERS = 0.15
"""Above this share of the CPUs used by others, or stolen, a run says that it was disturbed."""
TOO_WIDE = 0.25
"""So does one whose middle spread (interquartile range over median) is above this."""


@dataclass(frozen=True)
class Figure:
    """The median of several rounds and the quartiles beside it."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        if len(values) < 2:
            return cls(values[0], values[0], values[0], 1)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high, len(values))

    @property
    def spread(self) -> float:
        """The interquartile range, as a part of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


@dataclass(frozen=True)
class Verdict:
    """What became of a promise."""

    says: Literal["holds", "does not hold", "undecided", "not measured"]
    figure: Figure | None = None
    """Of the ratios, or of the value where nothing is compared."""
    beside: str = ""
    """The peer that it was compared with."""


class Results:
    """The measurements of one run, looked up by workload and contestant."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self._values: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
        self.remarks: dict[tuple[str, str], str] = {}
        for each in data["measurements"]:
            pair = each["workload"], each["contestant"]
            if "values" in each:
                self._values.setdefault(pair, {})[each["round"]] = each["values"]
            else:
                self.remarks[pair] = each.get("skipped") or f"failed: {each['failed']}"

    def workloads(self) -> list[str]:
        """Return the names of the workloads that were run, in the registry's order."""
        seen = {workload for workload, _ in [*self._values, *self.remarks]}
        return [name for name in WORKLOADS if name in seen]

    def contestants(self, workload: str) -> list[str]:
        """Return who has figures on *workload*, in the order measured."""
        return [contestant for name, contestant in self._values if name == workload]

    def figure(self, workload: str, contestant: str, metric: str) -> Figure | None:
        """Return the median and spread of one number, or None where there is none."""
        rounds = self._values.get((workload, contestant))
        return None if not rounds else Figure.of([values[metric] for values in rounds.values()])

    def verdict(self, goal: Goal) -> Verdict:
        """Return whether *goal* holds: undecided where the quartiles of the ratios lie on either side of the bound."""
        ours = self._values.get((goal.workload, goal.ours))
        if not ours:
            return Verdict("not measured")
        beside = ""
        if goal.theirs:
            found = self._best(goal)
            if found is None:
                return Verdict("not measured")
            beside, theirs = found
            both = sorted(ours.keys() & theirs.keys())
            values = [ours[number][goal.metric] / theirs[number][goal.metric] for number in both if theirs[number][goal.metric]]
        else:
            values = [each[goal.metric] for each in ours.values()]
        if not values:
            return Verdict("not measured")
        figure = Figure.of(values)
        worst, best = (figure.low, figure.high) if goal.kind == "at least" else (-figure.high, -figure.low)
        bound = goal.bound if goal.kind == "at least" else -goal.bound
        says: Any = "holds" if worst >= bound else "does not hold" if best < bound else "undecided"
        return Verdict(says, figure, beside)

    def _best(self, goal: Goal) -> tuple[str, dict[int, dict[str, float]]] | None:
        workload = goal.beside or goal.workload
        sign = 1 if WORKLOADS[workload].metrics[goal.metric].more_is_better else -1
        ours = self._values.get((goal.workload, goal.ours), {})
        # Those that were measured in the same rounds: what others did in other ones cannot be compared.
        known = [name for name in goal.theirs if not ours.keys().isdisjoint(self._values.get((workload, name), ()))]
        if not known:
            return None
        best = max(known, key=lambda name: sign * self.figure(workload, name, goal.metric).median)  # type: ignore[union-attr]
        return best, self._values[workload, best]

    def noise(self) -> list[str]:
        """Return what disturbed the run, a sentence each; nothing if nothing did."""
        usages = [each["usage"] for each in self.data["measurements"]]
        others = statistics.median(usage["others"] for usage in usages)
        steal = statistics.median(usage["steal"] for usage in usages)
        spreads = [
            figure.spread
            for (workload, contestant), rounds in self._values.items()
            for metric in WORKLOADS[workload].metrics
            if len(rounds) > 2 and (figure := self.figure(workload, contestant, metric)) is not None
        ]
        said = []
        if others > TOO_MANY_OTHERS:
            said.append(f"Other programs used {others:.0%} of the CPUs in the middle measurement.")
        if steal > TOO_MANY_OTHERS:
            said.append(f"The hypervisor took {steal:.0%} of the CPUs in the middle measurement.")
        if spreads and statistics.median(spreads) > TOO_WIDE:
            said.append(f"Half of all figures scatter by more than {statistics.median(spreads):.0%} between the quartiles.")
        return said
