"""A cluster for all tests that do it no harm; and after every test: nothing left behind."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest
from clusters import Cluster, descendants, eventually, running

if TYPE_CHECKING:
    from collections.abc import Iterator

HELPERS = ("taskrun-janitor", "Dask-Callback-Thread", "Dask-Offload", "Profile")
"""Threads of which there is one for the process, which do not end with a client: ours, and three of Dask's."""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A scheduler and two workers of one thread."""
    with running(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A worker called plain, and one called rich that has something."""
    with running(tmp_path_factory.mktemp("varied"), workers=0) as cluster:
        cluster.worker("--name", "plain")
        cluster.worker("--name", "rich", "--resources", "LICENCE=1")
        cluster.wait_for_workers(2)
        yield cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With CONFORMANCE_STEP=10 take each tenth behaviour on clusters of the executors' own, each third on another."""
    step = int(os.environ.get("CONFORMANCE_STEP", "1"))
    for suite, every in (("::TestOwnCluster::", step), ("::TestCluster::", max(1, step // 3))):
        found = [item for item in items if suite in item.nodeid]
        left_out = {*found} - {*found[::every]}
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """No thread and no process more than before; fixtures of wider scope were set up by then."""
    threads, processes = set(threading.enumerate()), descendants(os.getpid()).keys()

    def left() -> list[str]:
        alive = [f"thread {one.name}" for one in set(threading.enumerate()) - threads if not one.name.startswith(HELPERS)]
        return alive + [f"process {pid}: {line}" for pid, line in descendants(os.getpid()).items() if pid not in processes]

    yield
    eventually(lambda: not left())
    assert not left()
