"""Whether a name means anything in another process: what a worker can import, and what has to travel by value."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import types

__all__ = ["importable", "loaded", "names_of_others"]

_MAIN = ("__main__", "__mp_main__")
"""multiprocessing's children know the user's program by the second name."""

_importable: dict[str, tuple[int, bool]] = {}
"""Module name to the id of the module and the answer: to ask the finders touches the disk."""


def importable(module_name: object) -> bool:
    """Return whether a fresh process with our `sys.path` would import the module that a `__module__` names.

    Not `__main__` (a worker must not run it), nor a module made by `exec` or `types.ModuleType`, nor one loaded from a
    file that is not on the path, whether or not it stands in `sys.modules`; nor one registered with
    `cloudpickle.register_pickle_by_value`.
    """
    # A class's __module__ may be anything, a property included.
    if not isinstance(module_name, str) or module_name in _MAIN:
        return False
    module = sys.modules.get(module_name)
    if module is None:
        return False
    known = _importable.get(module_name)
    if known is None or known[0] != id(module):
        known = _importable[module_name] = (id(module), _would_be_found(module_name, module))
    return known[1] and not _registered(module_name)


_FOR_CHILDREN = ("multiprocessing.connection", "multiprocessing.managers")
"""Their objects pickle without complaint, and badly: a connection as a number that is no descriptor there, a proxy without the
key of its manager."""

_known_modules = 0
_others: tuple[str, ...] = ()


def names_of_others() -> tuple[str, ...]:
    """Return the names in `sys.modules`, `__main__` aside, of what means something else in another process.

    A fresh process could not import them, or they are of the two below. Looked up as modules come.
    """
    global _known_modules, _others
    count = len(sys.modules)
    if count != _known_modules:  # one that takes another's place is not noticed; asked for each task, this has to be cheap
        _known_modules = count
        modules = list(sys.modules.copy().items())  # copied in one step: other threads may import meanwhile
        suspects = {name for name, module in modules if "." not in name and _suspicious(module)} - {*_MAIN}
        strangers = {name for name in suspects if not importable(name)}
        _others = tuple(name for name, _ in modules if name.partition(".")[0] in strangers or name in _FOR_CHILDREN)
    return _others


def _suspicious(module: object) -> bool:
    """Return whether a top-level module is not plainly one that an import found: to be sure costs a look at the disk."""
    spec = getattr(module, "__spec__", None)
    origin = getattr(spec, "origin", None)
    if spec is None or not isinstance(origin, str):
        return True
    if not spec.has_location:
        return False  # built in or frozen
    folder = os.path.dirname(os.path.dirname(origin) if spec.submodule_search_locations else origin)
    return folder not in sys.path


def _would_be_found(module_name: str, module: types.ModuleType) -> bool:
    parent, _, _ = module_name.rpartition(".")
    if parent and not importable(parent):
        return False
    here = getattr(module, "__file__", None)
    path = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(module_name, path)
        except Exception:  # noqa: S112 - a finder of anybody's; one that fails does not find it
            continue
        if spec is not None:
            return here is None or spec.origin is None or not spec.has_location or _same_file(here, spec.origin)
    # Made by its package without a file, as six.moves or os.path are: importing the package makes it again.
    return bool(parent) and getattr(module, "__spec__", None) is not None


def _same_file(one: str, other: str) -> bool:
    try:
        return one == other or os.path.samefile(one, other)
    except OSError:
        return False  # inside an archive, or removed since


def loaded(module: str, name: str) -> Any:
    """Return what a module has under a name; None if it is not loaded, or another thread is loading it, not so far yet."""
    return getattr(sys.modules.get(module), name, None)


def _registered(module_name: str) -> bool:
    list_registry = loaded("cloudpickle", "list_registry_pickle_by_value")
    if list_registry is None:
        return False
    registered: set[str] = list_registry()
    return bool(registered) and any(module_name == name or module_name.startswith(name + ".") for name in registered)
