"""Pickling by value: functions and classes that a fresh process could not import, without running `__main__` there.

This module loads cloudpickle, so it is imported only where something has to travel by value (see `serialization`).
cloudpickle takes functions and classes apart; three things are added to it here and in `rebuild`, the receiving half.

*Namespaces.* All functions of one module of the sender share one dictionary of globals in a receiving worker, however
many messages they came in. So an `initializer` in `__main__` can set a global that the tasks read. A value is copied in
when the function is sent; if it is sent again unchanged, it does not undo what the worker has made of it meanwhile.

*Classes keep their identity, and are left alone at home.* Every class has an id (cloudpickle's) that travels with it. A
class that comes back is the original, and the original is not touched: cloudpickle alone would replace its methods by
copies with globals of their own.

*Definitions are sent apart from instances.* A payload refers to classes by id and carries one blob that defines them,
made once and loaded by a worker only if it does not know them yet: a second instance costs no second class.
"""

from __future__ import annotations

import io
import itertools
import os
import pickle
import sys
import threading
import types
import typing
import uuid
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, TypeVar

import cloudpickle.cloudpickle as cp  # type: ignore[import-untyped]

from taskrun import rebuild
from taskrun.importable import importable
from taskrun.primitives import is_primitive, reduce_primitive, returned
from taskrun.reach import Reach, digest
from taskrun.reducers import reduce_wrapper
from taskrun.threads import renew_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["dumps", "dumps_definition", "note_inherited", "travels_by_value"]

_CACHED_BLOBS = 64
_CACHED_BLOB_BYTES = 1 << 20

# -- what travels by value -----------------------------------------------------------------------------------------------------


def travels_by_value(obj: Any) -> bool:
    """Return whether a function or class has to travel by value because its name means nothing in a fresh process."""
    if not cp._should_pickle_by_reference(obj):
        return True
    module_name = getattr(obj, "__module__", None)
    return module_name is not None and not importable(module_name)


# -- sending -------------------------------------------------------------------------------------------------------------------


class _Pickler(cp.Pickler):  # type: ignore[misc] # cloudpickle has no types
    """Sends functions by value with their globals, and classes by value in one go with all that they refer to.

    `upward`: the message goes from a worker to its parent, which knows its own classes and globals better.
    `import_globals`: globals of importable modules are imported by the receiver instead of copied.
    """

    def __init__(self, *, upward: bool, import_globals: bool = False) -> None:
        self.file = io.BytesIO()
        super().__init__(self.file, protocol=5)
        self.upward = upward
        self.import_globals = import_globals
        self.copied_a_module = False
        """Globals of an importable module were copied; importing them would have been another way."""

    def dumps(self, obj: Any) -> bytes:
        self.dump(obj)
        return self.file.getvalue()

    def reducer_override(self, obj: Any) -> Any:
        reduced = reduce_wrapper(obj)
        if reduced is not None:
            return reduced
        if isinstance(obj, type):
            if obj not in cp._BUILTIN_TYPE_NAMES and travels_by_value(obj):
                return self.reduce_class(obj)
        elif isinstance(obj, types.FunctionType):
            if travels_by_value(obj):
                return self.reduce_function(obj)
        elif isinstance(obj, types.CodeType):
            # From 3.1.3 on cloudpickle drops the name of the file, and with it the source lines of every traceback.
            maker, args = cp._code_reduce(obj)
            return rebuild.make_code, (maker, args, obj.co_filename)
        elif isinstance(obj, types.ModuleType):
            # cloudpickle believes that what is in sys.modules can be imported. Of __main__ a worker has its own.
            if obj.__name__ != "__main__" and obj.__name__ in sys.modules and not importable(obj.__name__):
                own = ("__builtins__", "__loader__", "__spec__")
                return cp.dynamic_subimport, (obj.__name__, {k: v for k, v in vars(obj).items() if k not in own})
        elif isinstance(obj, io.TextIOWrapper) and obj not in (sys.stdout, sys.stderr):
            # cloudpickle sends a text file's contents; that is not the file, which writes and moves on.
            raise TypeError(f"cannot pickle {type(obj).__name__!r} object")
        elif is_primitive(obj):
            return returned(obj) if self.upward else reduce_primitive(obj, _dumps_for_worker)
        return super().reducer_override(obj)

    def reduce_class(self, cls: type) -> Any:
        tracker_id = cp._get_or_create_tracker_id(cls)
        maker, args, state, _, _, setter = cp._dynamic_class_reduce(cls)
        if maker is cp._make_skeleton_class:
            args[3]["__qualname__"] = cls.__qualname__  # else it were only its name
            if "__slots__" in vars(cls):
                args[3]["__slots__"] = cls.__slots__  # type: ignore[attr-defined] # else it had a __dict__ in the worker
            if typing.NamedTuple in args[2]:
                # Made from tuple, as it is. NamedTuple would make another one, without fields and with slots of its own.
                bases = tuple(tuple if base is typing.NamedTuple else base for base in args[2])
                args = (*args[:2], bases, *args[3:])
                state[0].pop("__class_getitem__", None)  # of a generic one: Generic's, which does not pickle
            maker = rebuild.make_skeleton
        version = None if self.upward else _class_version(cls)
        return rebuild.make_class, (tracker_id, maker, args), (setter, state, version), None, None, rebuild.set_class

    def reduce_function(self, fn: types.FunctionType) -> Any:
        maker, args, (attributes, slots), _, _, setter = self._dynamic_function_reduce(fn)
        code, base_globals, *rest = args
        if getattr(fn, "__type_params__", ()):
            slots["__type_params__"] = fn.__type_params__  # type: ignore[attr-defined] # Python 3.12 and later
        names: Mapping[str, Any] = slots["__globals__"]
        key: str | None = None
        tokens: dict[str, Any] | None = None
        origin: tuple[str, str] | None = None
        if self.upward:
            origin = (fn.__module__, fn.__qualname__)
        elif _is_module_namespace(fn.__globals__) and self.import_globals:
            key = rebuild.IMPORT + fn.__globals__["__name__"]
            slots["__globals__"] = {}
        else:
            self.copied_a_module |= bool(names) and _is_module_namespace(fn.__globals__)
            key = _namespace_key(fn)
            tokens = {name: self.token(value) for name, value in names.items()}
        new = (maker, code, base_globals, tuple(rest), key, origin)
        return rebuild.make_function, new, (setter, attributes, slots, key, tokens), None, None, rebuild.set_function

    def token(self, value: Any) -> Any:
        """Return what tells whether a global is the same as when it was last sent; None where that cannot be told."""
        if value is None or type(value) in (bool, int, float, str, bytes):
            return (type(value).__name__, value)
        if isinstance(value, (types.FunctionType, types.ModuleType, type)):
            return None  # to set them again does no harm
        plain = digest(value, None)
        if plain is not None:
            return plain
        try:
            return digest(_TokenPickler(upward=False).dumps(value), None)
        except Exception:  # the pickling proper will tell
            return None


class _PayloadPickler(_Pickler):
    """Sends classes as references, and notes which; their definitions travel beside the payload."""

    def __init__(self, *, upward: bool, import_globals: bool = False) -> None:
        super().__init__(upward=upward, import_globals=import_globals)
        self.classes: dict[str, type] = {}

    def reduce_class(self, cls: type) -> Any:
        tracker_id = cp._get_or_create_tracker_id(cls)
        self.classes[tracker_id] = cls
        return rebuild.class_by_id, (tracker_id,)


class _TokenPickler(_PayloadPickler):
    """Makes bytes to compare, nobody loads them: without tokens in them, which might go in circles."""

    def token(self, value: Any) -> Any:
        return None


P = TypeVar("P", bound=_Pickler)


def dumps_definition(obj: Any, *, upward: bool = False) -> bytes:
    """Pickle a function, or a list of classes, in one piece, by value where need be."""
    return _pickled(_Pickler, obj, upward)[0]


def dumps(obj: Any, *, upward: bool) -> bytes:
    """Pickle any object; what a fresh process cannot import travels by value. `pickle.loads` undoes it.

    *upward*: from a worker to its parent. Raises whatever the object's own pickling code raises.
    """
    payload, pickler = _pickled(_PayloadPickler, obj, upward)
    classes = pickler.classes
    if not classes:
        return payload
    known = tuple((name, None if upward else _class_version(cls)) for name, cls in classes.items())
    blob = _definitions(known, [*classes.values()], upward)
    if upward and inherited is not None:
        origins = tuple((name, id(cls), cls.__qualname__) for name, cls in classes.items() if id(cls) in inherited)
        return pickle.dumps(_Message(known, blob, payload, origins), 5)
    return pickle.dumps(_Message(known, blob, payload), 5)


def _dumps_for_worker(obj: Any) -> bytes:
    return dumps(obj, upward=False)


inherited: frozenset[int] | None = None
"""In a forked child: where the classes are that its parent has, too."""


def note_inherited() -> None:
    """In a forked child: from here on tell the parent which of the classes that are sent are its own."""
    global inherited
    inherited = frozenset(rebuild.all_classes())


def _pickled(kind: type[P], obj: Any, upward: bool) -> tuple[bytes, P]:
    """Pickle with globals copied; if one cannot be (a lock, say), let the worker import the module it is in instead."""
    pickler = kind(upward=upward)
    try:
        return pickler.dumps(obj), pickler
    except Exception as first:  # whatever a user's __reduce__ raises
        if not pickler.copied_a_module:
            raise
        try:
            pickler = kind(upward=upward, import_globals=True)
            return pickler.dumps(obj), pickler
        except Exception as second:  # the first error tells more
            first.add_note(f"with the globals of its module imported instead: {type(second).__name__}")
        raise


class _Message:
    """A payload with the definitions of its classes; unpickles as the payload."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return rebuild.open_message, self.parts


_blobs: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()


def _definitions(known: tuple[Any, ...], classes: list[type], upward: bool) -> bytes | None:
    """Return a blob that defines *classes*; cached under their versions, for classes that most tasks mention."""
    blob = _blobs.get(known)
    if blob is None:
        try:
            blob = dumps_definition(classes, upward=upward)
        except Exception:
            # A task may have set something on a class that cannot travel. Whoever sent the class has it anyway.
            if upward and all(map(rebuild.came_from_elsewhere, classes)):
                return None
            raise
        if len(blob) <= _CACHED_BLOB_BYTES:
            _blobs[known] = blob
            while len(_blobs) > _CACHED_BLOBS:
                _blobs.popitem(last=False)
    return blob


_class_reaches: weakref.WeakKeyDictionary[type, tuple[Reach, int]] = weakref.WeakKeyDictionary()
_versions = itertools.count(1)


def _class_version(cls: type) -> int:
    """Return a number that changes when the class, or what it is made of, was changed, so that workers are told."""
    known = _class_reaches.get(cls)
    if known is None or not known[0].unchanged():
        known = _class_reaches[cls] = (Reach(cls), next(_versions))
    return known[1]


_naming = threading.RLock()  # re-entrant: a destructor that the collector calls inside may pickle
renew_after_fork(globals(), "_naming", threading.RLock)
_namespace_keys: dict[int, tuple[str, weakref.ref[types.FunctionType]]] = {}


def _namespace_key(fn: types.FunctionType) -> str:
    """Return the key that stands for the globals of *fn* in the workers of this process."""
    with _naming:  # two threads at once would make two keys, and what one task sets in its globals another would not find
        return _key_of(fn, fn.__globals__)


def _key_of(fn: types.FunctionType, namespace: dict[str, Any]) -> str:
    key, owner = _namespace_keys.get(id(namespace), (None, None))
    # A dictionary takes no weak reference; a function that uses it shows that the number still means the same one.
    witness = owner() if owner is not None else None
    if key is None or witness is None or witness.__globals__ is not namespace:
        name = namespace.get("__name__")
        module = sys.modules.get(name) if isinstance(name, str) else None
        if module is not None and getattr(module, "__dict__", None) is namespace:
            return f"{_process_key()} {name}"  # a module lives on, no witness needed
        key = uuid.uuid4().hex
        number = id(namespace)
        _namespace_keys[number] = (key, weakref.ref(fn, lambda _: _namespace_keys.pop(number, None)))
    return key


_process: tuple[int, str] | None = None


def _process_key() -> str:
    """Under `_naming`."""
    global _process
    if _process is None or _process[0] != os.getpid():
        _process = (os.getpid(), uuid.uuid4().hex)
    return _process[1]


def _is_module_namespace(namespace: dict[str, Any]) -> bool:
    name = namespace.get("__name__")
    return isinstance(name, str) and importable(name) and vars(sys.modules[name]) is namespace
