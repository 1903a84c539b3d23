"""What backends can do, as the rows of tables: `taskrun backends` shows them, docs/reference/backends.md is made of them."""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from taskrun.backends.base import Capabilities

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from taskrun.plugins import BackendInfo

__all__ = ["able", "as_markdown", "capability_rows", "explanations", "option_rows"]


def able(info: BackendInfo) -> dict[str, Any]:
    """Return what a backend's class can do, by the names of the fields, in their order; whether or not it is usable here."""
    found = getattr(info.cls, "capabilities", None)
    # A backend may only know once it is made (an adapter, say); then there is nothing to show about the class.
    return found._asdict() if isinstance(found, Capabilities) else {}


def capability_rows(infos: Sequence[BackendInfo]) -> list[list[str]]:
    """Return a row for each field of `Capabilities`: its name, then its word for each backend, "" where that says nothing."""
    columns = [able(info) for info in infos]
    names = dict.fromkeys(name for column in columns for name in column)
    return [[name, *(_word(column.get(name, "")) for column in columns)] for name in names]


def _word(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def option_rows(infos: Iterable[BackendInfo]) -> list[list[str]]:
    """Return a row for each option of the backends' own: backend, option, which call takes it, what it takes."""
    return [
        [info.name, option, call, text]
        for info in infos
        if info.cls is not None
        for call, table in (("Executor(...)", info.cls.option_names), ("options(...)", info.cls.task_option_names))
        for option, text in table.items()
    ]


def explanations() -> dict[str, str]:
    """Return the docstring below each field of `Capabilities`, by the field's name.

    Python does not keep these at run time: they are read from the source, which is OSError where that is not shipped.
    """
    tree = ast.parse(inspect.getsource(Capabilities))
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef))
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def as_markdown(infos: Iterable[BackendInfo]) -> str:
    """Return the tables of the built-in ones among *infos* as Markdown: the same on every machine, usable there or not."""
    built_in = [info for info in infos if info.source == "taskrun"]
    can = [[f"`{name}`", *words] for name, *words in capability_rows(built_in)]
    options = [[f"`{backend}`", f"`{option}`", f"`{call}`", text] for backend, option, call, text in option_rows(built_in)]
    meanings = [[f"`{name}`", text] for name, text in explanations().items()]
    return "\n".join(
        [
            *_markdown_table(["field", *(f"`{info.name}`" for info in built_in)], can),
            "",
            "## What the rows mean",
            "",
            *_markdown_table(["field", "what it says"], meanings),
            "",
            "## Options of their own",
            "",
            *_markdown_table(["backend", "option", "given to", "what it takes"], options),
            "",
        ]
    )


def _markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in line) + " |" for line in lines]
