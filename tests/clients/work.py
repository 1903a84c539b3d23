"""What the tests have workers do; cheap for a worker to import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def increment(number: int) -> int:
    return number + 1


def fail(message: str) -> None:
    raise LookupError(message)


def raised_by(function: Callable[[], object]) -> Exception:
    try:
        function()
    except Exception as error:  # which one is what the test is about
        return error
    raise AssertionError("it raised nothing")


def described(error: BaseException | None) -> tuple[Any, ...]:
    """Return what has to be the same about an error wherever it was raised."""
    assert error is not None
    return type(error), str(error), error.args
