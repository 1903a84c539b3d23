"""Pickling by value: functions and classes that a fresh process could not import, without running `__main__` there.

This module loads cloudpickle, so it is imported only where something has to travel by value (see `serialization`).
cloudpickle takes functions and classes apart; three things are added to it here.

*Namespaces.* All functions of one module of the sender share one dictionary of globals in a receiving worker, however many
messages they came in. So an `initializer` in `__main__` can set a global that the tasks read. A value is copied in when
the function is sent; if it is sent again unchanged, it does not undo what the worker has made of it meanwhile.

*Classes keep their identity, and are left alone at home.* Every class has an id (cloudpickle's) that travels with it. A
class that comes back is the original, and the original is not touched: cloudpickle alone would replace its methods by
copies with globals of their own.

*Definitions are sent apart from instances.* A payload refers to classes by id and carries one blob that defines them, made
once and loaded by a worker only if it does not know them yet: a second dataclass instance costs no second class.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import io
import os
import pickle
import sys
import types
import uuid
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, cast

import cloudpickle.cloudpickle as cp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["dumps", "dumps_definition", "importable", "travels_by_value"]

_MAIN = ("__main__", "__mp_main__")
"""multiprocessing's children know the user's program by the second name."""

_CACHED_BLOBS = 64
_CACHED_BLOB_BYTES = 1 << 20
_FOREIGN_NAMESPACES = 256

# -- what travels by value ---------------------------------------------------------------------------------------------


def importable(module_name: str | None) -> bool:
    """Return whether a fresh process with our `sys.path` could import the module.

    Not `__main__` (a worker must not run it), nor a module without a spec: made by `exec` or `types.ModuleType`, whether
    or not it stands in `sys.modules`.
    """
    if module_name is None or module_name in _MAIN:
        return False
    module = sys.modules.get(module_name)
    if module is None:
        return False
    if getattr(module, "__spec__", None) is not None:
        return True
    # Some libraries put an object of their own, without a spec, in the place of their module.
    return importlib.machinery.PathFinder.find_spec(module_name) is not None


def travels_by_value(obj: Any) -> bool:
    """Return whether a function or class has to travel by value because its name means nothing in a fresh process."""
    if not cp._should_pickle_by_reference(obj):
        return True
    # A class's __module__ may be anything, a property included.
    module_name = getattr(obj, "__module__", None)
    return isinstance(module_name, str) and not importable(module_name)


# -- sending -----------------------------------------------------------------------------------------------------------


class _Pickler(cp.Pickler):  # type: ignore[misc] # cloudpickle has no types
    """Sends functions by value with their globals, and classes by value in one go with all that they refer to.

    `upward`: the message goes from a worker to its parent, which knows its own classes and globals better.
    `import_globals`: globals of importable modules are imported by the receiver instead of copied.
    """

    def __init__(self, file: Any, *, upward: bool, import_globals: bool = False) -> None:
        super().__init__(file, protocol=5)
        self.upward = upward
        self.import_globals = import_globals

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type):
            # None's type and its like have reducers of their own in cloudpickle.
            if obj.__module__ != "builtins" and travels_by_value(obj):
                return self.reduce_class(obj)
        elif isinstance(obj, types.FunctionType) and travels_by_value(obj):
            return self.reduce_function(obj)
        return super().reducer_override(obj)

    def reduce_class(self, cls: type) -> Any:
        tracker_id = cp._get_or_create_tracker_id(cls)
        maker, args, state, _, _, setter = cp._dynamic_class_reduce(cls)
        version = None if self.upward else _class_version(cls)
        return _make_class, (tracker_id, maker, args), (setter, state, version), None, None, _set_class_state

    def reduce_function(self, fn: types.FunctionType) -> Any:
        maker, args, (attributes, slots), _, _, setter = self._dynamic_function_reduce(fn)
        code, base_globals, *rest = args
        origin = (fn.__module__, fn.__qualname__) if self.upward and "<" not in fn.__qualname__ else None
        names: Mapping[str, Any] = slots["__globals__"]
        if self.upward:
            key, tokens = None, None
        elif self.import_globals and _is_module_namespace(fn.__globals__):
            key, tokens = "import " + fn.__globals__["__name__"], None
            slots["__globals__"] = {}
        else:
            key, tokens = _namespace_key(fn), {name: _token(value) for name, value in names.items()}
        new = (maker, code, base_globals, tuple(rest), key, origin)
        return _make_function, new, (setter, attributes, slots, key, tokens), None, None, _set_function_state


class _PayloadPickler(_Pickler):
    """Sends classes as references, and notes which; their definitions travel beside the payload."""

    def __init__(self, file: Any, *, upward: bool, import_globals: bool = False) -> None:
        super().__init__(file, upward=upward, import_globals=import_globals)
        self.classes: dict[str, type] = {}

    def reduce_class(self, cls: type) -> Any:
        tracker_id = cp._get_or_create_tracker_id(cls)
        self.classes[tracker_id] = cls
        return _class_by_id, (tracker_id,)


def dumps_definition(obj: Any, *, upward: bool) -> bytes:
    """Pickle a function or class by value where need be, in one piece."""
    return _attempt(lambda imports: _dumps_inline(obj, upward=upward, import_globals=imports))


def dumps(obj: Any, *, upward: bool) -> bytes:
    """Pickle any object; what a fresh process cannot import travels by value. `pickle.loads` undoes it.

    *upward*: from a worker to its parent. Raises whatever the object's own pickling code raises.
    """
    return _attempt(lambda imports: _dumps_payload(obj, upward=upward, import_globals=imports))


def _attempt(dump: Callable[[bool], bytes]) -> bytes:
    """Copy globals; if one of them cannot be (a module's lock, say), let the worker import those of importable modules."""
    try:
        return dump(False)
    except Exception as first:  # whatever a __reduce__ raises; the first error tells more than the second
        try:
            return dump(True)
        except Exception:  # noqa: BLE001 - see above
            raise first from first.__cause__


def _dumps_inline(obj: Any, *, upward: bool, import_globals: bool) -> bytes:
    with io.BytesIO() as file:
        _Pickler(file, upward=upward, import_globals=import_globals).dump(obj)
        return file.getvalue()


def _dumps_payload(obj: Any, *, upward: bool, import_globals: bool) -> bytes:
    with io.BytesIO() as file:
        pickler = _PayloadPickler(file, upward=upward, import_globals=import_globals)
        pickler.dump(obj)
        payload = file.getvalue()
    classes = pickler.classes
    if not classes:
        return payload
    known = tuple((name, None if upward else _class_version(cls)) for name, cls in classes.items())
    blob = _blob(known, classes.values(), upward=upward, import_globals=import_globals)
    return pickle.dumps(_Message(known, blob, payload), 5)


class _Message:
    """A payload with the definitions of its classes; unpickles as the payload."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _open_message, self.parts


_blobs: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()


def _blob(known: tuple[Any, ...], classes: Iterable[type], *, upward: bool, import_globals: bool) -> bytes:
    """Return the definitions of *classes*; cached under their versions, for classes that most tasks mention."""
    key = (known, import_globals)
    blob = _blobs.get(key)
    if blob is None:
        blob = _dumps_inline([*classes], upward=upward, import_globals=import_globals)
        if len(blob) <= _CACHED_BLOB_BYTES:
            _blobs[key] = blob
            if len(_blobs) > _CACHED_BLOBS:
                _blobs.popitem(last=False)
    return blob


_class_snapshots: weakref.WeakKeyDictionary[type, tuple[dict[str, int], int]] = weakref.WeakKeyDictionary()


def _class_version(cls: type) -> int:
    """Return a number that changes when an attribute of the class has been set, so that workers are told."""
    # Numbers, not references: a class must not be kept alive by its own methods.
    snapshot = {name: id(value) for name, value in vars(cls).items()}
    known, version = _class_snapshots.get(cls, (None, 0))
    if known != snapshot:
        version += 1
        _class_snapshots[cls] = (snapshot, version)
    return version


_namespace_keys: dict[int, tuple[str, weakref.ref[types.FunctionType]]] = {}


def _namespace_key(fn: types.FunctionType) -> str:
    """Return the key that stands for the globals of *fn* in the workers of this process."""
    namespace = fn.__globals__
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
    global _process
    if _process is None or _process[0] != os.getpid():
        _process = (os.getpid(), uuid.uuid4().hex)
    return _process[1]


def _is_module_namespace(namespace: dict[str, Any]) -> bool:
    name = namespace.get("__name__")
    return isinstance(name, str) and importable(name) and vars(sys.modules[name]) is namespace


class _Digest:
    """A file that only hashes what is written to it: large globals need no second copy."""

    def __init__(self) -> None:
        self.hash = hashlib.blake2b(digest_size=16)

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return len(data)


def _token(value: Any) -> Any:
    """Return what tells whether a global is the same as when it was last sent; None where that cannot be told."""
    if value is None or type(value) in (bool, int, float, str, bytes):
        return (type(value).__name__, value)
    if isinstance(value, (types.FunctionType, types.ModuleType, type)):
        return None  # to set them again does no harm
    digest = _Digest()
    try:
        pickle.Pickler(digest, 5).dump(value)
    except Exception:  # noqa: BLE001 - unknown then: the pickling proper will tell
        return None
    return digest.hash.digest()


# -- receiving ---------------------------------------------------------------------------------------------------------

_UNFINISHED = -1
_versions: weakref.WeakKeyDictionary[type, int | None] = weakref.WeakKeyDictionary()
"""The classes that came from another process, and in which version; a class not in it was made here."""


def _open_message(known: tuple[tuple[str, int | None], ...], blob: bytes, payload: bytes) -> Any:
    # Held until the payload is loaded: cloudpickle's table of classes is weak.
    classes = [_up_to_date(tracker_id, version) for tracker_id, version in known]
    if any(cls is None for cls in classes):
        classes = pickle.loads(blob)
    return pickle.loads(payload)


def _up_to_date(tracker_id: str, version: int | None) -> type | None:
    """Return the class if it is here and needs no definition."""
    cls: type | None = cp._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker_id)
    if cls is None or cls not in _versions:
        return cls
    here = _versions[cls]
    return cls if here != _UNFINISHED and (version is None or version == here) else None


def _class_by_id(tracker_id: str) -> type:
    cls: type | None = cp._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker_id)
    if cls is None:
        raise pickle.UnpicklingError(f"class {tracker_id} was not defined by its message")
    return cls


def _make_class(tracker_id: str, maker: Callable[..., type], args: tuple[Any, ...]) -> type:
    cls: type | None = cp._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker_id)
    if cls is None:
        cls = maker(*args)
        # setdefault: of two threads that read the same class at once, cloudpickle lets one win.
        _versions.setdefault(cls, _UNFINISHED)
    return cls


def _set_class_state(cls: type, state: tuple[Callable[..., Any], Any, int | None]) -> type:
    setter, attributes, version = state
    if cls in _versions:  # else it was made here and knows better
        here = _versions[cls]
        if here == _UNFINISHED or (version is not None and version != here):
            setter(cls, attributes)
            _versions[cls] = version
    return cls


_namespaces: OrderedDict[str, tuple[dict[str, Any], dict[str, Any]]] = OrderedDict()
"""Key to the globals, and the tokens of the values that were copied in."""


def _namespace(key: str, base: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    found = _namespaces.get(key)
    if found is None:
        found = _namespaces[key] = (base, {})
        if len(_namespaces) > _FOREIGN_NAMESPACES:
            _namespaces.popitem(last=False)  # its functions live on; later ones begin afresh
    else:
        _namespaces.move_to_end(key)
    return found


def _make_function(
    maker: Callable[..., types.FunctionType],
    code: types.CodeType,
    base: dict[str, Any],
    rest: tuple[Any, ...],
    key: str | None,
    origin: tuple[str, str] | None,
) -> types.FunctionType:
    if origin is not None:
        original = _original(*origin, code)
        if original is not None:
            return original
    if key is None:
        return maker(code, base, *rest)
    if key.startswith("import "):
        module = cp.subimport(key.removeprefix("import "))
        # cloudpickle's maker would set __builtins__ in it; a module has them.
        return types.FunctionType(code, vars(module), *rest)
    return maker(code, _namespace(key, base)[0], *rest)


def _original(module_name: str, qualname: str, code: types.CodeType) -> types.FunctionType | None:
    """Return our own function if this is a copy of it that comes home."""
    found: Any = sys.modules.get(module_name)
    for name in qualname.split("."):
        found = getattr(found, "__dict__", {}).get(name)
    return found if isinstance(found, types.FunctionType) and found.__code__ == code else None


def _set_function_state(fn: types.FunctionType, state: tuple[Any, ...]) -> types.FunctionType:
    setter, attributes, slots, key, tokens = state
    if key is None and vars(sys.modules.get(fn.__module__ or "", types)).get(fn.__name__) is fn:
        return fn  # one that came home: see _original
    if key is not None and tokens is not None:
        namespace, received = _namespace(key, fn.__globals__)
        names = slots["__globals__"]
        for name, token in tokens.items():
            if token is not None and name in namespace and received.get(name) == token:
                del names[name]  # unchanged since it was last sent: what the worker made of it stays
            received[name] = token
    setter(fn, (attributes, slots))
    return cast("types.FunctionType", fn)
