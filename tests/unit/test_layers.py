"""A file imports from its own layer or from below; imports inside functions and for type checking count as well."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import taskrun

PACKAGE = Path(taskrun.__file__).parent

LAYERS: dict[str, str] = {
    "values": "errors hints options retry units cpus cpu_meter threads lifetime importable bell shipping exception_text",
    "core": (
        "task future future_state scheduler pulling waits cycles completing closing counting deadlines task_queue timer "
        "callbacks room serialization sharing "
        "primitives by_value reach reducers rebuild stand_in blame exception_parts exceptions runs plain "
        "coroutines progress waiting awaiting"
    ),
    "contract": "backends.base",
    "engine": "engine",
    "backends": "backends",
    "choice": "plugins settings setting_checks config config_apply config_files config_layers choice",
    "front": (
        "executor submitting mapping map_feed map_taking map_runs map_pace map_under_way map_reading map_window map_types "
        "default_executor pool pool_feed pool_results pool_types "
        "context context_common process_context thread_context thread_locks thread_pipe thread_process"
    ),
    "public": "taskrun testing",
    "command": "cli __main__",
}
"""Bottom to top."""

RANK = {module: rank for rank, modules in enumerate(LAYERS.values()) for module in modules.split()}


def layer_of(module: str) -> int:
    """Return the rank of a module, named without the leading "taskrun."."""
    while module not in RANK:
        module, dot, _ = module.rpartition(".")
        assert dot, f"{module} is in no layer"
    return RANK[module]


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "taskrun"


def is_module(dotted: str) -> bool:
    path = PACKAGE.joinpath(*dotted.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def run_time_imports(tree: ast.AST) -> list[ast.stmt]:
    """Return all import statements, those in functions too, but not those for type checkers only."""
    found: list[ast.stmt] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found.append(node)
        found += run_time_imports(node)
    return found


def imported(statement: ast.stmt) -> list[str]:
    """Return the modules of ours that a statement imports, without the leading "taskrun."."""
    if isinstance(statement, ast.Import):
        names = [alias.name for alias in statement.names]
    else:
        assert isinstance(statement, ast.ImportFrom)
        assert statement.level == 0, "imports are absolute"
        module = statement.module or ""
        names = [f"{module}.{alias.name}" for alias in statement.names]
    found = []
    for name in names:
        if name == "taskrun":
            found.append("taskrun")
        elif name.startswith("taskrun."):
            rest = name.removeprefix("taskrun.")
            parent = rest.rpartition(".")[0]
            found.append(rest if is_module(rest) else parent or "taskrun")
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=[name_of(file) for file in FILES])
def test_it_imports_nothing_from_above(file: Path) -> None:
    name = name_of(file)
    for statement in run_time_imports(ast.parse(file.read_text())):
        for module in imported(statement):
            assert layer_of(module) <= layer_of(name), f"{name}, line {statement.lineno}, imports {module}"


def test_an_upward_import_would_be_found() -> None:
    (statement,) = run_time_imports(ast.parse("def late():\n    from taskrun.executor import Executor\n"))
    assert imported(statement) == ["executor"]
    assert layer_of("executor") > layer_of("scheduler")


HEAVY = ("multiprocessing", "asyncio", "sqlite3", "tenacity", "structlog", "cloudpickle", "rich", "click")


SLOW = ("inspect", "ast", "dataclasses", "difflib", "random")
"""Modules whose import costs as much as all of what an executor needs of taskrun."""


STANDARD = "import concurrent.futures, contextvars, pickle, queue, signal, socket, typing, weakref"
"""What an executor cannot do without; since Python 3.14 this loads some of the slow ones."""


def slow_of_ours() -> list[str]:
    return [name for name in SLOW if repr(name) not in loaded(STANDARD, *SLOW)]


def loaded(code: str, *names: str) -> str:
    code += "\nimport sys; print([name for name in sys.argv[1:] if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True, timeout=50)
    return done.stdout.strip()


def test_importing_taskrun_loads_nothing_heavy() -> None:
    assert loaded("import taskrun", *HEAVY, *slow_of_ours(), "taskrun.executor") == "[]"


def test_using_an_executor_loads_nothing_heavy() -> None:
    assert (
        loaded('import taskrun\nwith taskrun.Executor("thread") as ex: ex.submit(int).result()', *HEAVY, *slow_of_ours())
        == "[]"
    )


def test_an_executor_has_loaded_what_its_methods_need() -> None:
    """Else a fork in the middle of loading it, or a signal handler, finds half of it."""
    needed = [f"taskrun.{name}" for name in ("scheduler", "mapping", "map_runs", "runs", "completing", "sharing", "exceptions")]
    assert loaded("import taskrun; taskrun.Executor('serial').shutdown()", *needed) == str(needed)


def test_the_process_that_workers_come_from_loads_nothing_heavy() -> None:
    assert loaded("import taskrun.engine.template, taskrun.engine.worker", *HEAVY, *slow_of_ours(), "taskrun.executor") == "[]"


def test_the_names_handed_out_are_those_of_all() -> None:
    assert set(taskrun.__all__) <= set(dir(taskrun))
    for name in taskrun.__all__:
        assert getattr(taskrun, name) is not None
    modules = {name_of(file).partition(".")[0] for file in FILES}
    public = {name for name in vars(taskrun) if not name.startswith("_")} - modules
    assert public - {"annotations", "TYPE_CHECKING", "import_module"} <= set(taskrun.__all__)


def test_a_name_is_declared_where_it_is_handed_out() -> None:
    """The imports for type checkers and those at run time are the same."""
    (checked,) = (
        node
        for node in ast.parse((PACKAGE / "__init__.py").read_text()).body
        if isinstance(node, ast.If) and node.body
        if ast.unparse(node.test) == "TYPE_CHECKING"
    )
    declared = {alias.name: node.module for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    del declared["Any"]
    homes = {name: f"taskrun.{taskrun._HOME.get(name, 'errors')}" for name in taskrun.__all__}
    assert declared == homes


def test_backends_and_errors_are_found_without_an_import_of_their_own() -> None:
    code = "import taskrun\nprint(taskrun.backends.Backend.__name__, taskrun.errors.ConfigError.__name__)"
    assert loaded(code) == "Backend ConfigError\n[]"
    with pytest.raises(AttributeError, match="module 'taskrun' has no attribute 'executer'"):
        taskrun.executer  # noqa: B018 # type: ignore[attr-defined]


def test_authors_of_backends_find_the_contract_in_taskrun_backends() -> None:
    from taskrun import backends

    assert {name: getattr(backends, name).__name__ for name in backends.__all__} == {
        "Backend": "Backend",
        "Capabilities": "Capabilities",
    }
