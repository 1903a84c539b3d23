"""Every parameter of `Executor` and of `options` is asked of every backend: some conformance behaviour uses it."""

from __future__ import annotations

import ast
import inspect
import textwrap

import pytest

import taskrun
from taskrun.choice import _TASK_OPTIONS
from taskrun.plugins import describe_backends
from taskrun.testing import BackendConformance

NO_OPTION = {"self", "backend", "backend_options"}


def parameters_of_an_executor() -> list[str]:
    own = [name for name in inspect.signature(taskrun.Executor).parameters if name not in NO_OPTION]
    of_backends = {name for info in describe_backends() if info.cls is not None for name in info.cls.option_names}
    return [*own, *sorted(of_backends)]


def parameters_of_a_task() -> list[str]:
    return list(_TASK_OPTIONS)


def used(*functions: str) -> set[str]:
    """Return the names of the keyword arguments with which behaviours call a method or function of these names."""
    found = set()
    for name in dir(BackendConformance):
        if name.startswith("test_"):
            tree = ast.parse(textwrap.dedent(inspect.getsource(getattr(BackendConformance, name))))
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in functions:
                    found |= {keyword.arg for keyword in node.keywords if keyword.arg is not None}
    return found


@pytest.mark.parametrize("parameter", parameters_of_an_executor())
def test_some_behaviour_makes_an_executor_with_it(parameter: str) -> None:
    assert parameter in used("executor", "Executor", "honouring")


@pytest.mark.parametrize("parameter", parameters_of_a_task())
def test_some_behaviour_submits_a_task_with_it(parameter: str) -> None:
    assert parameter in used("options")


def test_the_search_does_find_what_is_missing() -> None:
    assert {"max_workers", "initializer"} <= used("executor")
    assert "no_such_parameter" not in used("executor")
