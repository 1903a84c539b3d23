"""Measure every file of Python's own standard library: lines, functions, and how branched each function is.

    python docs/examples/code_metrics.py                          # on the configured backend
    TASKRUN_BACKEND=thread python docs/examples/code_metrics.py   # the same program, another concurrency model

The library contains files that do not parse or do not decode: they are there to test the parser. Each comes out as a failed
file with its reason; the others are not touched by that.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sysconfig
import time
import warnings
from pathlib import Path

import taskrun

STDLIB = Path(sysconfig.get_path("stdlib"))
NOT_STDLIB = {"site-packages", "dist-packages", "__pycache__"}

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SCOPES = (*FUNCTIONS, ast.ClassDef)
BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.comprehension, ast.match_case)


def measure(path: str) -> dict[str, object]:
    """Return the lines of a file, its cyclomatic complexity, and that of each function as [name, line, complexity].

    Raises SyntaxError (which tells the line, or the byte that does not decode) or ValueError if it is not Python.
    """
    source = Path(path).read_bytes()
    tree = ast.parse(source, filename=Path(path).name)
    module = ["<module>", 1, 1]
    scopes = [module]
    # A stack of our own instead of recursion: no file is too deeply nested for it. Each node comes with the qualified name
    # of the class or function around it, and with the entry that its branches count for.
    todo: list[tuple[ast.AST, str, list]] = [(tree, "", module)]
    while todo:
        node, place, entry = todo.pop()
        if isinstance(node, SCOPES):
            place = f"{place}.{node.name}".lstrip(".")
        if isinstance(node, FUNCTIONS):
            entry = [place, node.lineno, 1]
            scopes.append(entry)
        elif isinstance(node, BRANCHES):
            entry[2] += 1
        elif isinstance(node, ast.BoolOp):
            entry[2] += len(node.values) - 1
        todo.extend((child, place, entry) for child in ast.iter_child_nodes(node))
    return {
        "lines": len(source.splitlines()),
        "complexity": sum(scope[2] for scope in scopes),
        "functions": sorted(scopes[1:], key=lambda scope: (scope[1], scope[0])),
    }


def ignore_warnings() -> None:
    """Old code makes the parser warn. Said once for each worker, because a filter is the whole process's, not a task's."""
    warnings.simplefilter("ignore")


def main() -> None:
    files = sorted(path for path in STDLIB.rglob("*.py") if not NOT_STDLIB.intersection(path.parts[len(STDLIB.parts) :]))
    started = time.perf_counter()
    with taskrun.Executor(initializer=ignore_warnings) as ex:
        results = list(ex.options(return_exceptions=True).map(measure, map(str, files)))
    seconds = time.perf_counter() - started

    report = {}
    for file, result in zip(files, results, strict=True):
        failed = isinstance(result, Exception)
        report[file.relative_to(STDLIB).as_posix()] = f"{type(result).__name__}: {result}" if failed else result
    summarize(report, seconds)


def summarize(report: dict[str, object], seconds: float) -> None:
    done = {name: metrics for name, metrics in report.items() if isinstance(metrics, dict)}
    functions = [(complexity, name, line, file) for file, m in done.items() for name, line, complexity in m["functions"]]
    print(f"files done:   {len(done):,} ({sum(m['lines'] for m in done.values()):,} lines, {len(functions):,} functions)")
    complexity, name, line, file = max(functions)
    print(f"most complex: {name} in {file}:{line}, complexity {complexity}")
    print(f"files failed: {len(report) - len(done):,}")
    for file, reason in report.items():
        if file not in done:
            print(f"    {file}: {reason}")
    print(f"seconds:      {seconds:.2f}")
    text = "".join(json.dumps([file, report[file]]) + "\n" for file in sorted(report))
    print(f"sha-256:      {hashlib.sha256(text.encode()).hexdigest()}")


if __name__ == "__main__":
    main()
