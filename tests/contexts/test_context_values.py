"""Shared values and arrays, asked for what CPython's own tests ask of them."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

CODES = {
    "c": b"x",
    "b": -7,
    "B": 7,
    "h": -7,
    "H": 7,
    "i": 4343,
    "I": 7,
    "l": -7,
    "L": 7,
    "q": 2**33,
    "Q": 7,
    "f": 0.5,
    "d": 3.625,
}


def test_a_value_of_each_type_code_holds_what_it_is_set_to(context: Any) -> None:
    for code, value in CODES.items():
        for made in (context.Value(code, value), context.RawValue(code, value), context.Value(code, value, lock=False)):
            assert made.value == value
        changed = context.Value(code)
        changed.value = value
        assert changed.value == value
    assert context.Value("u", "x").value == "x"
    assert context.Value(ctypes.c_double, 0.25).value == 0.25
    assert context.Value("i").value == 0


def test_a_value_has_a_lock_unless_told_otherwise(context: Any, beside: Any) -> None:
    for made in (
        context.Value("i", 5),
        context.Value("i", 5, lock=None),
        context.Array("i", 5),
        context.Array("i", 5, lock=None),
    ):
        with made.get_lock(), made:  # its lock can be taken again
            assert beside(made.get_lock().acquire, False).result() is False
        assert made.get_obj() is not made
    lock = context.Lock()
    assert context.Value("i", lock=lock).get_lock() is lock
    assert context.Array("i", 1, lock=lock).get_lock() is lock
    for made in (
        context.Value("i", lock=False),
        context.Array("i", range(3), lock=False),
        context.RawValue("i"),
        context.RawArray("i", 3),
    ):
        assert not hasattr(made, "get_lock")
        assert not hasattr(made, "get_obj")


def test_what_is_no_lock_is_refused(context: Any) -> None:
    with pytest.raises(AttributeError, match="acquire"):
        context.Value("i", 5, lock="no_lock")
    with pytest.raises(AttributeError, match="acquire"):
        context.Array("i", 5, lock="no_lock")


@pytest.mark.parametrize("name", ["Value", "RawValue", "Array", "RawArray"])
def test_a_wrong_type_code_is_a_type_error(context: Any, name: str) -> None:
    make = getattr(context, name)
    for code in ("x", "", "int", 5):
        with pytest.raises((TypeError, AttributeError)):
            make(code, 3)
    with pytest.raises(TypeError):
        make("i", "three")
    with pytest.raises(TypeError):
        make("i", 1.5)


def test_what_does_not_fit_is_the_same_error(context: Any) -> None:
    with pytest.raises(TypeError):
        context.Value("i", 0).value = "text"
    with pytest.raises(TypeError):
        context.Array("i", 2)[0] = 0.5
    with pytest.raises(ValueError):
        context.Array("i", -1)
    with pytest.raises(IndexError):
        _ = context.Array("i", 2)[2]


@pytest.mark.parametrize("name", ["Array", "RawArray"])
def test_an_array_is_a_sequence_of_fixed_length(context: Any, name: str) -> None:
    make = getattr(context, name)
    numbers = [680, 626, 934, 821, 150, 233, 548, 982, 714, 831]
    made = make("i", numbers)
    assert (len(made), made[3], list(made[2:7]), list(made)) == (10, numbers[3], numbers[2:7], numbers)
    made[4:8] = numbers[4:8] = [1, 2, 3, 4]
    assert list(made[::2]) == numbers[::2]
    made[-1] = 5
    assert made[9] == 5
    with pytest.raises(ValueError):
        made[0:3] = [1]
    assert list(make("d", 3)) == [0.0] * 3
    assert list(make("i", iter_as_list := [1, 2])) == iter_as_list
    text = make("c", 10)
    text.value = b"hello"
    assert (text.value, text.raw[:6], len(text)) == (b"hello", b"hello\0", 10)


def test_structures_can_be_shared(context: Any) -> None:
    class Point(ctypes.Structure):
        _fields_ = (("x", ctypes.c_int), ("y", ctypes.c_double))

    point, many = context.Value(Point, 1, 2.5), context.RawArray(Point, [(3, 4.5), (5, 6.5)])
    assert (point.x, point.y) == (1, 2.5)
    point.x = 10
    assert point.get_obj().x == 10
    assert [(each.x, each.y) for each in many] == [(3, 4.5), (5, 6.5)]


def test_what_was_shared_is_zeroed_for_the_next(context: Any) -> None:
    for _ in range(20):
        made = context.RawArray("i", 10)
        assert list(made) == [0] * 10
        made[:] = range(10)
        del made
