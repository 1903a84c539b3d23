"""How far a map runs ahead."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from taskrun.map_window import MAX_BYTES, MAX_ITEMS, Window, weigh


def ended(*seconds: float) -> list[Any]:
    """Return futures whose last attempts took *seconds*."""
    return [SimpleNamespace(last_duration=each) for each in seconds]


def test_it_starts_with_two_items_for_each_worker() -> None:
    assert Window(8, None).size == 16


def test_it_grows_to_a_tenth_of_a_second_of_work_for_every_worker() -> None:
    window = Window(4, None)
    window.learn(ended(0.001, 0.001))
    assert 390 < window.size <= 400


@pytest.mark.parametrize(("seconds", "size"), [(0.0, MAX_ITEMS), (10.0, 8)])
def test_it_stays_between_two_items_a_worker_and_the_maximum(seconds: float, size: int) -> None:
    window = Window(4, None)
    window.learn(ended(seconds))
    assert window.size == size


def test_it_follows_items_that_become_slower() -> None:
    window = Window(2, None)
    window.learn(ended(*[1e-6] * 3000))
    assert window.size == MAX_ITEMS
    for _ in range(200):
        window.learn(ended(*[0.1] * 64))
    assert window.size < 10


def test_a_fixed_one_learns_nothing() -> None:
    window = Window(2, 7)
    window.learn(ended(1e-6))
    assert window.size == 7
    assert not window.heavy(5, 10 * MAX_BYTES)


def test_attempts_that_no_worker_took_up_teach_nothing() -> None:
    window = Window(2, None)
    window.learn([SimpleNamespace(last_duration=None)])  # type: ignore[list-item]
    assert window.size == 4


@pytest.mark.parametrize(("workers", "fixed"), [(1, None), (8, None), (8, 1), (1, 3), (2, 100)])
def test_more_is_wanted_only_while_workers_have_enough_and_always_when_nothing_is_under_way(
    workers: int, fixed: int | None
) -> None:
    window = Window(workers, fixed)
    assert 1 <= window.enough <= window.size
    under_way = window.size - window.enough + 1  # the most at which nothing more is submitted
    assert under_way >= min(2 * workers, window.size)


def test_memory_bounds_it_by_arguments_and_results_but_never_below_two_items_a_worker() -> None:
    window = Window(2, None)
    assert not window.heavy(3, 10 * MAX_BYTES)
    assert window.heavy(4, MAX_BYTES)
    assert not window.heavy(4, MAX_BYTES // 2)
    window.learn_results((bytes(MAX_BYTES // 4),))
    assert window.heavy(4, MAX_BYTES // 2)


def test_sizes_are_those_of_the_values_and_of_what_containers_hold() -> None:
    big = bytes(10_000)
    assert weigh((big,)) >= 10_000
    assert weigh(([big, big],)) >= 20_000
    assert weigh(({"a": big},)) >= 10_000
    assert weigh((SimpleNamespace(nbytes=3),)) < 1000  # an attribute of an instance says nothing


def test_a_view_that_owns_no_bytes_counts_by_those_it_shows() -> None:
    assert weigh((memoryview(bytes(50_000)),)) >= 50_000


def test_a_value_that_cannot_tell_its_size_is_guessed() -> None:
    class Broken:
        def __sizeof__(self) -> int:
            raise ValueError

    assert 0 < weigh((Broken(),)) < 1000
