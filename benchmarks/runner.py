"""Runs the measurements: each in a fresh interpreter, interleaved A B C A B C, round after round.

Within a round the contestants of one workload follow each other, so what is compared was measured within seconds; the rounds
lie minutes apart, so that what disturbs one of them does not disturb all.
"""

from __future__ import annotations

import compileall
import contextlib
import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import machine
from benchmarks.goals import contestants_of
from benchmarks.systems import OURS, STANDARD, SYSTEMS, missing
from benchmarks.tasks import loops_a_second
from benchmarks.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.workloads.base import Scale

__all__ = ["plan", "run"]

_ROOT = Path(__file__).resolve().parent.parent
_VARIANTS = {"process-fork", "process-options", "thread-options"}


def plan(workloads: Sequence[str], only: Sequence[str], scale: Scale) -> list[tuple[str, str]]:
    """Return (workload, contestant) in the order of one round; *only* names contestants, floors come with their workload.

    The quick scale has those that promises compare, of the standard library and joblib.
    """
    pairs = []
    for name in workloads:
        wanted = contestants_of(name)
        for system in SYSTEMS:
            able = WORKLOADS[name].needs <= SYSTEMS[system].can
            quick = scale.name == "full" or (system in wanted and (system in OURS or system in STANDARD or system == "joblib"))
            chosen = system in only if only else quick and (system not in _VARIANTS or system in wanted)
            if able and chosen and missing(system) is None:
                pairs.append((name, system))
        pairs += [(name, floor) for floor in WORKLOADS[name].floors()]
    return pairs


def run(pairs: Sequence[tuple[str, str]], scale: Scale, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure all *pairs* in each of so many *rounds*, or until *seconds* have gone by (one round at least)."""
    # Peers come compiled; here not each environment lets Python keep what it compiled, and start-up would measure the compiler.
    for package in ("taskrun", "benchmarks"):
        compileall.compile_dir(_ROOT / package, quiet=1)
    scale = dataclasses.replace(scale, speed=loops_a_second(probes=1_000))
    machine.adopt_orphans()
    until = time.monotonic() + seconds
    measurements: list[dict[str, Any]] = []
    began = datetime.now(UTC)
    for number, workload, contestant in _order(pairs, rounds):
        if number and time.monotonic() > until:
            break
        if number and _never(measurements, workload, contestant):
            continue
        measured = {"round": number, "workload": workload, "contestant": contestant, **_one(workload, contestant, scale)}
        measurements.append(measured)
        print(_line(measured), file=sys.stderr, flush=True)
    return {
        "began": began.isoformat(timespec="seconds"),
        "minutes": round((datetime.now(UTC) - began).total_seconds() / 60, 1),
        "scale": scale.name,
        "machine": machine.description(),
        "absent": {name: why for name in SYSTEMS if (why := missing(name))},
        "measurements": measurements,
    }


def _order(pairs: Sequence[tuple[str, str]], rounds: int) -> Iterator[tuple[int, str, str]]:
    for number in range(rounds):
        for workload, contestant in pairs:
            limit = WORKLOADS[workload].rounds
            if limit is None or number < limit:
                yield number, workload, contestant


def _never(measurements: Sequence[dict[str, Any]], workload: str, contestant: str) -> bool:
    """Return whether this was skipped or failed before: it would again."""
    return any(
        "values" not in each and (each["workload"], each["contestant"]) == (workload, contestant) for each in measurements
    )


def _one(workload: str, contestant: str, scale: Scale) -> dict[str, Any]:
    ticks, used, began = machine.ticks(), _used(), time.monotonic()
    # A process group of its own: what a system leaves behind is ended with it.
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.child", workload, contestant, scale.name, str(scale.speed)],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        env={**os.environ, "PYTHONWARNINGS": "ignore", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
    )
    try:
        out, err = child.communicate(timeout=30 + 3 * scale.longest)
        result = _parsed(out, err, child.returncode)
    except subprocess.TimeoutExpired:
        result = {"failed": f"not over after {30 + 3 * scale.longest:.0f} s"}
    finally:
        _end(child)
        machine.reap_orphans(seconds=3)
    seconds = time.monotonic() - began
    usage = machine.usage_between(ticks, machine.ticks(), _used() - used)
    return {**result, "seconds": round(seconds, 2), "usage": usage.as_dict()}


def _parsed(out: str, err: str, status: int) -> dict[str, Any]:
    last = out.strip().splitlines()[-1:]
    try:
        result: dict[str, Any] = json.loads(last[0])
    except (IndexError, ValueError):
        text = err.strip().splitlines()[-1:] or ["nothing said"]
        return {"failed": f"ended with status {status}: {text[0]}"}
    return result


def _end(child: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _used() -> float:
    """Return the CPU seconds of all children so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _line(measured: dict[str, Any]) -> str:
    values = measured.get("values")
    what = (
        "  ".join(f"{name} {value:,.1f}" for name, value in values.items())
        if values
        else str({key: measured[key] for key in ("skipped", "failed") if key in measured})
    )
    return f"{measured['round'] + 1:2} {measured['workload']:17} {measured['contestant']:31} {what}"
