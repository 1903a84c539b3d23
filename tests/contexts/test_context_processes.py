"""Processes, asked for what CPython's own tests ask of them; on backends with threads, what a thread can have of it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

import context_jobs as jobs
import pytest
from contexts_support import BETWEEN_PROCESSES, KINDS, NAMES, Took, context_of
from patience import PATIENCE, eventually

import taskrun
from taskrun import primitives

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=[kind for kind in KINDS if kind != "original"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def fast() -> Iterator[None]:
    with jobs.not_running_main():
        yield


def test_a_process_runs_its_target(context: Any, between_processes: bool) -> None:
    queue = context.Queue()
    process = context.Process(target=jobs.tell, name="by name", args=(queue, 1, 2), kwargs={"key": "value"})
    assert (process.is_alive(), process.exitcode, process.pid, process.daemon) == (False, None, None, False)
    assert process not in context.active_children()
    process.start()
    args, kwargs, name, pid, thread = queue.get(timeout=PATIENCE)
    process.join(PATIENCE)
    assert (args, kwargs) == ((1, 2), {"key": "value"})
    assert (name if between_processes else thread) == "by name" == process.name
    assert (pid != os.getpid()) is between_processes
    assert process.pid == process.ident if between_processes else isinstance(process.pid, int)
    assert (process.is_alive(), process.exitcode) == (False, 0)
    assert process not in context.active_children()
    assert process.authkey == multiprocessing.current_process().authkey
    with pytest.raises((AssertionError, RuntimeError)):
        process.start()
    process.close()


def test_join_ends_with_its_timeout(context: Any) -> None:
    event = context.Event()
    process = context.Process(target=jobs.wait_for, args=(event,), daemon=True)
    assert process.daemon is True
    with pytest.raises((AssertionError, RuntimeError)):
        process.join()
    process.start()
    for timeout in (0.1, 0, -1):
        with Took() as took:
            assert process.join(timeout) is None
        assert took.about(max(timeout, 0))
        assert (process.is_alive(), process.exitcode) == (True, None)
    assert process in context.active_children()
    with pytest.raises(ValueError, match="still running"):
        process.close()
    with pytest.raises((AssertionError, RuntimeError)):
        process.daemon = False
    event.set()
    process.join()
    assert process.exitcode == 0
    process.close()


def test_an_exit_code_is_what_it_left_with(context: Any, kind: str, capfd: Any) -> None:
    for code, expected in ((None, 0), (3, 3), ("words", 1), (False, 0), (True, 1), (-1, 255), (256, 0)):
        process = context.Process(target=jobs.leave, args=(code,))
        process.start()
        process.join(PATIENCE)
        assert process.exitcode == expected
        process.close()
    assert kind == "process" or capfd.readouterr().err.splitlines() == ["words"], "a fork server has the stderr of who made it"


def test_subclasses_have_a_run_of_their_own(context: Any, between_processes: bool) -> None:
    class Upper(context.Process):  # type: ignore[misc]
        def __init__(self, end: Any) -> None:
            super().__init__()
            self.end = end

        def run(self) -> None:
            jobs.upper(self.end)

        def __reduce__(self) -> Any:  # as if it could be imported there
            return jobs.rebuilt_process, (type(self).__mro__[1], self.__dict__)

    here, there = context.Pipe()
    process = Upper(there)
    process.start()
    here.send("abc")
    assert here.recv() == "ABC"
    here.send(None)
    process.join(PATIENCE)
    assert (process.exitcode, process.is_alive()) == (0, False)
    process.close()
    here.close()
    there.close()


def test_a_connection_closed_here_is_open_there(context: Any) -> None:
    here, there = context.Pipe()
    process = context.Process(target=jobs.upper, args=(there,))
    process.start()
    there.close()  # as one does, so that the end of the process is the end of the connection
    here.send("abc")
    assert here.recv() == "ABC"
    here.send(None)
    with pytest.raises(EOFError):
        here.recv()
    process.join(PATIENCE)
    process.close()
    here.close()


def test_a_start_from_another_thread_is_refused_and_hurts_nothing() -> None:
    context = context_of("thread")
    here, there = context.Pipe()
    process = context.Process(target=jobs.upper, args=(there,))
    refused: list[BaseException] = []

    def start() -> None:
        try:
            process.start()
        except RuntimeError as error:
            refused.append(error)

    other = threading.Thread(target=start)
    other.start()
    other.join()
    assert len(refused) == 1
    process.start()
    there.close()
    here.send("abc")
    assert here.recv() == "ABC"
    here.send(None)
    process.join(PATIENCE)
    assert (process.exitcode, here.poll(0)) == (0, True)
    with pytest.raises(EOFError):
        here.recv()


def test_locks_are_counted_while_others_make_more() -> None:
    ended = threading.Event()

    def make() -> None:
        while not ended.is_set():
            primitives.note_lock(Noted())

    kept = {primitives.note_lock(Noted()) for _ in range(2000)}
    maker, interval = threading.Thread(target=make), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    maker.start()
    try:
        for _ in range(300):
            assert kept <= set(primitives.noted_locks())
    finally:
        ended.set()
        sys.setswitchinterval(interval)
        maker.join()


class Noted:
    """As a lock, as far as it is only counted."""


def test_terminate_and_kill_end_a_process_and_not_a_thread(context: Any, between_processes: bool) -> None:
    for name, number in (("terminate", signal.SIGTERM), ("kill", signal.SIGKILL)):
        event = context.Event()
        process = context.Process(target=jobs.wait_for, args=(event,))
        process.start()
        if between_processes:
            assert eventually(process.is_alive)
            getattr(process, name)()
            process.join(PATIENCE)
            assert process.exitcode == -number
        else:
            with pytest.raises(NotImplementedError, match=r'Event.*get_context\("process"\)'):
                getattr(process, name)()
            event.set()
            process.join(PATIENCE)
        process.close()


def test_a_sentinel_tells_of_the_end_of_a_process(context: Any, between_processes: bool) -> None:
    event = context.Event()
    process = context.Process(target=jobs.wait_for, args=(event,))
    if not between_processes:
        with pytest.raises(NotImplementedError, match=r'join.*get_context\("process"\)'):
            _ = process.sentinel
        return
    with pytest.raises(ValueError):
        _ = process.sentinel
    process.start()
    assert connection.wait([process.sentinel], timeout=0) == []
    event.set()
    assert connection.wait([process.sentinel], timeout=PATIENCE) == [process.sentinel]
    process.join()
    process.close()


def test_who_am_i_and_how_many_cpus(context: Any) -> None:
    assert context.cpu_count() == multiprocessing.cpu_count()
    assert context.current_process().name in {"MainProcess", "MainThread"}
    assert context.active_children() == [] or all(each.is_alive() for each in context.active_children())


def test_what_programs_catch_is_there_on_every_backend(context: Any) -> None:
    for name in ("ProcessError", "BufferTooShort", "TimeoutError", "AuthenticationError"):
        assert getattr(context, name) is getattr(multiprocessing, name)
    assert context.freeze_support() is None
    assert context.get_logger() is multiprocessing.get_logger()


@pytest.mark.parametrize("backend", NAMES)
def test_an_executors_context_is_that_of_its_backend(backend: str) -> None:
    with taskrun.Executor(backend, max_workers=1) as ex:
        assert ex.context is ex.context
        assert type(ex.context) is type(context_of(backend))
        assert ex.context.backend_name == backend
        assert backend in repr(ex.context)


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_a_start_method_is_the_contexts_too(method: str) -> None:
    context = taskrun.get_context("process", start_method=method)
    assert context.get_start_method() == method
    assert context.Lock()._semlock.name is not None, "no running worker could find it"
    assert pickle.loads(pickle.dumps(context)).get_start_method() == method


def test_the_context_of_an_unknown_backend_is_the_same_error_as_its_executor() -> None:
    with pytest.raises(taskrun.UnknownBackendError, match="thread"):
        taskrun.get_context("threat")


def test_the_context_of_no_backend_is_that_of_the_configured_one() -> None:
    with taskrun.using(backend="thread"):
        assert taskrun.get_context().backend_name == "thread"
    with taskrun.using(backend="process"):
        assert taskrun.get_context().get_start_method() == "forkserver"


MADE = (
    *("Process", "Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event", "Barrier", "Queue", "JoinableQueue"),
    *("SimpleQueue", "Pipe", "Value", "Array", "RawValue", "RawArray", "Manager", "BaseManager", "Pool"),
    *("cpu_count", "current_process", "active_children"),
)


@pytest.mark.parametrize("backend", NAMES)
def test_what_a_context_makes_depends_on_whether_tasks_run_in_other_processes(backend: str) -> None:
    context = context_of(backend)
    like = context_of("fork" if backend == "fork" else "process" if backend in BETWEEN_PROCESSES else "thread")
    assert type(context) is type(like)
    for name in MADE:
        one, other = getattr(context, name), getattr(like, name)
        assert getattr(one, "__func__", one) == getattr(other, "__func__", other)
    assert not set(MADE) - set(dir(context))


@pytest.mark.parametrize("kind", ["thread", "dummy"])
def test_what_a_thread_has_otherwise(kind: str) -> None:
    """As docs/how-to/from-multiprocessing.md says."""
    context = taskrun.get_context(kind)
    assert not hasattr(context.current_process(), "pid")
    process = context.Process(target=int)
    process.start()
    process.join(PATIENCE)
    process.close()
    assert (process.is_alive(), process.exitcode) == (False, 0)
