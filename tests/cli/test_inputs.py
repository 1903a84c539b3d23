"""Inputs become items one by one; what is broken is an item of its own with its place."""

from __future__ import annotations

import io
import os
import sys

import pytest

from taskrun.cli.exits import CommandError, ExitCode
from taskrun.cli.inputs import Format, Input, Item, items, plan, total_weight


def read(path, wanted=Format.AUTO) -> list[Item]:
    return list(items(plan([str(path)], wanted)))


def values(found: list[Item]) -> list[object]:
    assert [item.index for item in found] == list(range(len(found)))
    return [item.value for item in found if item.problem is None]


def problems(found: list[Item]) -> list[str]:
    return [item.problem for item in found if item.problem is not None]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file in the working directory of the test."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, content: str | bytes) -> str:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return name

    return write


def test_jsonl_is_one_value_a_line_and_blank_lines_are_skipped(write):
    found = read(write("a.jsonl", '\ufeff{"x": 1}\n\n[1, 2]\r\n"text"\nnull'))
    assert values(found) == [{"x": 1}, [1, 2], "text", None]
    assert [item.source for item in found] == ["a.jsonl:1", "a.jsonl:3", "a.jsonl:4", "a.jsonl:5"]


def test_a_broken_json_line_fails_alone_with_its_file_and_line(write):
    found = read(write("a.jsonl", '1\n{"x": \n3\n' + "[" * 100_000 + "\n" + "9" * 5000 + "\n6\n"))
    assert values(found) == [1, 3, 6]
    first, deep, long = problems(found)
    assert first.startswith("a.jsonl:2: not valid JSON: ")
    assert "column" in first
    assert deep.startswith("a.jsonl:4: JSON that Python cannot hold: ")
    assert long.startswith("a.jsonl:5: JSON that Python cannot hold: ")
    assert found[1].value == '{"x": '


def test_numbers_that_json_does_not_have_fail_alone(write):
    found = read(write("a.jsonl", "NaN\n1.5\n[-Infinity]\n1e999\n2\n"))
    assert values(found) == [1.5, 2]
    assert [found.split(": ", 1)[1] for found in problems(found)] == [
        "JSON that Python cannot hold: NaN is no JSON",
        "JSON that Python cannot hold: -Infinity is no JSON",
        "JSON that Python cannot hold: the number 1e999 is too large",
    ]


def test_a_quote_that_is_not_closed_tells_how_much_it_swallowed(write):
    (row,) = read(write("a.csv", 'x,y\n1,"2\n3,4\n5,6\n'))
    assert row.problem is not None
    assert row.problem.startswith("a.csv:2: not valid CSV: a quote is opened in this row and not closed; the 2 lines after it")


def test_a_line_that_is_not_utf8_fails_alone_and_names_the_byte(write):
    found = read(write("a.txt", b"good\nb\xe9d\nfine\n"))
    assert values(found) == ["good", "fine"]
    assert problems(found) == ["a.txt:2: not UTF-8: byte 0xe9 at position 1: invalid continuation byte"]
    assert found[1].value == "b\\xe9d"


def test_lines_keep_their_spaces_and_lose_their_line_ends(write):
    assert values(read(write("a.txt", "  one \r\n\n \ntwo\tx"))) == ["  one ", "two\tx"]


def test_csv_rows_are_dicts_by_the_header(write):
    found = read(write("a.csv", '\ufeffname,note\nann,"two\nlines"\n\nbob,""\n'))
    assert values(found) == [{"name": "ann", "note": "two\nlines"}, {"name": "bob", "note": ""}]
    assert [item.source for item in found] == ["a.csv:2", "a.csv:5"]


def test_csv_rows_of_another_width_fail_alone_with_file_and_line(write):
    found = read(write("a.csv", "a,b\n1,2\n1,2,3\n1\n3,4\n"))
    assert values(found) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
    assert problems(found) == [
        "a.csv:3: too many columns: 3, the header has 2",
        "a.csv:4: too few columns: 1, the header has 2",
    ]
    assert found[1].value == "1,2,3"


def test_csv_that_cannot_be_decoded_or_parsed_fails_alone(write):
    found = read(write("a.csv", b'a,b\n\xff,2\n"x"y,2\n3,4\n"open,5\n6,7\n'))
    assert values(found) == [{"a": "3", "b": "4"}]
    undecoded, quoted, unfinished = problems(found)
    assert undecoded.startswith("a.csv:2: not UTF-8: byte 0xff")
    assert quoted.startswith("a.csv:3: not valid CSV: ")
    assert unfinished.startswith("a.csv:5: not valid CSV: ")


def test_a_csv_field_may_be_larger_than_the_modules_default_limit(write):
    assert values(read(write("a.csv", f"a\n{'x' * 200_000}\n"))) == [{"a": "x" * 200_000}]


@pytest.mark.parametrize(
    ("content", "problem"),
    [("", "a.csv: has no header row"), ("a,b,a\n1,2,3\n", "a.csv:1: in the header: the column names ['a'] are there more")],
)
def test_a_csv_file_without_a_usable_header_is_one_failed_item(write, content, problem):
    write("a.csv", content)
    write("b.csv", "x\n1\n")
    found = list(items(plan(["a.csv", "b.csv"], Format.AUTO)))
    assert values(found) == [{"x": "1"}]
    assert problems(found)[0].startswith(problem)


def test_the_extension_decides_and_other_files_are_their_path(write):
    names = [write("a.ndjson", "1\n"), write("B.CSV", "x\n2\n"), write("c.txt", "three\n"), write("d.png", b"\x89")]
    assert [item.value for item in items(plan(names, Format.AUTO))] == [1, {"x": "2"}, "three", "d.png"]


def test_a_format_given_overrides_the_extension(write):
    write("a.jsonl", "1\n2\n")
    assert values(read("a.jsonl", Format.LINES)) == ["1", "2"]
    assert values(read("a.jsonl", Format.FILES)) == ["a.jsonl"]
    assert values(read(write("a.list", "x\n"), Format.LINES)) == ["x"]


def test_patterns_are_sorted_recursive_and_skip_directories(write):
    for name in ("d/b.bin", "d/a.bin", "d/sub/c.bin", "d/sub.bin/x.txt"):
        write(name, "x")
    assert values(read("d/**/*.bin")) == ["d/a.bin", "d/b.bin", "d/sub/c.bin"]


def test_an_existing_name_with_pattern_characters_is_itself(write):
    write("a1.bin", "")
    assert values(read(write("a[1].bin", ""))) == ["a[1].bin"]


def test_everything_wrong_with_the_inputs_is_told_at_once_before_anything_runs(write, tmp_path):
    write("dir/x", "")
    os.symlink("nowhere", "link.txt")
    with pytest.raises(CommandError) as caught:
        plan(["absent.csv", "*.none", "dir", "link.txt", "-", "-"], Format.AUTO)
    text = str(caught.value)
    assert caught.value.code is ExitCode.USAGE
    assert f"absent.csv: no such file (looked from {tmp_path})" in text
    assert f"*.none: no file matches this pattern (looked from {tmp_path})" in text
    assert "dir: is a directory; to pass the files in it write 'dir/**/*'" in text
    assert "link.txt: is a symbolic link to nothing" in text
    assert "can be given once only" in text


def test_an_input_that_fails_in_the_middle_is_a_failed_item_and_the_next_one_runs(write):
    write("b.txt", "x\n")
    gone = Input("gone.txt", Format.LINES)
    found = list(items([gone, Input("b.txt", Format.LINES)]))
    assert values(found) == ["x"]
    assert problems(found)[0].startswith("gone.txt: cannot be read: No such file")


def test_items_are_read_only_as_far_as_they_are_asked_for(tmp_path):
    fifo = tmp_path / "pipe.jsonl"
    os.mkfifo(fifo)
    # Both ends here: nobody else has to write, and reading too far would block until the test's time is up.
    end = os.open(fifo, os.O_RDWR)
    try:
        os.write(end, b"1\n")
        stream = items([Input(str(fifo), Format.LINES)])
        assert next(stream).value == "1"
        os.write(end, b"2\n")
        assert next(stream).value == "2"
        stream.close()
    finally:
        os.close(end)


def test_the_weight_is_bytes_for_what_is_read_and_files_for_paths(write):
    write("a.txt", "12345\n")
    assert total_weight(plan(["a.txt"], Format.AUTO)) == 6
    assert sum(item.weight for item in read("a.txt")) == 6
    assert total_weight(plan(["a.txt", "a.txt"], Format.FILES)) == 2
    assert total_weight([Input("a.txt", Format.LINES), Input("b.bin", Format.FILES)]) is None
    assert total_weight([Input("-", Format.LINES)]) is None


def test_standard_input_is_read_by_lines(monkeypatch, tmp_path):
    (tmp_path / "in").write_bytes(b"1\n2\n")
    saved = os.dup(0)
    source = os.open(tmp_path / "in", os.O_RDONLY)
    try:
        os.dup2(source, 0)
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        found = list(items(plan(["-"], Format.AUTO)))
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(source)
    assert [(item.value, item.source) for item in found] == [("1", "<stdin>:1"), ("2", "<stdin>:2")]
