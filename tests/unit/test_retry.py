"""The retry policy: what it accepts, when it says yes, how long it waits."""

from __future__ import annotations

import dataclasses
import pickle
import socket
import subprocess
import sys
import threading
import time

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

import taskrun
from taskrun.errors import ConfigError, RemoteError, TaskTimeoutError, WorkerCrashedError
from taskrun.retry import Retry


class LocalError(Exception):
    pass


class ChildError(LocalError):
    pass


def asked(policy, error, cause="raised", attempt=1, elapsed=0.0):
    return policy.wants_retry(error, cause, attempt, elapsed)


def test_it_is_a_frozen_picklable_hashable_value():
    policy = Retry(max_attempts=5, on=[OSError, "ValueError"], wait="linear")
    asked(policy, OSError())  # compiled now, which must not matter
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert hash(policy) == hash(Retry(max_attempts=5, on=(OSError, "ValueError"), wait="linear"))
    assert dataclasses.replace(policy, wait="fixed").wait == "fixed"
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.wait = "none"


@pytest.mark.parametrize("policy", [Retry(wait=tenacity.wait_fixed(2)), Retry(on=tenacity.retry_if_exception_type(OSError))])
def test_policies_with_tenacity_objects_pickle(policy):
    again = pickle.loads(pickle.dumps(policy))
    assert asked(again, OSError())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_attempts", 0), ("max_attempts", -1), ("max_attempts", True), ("max_attempts", 1.5), ("max_attempts", "3"),
        ("on", 5), ("on", int), ("on", [OSError, 5]), ("on", "OSEror"), ("on", "not a name"), ("on", None),
        ("wait", "exponental"), ("wait", 3), ("wait", None), ("initial", -1), ("initial", "1s"),
        ("initial", float("nan")), ("max_wait", -0.1), ("max_wait", float("inf")), ("jitter", 1), ("on_crash", None),
        ("on_timeout", "yes"), ("max_time", 0), ("max_time", "5s"),
    ],
)  # fmt: skip
def test_every_bad_value_is_refused_with_setting_value_and_what_is_allowed(setting, value):
    with pytest.raises(ConfigError) as caught:
        Retry(**{setting: value})
    assert caught.value.setting == f"retry.{setting}"
    assert caught.value.allowed
    bad = value[-1] if isinstance(value, list) else value
    assert f"retry.{setting} is {bad!r}; allowed: " in str(caught.value)


def test_misspelt_values_get_a_suggestion():
    with pytest.raises(ConfigError, match='Did you mean "exponential"'):
        Retry(wait="exponental")
    with pytest.raises(ConfigError, match='Did you mean "OSError"'):
        Retry(on="OSEror")
    with pytest.raises(ConfigError, match='Did you mean "max_attempts"') as caught:
        Retry.of({"max_attemps": 3})
    assert caught.value.setting == "retry.max_attemps"


def test_of_accepts_all_the_forms():
    policy = Retry()
    assert Retry.of(None) is None
    assert Retry.of(policy) is policy
    assert Retry.of(4) == Retry(max_attempts=4)
    assert Retry.of({"max_attempts": 5, "on": ["OSError"]}) == Retry(max_attempts=5, on=("OSError",))


@pytest.mark.parametrize("value", [True, 0, 2.5, "3", object(), [3], print])
def test_of_refuses_the_rest(value):
    with pytest.raises(ConfigError):
        Retry.of(value)


def test_of_takes_stop_wait_and_retry_of_tenacity_retrying():
    policy = Retry.of(
        tenacity.Retrying(
            stop=tenacity.stop_after_attempt(2) | tenacity.stop_after_delay(9),
            wait=tenacity.wait_fixed(7),
            retry=tenacity.retry_if_exception_type(OSError),
        )
    )
    assert asked(policy, OSError(), attempt=1)
    assert not asked(policy, OSError(), attempt=2)
    assert not asked(policy, OSError(), attempt=1, elapsed=9.5)
    assert not asked(policy, ValueError())
    assert policy.delay(1, OSError()) == 7


def test_of_takes_plain_callables_inside_retrying():
    policy = Retry.of(
        tenacity.Retrying(
            stop=lambda state: state.attempt_number >= 2,
            retry=lambda state: isinstance(state.outcome.exception(), KeyError),
        )
    )
    assert asked(policy, KeyError("x"))
    assert not asked(policy, KeyError("x"), attempt=2)
    assert not asked(policy, ValueError("x"))


def test_of_takes_a_single_strategy_of_tenacity():
    assert asked(Retry.of(tenacity.stop_after_attempt(9)), ValueError(), attempt=8)
    assert Retry.of(tenacity.wait_fixed(3)).delay(1, ValueError()) == 3
    only = Retry.of(tenacity.retry_if_exception_message(match="again"))
    assert asked(only, ValueError("again"))
    assert not asked(only, ValueError("no"))


@pytest.mark.parametrize(
    "retrying", [tenacity.Retrying(before=print), tenacity.Retrying(sleep=print), tenacity.AsyncRetrying()]
)
def test_of_refuses_what_it_could_not_honour(retrying):
    with pytest.raises(ConfigError, match="cannot honour"):
        Retry.of(retrying)


def test_it_stops_after_max_attempts_and_after_max_time():
    policy = Retry(max_attempts=3, max_time=10)
    assert [asked(policy, ValueError(), attempt=n) for n in (1, 2, 3, 4)] == [True, True, False, False]
    assert asked(policy, ValueError(), elapsed=9.9)
    assert not asked(policy, ValueError(), elapsed=10.1)
    assert asked(Retry(max_attempts=None), ValueError(), attempt=10_000)


@pytest.mark.parametrize(
    ("on", "yes", "no"),
    [
        (OSError, [OSError(), ConnectionError(), TimeoutError()], [ValueError()]),
        ([OSError, KeyError], [KeyError(), OSError()], [ValueError()]),
        ("OSError", [FileNotFoundError()], [ValueError()]),
        ("builtins.OSError", [FileNotFoundError()], [ValueError()]),
        ("socket.gaierror", [socket.gaierror()], [OSError()]),
        ("socket.timeout", [TimeoutError()], [OSError()]),
        (f"{__name__}.LocalError", [LocalError(), ChildError()], [ValueError()]),
        (f"{__name__}.ChildError", [ChildError()], [LocalError()]),
        ("nowhere.to.be.found.OSError", [], [OSError()]),
        (lambda error: "again" in str(error), [ValueError("again")], [ValueError("no")]),
        (tenacity.retry_if_not_exception_type(KeyError), [ValueError()], [KeyError()]),
        ((), [], [ValueError()]),
    ],
)
def test_on_chooses_by_class_name_or_predicate(on, yes, no):
    policy = Retry(on=on)
    assert all(asked(policy, error) for error in yes)
    assert not any(asked(policy, error) for error in no)


def test_names_import_nothing():
    policy = Retry(on="xmlrpc.client.Fault")
    assert not asked(policy, ValueError())
    assert "xmlrpc.client" not in sys.modules


def test_a_name_matches_the_stand_in_for_that_class():
    error = RemoteError("m", type_name="lib.errors.Flaky")
    assert asked(Retry(on="lib.errors.Flaky"), error)
    assert not asked(Retry(on="lib.errors.Other"), error)


def test_crashes_and_timeouts_have_switches_of_their_own():
    crash, timeout = WorkerCrashedError("died"), TaskTimeoutError(limit=1)
    assert asked(Retry(on=()), crash, "crashed")
    assert not asked(Retry(on=Exception, on_crash=False), crash, "crashed")
    assert not asked(Retry(on=OSError), timeout, "timeout")
    assert asked(Retry(on=(), on_timeout=True), timeout, "timeout")
    assert not asked(Retry(max_attempts=2), crash, "crashed", attempt=2)


def test_a_soft_timeout_raised_in_the_task_counts_as_a_timeout():
    error = TaskTimeoutError(limit=1, soft=True)
    assert not asked(Retry(on=OSError), error)
    assert asked(Retry(on=(), on_timeout=True), error)


@pytest.mark.parametrize("cause", ["killed", "serialization", "initializer", "cancelled"])
def test_some_causes_are_never_retried(cause):
    assert not asked(Retry(on=[Exception, BaseException], on_timeout=True), ValueError(), cause)


def test_what_is_no_exception_is_retried_only_when_named():
    stop = KeyboardInterrupt()
    for on in (Exception, lambda error: True, tenacity.retry_always, OSError):
        assert not asked(Retry(on=on), stop)
    for on in (KeyboardInterrupt, "KeyboardInterrupt", [OSError, "builtins.KeyboardInterrupt"], BaseException):
        assert asked(Retry(on=on), stop)
        assert not asked(Retry(on=on), stop, attempt=3)


def test_a_predicate_is_not_asked_when_no_attempt_is_left_or_the_cause_is_another():
    calls = []
    policy = Retry(max_attempts=2, on=lambda error: calls.append(error) or True)
    asked(policy, ValueError(), attempt=2)
    asked(policy, ValueError(), "crashed")
    assert calls == []


@pytest.mark.parametrize("raised", [ZeroDivisionError("in the predicate"), SystemExit(3)])
def test_a_failing_predicate_means_no_retry_and_a_note(raised):
    def predicate(error):
        raise raised

    error = ValueError("x")
    assert not asked(Retry(on=predicate), error)
    assert repr(raised) in error.__notes__[0]


def test_a_failing_wait_falls_back_to_initial_with_a_note():
    error = ValueError("x")
    assert Retry(wait=lambda state: 1 / 0, initial=0.5).delay(1, error) == 0.5
    assert "ZeroDivisionError" in error.__notes__[0]


@pytest.mark.parametrize(
    ("wait", "expected"),
    [("exponential", [1, 2, 4, 8, 10, 10]), ("linear", [1, 2, 3, 4, 5, 6]), ("fixed", [1] * 6), ("none", [0] * 6)],
)
def test_waits_without_jitter(wait, expected):
    policy = Retry(wait=wait, initial=1, max_wait=10, jitter=False)
    assert [policy.delay(n, ValueError()) for n in range(1, 7)] == expected


def test_fixed_waits_no_longer_than_max_wait():
    assert Retry(wait="fixed", initial=5, max_wait=2, jitter=False).delay(1, ValueError()) == 2


@given(
    attempt=st.integers(1, 2000),
    seed=st.none() | st.integers(),
    initial=st.floats(0, 1e3),
    max_wait=st.floats(0, 1e6),
    wait=st.sampled_from(["exponential", "linear", "fixed", "none"]),
)
def test_any_delay_lies_between_half_and_all_of_the_wait_and_is_never_above_max_wait(attempt, seed, initial, max_wait, wait):
    policy = Retry(wait=wait, initial=initial, max_wait=max_wait)
    full = dataclasses.replace(policy, jitter=False).delay(attempt, ValueError())
    delay = policy.delay(attempt, ValueError(), seed)
    assert full / 2 <= delay <= full <= max_wait


def test_jitter_depends_on_seed_and_attempt_only():
    policy = Retry()
    first = [policy.delay(n, ValueError(), 7) for n in range(1, 5)]
    assert first == [policy.delay(n, OSError(), 7) for n in range(1, 5)]
    assert first != [policy.delay(n, ValueError(), 8) for n in range(1, 5)]
    assert len({policy.delay(1, ValueError()) for _ in range(20)}) > 1


def test_the_note_tells_attempts_and_time():
    assert Retry().note(3, 1.24) == "failed after 3 attempts in 1.2 s"
    assert Retry().note(1, 0) == "failed after 1 attempt in 0.0 s"


def test_tenacity_is_loaded_at_the_first_failure_not_before():
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from taskrun.retry import Retry\n"
        "p = Retry.of({'on': ['OSError'], 'max_attempts': 2})\n"
        "assert 'tenacity' not in sys.modules\n"
        "assert p.wants_retry(OSError(), 'raised', 1, 0.0)\n"
        "assert 'tenacity' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_stop_of_tenacitys_that_asks_for_the_wait_gets_it():
    policy = Retry.of(tenacity.Retrying(stop=tenacity.stop_before_delay(0.5), wait=tenacity.wait_fixed(0.4)))
    assert policy is not None
    assert policy.wants_retry(OSError(), "raised", 1, 0.0)
    assert not policy.wants_retry(OSError(), "raised", 2, 0.4)


@pytest.mark.parametrize(
    "on",
    [
        tenacity.retry_if_result(bool),
        tenacity.retry_if_not_result(bool),
        tenacity.retry_any(tenacity.retry_if_exception_type(OSError), tenacity.retry_if_result(bool)),
    ],
)
def test_a_policy_on_results_is_refused(on):
    with pytest.raises(ConfigError, match="a policy on exceptions"):
        Retry.of(on)


def test_no_attempt_begins_after_max_time():
    policy = Retry(max_attempts=9, max_time=1.0, wait="fixed", initial=0.4, jitter=False)
    assert policy.wants_retry(ValueError(), "raised", 1, 0.5)
    assert not policy.wants_retry(ValueError(), "raised", 1, 0.7)  # it would after the wait


@pytest.mark.parametrize("backend", ["thread", "dummy", "asyncio", "process", "pool", "fork"])
def test_a_predicate_that_takes_its_time_holds_up_nobody_else(backend):
    asked, go = threading.Event(), threading.Event()

    def ask(_):
        asked.set()
        return go.wait(40)

    with taskrun.Executor(backend, max_workers=2) as ex:
        failing = ex.options(retry=Retry(max_attempts=2, on=ask, wait="none")).submit(int, "x")
        try:
            assert asked.wait(40)
            late = ex.options(timeout=0.05).submit(time.sleep, 60) if backend in ("process", "pool", "fork") else None
            assert [ex.submit(abs, -i).result(40) for i in range(3)] == [0, 1, 2]
            assert late is None or isinstance(late.exception(40), taskrun.TaskTimeoutError)
        finally:
            go.set()
        assert isinstance(failing.exception(40), ValueError)
        assert len(failing.attempts) == 2
