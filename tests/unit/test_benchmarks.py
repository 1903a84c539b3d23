"""The benchmarks measure what they say: every workload runs, wrong results are found out, verdicts follow from figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.child import measure
from benchmarks.figures import Figure, Results
from benchmarks.goals import GOALS, Goal, contestants_of
from benchmarks.report import BEGIN, END, into, markdown
from benchmarks.runner import plan
from benchmarks.systems import SYSTEMS
from benchmarks.workloads import WORKLOADS
from benchmarks.workloads.base import QUICK, TINY

ROOT = Path(__file__).resolve().parents[2]
ABLE = [
    (name, system) for name, work in WORKLOADS.items() for system in ("serial", "thread") if work.needs <= SYSTEMS[system].can
]


@pytest.mark.parametrize(("workload", "system"), ABLE)
def test_a_workload_measures_all_that_it_names(workload, system):
    if workload.startswith("buffers"):
        pytest.importorskip("numpy")
    result = measure(workload, system, TINY)
    assert WORKLOADS[workload].metrics.keys() <= result["values"].keys(), result


def test_the_floors_are_measured_too():
    program = (  # not in this process, which has threads and should not fork
        "import json\n"
        "from benchmarks.workloads import WORKLOADS\n"
        "from benchmarks.workloads.base import TINY\n"
        "floors = [(w, f) for name, w in WORKLOADS.items() if not name.startswith('buffers') for f in w.floors().values()]\n"
        "print(json.dumps([sorted(w.metrics.keys() - f(TINY).keys()) for w, f in floors]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=50, check=True)
    missing = json.loads(done.stdout)
    assert len(missing) >= 8
    assert not any(missing)


class _Forgetful(SYSTEMS["serial"]):
    def gather(self, handles):
        return super().gather(handles)[:-1]


@pytest.mark.parametrize("workload", ["submit-1000", "submit-20us", "round-trip"])
def test_a_system_with_wrong_results_is_not_timed(workload, monkeypatch, capsys):
    monkeypatch.setitem(SYSTEMS, "serial", _Forgetful)
    assert "wrong results" in measure(workload, "serial", TINY).get("failed", "nothing")
    assert "wrong results" in capsys.readouterr().err


def test_goals_name_workloads_numbers_and_contestants_that_exist():
    for goal in GOALS:
        assert goal.metric in WORKLOADS[goal.workload].metrics
        for workload in {goal.workload, goal.beside or goal.workload}:
            assert contestants_of(workload) <= {*SYSTEMS, *WORKLOADS[workload].floors()}


def test_the_quick_plan_has_what_goals_compare_of_the_standard_library_in_turn():
    order = [who for where, who in plan(["submit-20us", "round-trip"], [], QUICK) if where == "round-trip"]
    assert {"process", "ProcessPoolExecutor-fork", "floor: pipe ping-pong"} <= set(order)
    assert "ray" not in order
    assert len(order) == len(set(order))


def results(ours, theirs, *, others=0.0):
    """Return results in which `process` and `mp.Pool` had these rates on submit-20us, a round each."""
    usage = {"load": 1.0, "ours": 0.5, "others": others, "steal": 0.0}
    measurements = [
        {"round": number, "workload": "submit-20us", "contestant": who, "values": {"rate": value}, "usage": usage}
        for who, values in (("process", ours), ("mp.Pool", theirs))
        for number, value in enumerate(values)
    ]
    measurements.append({"round": 0, "workload": "submit-20us", "contestant": "loky", "failed": "it broke", "usage": usage})
    machine = {"cpus": 2, "model": "some CPU", "kernel": "6.1", "python": "3.11.7", "packages": {"loky": "3.7"}}
    about = {
        "began": "2026-01-01T00:00:00+00:00",
        "minutes": 1.0,
        "scale": "full",
        "machine": machine,
        "absent": {"ray": "no ray"},
    }
    return Results({**about, "measurements": measurements})


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ([20, 20, 21, 22], "holds"),
        ([10, 11, 12, 13], "does not hold"),
        ([10, 12, 18, 20], "undecided"),
        ([], "not measured"),
    ],
)
def test_a_verdict_is_the_ratio_of_each_round_and_undecided_within_its_middle_half(ours, verdict):
    goal = Goal(1, "submit-20us", "rate", "process", "at least", 1.5, ("mp.Pool",))
    assert results(ours, [10] * 4).verdict(goal).says == verdict
    if ours:
        turned = Goal(1, "submit-20us", "rate", "process", "at most", 1.5, ("mp.Pool",))
        opposite = {"holds": "does not hold", "does not hold": "holds"}.get(verdict, verdict)
        assert results(ours, [10] * 4).verdict(turned).says == opposite


def test_rounds_are_compared_with_themselves():
    goal = Goal(1, "submit-20us", "rate", "process", "at least", 1.5, ("mp.Pool",))
    verdict = results([20, 200, 2000], [10, 100, 1000]).verdict(goal)  # the machine became faster, for both
    assert (verdict.says, verdict.figure) == ("holds", Figure(2.0, 2.0, 2.0, 3))


def test_the_best_peer_is_one_of_those_that_were_measured_in_the_same_rounds():
    goal = Goal(1, "submit-20us", "rate", "process", "at least", 1.5, ("mp.Pool", "loky"))
    found = results([20, 20], [10, 10])
    later = {**found.data["measurements"][0], "round": 7, "contestant": "loky", "values": {"rate": 1000.0}}
    data = {**found.data, "measurements": [*found.data["measurements"], later]}
    verdict = Results(data).verdict(goal)
    assert (verdict.says, verdict.beside) == ("holds", "mp.Pool")


def test_the_report_says_what_was_promised_measured_left_out_and_disturbed():
    calm, noisy = (markdown(results([30, 30], [10, 10], others=others), {"submit-20us": "a.svg"}) for others in (0.0, 0.4))
    assert "| 1 | submit-20us rate | process: at least 1.5x mp.Pool | 3x | 3 - 3 | 2 | holds |" in calm
    assert "loky: failed: it broke" in calm
    assert "ray (no ray)" in calm
    assert "![submit-20us](a.svg)" in calm
    assert "disturbed" not in calm
    assert "disturbed" in noisy
    assert "40%" in noisy


def test_the_report_replaces_what_was_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    into(page, "new\n")
    assert page.read_text() == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="no place for the figures"):
        into(page, "new")
