"""Values of which nobody can tell whether they share what they are made of."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from taskrun.plain import are_plain, dump_native, dump_plain

PLAIN: list[list[Any]] = [
    [1],
    [1, -(1 << 80), 2.5, True, None],
    [1, "a", 2],
    [1, 1j, 2],
    ["a", "a"],
    [b"a", 1j, "b"],
    [(1, "a"), (), (None,)],
    [1, (2, 3), 4],
]


class Integer(int):
    pass


def nested() -> list[Any]:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


SHARED: list[Any] = []
OTHERS: list[list[Any]] = [
    [1, SHARED, SHARED, 2],
    [SHARED],
    [1, {}, 2],
    [1, bytearray(), 2],
    [1, ((),), 2],
    [1, Integer(2), 3],
    [Integer(2)],
    [1, len, 2],
    [1, int, 2],
    [1, ..., 2],
    [1, nested(), 2],
    [1, pickle.PickleBuffer(b"a"), 2],
    [1, frozenset(), 2],
]


@pytest.mark.parametrize("values", PLAIN, ids=repr)
def test_plain_values_are_one_pickle(values: list[Any]) -> None:
    assert are_plain(values)
    dumped = dump_plain(values)
    assert dumped is not None
    loaded = pickle.loads(dumped)
    assert loaded == values
    assert list(map(type, loaded)) == list(map(type, values))


@pytest.mark.parametrize("values", OTHERS, ids=range(len(OTHERS)))
def test_what_may_share_something_is_not(values: list[Any]) -> None:
    assert not are_plain(values)
    assert dump_plain(values) is None


class Loud:
    def __reduce__(self) -> Any:
        raise AssertionError("it was asked")

    def __getstate__(self) -> Any:
        raise AssertionError("it was asked")


def test_no_code_of_the_values_runs() -> None:
    assert dump_plain([1, Loud(), 2]) is None
    assert dump_plain([1, [Loud()], 2]) is None
    assert dump_plain([Loud()]) is None


class Own(dict[str, int]):
    """Of the user's: to pickle it may run anything."""

    def __reduce__(self) -> Any:
        raise AssertionError("it ran")


@pytest.mark.parametrize(
    "value", [1, "a", b"", None, (1, [2.0, {"k": {3}}], frozenset("x")), bytearray(b"y"), [[]], {}], ids=repr
)
def test_what_pickle_knows_by_itself_is_pickled_without_the_users_code(value: Any) -> None:
    data = dump_native(value)
    assert data is not None
    assert pickle.loads(data) == value


@pytest.mark.parametrize(
    "value", [Own(), [Own()], {"k": (Own(),)}, len, int, test_what_pickle_knows_by_itself_is_pickled_without_the_users_code]
)
def test_what_may_run_it_is_not(value: Any) -> None:
    assert dump_native(value) is None


def test_what_pickle_cannot_do_is_not_pickled() -> None:
    assert dump_native(nested()) is None
