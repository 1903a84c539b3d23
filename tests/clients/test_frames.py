"""pandas: frames as arguments and results, and its errors."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from libraries import library
from work import described, raised_by

if TYPE_CHECKING:
    from collections.abc import Callable

    import taskrun

np, pd = library("numpy"), library("pandas")


def write(frame: Any) -> Any:
    frame.loc[0, "number"] = 5.0
    frame["twice"] = frame["number"] * 2
    return frame


@pytest.mark.parametrize("rows", [4, 200_000])
def test_frames_are_written_in_place(ex: taskrun.Executor, private: bool, rows: int) -> None:
    frame = pd.DataFrame({"number": np.zeros(rows), "text": ["x"] * rows, "kind": pd.Categorical(["u", "v"] * (rows // 2))})
    before = frame.dtypes
    result = ex.submit(write, frame).result()
    result.loc[1, "number"] = 6.0  # what came back is the caller's own
    assert list(result["number"][:3]) == [5, 6, 0]
    assert list(result["twice"][:2]) == [10, 0]
    assert dict(result.dtypes[:3]) == dict(before)
    assert list(frame["number"][:3]) == ([0, 0, 0] if private else [5, 6, 0])
    assert ("twice" in frame) is not private


def test_groups_are_mapped_and_put_together(ex: taskrun.Executor) -> None:
    frame = pd.DataFrame({"key": [1, 2, 1, 2], "value": [1.0, 2.0, 3.0, 4.0]})
    parts = ex.map(lambda group: group[1].assign(total=group[1].value.cumsum()), frame.groupby("key"))
    assert pd.concat(parts)["total"].to_dict() == {0: 1, 2: 4, 1: 2, 3: 6}


FAILURES: dict[str, Callable[[], Any]] = {
    "KeyError": lambda: pd.DataFrame({"a": [1]})["b"],
    "MergeError": lambda: pd.DataFrame({"a": [1]}).merge(pd.DataFrame({"b": [1]})),
    "EmptyDataError": lambda: pd.read_csv(io.StringIO("")),
    "ParserError": lambda: pd.read_csv(io.StringIO("a,b\n1,2\n4,5,6,7,8\n")),
    "DateParseError": lambda: pd.to_datetime("junk"),
    "InvalidIndexError": lambda: pd.concat([pd.Series([1], index=["a"]), pd.Series([1, 2], index=["b", "b"])], axis=1),
    "UndefinedVariableError": lambda: pd.DataFrame({"a": [1]}).query("b > 1"),
    "JSONDecodeError": lambda: json.loads("{x"),
    "UnicodeDecodeError": lambda: b"\xff".decode(),
}


def test_errors_come_back_as_they_are(ex: taskrun.Executor) -> None:
    here = {name: described(raised_by(failure)) for name, failure in FAILURES.items()}
    assert {name: described(ex.submit(failure).exception()) for name, failure in FAILURES.items()} == here
