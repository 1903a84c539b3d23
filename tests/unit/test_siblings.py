"""Each backend's file stands beside its siblings: the same sections in the same order, the contract's methods in its own."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

from taskrun.backends.base import Backend
from taskrun.plugins import BUILTIN

SECTIONS = [
    "getting workers to work",
    "in a worker",
    "what workers say",
    "taking back",
    "stopping",
    "waiting",
    "ending",
]
CONTRACT = [name for name, member in vars(Backend).items() if not name.startswith("_") and callable(getattr(Backend, name))]
FOLDER = Path(__file__).parents[2] / "taskrun" / "backends"
FILES = sorted({target.partition(":")[0].rpartition(".")[2] for target in BUILTIN.values()} | {"adapter"})


def body_of_backend(name: str) -> list[str]:
    """Return the names of the methods of the class of backends in a file, in their order."""
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    (cls,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name.endswith("Backend"))
    return [node.name for node in cls.body if isinstance(node, ast.FunctionDef)]


def in_order(found: list[str], order: list[str]) -> bool:
    return all(order.index(one) < order.index(other) for one, other in pairwise(found))


@pytest.mark.parametrize("name", FILES)
def test_sections_come_in_the_one_order(name: str) -> None:
    found = re.findall(r"^ +# -- (.*?) -+$", (FOLDER / f"{name}.py").read_text(), re.MULTILINE)
    assert found, "a file without sections"
    assert set(found) <= set(SECTIONS)
    assert in_order(found, SECTIONS)


@pytest.mark.parametrize("name", FILES)
def test_the_contracts_methods_come_in_its_order(name: str) -> None:
    found = [method for method in body_of_backend(name) if method in CONTRACT]
    assert found
    assert in_order(found, CONTRACT)


def test_what_is_out_of_order_would_be_found() -> None:
    assert CONTRACT[-1] == "workers"
    assert not in_order(["stop", "revoke"], CONTRACT)
    assert not in_order(["waiting", "waiting"], SECTIONS)
