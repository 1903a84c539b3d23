"""What the operating system tells: about this machine, about who else uses it, and about our own processes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = [
    "Usage",
    "adopt_orphans",
    "cpu_seconds",
    "description",
    "reap_orphans",
    "resident_bytes",
    "switches",
    "usage_between",
]

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")
_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
PACKAGES = ("loky", "joblib", "pebble", "mpire", "billiard", "deadpool-executor", "distributed", "ray", "numpy")


def description() -> dict[str, Any]:
    """Return what the figures were taken on."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "model": model,
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "packages": versions,
    }


def resident_bytes() -> int:
    """Return the resident size of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


@dataclass(frozen=True)
class Usage:
    """Who used the CPUs during one measurement, as shares of all their time; `load` is the average over a minute."""

    load: float
    ours: float
    others: float
    steal: float

    def as_dict(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in asdict(self).items()}


def ticks() -> list[int]:
    """Return the CPU time of the whole machine so far: user, nice, system, idle, iowait, irq, softirq, steal."""
    return [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]


def usage_between(before: list[int], after: list[int], own_seconds: float) -> Usage:
    """Return the use between two `ticks`, *own_seconds* of CPU time of which were the measurement's."""
    user, nice, system, idle, iowait, irq, softirq, steal = (b - a for a, b in zip(before, after, strict=True))
    busy = user + nice + system + irq + softirq
    total = max(1, busy + idle + iowait + steal)
    ours = min(own_seconds * _TICK, busy)
    return Usage(os.getloadavg()[0], ours / total, (busy - ours) / total, steal / total)


def adopt_orphans() -> None:
    """Become the parent of whatever the children of this process leave behind; without it nobody could tell their CPU time."""
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans(seconds: float) -> None:
    """Wait until no child is left, for so many *seconds* at most: workers that end by themselves when their parent is gone."""
    until = time.monotonic() + seconds
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < until:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.002)


def family() -> list[int]:
    """Return the numbers of this process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            stat = _read(entry / "stat")
            if stat:
                children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found = [os.getpid()]
    for pid in found:
        found += children.get(pid, [])
    return found


def switches(but_not: int) -> dict[int, int]:
    """Return how often each thread of the family has given up a CPU so far; not of the thread numbered *but_not*."""
    counts = {}
    for pid in family():
        tasks = Path(f"/proc/{pid}/task")
        for thread in _listed(tasks):
            lines = _read(tasks / thread / "status").splitlines()
            fields = [line.split() for line in lines if "ctxt_switches" in line]
            if int(thread) != but_not:
                counts[int(thread)] = sum(int(field[1]) for field in fields)
    return counts


def cpu_seconds(but_not: int) -> float:
    """Return the CPU time of the family's threads so far, of those that live; not of the thread numbered *but_not*."""
    total = 0
    for pid in family():
        tasks = Path(f"/proc/{pid}/task")
        for thread in _listed(tasks):
            ran = _read(tasks / thread / "schedstat")  # in nanoseconds; the times in `stat` are in ticks
            if ran and int(thread) != but_not:
                total += int(ran.split()[0])
    return total / 1e9


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended meanwhile
        return ""


def _listed(path: Path) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
