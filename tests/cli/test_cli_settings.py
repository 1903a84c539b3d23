"""Options of the command line become arguments of the executor."""

from __future__ import annotations

import pytest

from taskrun.cli.exits import CommandError
from taskrun.cli.settings import executor_settings


def test_only_what_is_given_is_passed_on():
    assert executor_settings([], backend="thread", max_workers=None) == {"backend": "thread"}


def test_retries_are_attempts_after_the_first():
    assert executor_settings([], retries=0) == {"retry": {"max_attempts": 1}}
    assert executor_settings(["retry.on=OSError", "retry.initial=0.5"], retries=2) == {
        "retry": {"max_attempts": 3, "on": "OSError", "initial": 0.5}
    }


def test_values_are_read_as_their_setting_wants_and_options_of_backends_as_toml():
    assert executor_settings(["max_tasks_per_child=100", "strict=true", "env.A=1", "start_method=spawn", "n=[1, 2]"]) == {
        "max_tasks_per_child": 100,
        "strict": True,
        "env": {"A": 1},
        "start_method": "spawn",
        "n": [1, 2],
    }


def test_functions_are_named_as_targets_are():
    import gc

    assert executor_settings(["initializer=gc:disable"]) == {"initializer": gc.disable}
    with pytest.raises(CommandError, match="did you mean 'disable'"):
        executor_settings(["initializer=gc:disble"])


@pytest.mark.parametrize(
    ("assignments", "told"),
    [
        (["max_workers"], "--set max_workers: write --set KEY=VALUE"),
        (["=3"], "write --set KEY=VALUE"),
        (["retry.=3"], "write --set KEY=VALUE"),
        (["max_workers=2", "max_workers=3"], "max_workers is given twice"),
        (["retry=2", "retry.max_attempts=3"], "retry.max_attempts is given twice"),
        (["max_workers=many"], "--set max_workers=many: .*allowed: a whole number of at least 1"),
    ],
)
def test_a_mistake_is_told_with_what_was_written(assignments, told):
    with pytest.raises(CommandError, match=told):
        executor_settings(assignments)
