"""The backend keeps every promise of taskrun's, or says in its capabilities that it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest
from clusters import PATIENCE, STORE

import taskrun
from taskrun.testing import BackendConformance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clusters import Cluster


@pytest.fixture(scope="class")
def own() -> Iterator[None]:
    with taskrun.Executor("ray", max_workers=2, object_store_memory=STORE) as ex:
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
        yield


@pytest.fixture(scope="class")
def connected(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[None]:
    request.cls.options = {"address": cluster.address}
    with taskrun.Executor("ray", address=cluster.address):
        yield


@pytest.mark.usefixtures("own")
class TestOwnCluster(BackendConformance):
    """A cluster that an executor started; the others of the process share it."""

    backend = "ray"
    options: ClassVar = {"object_store_memory": STORE}
    many = 100
    patience = PATIENCE


@pytest.mark.usefixtures("connected")
class TestCluster(BackendConformance):
    """A head node that was there before, and is there afterwards."""

    backend = "ray"
    options: ClassVar = {}
    many = 100
    patience = PATIENCE
