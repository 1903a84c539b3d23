"""A token of the tests' own for all clusters; and after every test: nothing left behind."""

from __future__ import annotations

import os
import secrets
import signal
import threading
from typing import TYPE_CHECKING

import pytest
from clusters import Cluster, descendants, eventually, running

if TYPE_CHECKING:
    from collections.abc import Iterator

# Before Ray is imported. Without it Ray would make one for the user and write it into his home directory.
os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", secrets.token_hex(32)
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # else Ray warns of what it will do some day

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts by `&` ignore it, and what that starts

HELPERS = ("taskrun-janitor", "ray_", "Thread-")
"""Threads that do not end with an executor: ours, and Ray's, which end with its connection."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head node with two CPUs and one licence."""
    with running(tmp_path_factory.mktemp("cluster"), "--resources", '{"LICENCE": 1}') as cluster:
        yield cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With CONFORMANCE_STEP=10 take each tenth behaviour on clusters of the executors' own, each third on another."""
    step = int(os.environ.get("CONFORMANCE_STEP", "1"))
    for suite, every in (("::TestOwnCluster::", step), ("::TestCluster::", max(1, step // 3))):
        found = [item for item in items if suite in item.nodeid]
        left_out = {*found} - {*found[::every]}
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No thread and no process more than before, but what a cluster that was there keeps starting and ending."""
    threads, processes = set(threading.enumerate()), descendants(os.getpid())
    there = any("raylet" in line for line in processes.values())

    def left() -> list[str]:
        alive = [f"thread {one.name}" for one in set(threading.enumerate()) - threads if not one.name.startswith(HELPERS)]
        if there:
            return alive
        return alive + [f"process {pid}: {line}" for pid, line in descendants(os.getpid()).items() if pid not in processes]

    yield
    eventually(lambda: not left())
    assert not left()
