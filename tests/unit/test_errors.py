"""The tree of errors: bases, attributes, and that every class survives pickle and copy."""

from __future__ import annotations

import concurrent.futures
import copy
import inspect
import pickle
import subprocess
import sys

import pytest

from taskrun import errors

FULL = [
    errors.TaskrunError("a message"),
    errors.ConfigError("bad", setting="max_workers", origin="taskrun.toml:3", allowed="1 or more"),
    errors.UnknownBackendError("proces", ["thread", "process"], origin="TASKRUN_BACKEND"),
    errors.UnsupportedOptionError("no", option="resources", backend="thread", origin="argument", allowed=("a", "b")),
    errors.BackendUnavailableError("no", backend="ray", missing="ray", install="pip install ray"),
    errors.SerializationError(
        "no", value="argument 0", direction="pickling", side="parent", task="f", type_name="_thread.lock"
    ),
    errors.WorkerCrashedError(
        "died", pid=7, exitcode=-9, signal=9, oom=True, stack="File f", output="out", task="f", attempt=2,
        guilt="unknown", held_locks=["a"],
    ),
    errors.RemoteError("m", type_name="lib.Error", text="t", traceback="tb"),
    errors.InitializerError("failed"),
    errors.TaskTimeoutError(limit=5, elapsed=5.01, task="f", attempt=1, stack="File f", soft=True),
    errors.TaskTimeoutError("own message", limit=5),
    errors.TaskKilledError("killed", task="f", attempt=3),
    errors.QueueFullError("full", limit=10),
    errors.JournalError("broken"),
    errors.RemoteTraceback("Traceback ...\n"),
    errors.UnsupportedOptionWarning("w"),
    errors.UnfinishedMapWarning("w"),
    errors.UnsafeForkWarning("w"),
]  # fmt: skip


def test_the_list_of_samples_has_every_class_of_the_module():
    public = {name for name in errors.__all__ if isinstance(getattr(errors, name), type)}
    assert {type(error).__name__ for error in FULL} == public


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_every_error_survives_pickle_copy_and_deepcopy(error):
    error.add_note("a note")
    ways = [lambda e, p=p: pickle.loads(pickle.dumps(e, p)) for p in range(pickle.HIGHEST_PROTOCOL + 1)]
    ways.append(lambda e: pickle.loads(pickle._dumps(e)))
    for way in (*ways, copy.copy, copy.deepcopy):
        back = way(error)
        assert type(back) is type(error)
        assert back is not error
        assert (str(back), repr(back), back.args) == (str(error), repr(error), error.args)
        assert vars(back) == vars(error)
    del error.__notes__


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (FULL[1], (ValueError,)),
        (FULL[2], (errors.ConfigError, LookupError)),
        (FULL[3], (errors.ConfigError,)),
        (FULL[4], (ImportError,)),
        (FULL[5], (pickle.PicklingError, pickle.UnpicklingError)),
        (FULL[6], (concurrent.futures.process.BrokenProcessPool, concurrent.futures.BrokenExecutor)),
        (FULL[8], (concurrent.futures.BrokenExecutor,)),
        (FULL[9], (TimeoutError, OSError)),
        (FULL[11], (concurrent.futures.CancelledError,)),
    ],
)
def test_errors_can_be_caught_as_their_standard_bases(error, bases):
    assert isinstance(error, (errors.TaskrunError,))
    for base in bases:
        assert isinstance(error, base)


@pytest.mark.parametrize("name", errors.__all__)
def test_message_comes_first_and_attributes_are_keyword_only_with_none_as_default(name):
    cls = getattr(errors, name)
    if not issubclass(cls, errors.TaskrunError) or cls is errors.UnknownBackendError:
        return
    first, *rest = [p for p in inspect.signature(cls).parameters.values() if p.name != "self"]
    assert first.name == "message"
    for parameter in rest:
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.default in (None, False, "known", ())
    bare = cls("only a message")
    assert str(bare) == "only a message"
    assert bare.args == ("only a message",)


def test_the_import_errors_own_fields_survive():
    error = errors.BackendUnavailableError("no", missing="ray")
    error.path = "/x"
    back = pickle.loads(pickle.dumps(error))
    assert (back.name, back.path, back.msg) == ("ray", "/x", "no")


class Awkward(errors.ConfigError):
    def __init__(self, one, two):
        super().__init__(f"{one}{two}", setting="s")
        self.both = (one, two)


def test_a_subclass_with_a_constructor_of_its_own_survives_pickle():
    back = pickle.loads(pickle.dumps(Awkward(1, 2)))
    assert (str(back), back.both, back.setting) == ("12", (1, 2), "s")


def test_unknown_backend_lists_the_known_ones_and_suggests_the_closest():
    error = errors.UnknownBackendError("Proces", ["thread", "process"], origin="TASKRUN_BACKEND")
    assert str(error) == (
        "unknown backend 'Proces' (from TASKRUN_BACKEND); known backends: process, thread. Did you mean \"process\"?"
    )
    assert (error.name, error.known, error.setting) == ("Proces", ("process", "thread"), "backend")
    assert "mean" not in str(errors.UnknownBackendError("xyz", ["thread"]))


def test_a_timeout_makes_its_message_from_its_fields():
    assert str(errors.TaskTimeoutError(limit=2.5, elapsed=2.51, task="f", attempt=2)).startswith(
        "task 'f' (attempt 2) ran longer than its timeout of 2.5 s; it had run for 2.51 s"
    )
    assert "soft_timeout" in str(errors.TaskTimeoutError(soft=True))


def test_evidence_that_is_added_later_shows_in_the_message_once():
    error = errors.WorkerCrashedError("died")
    error.stack = "File 'x', line 1"
    assert str(error) == "died\nThe stack of the dying worker:\nFile 'x', line 1"
    assert str(errors.WorkerCrashedError("died: File 'x'", stack="File 'x'")) == "died: File 'x'"
    timeout = errors.TaskTimeoutError("late")
    timeout.stack = "here"
    assert str(timeout) == "late\nThe task's stack when its time was up:\nhere"


def test_importing_errors_loads_neither_multiprocessing_nor_the_libraries():
    code = (
        "import sys, taskrun.errors as e; "
        "heavy = {'multiprocessing', 'asyncio', 'tenacity', 'cloudpickle', 'structlog'} & set(sys.modules); "
        "assert not heavy, heavy; "
        "assert 'WorkerCrashedError' in dir(e); assert e.WorkerCrashedError is e.WorkerCrashedError; "
        "assert 'multiprocessing' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"], check=True)


def test_an_unknown_name_in_errors_is_an_attribute_error():
    with pytest.raises(AttributeError, match="NoSuchError"):
        errors.NoSuchError  # noqa: B018


def test_worker_crashed_error_unpickles_where_it_was_never_asked_for():
    data = pickle.dumps(errors.WorkerCrashedError("died", pid=5))
    code = f"import sys, pickle; sys.path[:] = {sys.path!r}; e = pickle.loads({data!r}); assert e.pid == 5; print(type(e))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.strip() == "<class 'taskrun.errors.WorkerCrashedError'>"


def test_a_remote_traceback_is_quoted_as_in_the_standard_library():
    remote = errors.RemoteTraceback("Traceback ...\nboom\n")
    assert remote.tb == str(remote)  # as in multiprocessing.pool
    assert str(remote) == '\n"""\nTraceback ...\nboom\n"""'
    assert remote.text == "Traceback ...\nboom\n"
