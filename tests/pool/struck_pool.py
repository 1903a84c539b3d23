"""Ctrl-C at every single moment of what one does with a pool: it stays sound, and ends."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from patience import PATIENCE, eventually
from unit.striking import at_each_moment

import taskrun

if TYPE_CHECKING:
    from collections.abc import Callable

FEWEST = 15
"""Moments that each of these operations has at the least: fewer, and the strikes did not reach it."""


def apply(pool: taskrun.Pool) -> None:
    pool.apply(abs, (-1,))


def callback(pool: taskrun.Pool) -> None:
    called: list[int] = []
    pool.apply_async(abs, (-1,), callback=called.append).get(PATIENCE)
    assert called == [1]


def mapped(pool: taskrun.Pool) -> None:
    assert pool.map(abs, range(-5, 0)) == [5, 4, 3, 2, 1]


def mapped_with_callback(pool: taskrun.Pool) -> None:
    with suppress(ValueError):
        pool.map_async(int, "1x3", error_callback=repr).get(PATIENCE)


def iterated(pool: taskrun.Pool) -> None:
    assert list(pool.imap(abs, [-1, -2, -3])) == [1, 2, 3]


def read_ahead(pool: taskrun.Pool) -> None:
    assert sorted(pool.imap_unordered(abs, iter([-1, -2, -3]))) == [1, 2, 3]


@pytest.mark.parametrize("operation", [apply, callback, mapped, mapped_with_callback, iterated, read_ahead])
@pytest.mark.parametrize("backend", ["serial", "thread", "process"])
def test_the_pool_stays_sound(backend: str, operation: Callable[[taskrun.Pool], None]) -> None:
    def check(pool: taskrun.Pool, where: str) -> None:
        assert pool.apply(abs, (-3,)) == 3, where
        assert backend == "serial" or eventually(lambda: pool._executor.stats()["unfinished"] == 0), where

    with taskrun.Pool(2, backend=backend) as pool:
        assert at_each_moment(lambda: pool, operation, check) >= FEWEST
        pool.close()
        pool.join()


@pytest.mark.parametrize("how", ["join", "terminate", "with"])
@pytest.mark.parametrize("backend", ["serial", "thread", "process"])
def test_it_ends_where_it_was_told_to_end(backend: str, how: str) -> None:
    def before() -> tuple[taskrun.Pool, list[object]]:
        pool = taskrun.Pool(1, backend=backend)
        return pool, [pool.map_async(abs, range(3)), pool.imap(abs, iter([-1, -2, -3]))]

    def act(subject: tuple[taskrun.Pool, list[object]]) -> None:
        pool, _ = subject
        if how == "with":
            with pool:
                pass
        elif how == "terminate":
            pool.terminate()
        else:
            pool.close()
            pool.join()

    def ended(subject: tuple[taskrun.Pool, list[object]], where: str) -> None:
        pool, _ = subject
        pool.terminate()
        pool.join()
        assert pool._executor.stats()["unfinished"] == 0, where

    assert at_each_moment(before, act, ended) >= FEWEST
