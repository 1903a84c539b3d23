"""Finding the function that `taskrun run` was told to call.

Both forms end in an ordinary import, also FILE.py:FUNCTION: the file's directory is put first on `sys.path`, as
`python FILE.py` does, and the file is imported by its name. Workers get the parent's `sys.path`, so they import the
same module, and functions, classes and module state work as in any other module. (Sending the functions by value would
work too, but copies the globals they read with them and runs no module-level code in the workers.) The part of a script
below ``if __name__ == "__main__":`` does not run, because the module has its own name.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskrun.cli.exits import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

__all__ = ["load_target"]

FORMS = "write MODULE:FUNCTION (an importable module) or FILE.py:FUNCTION (a path)"


def load_target(target: str) -> Callable[..., Any]:
    """Return the function that *target* names: "package.module:function", "file.py:function", "module:Class.method".

    Raises CommandError when there is no such file, module or function (with a suggestion), when importing it fails, or
    when what it names cannot be called.
    """
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise CommandError(f"TARGET {target!r} names no function: {FORMS}")
    is_file = place.endswith(".py") or os.sep in place
    module = _import(*_file_module(Path(place)), shown=place) if is_file else _import(place, os.getcwd(), shown=place)
    function: Any = module
    for number, part in enumerate(name.split("."), 1):
        try:
            function = getattr(function, part)
        except AttributeError:
            owner = place if number == 1 else f"{place}:{'.'.join(name.split('.')[: number - 1])}"
            raise CommandError(_no_function(owner, part, function, module)) from None
    if not callable(function):
        raise CommandError(f"{target} is a {type(function).__name__}, which cannot be called; {FORMS}")
    return function  # type: ignore[no-any-return]  # whatever it is, it is callable


def _file_module(path: Path) -> tuple[str, str]:
    """Return the module name of a file and the directory to import it from (a package's: its parent)."""
    if not path.is_file():
        raise CommandError(f"{path}: no such file (looked from {Path.cwd()})")
    if path.suffix != ".py":
        raise CommandError(f"{path} is not a .py file: {FORMS}")
    if "." in path.stem:
        raise CommandError(f"{path}: a module cannot have a dot in its name; rename the file")
    file = path.resolve()
    parts, directory = [file.stem], file.parent
    while (directory / "__init__.py").is_file():
        parts.insert(0, directory.name)
        directory = directory.parent
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    name = ".".join(parts)
    taken = sys.modules.get(name)
    known = getattr(taken, "__file__", None)
    if parts[0] in sys.stdlib_module_names or (taken is not None and (known is None or Path(known).resolve() != file)):
        raise CommandError(
            f"{path}: another module is already called {parts[0]!r}, workers could not tell them apart; rename it"
        )
    return name, str(directory)


def _import(name: str, directory: str, *, shown: str) -> ModuleType:
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # The named module or a package it lies in: a wrong name. Any other one: something it imports is not installed.
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise CommandError(_no_module(name, error.name, directory)) from None
        raise CommandError(_import_failed(shown, error)) from error
    except (Exception, SystemExit) as error:  # the module's own code runs here and may raise anything
        raise CommandError(_import_failed(shown, error)) from error


def _no_module(name: str, missing: str, directory: str) -> str:
    hint = ""
    if os.path.exists(f"{name}.py") or os.path.exists(name):
        hint = f"; for the file write {name}.py:FUNCTION"
    else:
        here = [path.stem for path in Path(directory).glob("*.py")]
        close = difflib.get_close_matches(missing.partition(".")[0], [*here, *sys.stdlib_module_names], 1)
        hint = f"; did you mean {close[0]!r}?" if close and missing == name else ""
    part = "" if missing == name else f" (there is no {missing!r})"
    return f"there is no module {name!r}{part}, neither installed nor in {directory}{hint}"


def _import_failed(shown: str, error: BaseException) -> str:
    """Say what went wrong, and on which line of the user's code: the last one outside of the import machinery."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"cannot import {shown}: {type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    ours = {__file__, importlib.__file__}
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in ours and not frame.filename.startswith("<frozen importlib")
    ]
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"cannot import {shown}: {type(error).__name__}: {error}{where}"


def _no_function(owner: str, part: str, holder: object, module: ModuleType) -> str:
    """Say that there is no such function, with what there is: close names, else the public functions made there."""
    names = [name for name in dir(holder) if not name.startswith("_") and callable(getattr(holder, name, None))]
    close = difflib.get_close_matches(part, names, 3)
    own = [n for n in names if inspect.getmodule(getattr(holder, n)) is module and inspect.isroutine(getattr(holder, n))]
    if close:
        hint = f"; did you mean {' or '.join(map(repr, close))}?"
    elif own:
        hint = f"; it has {', '.join(own[:10])}{', ...' if len(own) > 10 else ''}"
    else:
        hint = "; it has no functions"
    return f"{owner} has no function {part!r}{hint}"
