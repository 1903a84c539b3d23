"""How many CPUs this process may really use: affinity, container quota and the user's own word."""

from __future__ import annotations

import math
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["cpu_count", "outer_workers"]

outer_workers: int = 1
"""In a worker process: how many workers its executor has (times those around it), who share the CPUs with it."""


def cpu_count(root: str = "/") -> int:
    """Return how many CPUs this process may use, at least 1.

    The smaller of the CPU affinity and the cgroup quota (version 1 or 2, of this group and all above it), rounded up.
    ``PYTHON_CPU_COUNT`` and ``-X cpu_count`` win over both, on every Python version: they are the user's own word.
    *root* is where `proc` and `sys` are found; tests give a directory of their own. Reading costs about 0.1 ms; nothing
    is cached, because quotas and affinity change while a program runs.
    """
    asked = _asked_for()
    if asked is not None:
        return asked
    quota = _cgroup_quota(root)
    cpus = affinity()
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def _asked_for() -> int | None:
    """Return what -X cpu_count or PYTHON_CPU_COUNT says; Python itself reads them from 3.13 on."""
    option = getattr(sys, "_xoptions", {}).get("cpu_count")
    text = option if isinstance(option, str) else None
    if text is None and not sys.flags.ignore_environment:
        text = os.environ.get("PYTHON_CPU_COUNT")
    # "default" means "as if not given". What is no number at all is Python's to complain about (3.13 does so at start).
    if text is None or not text.isascii() or not text.isdigit():
        return None
    return int(text) or None


def affinity() -> int:
    """Return how many CPUs the system lets this process run on."""
    if hasattr(os, "sched_getaffinity"):
        try:
            return len(os.sched_getaffinity(0)) or 1
        except OSError:  # forbidden by some sandboxes
            pass
    return os.cpu_count() or 1


def _cgroup_quota(root: str) -> float | None:
    """Return the smallest CPU quota that applies to this process, in CPUs, or None without one."""
    quotas: list[float] = []
    for line in _read(os.path.join(root, "proc/self/cgroup")).splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            for folder in _upwards(os.path.join(root, "sys/fs/cgroup"), path):
                quotas += _quota(*_read(os.path.join(folder, "cpu.max")).split())
        elif "cpu" in controllers.split(","):
            for mount in dict.fromkeys(("cpu", controllers)):
                for folder in _upwards(os.path.join(root, "sys/fs/cgroup", mount), path):
                    quota = _read(os.path.join(folder, "cpu.cfs_quota_us")).strip()
                    quotas += _quota(quota, _read(os.path.join(folder, "cpu.cfs_period_us")).strip())
    return min(quotas, default=None)


def _upwards(mount: str, path: str) -> Iterator[str]:
    """Yield the group's folder and every one above it up to *mount*: a limit on a slice binds what is inside it.

    In a container the path is often one of the host's and not to be seen from inside; then only the mount exists.
    A path with ".." lies outside of this cgroup namespace.
    """
    parts = [part for part in path.split("/") if part]
    if ".." in parts:
        parts = []
    for depth in range(len(parts), -1, -1):
        yield os.path.join(mount, *parts[:depth])


def _quota(quota: str = "", period: str = "", *_: str) -> list[float]:
    """Return [quota / period], or [] for no limit ("max" in version 2, -1 in version 1) and for what cannot be read."""
    try:
        allowed, every = int(quota), int(period)
    except ValueError:
        return []
    return [allowed / every] if allowed > 0 and every > 0 else []


def _read(path: str) -> str:
    """Return the text of a small file of the kernel, "" when there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
