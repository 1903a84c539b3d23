"""The backend keeps every promise of taskrun's, or says in its capabilities that it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest

from taskrun.testing import BackendConformance

if TYPE_CHECKING:
    from clusters import Cluster


class TestOwnCluster(BackendConformance):
    """A cluster of its own for each executor, started and ended by it."""

    backend = "dask"
    many = 100  # a task costs Dask milliseconds
    patience = 60.0  # the first one of an executor waits for its cluster


class TestCluster(BackendConformance):
    """A scheduler and two workers that were there before, and are there afterwards."""

    backend = "dask"
    options: ClassVar = {}
    many = 100
    patience = 60.0

    # Its workers have no nanny: who dies is replaced by nobody, and all tests share them. Of deaths there: test_losing.py.
    test_a_dying_worker_fails_only_its_own_task: ClassVar = None
    test_a_worker_that_died_is_replaced: ClassVar = None
    test_a_task_whose_worker_died_runs_again_only_by_its_policy: ClassVar = None

    @pytest.fixture(autouse=True)
    def at_its_address(self, cluster: Cluster) -> None:
        type(self).options = {"address": cluster.address}
