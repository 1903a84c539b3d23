"""Records hold what happened, and what cannot be written is said, not lost."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from taskrun.cli.exits import CommandError, ExitCode
from taskrun.cli.inputs import Format, Input, Item
from taskrun.cli.output import Outcome, Results, record_of

ITEM = Item(3, {"x": 1}, "a.jsonl:4", 8)


def test_a_value_is_written_with_its_input_and_place():
    assert record_of(Outcome(ITEM, value=[1, (2,)], seconds=0.25, attempts=1)) == {
        "index": 3,
        "input": {"x": 1},
        "source": "a.jsonl:4",
        "ok": True,
        "value": [1, (2,)],
        "seconds": 0.25,
        "attempts": 1,
    }


def test_an_item_that_is_a_file_has_no_other_source():
    assert "source" not in record_of(Outcome(Item(0, "a.png", None, 1), value=1))


def test_an_error_is_written_with_its_type_and_message():
    assert record_of(Outcome(ITEM, error=KeyError("x")))["error"] == {"type": "KeyError", "message": "'x'"}
    assert record_of(Outcome(ITEM, error=json.JSONDecodeError("bad", "", 0)))["error"]["type"] == "json.decoder.JSONDecodeError"


def test_a_traceback_is_there_on_request():
    try:
        raise ValueError("deep")
    except ValueError as error:
        record = record_of(Outcome(ITEM, error=error), tracebacks=True)
    assert 'raise ValueError("deep")' in record["error"]["traceback"]


def test_a_broken_input_is_a_failed_record():
    record = record_of(Outcome(Item(0, "{", "a.jsonl:1", 2, "a.jsonl:1: not valid JSON")))
    assert not record["ok"]
    assert record["error"] == {"type": "InputError", "message": "a.jsonl:1: not valid JSON"}
    assert record["seconds"] is None


class Awkward:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


CYCLE: list[object] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"a": [{"when": dt.date(2024, 1, 2)}]}, "value['a'][0]['when'] is a datetime.date"),
        ({1, 2}, "value is a set"),
        ([float("nan")], "value[0] is nan"),
        ({(1, 2): 3}, "value has a key of type tuple"),
        (Awkward(), "Awkward"),
        (CYCLE, "Circular"),
        ([{1: 2, "1": 3}], "value[0] has the keys 1 and '1', which are one key in JSON"),
        ({"a": {None: 2, "null": 3}}, "value['a'] has the keys None and 'null'"),
    ],
)
def test_what_is_not_json_fails_with_the_part_that_is_not_and_is_kept_as_text(value, told):
    record = record_of(Outcome(ITEM, value=value))
    assert not record["ok"]
    assert record["error"]["type"] == "ResultNotJSON"
    assert told in record["error"]["message"]
    assert "--repr" in record["error"]["message"]
    assert record["error"]["repr"]
    json.dumps(record)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"when": dt.date(2024, 1, 2), "n": 1}, {"when": "datetime.date(2024, 1, 2)", "n": 1}),
        ([float("inf")], "[inf]"),
        ({(1, 2): 3}, "{(1, 2): 3}"),
        ({1: 2, "1": 3}, "{1: 2, '1': 3}"),
        (Awkward(), "<Awkward whose text cannot be made: RuntimeError>"),
    ],
)
def test_with_repr_it_is_written_as_text(value, written):
    record = record_of(Outcome(ITEM, value=value), as_repr=True)
    assert record["ok"]
    assert record["value"] == written


def test_results_are_lines_of_utf8_also_for_names_that_are_not(tmp_path):
    with Results(str(tmp_path / "out")) as results:
        results.open([])
        results.write({"input": "é"})
        results.write({"input": "\udce9"})
    first, second = (tmp_path / "out").read_bytes().splitlines()
    assert first == '{"input": "é"}'.encode()
    assert json.loads(second) == {"input": "\udce9"}


def test_an_output_that_cannot_be_made_is_a_mistake_of_usage(tmp_path):
    with (
        pytest.raises(CommandError, match="cannot be written: No such file") as caught,
        Results(str(tmp_path / "x/y")) as results,
    ):
        results.open([])
    assert caught.value.code is ExitCode.USAGE


def test_an_output_that_is_an_input_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("1\n")
    with pytest.raises(CommandError, match="is also an input"), Results(str(path)) as results:
        results.open([Input(str(path), Format.JSONL)])
    assert path.read_text() == "1\n"


def test_a_full_disk_is_told_by_its_own_exit_code():
    said = "cannot write results to /dev/full: No space left"
    with pytest.raises(CommandError, match=said) as caught, Results("/dev/full") as results:
        results.open([])
        results.write({"index": 0})
    assert caught.value.code is ExitCode.OUTPUT


def test_what_is_nested_too_deeply_becomes_text_and_the_next_record_is_written(tmp_path):
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    path = tmp_path / "out.jsonl"
    with Results(str(path)) as results:
        results.open([])
        for record in ({"input": deep, "ok": False}, {"input": 1, "ok": True, "value": deep}, {"input": 2, "ok": True}):
            results.write(record)
    first, second, third = map(json.loads, path.read_text().splitlines())
    assert "nested too deeply" in first["input"]
    assert not second["ok"]
    assert second["error"]["type"] == "ResultNotJSON"
    assert third == {"input": 2, "ok": True}
    while deep:
        deep = deep.pop()  # type: ignore[assignment] # by hand: to drop it whole would recurse as deep
