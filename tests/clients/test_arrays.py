"""NumPy: arrays as arguments and results, its random numbers, its errors."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from libraries import library
from work import described, raised_by

import taskrun

if TYPE_CHECKING:
    from collections.abc import Callable

np = library("numpy")


def write(array: Any) -> Any:
    array += 1
    array.flat[0] = 7
    return array


def draw(_: object = None) -> float:
    return float(np.random.random())


def draw_from_what_the_task_loads(_: object = None) -> float:
    import numpy as np

    return float(np.random.random())


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.zeros(5),
        lambda: np.zeros(1_000_000),
        lambda: np.asfortranarray(np.zeros((300, 400))),
        lambda: np.zeros((1000, 1000))[::2, ::3],
        lambda: np.zeros(5, dtype=[("a", "i4"), ("b", "f8")])["b"],
        lambda: np.ma.array(np.zeros(3), mask=[0, 1, 0]).data,
    ],
    ids=["small", "large", "by columns", "strided", "field", "masked"],
)
def test_arrays_are_written_in_place(ex: taskrun.Executor, private: bool, make: Callable[[], Any]) -> None:
    array = make()
    result = ex.submit(write, array).result()
    assert (result.flat[0], result.flat[-1]) == (7, 1)
    result += 1  # what came back is the caller's own
    assert array.flat[-1] == (0 if private else 2)
    assert result.shape == array.shape
    assert result.dtype == array.dtype


def test_one_array_given_twice_is_one_array(ex: taskrun.Executor) -> None:
    array = np.zeros(1_000_000)
    assert ex.submit(lambda one, two: one is two, array, array).result()


def test_private_arrays_are_new_for_each_task(ex: taskrun.Executor, private: bool) -> None:
    array = np.zeros(1_000_000)
    sums = [float(ex.submit(write, array).result()[-1]) for _ in range(3)]
    assert sums == ([1, 1, 1] if private else [1, 2, 3])


def test_a_read_only_array_stays_so(ex: taskrun.Executor) -> None:
    array = np.zeros(1_000_000)
    array.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        ex.submit(write, array).result()


def test_generators_and_seed_sequences_as_arguments(ex: taskrun.Executor) -> None:
    children = np.random.SeedSequence(1).spawn(3)
    numbers = list(ex.map(lambda child: float(np.random.default_rng(child).random()), children))
    assert numbers == [float(np.random.default_rng(child).random()) for child in children]
    assert ex.submit(lambda rng: float(rng.random()), np.random.default_rng(3)).result() == np.random.default_rng(3).random()


@pytest.mark.parametrize("function", [draw, draw_from_what_the_task_loads])
def test_the_global_generator_is_seeded_where_each_task_has_a_process(function: Any, backend: str, private: bool) -> None:
    with taskrun.Executor("fork", max_workers=1, seed=5) as ex:
        numbers = list(ex.map(function, range(4)))
    with taskrun.Executor(backend, max_workers=2, seed=5) as ex:
        again = list(ex.map(function, range(4), chunksize=1))
    assert (again == numbers) is private  # the generator of this process is left alone


def test_without_a_seed_no_two_tasks_draw_the_same(ex: taskrun.Executor) -> None:
    assert len(set(ex.map(draw, range(8), chunksize=1))) == 8


@pytest.mark.filterwarnings("ignore::taskrun.UnsafeForkWarning")
@pytest.mark.parametrize("backend", ["fork", "pool", "process"])
def test_a_fork_amid_another_threads_draw_holds_nobody_up(backend: str) -> None:
    drawing, enough = threading.Event(), threading.Event()

    def draw_much() -> None:
        while not enough.is_set():
            drawing.set()
            np.random.random(2_000_000)

    thread = threading.Thread(target=draw_much)
    thread.start()
    drawing.wait()
    try:
        with taskrun.Executor(backend, max_workers=2, **({} if backend == "fork" else {"start_method": "fork"})) as ex:
            assert list(ex.map(abs, range(6))) == [0, 1, 2, 3, 4, 5]
            assert len(set(ex.map(draw, range(6)))) == 6
    finally:
        enough.set()
        thread.join()


FAILURES: dict[str, Callable[[], Any]] = {
    "LinAlgError": lambda: np.linalg.inv(np.zeros((2, 2))),
    "AxisError": lambda: np.zeros(3).sum(5),
    "broadcast": lambda: np.zeros(2) + np.zeros(3),
    "UFuncTypeError": lambda: np.add(np.array([1]), np.array([1.5]), out=np.array([1])),
    "MemoryError": lambda: np.empty(10**15),
    "DTypePromotionError": lambda: np.promote_types("M8[s]", "c16"),
    "IndexError": lambda: np.zeros(1)[5],
}


def test_errors_come_back_as_they_are(ex: taskrun.Executor) -> None:
    here = {name: described(raised_by(failure)) for name, failure in FAILURES.items()}
    assert {name: described(ex.submit(failure).exception()) for name, failure in FAILURES.items()} == here
