"""Plain values: numbers, text, bytes, None, tuples of them. Nobody can tell whether two of them share what they are made of.

So many of them may be one pickle, whose memo would otherwise make two tasks share an argument, or two callers a result. And
what is made of kinds that pickle knows by itself, lists and dicts included, can be pickled without running the user's code.
"""

from __future__ import annotations

import io
import pickle
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PLAIN", "UNNOTED", "are_plain", "dump_native", "dump_plain"]

UNNOTED = frozenset((int, float, bool, type(None)))
"""Kinds that pickle keeps no note of, and whose pickles name nothing."""
PLAIN = UNNOTED | {complex, str, bytes}
"""Kinds of plain values, but for tuples."""


def are_plain(values: Sequence[Any]) -> bool:
    """Return whether nobody can tell if *values* share what they are made of."""
    kinds = set(map(type, values))
    if tuple not in kinds:
        return PLAIN.issuperset(kinds)
    tuples = values if len(kinds) == 1 else [value for value in values if type(value) is tuple]
    return PLAIN.issuperset(kinds - {tuple}) and PLAIN.issuperset(map(type, chain.from_iterable(tuples)))


def dump_plain(values: list[Any]) -> bytes | None:
    """Return *values*, one or more, as one pickle; None if they are not all plain. Runs no code of theirs."""
    if type(values[0]) in UNNOTED and type(values[-1]) in UNNOTED:
        # To look at the kind of each takes as long as to pickle it; what pickle has met besides is to be seen afterwards.
        buffer = io.BytesIO()
        pickler = _Pickler(buffer, 5)
        with suppress(Exception):  # _UnknownError, a list too deep, a lack of memory
            pickler.dump(values)
            if len(pickler.memo.copy()) == 1:  # the list itself
                return buffer.getvalue()
    return pickle.dumps(values, 5) if are_plain(values) else None


def dump_native(value: Any) -> bytes | None:
    """Return the pickle of *value*; None if it is not all of kinds that pickle knows by itself. Runs no code of theirs."""
    buffer = io.BytesIO()
    with suppress(Exception):  # as above
        _Pickler(buffer, 5).dump(value)
        return buffer.getvalue()
    return None


class _UnknownError(Exception):
    pass


class _Pickler(pickle.Pickler):
    def reducer_override(self, _: Any) -> NoReturn:
        """End it: called for all but the kinds of values that pickle knows by itself."""
        raise _UnknownError
