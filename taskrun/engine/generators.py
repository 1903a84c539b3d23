"""The global random generators of a worker: `random`'s, and NumPy's once it is loaded.

With a seed each task draws the same numbers wherever it runs, so NumPy has to be seeded as well where the task itself is the
first to load it. Without one, no two workers may draw the same: a forked one has inherited the state of its parent's.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any

from taskrun.importable import loaded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["renew", "seed_generators"]

_NUMPY = "numpy.random"


def seed_generators(seed: int) -> None:
    """Seed the global generators for one task; NumPy's as soon as it is loaded."""
    import random  # not at the top: it loads OpenSSL

    random.seed(seed)
    seed_numpy = loaded(_NUMPY, "seed")
    if seed_numpy is not None:
        seed_numpy(seed % 2**32)
    else:
        _AtImport.seed = seed % 2**32
        if _AtImport not in sys.meta_path:
            sys.meta_path.insert(0, _AtImport)


def renew() -> None:
    """Have this new process draw other numbers than its parent; `random` sees to itself when it is forked."""
    numpy: Any = sys.modules.get(_NUMPY)
    if not hasattr(numpy, "seed"):  # not loaded, or another thread of the parent was about to
        return
    # A thread of the parent may have been drawing when we were forked. It is not here to release the lock, and its half made
    # state is replaced; without this every task would hang, those that have nothing to do with NumPy too.
    if hasattr(numpy, "get_bit_generator"):  # since NumPy 1.24
        numpy.get_bit_generator().lock._at_fork_reinit()  # what the standard library does to its own locks
    numpy.seed()


class _AtImport:
    """Finds NumPy's generators as Python does, and seeds them once they are loaded."""

    seed = 0

    @classmethod
    def find_spec(cls, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _NUMPY:
            return None
        sys.meta_path.remove(cls)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                load(module)
                module.seed(cls.seed)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]  # of this one loader
        return spec
