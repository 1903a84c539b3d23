"""What exactly could not be pickled or unpickled: finds the value, the attribute inside it, and says what to do.

Runs only after a failure, and finds out by trying: it pickles parts of the value, some of them several times.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import pickletools
import types
from typing import TYPE_CHECKING, Any, Literal

from taskrun.errors import BackendUnavailableError, SerializationError
from taskrun.exception_text import text_of
from taskrun.serialization import dump_downward, dump_upward
from taskrun.shipping import collecting

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["arguments_error", "pickling_error", "unpickling_error"]

Side = Literal["parent", "worker"]

_DEEPEST = 6
_MOST_PARTS = 500
"""Parts that are looked at on one level: enough for most objects, and an end for those with millions."""

_HINTS = (
    (("Future", "MapResults"), "wait for the result and pass that"),
    (("generator", "coroutine", "async_generator"), "pass what it is made from, or list(...) of it"),
    (
        (
            *("lock", "Lock", "RLock", "Condition", "Event", "Semaphore", "Barrier"),
            *("Queue", "SimpleQueue", "SynchronizedBase", "ThreadLock", "ThreadSimpleQueue", "ThreadConnection"),
        ),
        (
            "let ex.context (or taskrun.get_context) make it, whose locks, queues and shared values can be passed to tasks, "
            "or make it in the worker (initializer=)"
        ),
    ),
    (("SemLock",), "pass the lock itself and call its methods in the task"),
    (("SSLSocket", "Cursor"), "pass the address and connect inside the task"),
    (
        ("socket", "Connection"),
        (
            "keep a socket or a connection of multiprocessing's open until the task has it; of any other, pass the address and "
            "connect inside the task"
        ),
    ),
    (
        ("TextIOWrapper", "BufferedReader", "BufferedWriter", "BufferedRandom", "FileIO"),
        "pass the path, open it in the task",
    ),
    (("module",), "import it inside the task"),
    (("frame", "traceback", "code"), "pass text made from it, with the traceback module"),
    (
        ("Thread", "Executor", "ThreadPoolExecutor", "Pool", "local", "_Local"),
        "make it inside the task or in initializer=",
    ),
    (("weakref", "ReferenceType", "ContextVar", "Context", "Token"), "pass the value itself"),
)


# -- pickling ------------------------------------------------------------------------------------------------------------------


def arguments_error(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], error: BaseException, *, side: Side, task: str | None
) -> SerializationError:
    """Return the error for a call whose arguments did not pickle, naming the first that does not pickle alone."""
    named = [(f"argument {i}", value) for i, value in enumerate(args)]
    named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    for name, value in named:
        problem = _problem(value, side)
        if problem is not None:
            return pickling_error(value, problem, value=name, side=side, task=task)
    return pickling_error((args, kwargs), error, value="arguments", side=side, task=task)


def pickling_error(obj: Any, error: BaseException, *, value: str, side: Side, task: str | None) -> SerializationError:
    """Return the error for *obj*, which did not pickle because of *error*."""
    culprit = obj
    try:
        path, culprit = _descend(obj, side)
        where = f"; it is in {', of '.join(reversed(path))}: {_describe(culprit)}" if path else f" ({_describe(obj)})"
        hint = _hint(culprit)
    except BaseException:  # an object of the user's that raises when it is looked at
        where = hint = ""
    message = f"{_subject(value, task)} cannot be pickled in the {side}{where}. {_said(error)}.{hint}"
    return _with_cause(
        SerializationError(message, value=value, direction="pickling", side=side, task=task, type_name=_type_name(culprit)),
        error,
    )


def _problem(obj: Any, side: Side) -> BaseException | None:
    try:
        if side == "worker":
            dump_upward(obj)
        else:
            with collecting():
                dump_downward(obj)
    except BaseException as error:  # to find out what it raises is the purpose
        return error.with_traceback(None)
    return None


def _descend(obj: Any, side: Side) -> tuple[list[str], Any]:
    """Return the way to the innermost part that does not pickle, and that part."""
    path: list[str] = []
    seen = {id(obj)}
    for _ in range(_DEEPEST):
        if _advice(obj):
            break  # a thread is what the user knows, not the lock inside of it
        for name, part in _parts(obj):
            if id(part) not in seen and _problem(part, side) is not None:
                path.append(name)
                seen.add(id(part))
                obj = part
                break
        else:
            break
    return path, obj


def _parts(obj: Any) -> list[tuple[str, Any]]:
    parts: list[tuple[str, Any]] = []
    try:
        for part in _walk(obj):
            parts.append(part)
            if len(parts) >= _MOST_PARTS:
                break
    except Exception:  # noqa: S110 - the user's properties and iterators; what came before will do
        pass
    return parts


def _walk(obj: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of *obj* that pickling it would pickle, each with a name."""
    kind = type(obj).__qualname__
    if isinstance(obj, (str, bytes, bytearray, int, float)):
        return
    if isinstance(obj, types.FunctionType):
        yield from _walk_function(obj)
    elif isinstance(obj, functools.partial):
        yield "the function of a partial", obj.func
        yield from ((f"argument {i} of a partial", item) for i, item in enumerate(obj.args))
        yield from ((f"argument {name!r} of a partial", item) for name, item in obj.keywords.items())
    elif isinstance(obj, types.MethodType) or (isinstance(obj, types.BuiltinMethodType) and obj.__self__ is not None):
        yield f"the object of method {obj.__name__!r}", obj.__self__
    elif isinstance(obj, type):
        yield from ((f"attribute {name!r} of class {obj.__qualname__}", item) for name, item in vars(obj).items())
    elif isinstance(obj, dict):
        for key, item in obj.items():
            yield f"the value under key {_brief(key)}", item
            yield f"key {_brief(key)}", key
    elif isinstance(obj, (list, tuple, set, frozenset)):
        for i, item in enumerate(obj):
            field = getattr(obj, "_fields", None)
            yield (f"field {field[i]!r} of {kind}" if field else f"item {i} of a {kind}"), item
    if not isinstance(obj, (types.FunctionType, type)):
        if isinstance(obj, BaseException):
            yield from ((f"args[{i}] of {kind}", item) for i, item in enumerate(obj.args))
        yield from ((f"attribute {name!r} of {kind}", item) for name, item in getattr(obj, "__dict__", {}).items())
        for base in type(obj).__mro__:
            slots = base.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(obj, name):
                    yield f"attribute {name!r} of {kind}", getattr(obj, name)


def _walk_function(fn: types.FunctionType) -> Iterator[tuple[str, Any]]:
    name = fn.__qualname__
    for variable, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=False):
        try:
            yield f"variable {variable!r} of function {name}", cell.cell_contents
        except ValueError:  # not bound yet
            continue
    for variable, value in (fn.__kwdefaults__ or {}).items():
        yield f"default of {variable!r} of function {name}", value
    for value in fn.__defaults__ or ():
        yield f"a default of function {name}", value
    pending = [fn.__code__]
    while pending:
        code = pending.pop()
        pending += [item for item in code.co_consts if isinstance(item, types.CodeType)]
        for variable in code.co_names:
            if variable in fn.__globals__:
                yield f"global {variable!r} of function {name}", fn.__globals__[variable]


# -- unpickling ----------------------------------------------------------------------------------------------------------------


def unpickling_error(
    data: bytes, error: BaseException, *, value: str, side: Side, task: str | None, buffers: list[Any] | None = None
) -> SerializationError:
    """Return the error for *data*, which did not unpickle because of *error*."""
    if value == "arguments":
        value = _failing_argument(data, buffers) or value
    message = f"{_subject(value, task)} cannot be unpickled in the {side}. {_said(error)}.{_missing_name(error, side)}"
    return _with_cause(SerializationError(message, value=value, direction="unpickling", side=side, task=task), error)


def _missing_name(error: BaseException, side: Side) -> str:
    text = text_of(error)
    if not (isinstance(error, ImportError) or (isinstance(error, AttributeError) and "attribute" in text)):
        return ""
    if side == "parent":
        return " The worker knows a name that this process does not; import it here, or return plain data."
    return f" {_why_missing(error)}"


_FRESH = (
    "Workers import modules afresh and never run the user's __main__: what __main__ changed in other modules (names set, "
    "sys.modules, import hooks) is not in the worker. Do it in initializer= as well, or put it into a module of its own."
)

_ALONE = (
    "An extension module that does not support sub-interpreters cannot be imported in one, nor can what imports it: "
    'run this on backend="process" or backend="thread".'
)


def _why_missing(error: BaseException) -> str:
    # There is no class or attribute of CPython's to tell it by.
    return _ALONE if "does not support loading in subinterpreters" in text_of(error) else _FRESH


def explain_missing_name(error: BaseException) -> None:
    """Add a note to an error that a task raised in a worker because a module, or a name in one, is not there."""
    with contextlib.suppress(Exception):  # of a user's class that overrides any of this
        if isinstance(error, BackendUnavailableError):
            return  # it says why itself
        if isinstance(error, ImportError) or (isinstance(error, AttributeError) and isinstance(error.obj, types.ModuleType)):
            error.add_note(_why_missing(error))


def _failing_argument(data: bytes, buffers: list[Any] | None) -> str | None:
    """Return which argument it is that does not unpickle, by unpickling ever longer beginnings of the message."""
    try:
        kept, data = _inner(data)  # the classes must stay alive meanwhile
        for name, beginning in _beginnings(data):
            try:
                pickle.loads(beginning, buffers=buffers)
            except BaseException:  # to find out whether it raises is the purpose
                return name
        del kept
    except Exception:  # noqa: S110 - a message of another shape: the name is all that is lost
        pass
    return None


def _inner(data: bytes) -> tuple[object, bytes]:
    """Return the definitions and the payload of a message that carries both (see `by_value`)."""
    parts = [arg for op, arg, _ in pickletools.genops(data) if isinstance(arg, bytes) and "BYTES" in op.name]
    if b"open_message" not in data[:80] or not parts:
        return None, data
    return pickle.loads(parts[-2]) if len(parts) > 1 else None, parts[-1]


def _beginnings(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the name of each argument with a pickle that ends with it.

    In a pickle of ``(args, kwargs)`` the values are laid on a stack one after the other. What makes args, or one value in
    it, ends with the last instruction that leaves it on top of the values before it.
    """
    ops, stream = _without_frames(data)
    depths = _depths(ops)
    outer = max(i for i, (op, _, _) in enumerate(ops) if op.name == "TUPLE2")
    made_at = max(i for i in range(outer) if depths[i] == 1)
    if ops[made_at][0].name == "MEMOIZE":
        made_at -= 1
    kind = ops[made_at][0].name
    below = 1 if kind == "TUPLE" else 0  # a longer tuple begins with a mark
    count = 0 if kind == "EMPTY_TUPLE" else depths[made_at - 1] - below
    for k in range(count):
        end = max(i for i in range(made_at) if depths[i] == below + k + 1)
        yield f"argument {k}", stream[: ops[end + 1][2]] + b"."
    yield "a keyword argument", stream


def _without_frames(data: bytes) -> tuple[list[tuple[Any, Any, int]], bytes]:
    """Return the instructions, with positions in a stream that can be cut anywhere between them, and that stream."""
    listed = [*pickletools.genops(data)]
    ops: list[tuple[Any, Any, int]] = []
    stream = b""
    for (op, arg, start), following in zip(listed, [*listed[1:], (None, None, len(data))], strict=True):
        if op.name != "FRAME" and start is not None and following[2] is not None:
            ops.append((op, arg, len(stream)))
            stream += data[start : following[2]]
    return ops, stream


def _depths(ops: list[tuple[Any, Any, int]]) -> list[int]:
    """Return the depth of the unpickler's stack after each instruction."""
    stack: list[bool] = []  # for each entry, whether it is a mark
    depths: list[int] = []
    mark = pickletools.markobject
    for op, _, _ in ops:
        taken = op.stack_before
        if mark in taken:
            while not stack.pop():
                pass
            taken = taken[: taken.index(mark)]  # what lies below the mark, as the list for APPENDS
        if taken:
            del stack[-len(taken) :]
        stack.extend(item is mark for item in op.stack_after)
        depths.append(len(stack))
    return depths


# -- words ---------------------------------------------------------------------------------------------------------------------


def _subject(value: str, task: str | None) -> str:
    return f"{value} of task {task!r}" if task else value


def _said(error: BaseException) -> str:
    """Quote the original error; it may be one whose str() fails."""
    try:
        text = str(error).strip().rstrip(".")
    except BaseException:  # a user's __str__
        text = ""
    return f"{type(error).__qualname__}: {text}" if text else type(error).__qualname__


def _type_name(obj: Any) -> str:
    cls = type(obj)
    return f"{cls.__module__}.{cls.__qualname__}"


def _describe(obj: Any) -> str:
    if isinstance(obj, (type, types.FunctionType)):
        return f"{type(obj).__name__} {obj.__module__}.{obj.__qualname__}"
    return f"a value of type {_type_name(obj)}"


def _brief(key: Any) -> str:
    text = repr(key)
    return text if len(text) <= 40 else text[:37] + "..."


def _advice(obj: Any) -> str | None:
    names = {cls.__name__ for cls in type(obj).__mro__}
    return next((advice for known, advice in _HINTS if names.intersection(known)), None)


def _hint(obj: Any) -> str:
    advice = _advice(obj)
    if advice is None:
        return " Pass data from which the task can make it, or give its class a __reduce__ method."
    return f" An object like this belongs to one process: {advice}."


def _with_cause(new: SerializationError, error: BaseException) -> SerializationError:
    new.__cause__ = error
    return new
