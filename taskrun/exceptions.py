"""Exceptions across processes: the exception itself with its whole chain, whatever its class does to be in the way.

How one of them travels is in `exception_parts`; one whose class cannot is replaced by a RemoteError that derives from the bases
that can. Each exception of the chain travels apart from the others; causes, contexts, members of groups and what one keeps in
its `args` or attributes are numbers of others, so cycles do no harm. Tracebacks travel as text.
"""

from __future__ import annotations

import pickle
from contextlib import suppress
from typing import Any, NamedTuple

from taskrun.errors import RemoteTraceback
from taskrun.exception_parts import (
    Other,
    args_of,
    cause_of,
    context_of,
    dump_one,
    is_suppressed,
    load_one,
    mapped,
    members_of,
    set_field,
)
from taskrun.exception_text import attributes_of, is_a, said, text_of, traceback_text, type_name
from taskrun.stand_in import base_names, stand_in

__all__ = ["dump_exception", "explain_lack", "load_exception"]

_LONGEST_CHAIN = 1_000
"""Exceptions that are sent of one chain; a loop that goes on for ever raising from the last error makes more."""


class _Node(NamedTuple):
    """One exception of a chain, as it travels. Numbers are positions in the list of nodes; -1 is none."""

    data: bytes | None
    """A pickle of the exception or of its parts; None if nothing of it but text can travel."""
    type_name: str
    text: str
    notes: list[str]
    bases: tuple[str, ...]
    members: tuple[int, ...] | None
    """Of an exception group."""
    cause: int
    context: int
    suppress: bool


def dump_exception(error: BaseException, *, task: str | None = None) -> bytes:
    """Pickle an exception with its chain for the process that sent the task; never raises."""
    text = ""
    try:
        text = traceback_text(error)
        graph = _graph(error)
        numbers = {id(item): number for number, item in enumerate(graph)}
        return pickle.dumps(([_node(item, numbers) for item in graph], text, task), 5)
    except BaseException as problem:  # a worker must be able to report whatever happens
        bases: tuple[str, ...] = ()
        with suppress(BaseException):
            bases = base_names(type(error))
        node = _Node(None, type_name(type(error)), f"{said(problem)} while it was sent", [], bases, None, -1, -1, False)
        return pickle.dumps(([tuple(node)], text, task), 5)


def explain_lack(error: BaseException) -> None:
    """Say in *error*, which a task has raised in a worker, what it lacks there, if that is what is wrong."""
    if is_a(error, (ImportError, AttributeError)):
        from taskrun.blame import explain_missing_name

        with suppress(BaseException):  # it touches the error, whose class is the user's
            explain_missing_name(error)


def load_exception(data: bytes) -> BaseException:
    """Undo `dump_exception`; never raises. A RemoteTraceback hangs below the last exception that has no cause."""
    try:
        nodes, text, task = pickle.loads(data)
        nodes = [_Node(*node) for node in nodes]
        built: list[BaseException | None] = [None] * len(nodes)
        for number in _members_first(nodes):
            built[number] = _build(nodes[number], built, text, task)
        _link(nodes, built)
        error = built[0]
        assert error is not None  # noqa: S101 - _members_first yields every number
        if text:
            _hang(error, RemoteTraceback(text))
        return error
    except BaseException as problem:  # the message was cut off, or worse
        return stand_in("an exception", f"its message cannot be read: {said(problem)}", ())


# -- sending -------------------------------------------------------------------------------------------------------------------


def _graph(error: BaseException) -> list[BaseException]:
    """Return the exceptions that can be reached from *error*, itself first, each once."""
    found = [error]
    seen = {id(error)}

    def note(value: Any) -> Any:
        if is_a(value, BaseException) and id(value) not in seen:
            seen.add(id(value))
            found.append(value)
        return value

    chained = 0
    for item in found:  # grows
        for other in (cause_of(item), context_of(item)):
            if other is not None and id(other) not in seen and chained < _LONGEST_CHAIN:
                chained += 1
                note(other)
        memo: dict[int, Any] = {}
        for value in (*members_of(item), *args_of(item), *attributes_of(item).values()):
            mapped(value, note, memo)
    return found


def _node(error: BaseException, numbers: dict[int, int]) -> tuple[Any, ...]:
    members = None
    if is_a(error, BaseExceptionGroup):
        members = tuple(numbers[id(item)] for item in members_of(error) if id(item) in numbers)
    notes: Any = attributes_of(error).get("__notes__")
    return tuple(
        _Node(
            dump_one(error, numbers),
            type_name(type(error)),
            text_of(error),
            [str(note) for note in notes if type(note) is str] if is_a(notes, (list, tuple)) else [],
            base_names(type(error)),
            members,
            numbers.get(id(cause_of(error)), -1),
            numbers.get(id(context_of(error)), -1),
            is_suppressed(error),
        )
    )


# -- receiving -----------------------------------------------------------------------------------------------------------------


def _members_first(nodes: list[_Node]) -> list[int]:
    """Return the numbers of all nodes, those of a group's members before the group's: it is made with its members."""
    order: list[int] = []
    state = [0] * len(nodes)
    for start in range(len(nodes)):
        pending = [start]
        while pending:
            number = pending[-1]
            if state[number] == 0:
                state[number] = 1
                pending += [item for item in nodes[number].members or () if state[item] == 0]
            else:
                pending.pop()
                if state[number] == 1:
                    state[number] = 2
                    order.append(number)
    return order


def _build(node: _Node, built: list[BaseException | None], text: str, task: str | None) -> BaseException:
    members = [item for item in map(built.__getitem__, node.members or ()) if item is not None]
    problem = ""
    if node.data is not None:
        try:
            error = load_one(node.data, members)
            if is_a(error, BaseException):
                if node.notes and not attributes_of(error).get("__notes__"):  # its own pickling code knows nothing of them
                    attributes_of(error)["__notes__"] = list(node.notes)
                return error
        except BaseException as reason:  # the class is not here, or its code fails here
            problem = said(reason)
    if members:
        # An ExceptionGroup if all of them are Exceptions.
        group = BaseExceptionGroup(node.text or "unnamed group", members)
        for note in (*node.notes, f"taskrun: stands in for {node.type_name}, which cannot be rebuilt here. {problem}"):
            group.add_note(note)
        return group
    return stand_in(node.type_name, node.text, node.bases, traceback=text, task=task, notes=node.notes, problem=problem)


def _link(nodes: list[_Node], built: list[BaseException | None]) -> None:
    for node, error in zip(nodes, built, strict=True):
        if error is not None:
            set_field(error, "__cause__", built[node.cause] if node.cause >= 0 else None)
            set_field(error, "__context__", built[node.context] if node.context >= 0 else None)
            set_field(error, "__suppress_context__", node.suppress)  # after the cause, which sets it
            _fill_in(error, built)


def _fill_in(error: BaseException, built: list[BaseException | None]) -> None:
    """Put the other exceptions in the places of their numbers."""
    memo: dict[int, Any] = {}

    def found(value: Any) -> Any:
        return built[value.number] if type(value) is Other else value

    args, attributes = args_of(error), attributes_of(error)
    whole = tuple(mapped(value, found, memo) for value in args)
    if any(new is not old for new, old in zip(whole, args, strict=True)):
        set_field(error, "args", whole)
    attributes.update({name: mapped(value, found, memo) for name, value in attributes.items()})


def _hang(error: BaseException, remote: RemoteTraceback) -> None:
    """Make *remote* the cause of the last exception, along the causes, that has none."""
    seen = {id(error)}
    while (cause := cause_of(error)) is not None:
        error = cause
        if id(error) in seen:
            return  # they go round in a circle
        seen.add(id(error))
    suppressed = is_suppressed(error)
    set_field(error, "__cause__", remote)
    set_field(error, "__suppress_context__", suppressed)
