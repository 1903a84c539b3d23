"""How functions, arguments and results travel between processes.

The hot path is one call of the C pickler and one search for the name of `__main__` in what it made. A reference to
`__main__` pickles without complaint and fails in the worker, which has another `__main__`; so the marker, like a
failure, leads to `by_value`. So do the names of other modules that a worker could not import (those made by `exec` and put into
`sys.modules`), if there are any.

Every function here runs the user's code (`__reduce__`, `__setstate__`, imports): call none with a lock held. They raise
SerializationError, with the original error as `__cause__` whatever it was, and nothing else.
"""

from __future__ import annotations

import functools
import pickle
import types
from typing import TYPE_CHECKING, Any, Literal

from taskrun.errors import SerializationError
from taskrun.exception_text import text_of
from taskrun.importable import importable, names_of_others
from taskrun.plain import PLAIN, UNNOTED
from taskrun.reach import is_cached_function

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from taskrun.completing import Outcome
    from taskrun.task import Task

__all__ = [
    "Beside",
    "dump_arguments",
    "dump_downward",
    "dump_function",
    "dump_out_of_band",
    "dump_result",
    "load_arguments",
    "load_function",
    "load_outcome",
    "load_result",
    "not_received",
    "not_sent",
    "note_fork",
]

Side = Literal["parent", "worker"]

LARGE = 1 << 18
"""Bytes of a buffer that is worth a way of its own."""

_MAIN = b"_main__"
"""In `__main__` and in `__mp_main__`, the name that multiprocessing's children give it."""

# What would fail again, and the user's way out: not worth a second try by value.
_FINAL = (KeyboardInterrupt, SystemExit, GeneratorExit, RecursionError, MemoryError)


def dump_function(fn: Callable[..., Any], *, task: str | None = None, side: Side = "parent") -> bytes:
    """Pickle what a task calls: by reference if a fresh process can import it, else by value with the globals it reads.

    Callers keep the result for functions, builtins and classes, so it may take its time. Raises SerializationError.
    """
    try:
        data = _fast(fn) if _by_reference(fn) else None
        if data is not None:
            return data
        from taskrun import by_value

        if isinstance(fn, (types.FunctionType, type)) or is_cached_function(fn):
            return by_value.dumps_definition(fn)
        return by_value.dumps(fn, upward=False)  # a partial or a callable object: pickled for each task, like arguments
    except BaseException as error:
        from taskrun.blame import pickling_error

        raise pickling_error(fn, error, value="function", side=side, task=task) from error


class Beside:
    """Large buffers that a pickle leaves out, for what takes them along beside it: the `buffer_callback` of a pickler."""

    __slots__ = ("buffers",)

    def __init__(self) -> None:
        self.buffers: list[memoryview] = []

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < LARGE:
            return True
        self.buffers.append(view)
        return False


_RAW = frozenset((bytes, bytearray))
_FLAT = PLAIN | _RAW


class _Raw:
    """Stands for bytes or a bytearray, which by themselves never leave a pickle."""

    def __init__(self, value: bytes | bytearray) -> None:
        self.value = value

    def __reduce_ex__(self, _: object) -> Any:
        return _itself, (pickle.PickleBuffer(self.value),)


def _itself(value: Any) -> Any:
    return value


def _with_raw_beside(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Return the call with what is large and raw replaced; none of it if another argument might hold the same object inside."""
    if not (_FLAT.issuperset(map(type, args)) and _FLAT.issuperset(map(type, kwargs.values()))):
        return args, kwargs
    stand_ins: dict[int, _Raw] = {}  # one for each object, however often it is there

    def replaced(value: Any) -> Any:
        if type(value) not in _RAW or len(value) < LARGE:
            return value
        return stand_ins.setdefault(id(value), _Raw(value))

    return tuple(map(replaced, args)), {name: replaced(value) for name, value in kwargs.items()}


def dump_arguments(
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    task: str | None = None,
    side: Side = "parent",
    beside: Beside | None = None,
) -> bytes:
    """Pickle a call's arguments. Raises SerializationError that names the argument by position or name."""
    call = (args, kwargs)
    try:
        if beside is not None and (
            not _RAW.isdisjoint(map(type, args)) or (kwargs and not _RAW.isdisjoint(map(type, kwargs.values())))
        ):
            call = _with_raw_beside(args, kwargs)
        data = _fast(call, beside)
        return dump_downward(call) if data is None else data
    except BaseException as error:
        from taskrun.blame import arguments_error

        raise arguments_error(args, kwargs, error, side=side, task=task) from error


def dump_out_of_band(value: Any) -> tuple[bytes, list[memoryview]]:
    """Pickle an object, its large buffers beside it and not copied. Raises what its pickling code raises."""
    buffers: list[pickle.PickleBuffer] = []
    try:
        data = pickle.dumps(value, 5, buffer_callback=buffers.append)
    except _FINAL:
        raise
    except Exception:
        data = None
    if data is None or not _means_the_same_elsewhere(data):
        from taskrun import by_value

        return by_value.dumps(value, upward=False), []
    return data, [buffer.raw() for buffer in buffers]


def dump_result(value: Any, *, task: str | None = None, side: Side = "worker", beside: Beside | None = None) -> bytes:
    """Pickle what a task returned, for its parent. Raises SerializationError."""
    try:
        if type(value) in UNNOTED:  # what follows would do the same, and ask more
            return pickle.dumps(value, 5)
        if beside is not None and type(value) in _RAW and len(value) >= LARGE:
            value = _Raw(value)
        return dump_upward(value, beside)
    except BaseException as error:
        from taskrun.blame import pickling_error

        raise pickling_error(value, error, value="result", side=side, task=task) from error


def load_function(data: bytes, *, task: str | None = None, side: Side = "worker") -> Callable[..., Any]:
    """Undo `dump_function`. Raises SerializationError."""
    return _load(data, "function", task, side)  # type: ignore[no-any-return]


def load_arguments(
    data: bytes, *, task: str | None = None, side: Side = "worker", buffers: list[Any] | None = None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Undo `dump_arguments`. Raises SerializationError that names the argument by position or name."""
    return _load(data, "arguments", task, side, buffers)  # type: ignore[no-any-return]


def load_result(data: bytes, *, task: str | None = None, side: Side = "parent", buffers: list[Any] | None = None) -> Any:
    """Undo `dump_result`. Raises SerializationError."""
    return _load(data, "result", task, side, buffers)


def load_outcome(task: Task, data: bytes, run: tuple[Any, ...] | None, buffers: list[Any] | None = None) -> Outcome:
    """Return the outcome of *task*, which has sent its result: that, or an error of its own if it does not unpickle."""
    try:
        return task, True, load_result(data, task=task.name, buffers=buffers), None, run
    except BaseException as error:  # SerializationError
        return task, False, error, "serialization", run


def not_sent(error: BaseException, task: Task) -> SerializationError:
    """Return the error of a task that could not be pickled for *error*, whatever that is."""
    message = f"task {task.name!r} could not be pickled in the parent"
    return _caused(error, message, direction="pickling", side="parent", task=task.name)


def not_received(error: BaseException, *, value: Literal["arguments", "result"], side: Side, task: str) -> SerializationError:
    """Return the error of a task whose arguments or result could not be taken in for *error*: there is no memory for them."""
    message = f"the {value} of task {task!r} could not be taken in by the {side}"
    return _caused(error, message, value=value, direction="unpickling", side=side, task=task)


def _caused(error: BaseException, message: str, **about: Any) -> SerializationError:
    wrapped = SerializationError(f"{message}: {type(error).__name__}: {text_of(error)}", **about)
    wrapped.__cause__ = error
    return wrapped


def dump_downward(value: Any) -> bytes:
    """Pickle *value* for a worker. Raises what its pickling code raises."""
    data = _fast(value)
    if data is not None:
        return data
    from taskrun import by_value

    return by_value.dumps(value, upward=False)


def dump_upward(value: Any, beside: Beside | None = None) -> bytes:
    """Pickle *value* for the process that sent its classes. Raises what its pickling code raises."""
    data = _fast(value, beside)
    if data is not None:
        return data
    from taskrun import by_value

    if _forked and by_value.inherited is None:
        by_value.note_inherited()
    return by_value.dumps(value, upward=True)


_forked = False


def get_ready_to_fork() -> None:
    """Look up here, once, what each child would look up for its first pickle, copying every page that it looks at."""
    _means_the_same_elsewhere(b"")


def note_fork() -> None:
    """In a forked child: the classes that it has inherited are those of the parent, for whom results are pickled."""
    global _forked
    _forked = True


def _fast(value: Any, beside: Beside | None = None) -> bytes | None:
    """Pickle with the C pickler alone; None if that fails, or works but would not in another process."""
    good = False
    try:
        data = pickle.dumps(value, 5, buffer_callback=beside)
        good = _means_the_same_elsewhere(data)
    except _FINAL:
        raise
    except Exception:
        return None
    finally:
        if not good and beside is not None:
            beside.buffers.clear()  # in whatever way it failed: else the next task would have them
    return data if good else None


_others: tuple[str, ...] = ()
_marks: tuple[bytes, ...] = ()  # what refers to them in a pickle


def _means_the_same_elsewhere(data: bytes) -> bool:
    """Return whether a pickle names nothing that another process would not find, or find to be something else."""
    global _others, _marks
    # Asked of each task and result. Not `in`, which tries to take what it looks for as a number first: three times the cost.
    if data.find(_MAIN) >= 0:
        return False
    others = names_of_others()
    if others is not _others:
        _marks = tuple(map(_as_pickled, others))  # first: another thread may look at both
        _others = others
    for mark in _marks:  # noqa: SIM110 - a generator costs more than it finds
        if data.find(mark) >= 0:
            return False
    return True


def _as_pickled(name: str) -> bytes:
    """Return the opcode that refers to a module, or is a string of the user's that says the same: that does no harm."""
    encoded = name.encode("utf-8", "surrogatepass")
    return b"\x8c" + bytes([len(encoded)]) + encoded if len(encoded) < 256 else encoded


def _by_reference(fn: Any) -> bool:
    """Return whether what *fn* is made of could be imported by a fresh process, so that the fast path may be tried."""
    for _ in range(20):  # partials of methods of partials; a user's __getattr__ could make it endless
        if isinstance(fn, functools.partial):
            fn = fn.func
        elif isinstance(fn, types.MethodType):
            owner = fn.__self__
            if not importable((owner if isinstance(owner, type) else type(owner)).__module__):
                return False
            fn = fn.__func__
        else:
            break
    if isinstance(fn, (types.FunctionType, type)) or is_cached_function(fn):
        return importable(fn.__module__)
    # A builtin without a module is a method of some object, which the pickler will look at.
    return isinstance(fn, types.BuiltinFunctionType) or importable(type(fn).__module__)


def _load(data: bytes, value: str, task: str | None, side: Side, buffers: list[Any] | None = None) -> Any:
    try:
        return pickle.loads(data, buffers=buffers)
    except BaseException as error:
        from taskrun.blame import unpickling_error

        raise unpickling_error(data, error, value=value, side=side, task=task, buffers=buffers) from error
