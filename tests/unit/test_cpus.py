"""How many CPUs this process may use, against made-up /proc and /sys directories."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from taskrun import cpus
from taskrun.cpus import cpu_count

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHON_CPU_COUNT", raising=False)
    monkeypatch.setattr(cpus.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


def put(root: Path, files: dict[str, str]) -> str:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return str(root)


V2 = {"proc/self/cgroup": "0::/a/b\n"}
V1 = {"proc/self/cgroup": "7:cpu,cpuacct:/docker/x\n5:memory:/docker/x\n0::/\n"}


def test_without_cgroup_files_affinity_counts(tmp_path: Path) -> None:
    assert cpu_count(str(tmp_path)) == 8


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("max 100000", 8),
        ("9900000 100000", 8),
        ("", 8),
        ("nonsense here", 8),
        ("0 100000", 8),
    ],
)
def test_version_2_quota_is_rounded_up_and_never_below_one(tmp_path: Path, limit: str, expected: int) -> None:
    root = put(tmp_path, {**V2, "sys/fs/cgroup/a/b/cpu.max": limit})
    assert cpu_count(root) == expected


def test_a_quota_of_a_group_above_binds_too(tmp_path: Path) -> None:
    root = put(
        tmp_path,
        {**V2, "sys/fs/cgroup/a/cpu.max": "300000 100000", "sys/fs/cgroup/a/b/cpu.max": "max 100000"},
    )
    assert cpu_count(root) == 3


def test_a_container_that_sees_only_the_mount_uses_its_quota(tmp_path: Path) -> None:
    root = put(tmp_path, {**V2, "sys/fs/cgroup/cpu.max": "400000 100000"})
    assert cpu_count(root) == 4


def test_a_path_outside_the_namespace_does_not_leave_the_mount(tmp_path: Path) -> None:
    root = put(
        tmp_path,
        {
            "proc/self/cgroup": "0::/../../other\n",
            "sys/fs/cgroup/cpu.max": "500000 100000",
            "sys/other/cpu.max": "100000 100000",
        },
    )
    assert cpu_count(root) == 5


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize(("quota", "expected"), [("250000", 3), ("-1", 8)])
def test_version_1_quota(tmp_path: Path, mount: str, quota: str, expected: int) -> None:
    folder = f"sys/fs/cgroup/{mount}/docker/x"
    root = put(tmp_path, {**V1, f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": "100000\n"})
    assert cpu_count(root) == expected


def test_python_cpu_count_wins_over_quota_and_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = put(tmp_path, {**V2, "sys/fs/cgroup/a/b/cpu.max": "100000 100000"})
    monkeypatch.setenv("PYTHON_CPU_COUNT", "12")
    assert cpu_count(root) == 12


@pytest.mark.parametrize("word", ["default", "0", "-3", "many", ""])
def test_a_python_cpu_count_that_is_no_number_counts_as_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setenv("PYTHON_CPU_COUNT", word)
    assert cpu_count(str(tmp_path)) == 8


def test_the_interpreters_own_option_is_respected() -> None:
    code = "from taskrun.cpus import cpu_count; print(cpu_count())"
    done = subprocess.run(
        [sys.executable, "-X", "cpu_count=5", "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.strip() == "5"


def test_this_machine_has_at_least_one_and_no_more_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.delenv("PYTHON_CPU_COUNT", raising=False)
    assert 1 <= cpu_count() <= (os.cpu_count() or 1)
