"""Dask's `scheduler=`, for a call and as a setting, and a Dask worker that runs its tasks on a backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from libraries import library
from work import fail, increment

if TYPE_CHECKING:
    import taskrun

dask = library("dask")
bag, array = library("dask.bag"), library("dask.array")


def test_delayed_calls(ex: taskrun.Executor) -> None:
    step = dask.delayed(increment)
    assert dask.compute([step(number) for number in range(5)], step(step(1)), scheduler=ex) == ([1, 2, 3, 4, 5], 3)
    with dask.config.set(scheduler=ex):
        assert dask.compute(step(3)) == (4,)


def test_errors(ex: taskrun.Executor) -> None:
    with pytest.raises(LookupError, match=r"^no$"):
        dask.compute(dask.delayed(fail)("no"), scheduler=ex)


def test_collections(ex: taskrun.Executor) -> None:
    assert bag.from_sequence(range(10), npartitions=3).map(increment).sum().compute(scheduler=ex) == 55
    assert (array.arange(1000, chunks=500) ** 2).sum().compute(scheduler=ex) == sum(n * n for n in range(1000))


def test_messages_stay_whole_although_dask_changes_how_exceptions_are_pickled(ex: taskrun.Executor) -> None:
    def decode() -> str:
        import dask  # noqa: F401 - in the worker, too

        return b"\xff".decode()

    assert str(ex.submit(decode).exception()) == "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"
