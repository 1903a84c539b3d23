"""Exceptions across processes: the exception itself with its whole chain, whatever its class does to be in the way.

Pickle rebuilds an exception by calling its class with `args`. That fails for constructors that want something else, and changes
the message of those that make `args` themselves. So here an exception is taken apart and put together without its constructor:
class, `args`, `__dict__` (notes included), slots and the fields that built-in classes keep in C. A class that brings a
`__reduce__` of its own is pickled with it, if what comes back says the same. What cannot travel among the parts is replaced by
its `repr`; an exception whose class cannot travel is replaced by a RemoteError that derives from the bases that can.

Each exception of the chain travels apart from the others; causes, contexts, members of groups and those that one keeps among
its `args` or attributes are numbers of others, so cycles do no harm. Tracebacks travel as text.
"""

from __future__ import annotations

import copyreg
import pickle
import types
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from taskrun.errors import RemoteTraceback
from taskrun.exception_text import attributes_of, is_a, said, text_of, traceback_text, type_name
from taskrun.serialization import dump_upward
from taskrun.stand_in import base_names, stand_in

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["dump_exception", "explain_lack", "load_exception"]

_LONGEST_CHAIN = 1_000
"""Exceptions that are sent of one chain; a loop that goes on for ever raising from the last error makes more."""
_LONGEST_REPR = 1_000
_CONTAINERS = frozenset((list, tuple, dict))
_DEEPEST, _LONGEST_CONTAINER = 5, 10_000
"""Of containers among the parts of an exception that are searched for others."""
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement


class _Node(NamedTuple):
    """One exception of a chain, as it travels. Numbers are positions in the list of nodes; -1 is none."""

    data: bytes | None
    """A pickle of the exception or of its _Parts; None if nothing of it but text can travel."""
    type_name: str
    text: str
    notes: list[str]
    bases: tuple[str, ...]
    members: tuple[int, ...] | None
    """Of an exception group."""
    cause: int
    context: int
    suppress: bool


class _Parts(NamedTuple):
    """What an exception is put together from without its constructor."""

    cls: type[BaseException]
    args: tuple[Any, ...]
    fields: dict[str, Any]
    """Slots, and what built-in classes keep in C."""
    attributes: dict[str, Any]


_MEMBERS = "\0members"
"""Stands in the `args` of a group for its list of exceptions."""


class _Other(NamedTuple):
    """Stands, among the parts of an exception, for another one."""

    number: int


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


# The base's own descriptors: a class may say something else, or raise.
_args: Callable[[BaseException], tuple[Any, ...]] = vars(BaseException)["args"].__get__
_cause: Callable[[BaseException], BaseException | None] = vars(BaseException)["__cause__"].__get__
_context: Callable[[BaseException], BaseException | None] = vars(BaseException)["__context__"].__get__
_is_suppressed: Callable[[BaseException], bool] = vars(BaseException)["__suppress_context__"].__get__


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
        for other in (_cause(item), _context(item)):
            if other is not None and id(other) not in seen and chained < _LONGEST_CHAIN:
                chained += 1
                note(other)
        memo: dict[int, Any] = {}
        for value in (*_members(item), *_args(item), *attributes_of(item).values()):
            _mapped(value, note, memo)
    return found


def _mapped(value: Any, one: Callable[[Any], Any], memo: dict[int, Any], depth: int = 0) -> Any:
    """Return *value* with *one* applied to it, or to what is in it if it is a list, tuple or dict: itself if nothing changes.

    *memo* holds what became of containers, by their identity: those that are shared stay so, cycles are left as they are.
    """
    kind = type(value)
    if kind not in _CONTAINERS:
        return one(value)
    known = memo.get(id(value))
    if known is not None:
        return known
    memo[id(value)] = value
    if depth < _DEEPEST and len(value) < _LONGEST_CONTAINER:
        if kind is dict:
            mapped: Any = {key: _mapped(each, one, memo, depth + 1) for key, each in value.items()}
            changed = any(each is not value[key] for key, each in mapped.items())
        else:
            mapped = [_mapped(each, one, memo, depth + 1) for each in value]
            changed = any(each is not old for each, old in zip(mapped, value, strict=True))
        if changed:
            memo[id(value)] = mapped if kind is dict else kind(mapped)
    return memo[id(value)]


def _members(error: BaseException) -> tuple[BaseException, ...]:
    # The base's own descriptor: a subclass may say something else.
    return BaseExceptionGroup.exceptions.__get__(error) if is_a(error, BaseExceptionGroup) else ()


def _node(error: BaseException, numbers: dict[int, int]) -> tuple[Any, ...]:
    members = None
    if is_a(error, BaseExceptionGroup):
        members = tuple(numbers[id(item)] for item in _members(error) if id(item) in numbers)
    notes: Any = attributes_of(error).get("__notes__")
    return tuple(
        _Node(
            _dump_one(error, numbers),
            type_name(type(error)),
            text_of(error),
            [str(note) for note in notes if type(note) is str] if is_a(notes, (list, tuple)) else [],
            base_names(type(error)),
            members,
            numbers.get(id(_cause(error)), -1),
            numbers.get(id(_context(error)), -1),
            _is_suppressed(error),
        )
    )


def _dump_one(error: BaseException, numbers: dict[int, int]) -> bytes | None:
    cls = type(error)
    if _pickles_itself(cls) and not is_a(error, BaseExceptionGroup):
        data = _checked(error, lambda copy: type(copy) is cls and text_of(copy) == text_of(error))
        if data is not None:
            return data
    parts = _take_apart(error, numbers)
    harmless = all(_is_plain(value) for value in (*parts.args, *parts.fields.values(), *parts.attributes.values()))
    check = None if harmless else _anything
    data = _checked(tuple(parts), check)
    if data is None:
        data = _checked(tuple(_with_text(parts, error)), _anything)
    return data


def _checked(obj: Any, check: Callable[[Any], bool] | None) -> bytes | None:
    """Return the pickle of *obj*, or None if it does not pickle, or does not come back and pass the check."""
    try:
        data = dump_upward(obj)
        return data if check is None or check(pickle.loads(data)) else None
    except BaseException:  # a user's pickling code may raise anything, SystemExit included
        return None


def _anything(_: Any) -> bool:
    return True


def _pickles_itself(cls: type[BaseException]) -> bool:
    """Return whether somebody took care of how this class is pickled, beyond what built-in exceptions do."""
    own = {"__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs__", "__getnewargs_ex__"}
    return cls in copyreg.dispatch_table or any(
        base.__flags__ & _HEAP_TYPE and not own.isdisjoint(vars(base)) for base in cls.__mro__
    )


def _take_apart(error: BaseException, numbers: dict[int, int]) -> _Parts:
    args = _args(error)
    memo: dict[int, Any] = {}
    members = _members(error)
    if members and len(args) > 1 and is_a(args[1], (list, tuple)) and _same(args[1], members):
        args = (args[0], _MEMBERS, *args[2:])
    fields: dict[str, Any] = {}
    for base in type(error).__mro__:
        if base in (BaseException, BaseExceptionGroup, object):
            continue
        for name, descriptor in vars(base).items():
            if isinstance(descriptor, types.MemberDescriptorType) and name != "__weakref__":
                with suppress(AttributeError):  # a slot without a value
                    value = descriptor.__get__(error)
                    # None is what a field in C reads as when it is not set, and OSError prints a file name set to None.
                    if value is not None or base.__flags__ & _HEAP_TYPE:
                        fields.setdefault(name, value)
    if is_a(error, AttributeError):
        fields.pop("obj", None)  # any object at all, large or not; pickle leaves it out too

    def other(value: Any) -> Any:
        number = numbers.get(id(value)) if is_a(value, BaseException) else None
        return value if number is None else _Other(number)

    attributes = {name: _mapped(value, other, memo) for name, value in attributes_of(error).items()}
    return _Parts(type(error), tuple(_mapped(value, other, memo) for value in args), fields, attributes)


def _same(listed: Any, members: tuple[BaseException, ...]) -> bool:
    return len(listed) == len(members) and all(a is b for a, b in zip(listed, members, strict=True))


def _with_text(parts: _Parts, error: BaseException) -> _Parts:
    """Replace what does not travel by its repr."""
    args = _args(error)
    return _Parts(
        parts.cls,
        tuple(_or_repr(value, whole) for value, whole in zip(parts.args, args, strict=True)),
        {name: _or_repr(value, value) for name, value in parts.fields.items()},
        {name: _or_repr(value, attributes_of(error).get(name, value)) for name, value in parts.attributes.items()},
    )


def _or_repr(value: Any, whole: Any) -> Any:
    """Return *value* if it travels, else the repr of *whole*: the same, with other exceptions where *value* has numbers."""
    if _is_plain(value) or _checked(value, _anything) is not None:
        return value
    try:
        return repr(whole)[:_LONGEST_REPR]
    except BaseException:  # a user's __repr__
        return f"<{type_name(type(value))} object>"


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Return whether *value* is sure to travel; to try out the others costs time."""
    if type(value) is list or type(value) is tuple:
        return len(value) < 100 and depth < _DEEPEST and all(_is_plain(item, depth + 1) for item in value)
    return value is None or type(value) in (str, int, float, bool, bytes, _Other)


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
            loaded = pickle.loads(node.data)
            error = _put_together(_Parts(*loaded), members) if type(loaded) is tuple else loaded
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


def _put_together(parts: _Parts, members: list[BaseException]) -> BaseException:
    cls, args, fields, attributes = parts
    native: Any = cls
    while native.__flags__ & _HEAP_TYPE:
        native = native.__base__
    if issubclass(cls, BaseExceptionGroup):
        error = native.__new__(cls, str(args[0]) if args else "", members)
        args = tuple(members if type(item) is str and item == _MEMBERS else item for item in args)
    else:
        try:
            error = native.__new__(cls, *args)
        except TypeError:  # one that is strict about its arguments
            error = native.__new__(cls)
    for name, value in fields.items():
        with suppress(AttributeError, TypeError):  # read-only
            _set(error, name, value)
    _set(error, "args", args)
    attributes_of(error).update(attributes)
    return error  # type: ignore[no-any-return]


def _link(nodes: list[_Node], built: list[BaseException | None]) -> None:
    for node, error in zip(nodes, built, strict=True):
        if error is not None:
            _set(error, "__cause__", built[node.cause] if node.cause >= 0 else None)
            _set(error, "__context__", built[node.context] if node.context >= 0 else None)
            _set(error, "__suppress_context__", node.suppress)  # after the cause, which sets it
            _fill_in(error, built)


def _fill_in(error: BaseException, built: list[BaseException | None]) -> None:
    """Put the other exceptions in the places of their numbers."""
    memo: dict[int, Any] = {}

    def found(value: Any) -> Any:
        return built[value.number] if type(value) is _Other else value

    args, attributes = _args(error), attributes_of(error)
    whole = tuple(_mapped(value, found, memo) for value in args)
    if any(new is not old for new, old in zip(whole, args, strict=True)):
        _set(error, "args", whole)
    attributes.update({name: _mapped(value, found, memo) for name, value in attributes.items()})


def _hang(error: BaseException, remote: RemoteTraceback) -> None:
    """Make *remote* the cause of the last exception, along the causes, that has none."""
    seen = {id(error)}
    while (cause := _cause(error)) is not None:
        error = cause
        if id(error) in seen:
            return  # they go round in a circle
        seen.add(id(error))
    suppressed = _is_suppressed(error)
    _set(error, "__cause__", remote)
    _set(error, "__suppress_context__", suppressed)


def _set(error: BaseException, name: str, value: Any) -> None:
    field = vars(BaseException).get(name)
    if field is not None:
        field.__set__(error, value)  # past a property of the user's
    else:
        object.__setattr__(error, name, value)  # past a __setattr__
