"""The interpreter backend from inside: what a sub-interpreter keeps, when it is replaced, and how its task is given up."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

import alone
import inside
import pytest
from patience import PATIENCE, eventually

import taskrun
from taskrun.backends.interpreter import InterpreterBackend

if TYPE_CHECKING:
    from pathlib import Path

UNAVAILABLE = InterpreterBackend.unavailable()
needs_interpreters = pytest.mark.skipif(UNAVAILABLE is not None, reason=str(UNAVAILABLE))


def test_an_older_python_is_told_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "version_info", (3, 13, 1))
        missing = InterpreterBackend.unavailable()
    assert missing == 'interpreter needs Python 3.14 or later, and this is 3.13; install that, or use backend="thread" here'
    if UNAVAILABLE is not None:
        with pytest.raises(taskrun.BackendUnavailableError, match=r"interpreter needs Python 3\.14 or later"):
            taskrun.Executor("interpreter")


@needs_interpreters
def test_each_worker_has_an_interpreter_of_its_own_in_this_process() -> None:
    inside.SEEN.append("here")
    try:
        with taskrun.Executor("interpreter", max_workers=2) as ex:
            assert ex.submit(os.getpid).result(PATIENCE) == os.getpid()
            assert ex.submit(inside.prepared).result(PATIENCE) == (None, "unset", [])
            assert ex.submit(inside.identity).result(PATIENCE) != inside.identity()
    finally:
        inside.SEEN.clear()


@needs_interpreters
def test_what_the_initializer_has_prepared_is_there_for_every_task() -> None:
    with taskrun.Executor("interpreter", max_workers=1, initializer=inside.prepare, initargs=("x",)) as ex:
        found = [ex.submit(inside.prepared).result(PATIENCE) for _ in range(2)]
    assert found == [("x", "x", ["x"])] * 2


@needs_interpreters
def test_an_initializer_that_fails_is_tried_again_three_times_each_in_a_fresh_interpreter(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with taskrun.Executor("interpreter", max_workers=1, initializer=inside.fail_and_tell, initargs=(str(log), 99)) as ex:
        error = ex.submit(abs, -1).exception(PATIENCE)
    assert isinstance(error, taskrun.InitializerError)
    assert "no such licence server" in str(error)
    tried = log.read_text().split()
    assert len(tried) == len(set(tried)) == 4


@needs_interpreters
def test_an_initializer_that_works_in_the_end_is_enough(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with taskrun.Executor("interpreter", max_workers=1, initializer=inside.fail_and_tell, initargs=(str(log), 3)) as ex:
        assert ex.submit(abs, -1).result(PATIENCE) == 1
    assert len(log.read_text().split()) == 3


@needs_interpreters
def test_an_initializer_that_does_not_pickle_breaks_the_executor_and_says_so() -> None:
    with taskrun.Executor("interpreter", max_workers=1, initializer=print, initargs=(threading.Lock(),)) as ex:
        error = ex.submit(abs, -1).exception(PATIENCE)
    assert isinstance(error, taskrun.InitializerError)
    assert "workers cannot be started" in str(error)
    assert "lock" in str(error)


@needs_interpreters
@pytest.mark.parametrize("limit", ["idle_timeout", "max_age_per_child"])
def test_an_idle_interpreter_ends_when_it_is_idle_for_long_or_old(limit: str) -> None:
    with taskrun.Executor("interpreter", max_workers=1, **{limit: 0.05}) as ex:  # type: ignore[arg-type]
        first = ex.submit(inside.identity).result(PATIENCE)
        assert eventually(lambda: not ex.stats()["workers"])
        assert ex.submit(inside.identity).result(PATIENCE) != first


@needs_interpreters
def test_an_interpreter_that_is_too_old_after_its_task_is_replaced() -> None:
    with taskrun.Executor("interpreter", max_workers=1, max_age_per_child=1e-6) as ex:
        assert len(set(ex.map(inside.identity, range(3), chunksize=1))) == 3


@needs_interpreters
@pytest.mark.parametrize("how", ["timeout", "kill"])
def test_a_task_that_is_given_up_can_see_it_and_its_place_is_taken(tmp_path: Path, how: str) -> None:
    started, ended = tmp_path / "started", tmp_path / "ended"
    with taskrun.Executor("interpreter", max_workers=1) as ex:
        ex.submit(abs, -1).result(PATIENCE)
        limited = ex.options(timeout=0.3 if how == "timeout" else None)
        future = limited.submit(inside.until_asked, str(started), str(ended), PATIENCE)
        if how == "kill":
            assert eventually(started.exists)
            assert future.kill()
        assert isinstance(future.exception(PATIENCE), (taskrun.TaskTimeoutError, taskrun.TaskKilledError))
        assert ex.submit(abs, -1).result(PATIENCE) == 1
    assert eventually(lambda: ended.exists() and ended.read_text() == "asked")


@needs_interpreters
def test_only_the_task_that_was_asked_to_cancel_sees_it(tmp_path: Path) -> None:
    started, ended = tmp_path / "started", tmp_path / "ended"
    with taskrun.Executor("interpreter", max_workers=1) as ex:
        future = ex.submit(inside.until_asked, str(started), str(ended), PATIENCE)
        assert eventually(started.exists)
        assert not future.cancel()
        assert future.result(PATIENCE) is None
        assert ended.read_text() == "asked"
        assert ex.submit(inside.is_asked).result(PATIENCE) is False


@needs_interpreters
def test_after_ctrl_c_a_task_that_runs_can_see_that_it_should_end(tmp_path: Path) -> None:
    started, ended = tmp_path / "started", tmp_path / "ended"
    ex = taskrun.Executor("interpreter", max_workers=1)
    with pytest.raises(KeyboardInterrupt), ex:
        future = ex.submit(inside.until_asked, str(started), str(ended), PATIENCE)
        assert eventually(started.exists)
        raise KeyboardInterrupt
    assert future.done()
    assert eventually(lambda: ended.exists() and ended.read_text() == "asked")


@needs_interpreters
def test_interpreters_have_executors_of_their_own_kind() -> None:
    with taskrun.Executor("interpreter", max_workers=1) as ex:
        here, there, deeper = inside.identity(), *ex.submit(inside.nested).result(PATIENCE)
    assert len({here, there, deeper}) == 3


@needs_interpreters
def test_a_module_that_does_not_support_sub_interpreters_is_named_with_the_way_out() -> None:
    with taskrun.Executor("interpreter", max_workers=1) as ex:
        raised = ex.submit(inside.import_alone).exception(PATIENCE)
        assert isinstance(raised, ImportError)
        assert "faulthandler" in str(raised)
        assert any('backend="process"' in note for note in raised.__notes__)
        # As an argument; and what a task calls, which is sent once only.
        for submit in (lambda: ex.submit(inside.path, inside.Alone()), *[lambda: ex.submit(alone.answer)] * 2):
            sent = submit().exception(PATIENCE)
            assert isinstance(sent, taskrun.SerializationError)
            assert "faulthandler" in str(sent)
            assert 'backend="process"' in str(sent)


@needs_interpreters
def test_an_interpreter_that_breaks_down_fails_its_task_only_and_is_replaced() -> None:
    with taskrun.Executor("interpreter", max_workers=1) as ex:
        error = ex.submit(inside.break_down).exception(PATIENCE)
        assert isinstance(error, taskrun.WorkerCrashedError)
        assert "break_down" in str(error)
        assert "NoneType" in str(error)  # what happened there
        assert ex.submit(abs, -1).result(PATIENCE) == 1


@needs_interpreters
def test_the_global_generator_is_seeded_where_the_executor_is() -> None:
    with taskrun.Executor("interpreter", max_workers=2, seed=5) as ex:
        first = [ex.submit(inside.draw).result(PATIENCE) for _ in range(3)]
    with taskrun.Executor("interpreter", max_workers=1, seed=5) as ex:
        assert [ex.submit(inside.draw).result(PATIENCE) for _ in range(3)] == first
    assert len(set(first)) == 3


@needs_interpreters
def test_queues_of_the_standard_library_can_be_arguments() -> None:
    from concurrent import interpreters  # type: ignore[attr-defined]

    there, back = interpreters.create_queue(), interpreters.create_queue()
    with taskrun.Executor("interpreter", max_workers=1) as ex:
        future = ex.submit(inside.double_through, there, back)
        there.put(21)
        assert back.get(timeout=PATIENCE) == 42
        future.result(PATIENCE)


@needs_interpreters
def test_a_thread_that_a_task_has_left_is_waited_for_as_a_process_does(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with taskrun.Executor("interpreter", max_workers=1) as ex:
        ex.submit(inside.leave_a_thread, str(file)).result(PATIENCE)
    assert file.exists()


@needs_interpreters
def test_a_changed_path_arrives_with_the_next_task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with taskrun.Executor("interpreter", max_workers=1) as ex:
        assert str(tmp_path) not in ex.submit(inside.path).result(PATIENCE)
        monkeypatch.syspath_prepend(str(tmp_path))
        assert str(tmp_path) in ex.submit(inside.path).result(PATIENCE)


@needs_interpreters
def test_what_a_task_prints_appears_when_it_is_over(capfd: pytest.CaptureFixture[str]) -> None:
    with taskrun.Executor("interpreter", max_workers=1) as ex:
        ex.submit(inside.say, "hello from inside").result(PATIENCE)
        assert "hello from inside" in capfd.readouterr().out


@needs_interpreters
def test_a_function_is_sent_once() -> None:
    seen: list[int] = []

    def count() -> int:
        seen.append(1)
        return len(seen)

    with taskrun.Executor("interpreter", max_workers=1) as ex:
        assert [ex.submit(count).result(PATIENCE) for _ in range(3)] == [1, 2, 3]  # it keeps what it closes over
    assert seen == []
