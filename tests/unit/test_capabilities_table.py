"""No built-in backend can do less than the design promises: `capabilities` against the table in `floor.md`."""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from taskrun.backends.base import Capabilities
from taskrun.plugins import BUILTIN, describe_backends
from taskrun.testing import BackendConformance

ROOT = Path(__file__).parents[2]
DESIGN = ROOT.parent / "shared" / "DESIGN.md"

ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "submit, map, map_unordered, starmap, callbacks, wait/as_completed": {"yes": {}},  # see CONFORMANCE
    "cancel of a queued task": {"yes": {"cancel_queued": True}, "nothing queues": {"cancel_queued": False}},
    "lambdas, closures, local and `__main__` functions and classes, no guard": {"yes": {"closures": True}},
    "retry with back-off that holds no worker": {"yes": {"retry": "yes"}, "in the caller": {"retry": "in the caller"}},
    "a dying worker fails only its own task; full strength again at once; retry after a crash by policy": {
        "yes": {"crash_isolation": True, "names_guilty": True},
        "-": {"crash_isolation": False},
    },
    "timeout fails the future on time": {"yes": {"timeout": "yes"}, "after the call": {"timeout": "after the call"}},
    "timeout and `kill()` really stop the work": {
        "yes": {"kill": "yes"},
        "coroutines": {"kill": "coroutines"},
        "slot only": {"kill": "slot only"},
        "-": {"kill": "no"},
    },
    "`initializer` per worker; its failure is a clear error on every future after at most 3 respawns": {
        "yes": {"initializer": "yes"},
        "in each child": {"initializer": "in each child"},
    },
    "recycling by count / memory, age, idle": {
        "all": {"recycle_by_count": True, "recycle_by_state": True},
        "count": {"recycle_by_count": True, "recycle_by_state": False},
        "accepted": {"recycle_by_count": False, "recycle_by_state": False},
        "each child is new": {"initializer": "in each child", "processes": True},  # so that there is nothing to recycle
    },
    "the original exception: type, `args`, notes, whole cause/context chain; remote traceback at the root of the chain": {
        "yes": {"original_exceptions": True}
    },
    "what cannot be (un)pickled fails its own task with a clear error and hurts nothing else": {
        "yes": {"pickles": "yes"},
        "results": {"pickles": "results"},
        "with check_pickle": {"pickles": "with check_pickle"},
        "nothing is": {"pickles": "no"},
    },
    "BaseExceptions of a task come back as themselves and kill nothing": {"yes": {"base_exceptions": True}},
    "shared state and locks from `get_context` usable as task arguments": {
        "yes": {"primitives": "yes"},
        "Queue": {"primitives": "Queue"},
    },
}
"""Row of the floor -> wording of a cell -> the least that these fields of `Capabilities` have to be."""

BESIDE_THE_TABLE = {"cancel_running", "concurrent"}
"""Fields that no row speaks of."""

ORDER: dict[str, tuple[Any, ...]] = {
    "retry": ("in the caller", "yes"),
    "timeout": ("after the call", "yes"),
    "kill": ("no", "slot only", "coroutines", "yes"),  # where it stops coroutines it gives back the slot of the others
    "initializer": ("no", "in each child", "yes"),
    "primitives": ("no", "Queue", "yes"),
}
"""The words of a field from the least to the most."""

PICKLES = ("yes", "results", "with check_pickle", "no")
"""The words of `pickles`, which have no order: they say what is so, and neither more nor less of it is better."""

CONFORMANCE = (
    "test_result_of_a_call_with_all_kinds_of_arguments",
    "test_map_keeps_the_order",
    "test_map_unordered_and_starmap",
    "test_callbacks_run_in_order_and_errors_in_them_hurt_nobody",
    "test_wait_and_as_completed",
)
"""What the first row is tested by: no field speaks of it, because a backend without these would be none."""


def table_of(text: str) -> list[str]:
    """Return the lines of the table of behaviours in a Markdown *text*."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| behaviour |"))
    return lines[start : next((n for n in range(start, len(lines)) if not lines[n].startswith("|")), len(lines))]


def parse(table: list[str]) -> dict[str, dict[str, str]]:
    """Return row -> backend -> wording of the cell."""
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {row: dict(zip(head[1:], cells, strict=True)) for row, *cells in rows}


FLOOR = parse(table_of(Path(__file__).with_name("floor.md").read_text(encoding="utf-8")))


def lesser(field: str, least: Any) -> list[Any]:
    """Return the values of a field that are less than *least*."""
    if field == "pickles":
        return [word for word in PICKLES if word != least]
    order = ORDER.get(field, (False, True))
    return list(order[: order.index(least)])


def below(able: Capabilities, row: str, wording: str) -> list[str]:
    """Return the fields of *able* that are less than a cell with this *wording* asks for, with what they are."""
    found = []
    for name, least in ROWS[row][wording].items():
        value = getattr(able, name)
        if value in lesser(name, least):
            found.append(f"{name} is {value!r}, the floor is {least!r}")
    return found


@functools.cache
def capabilities_of(name: str) -> Capabilities:
    (info,) = [info for info in describe_backends() if info.name == name and info.source == "taskrun"]
    assert info.cls is not None, info.problem  # not usable here or not: the class says what it can do where it is
    return info.cls.capabilities


@pytest.mark.parametrize("name", BUILTIN)
@pytest.mark.parametrize("row", FLOOR)
def test_no_cell_is_below_the_floor(row: str, name: str) -> None:
    assert not below(capabilities_of(name), row, FLOOR[row][name])


LESS = [
    (row, wording, field, word)
    for row, wordings in ROWS.items()
    for wording, least in wordings.items()
    for field, value in least.items()
    for word in lesser(field, value)
]
"""Every way in which one field can be less than a cell asks for."""


@pytest.mark.parametrize(("row", "wording", "field", "word"), LESS)
def test_a_cell_that_is_lowered_is_found(row: str, wording: str, field: str, word: Any) -> None:
    enough = Capabilities(**ROWS[row][wording])
    assert not below(enough, row, wording)
    assert below(enough._replace(**{field: word}), row, wording)


def test_each_row_each_wording_and_each_field_is_covered() -> None:
    assert list(ROWS) == list(FLOOR)
    for row, wordings in ROWS.items():
        assert set(wordings) == set(FLOOR[row].values()), row
    asked = {field for wordings in ROWS.values() for least in wordings.values() for field in least}
    assert asked | BESIDE_THE_TABLE == set(Capabilities._fields)
    assert not asked & BESIDE_THE_TABLE


@pytest.mark.parametrize("field", [*ORDER, "pickles"])
def test_the_words_of_a_field_are_those_of_its_type(field: str) -> None:
    """A word without a place in the order would count as enough."""
    words = ORDER.get(field, PICKLES)
    assert set(words) == set(get_args(get_type_hints(Capabilities)[field]))


def test_the_fields_without_words_are_true_or_false() -> None:
    kinds = {name: kind for name, kind in get_type_hints(Capabilities).items() if name not in (*ORDER, "pickles")}
    assert set(kinds.values()) == {bool}


def test_each_column_is_a_built_in_backend_and_each_of_them_a_column() -> None:
    for row in FLOOR.values():
        assert set(row) == set(BUILTIN)


@pytest.mark.parametrize("name", BUILTIN)
def test_what_no_field_tells_is_tested_by_the_whole_conformance_suite(name: str) -> None:
    """Read as source: where a backend is not usable here its class in the tests may not be made."""
    assert all(callable(getattr(BackendConformance, test, None)) for test in CONFORMANCE)
    classes = [
        node
        for file in (ROOT / "tests" / "conformance").glob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and "BackendConformance" in map(ast.unparse, node.bases)
    ]
    whole = [node for node in classes if not any("test_" in ast.unparse(part) for part in node.body)]
    assert any(f"backend = {name!r}" in map(ast.unparse, node.body) for node in whole)


@pytest.mark.skipif(not DESIGN.is_file(), reason=f"the design is not beside this checkout ({DESIGN})")
def test_the_copy_is_the_designs_table_word_for_word() -> None:
    copy = Path(__file__).with_name("floor.md").read_text(encoding="utf-8")
    assert table_of(copy) == table_of(DESIGN.read_text(encoding="utf-8"))
