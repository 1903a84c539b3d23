"""Dask's own executor, adapted: for whoever has a client already and wants no plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest
from clusters import PATIENCE

import taskrun
from taskrun.testing.failures import FailureBehaviours
from taskrun.testing.maps import MapBehaviours
from taskrun.testing.results import ResultBehaviours

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clusters import Cluster
    from distributed import Client


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Iterator[Client]:
    from distributed import Client

    with Client(cluster.address, set_as_default=False) as client:
        yield client


class TestClientsExecutor(ResultBehaviours, FailureBehaviours, MapBehaviours):
    many = 100
    patience = 60.0
    options: ClassVar = {}

    @pytest.fixture(autouse=True)
    def adapted(self, client: Client) -> None:
        type(self).backend = client.get_executor(pure=False)


def test_it_is_left_open(client: Client) -> None:
    inner = client.get_executor(pure=False)
    with taskrun.Executor(inner, max_workers=2) as ex:
        assert list(ex.map(lambda x: x + 1, range(5))) == [1, 2, 3, 4, 5]
    assert inner.submit(pow, 2, 3).result(PATIENCE) == 8
