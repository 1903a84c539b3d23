"""How locks, queues and connections get to workers: in whatever they are, once each, with their descriptors."""

from __future__ import annotations

import functools
import gc
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import primitive_jobs as jobs
import pytest
from patience import PATIENCE

import taskrun
from taskrun import primitives
from taskrun.engine.channel import MAX_AHEAD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

given: ContextVar[Any] = ContextVar("given")


@pytest.fixture(scope="module", params=["process", "pool"])
def ex(request: pytest.FixtureRequest) -> Iterator[taskrun.Executor]:
    with taskrun.Executor(request.param, max_workers=1) as executor:
        executor.submit(time.sleep, 0).result(PATIENCE)
        yield executor


@pytest.fixture
def q(ex: taskrun.Executor) -> Iterator[list[Any]]:
    """A queue, in a list that loses it at the end."""
    made = [ex.context.Queue()]
    yield made
    made.pop().close()
    gc.collect()


# -- wherever they are ---------------------------------------------------------------------------------------------------------


def test_in_containers_objects_and_partials_it_is_one_lock(ex: taskrun.Executor) -> None:
    lock = ex.context.Lock()
    nested = [lock, (lock, {"key": lock}), [[lock]], jobs.Holder(lock), functools.partial(print, lock)]
    assert ex.submit(jobs.same_lock, nested, lock).result(PATIENCE)
    assert ex.submit(functools.partial(jobs.same_lock, lock, [lock])).result(PATIENCE)
    assert list(ex.map(jobs.same_lock, [lock] * 20)) == [True] * 20


def test_in_what_is_shared(ex: taskrun.Executor, q: list[Any]) -> None:
    shared = taskrun.shared({"q": q[0]})
    for item in range(3):
        ex.submit(jobs.put_shared, shared, item).result(PATIENCE)
    assert [q[0].get(timeout=PATIENCE) for _ in range(3)] == [0, 1, 2]


def test_it_is_there_at_the_second_attempt_too(ex: taskrun.Executor, q: list[Any]) -> None:
    counter = ex.context.Value("i")
    policy = taskrun.Retry(max_attempts=2, on=OSError, wait="none")
    assert ex.options(retry=policy).submit(jobs.fail_once, q[0], counter).result(PATIENCE) == "done"
    assert q[0].get(timeout=PATIENCE) == "again"


@pytest.mark.parametrize("inner", ["process", "pool", "fork", "thread"])
def test_a_task_gives_it_to_tasks_of_its_own(ex: taskrun.Executor, q: list[Any], inner: str) -> None:
    lock, value = ex.context.Lock(), ex.context.RawValue("i")
    ex.submit(jobs.nested, inner, lock, value, q[0]).result(PATIENCE)
    assert q[0].get(timeout=PATIENCE) == inner
    assert value.value == 2


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_by_every_start_method_and_as_initargs_and_context_variable(method: str) -> None:
    context = taskrun.get_context("process", start_method=method)
    made, lock = context.SimpleQueue(), context.Lock()
    token = given.set(made)

    def put_what_was_given(lock: Any) -> None:
        with lock:
            given.get().put("from a variable")

    try:
        with taskrun.Executor(
            "process",
            max_workers=1,
            start_method=method,
            initializer=jobs.put,
            initargs=(made, "from initargs"),
            context_vars=[given],
        ) as ex:
            ex.submit(put_what_was_given, lock).result(PATIENCE)
    finally:
        given.reset(token)
    assert [made.get() for _ in range(2)] == ["from initargs", "from a variable"]
    made.close()


MAIN = """
import taskrun
ex = taskrun.Executor({backend!r}, max_workers=1)
q, lock = ex.context.Queue(), ex.context.RLock()
def f(item):
    with lock, lock:
        q.put(item)
for item in range(3):
    ex.submit(f, item).result(20)
print([q.get(timeout=20) for _ in range(3)])
ex.shutdown()
"""


@pytest.mark.parametrize("backend", ["process", "pool", "fork"])
def test_as_globals_of_a_function_of_main(backend: str) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "error", "-c", MAIN.format(backend=backend)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=50)
    assert (done.stdout, done.stderr) == ("[0, 1, 2]\n", "")


def test_a_structure_may_have_fields_with_names_of_multiprocessings(ex: taskrun.Executor) -> None:
    point = ex.context.Value(jobs.Point, 1, 0)
    assert len({ex.submit(jobs.move, point, number).result(PATIENCE) for number in range(3)}) == 1, "made anew each time"
    assert point.x == 3
    alone = jobs.Point(5, 6)  # not in shared memory, though its class is known to multiprocessing: it is copied
    assert ex.submit(getattr, alone, "x").result(PATIENCE) == 6


# -- once each, and no descriptor left -----------------------------------------------------------------------------------------


def test_no_descriptor_is_left_when_many_connections_were_passed(ex: taskrun.Executor) -> None:
    reader, writer = ex.context.Pipe(duplex=False)
    sockets = socket.socketpair()
    for end in (writer, sockets[0]):
        for _ in range(2):
            ex.submit(jobs.descriptors, end).result(PATIENCE)
    here, there = jobs.descriptors(), ex.submit(jobs.descriptors).result(PATIENCE)
    number = 500 if ex.backend_name == "process" else 100
    for future in [ex.submit(jobs.descriptors, writer, [sockets[0]]) for _ in range(number)]:
        assert future.result(PATIENCE) <= there + 2 * MAX_AHEAD  # of those that wait
    ex.submit(jobs.descriptors).result(PATIENCE)
    gc.collect()
    assert (jobs.descriptors(), ex.submit(jobs.descriptors).result(PATIENCE)) == (here, there)
    for end in (reader, writer, *sockets):
        end.close()


def test_what_the_parent_let_go_the_worker_lets_go(ex: taskrun.Executor) -> None:
    before = ex.submit(jobs.descriptors).result(PATIENCE)
    for _ in range(20):
        made = ex.context.SimpleQueue()
        ex.submit(jobs.put, made, 1).result(PATIENCE)
        made.close()
        del made
    gc.collect()
    for _ in range(2):
        left = ex.submit(jobs.descriptors).result(PATIENCE)
    assert left <= before + 4


def test_a_task_gives_back_what_it_was_given_and_nothing_that_it_has_made(ex: taskrun.Executor) -> None:
    lock = ex.context.Lock()
    assert ex.submit(list, [lock]).result(PATIENCE) == [lock]
    error = ex.submit(jobs.make_lock).exception(PATIENCE)
    assert isinstance(error, taskrun.SerializationError)
    assert "cannot return one that it has made" in str(error)
    assert "ex.context" in str(error)
    assert ex.submit(abs, -1).result(PATIENCE) == 1


@pytest.mark.parametrize("backend", ["process", "pool", "fork"])
def test_connections_do_not_come_back_nor_does_anything_of_the_kind_from_fork(backend: str) -> None:
    """As docs/how-to/from-multiprocessing.md says."""
    with taskrun.Executor(backend, max_workers=1) as ex:
        here, there = ex.context.Pipe()
        given = [there, *([ex.context.Lock(), ex.context.Queue()] if backend == "fork" else [])]
        for one in given:
            assert isinstance(ex.submit(list, [one]).exception(PATIENCE), taskrun.SerializationError)
        here.close()
        there.close()


# -- what cannot be passed -----------------------------------------------------------------------------------------------------


def closed_connection() -> Any:
    a, b = multiprocessing.Pipe()
    a.close()
    b.close()
    return a


def closed_socket() -> Any:
    made = socket.socket()
    made.close()
    return made


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (multiprocessing.get_context("fork").Lock, ["argument 1", "Lock", "ex.context"]),
        (multiprocessing.get_context("fork").RLock, ["argument 1", "RLock", "ex.context"]),
        (multiprocessing.get_context("fork").Event, ["argument 1", "Event", "ex.context"]),
        (lambda: multiprocessing.get_context("fork").Value("i"), ["argument 1", "Synchronized", "ex.context"]),
        (taskrun.get_context("thread").Lock, ["argument 1", "ThreadLock", "ex.context"]),
        (taskrun.get_context("thread").Queue, ["argument 1", "ThreadQueue", "ex.context"]),
        (lambda: taskrun.get_context("thread").Pipe()[0], ["argument 1", "ThreadConnection", "ex.context"]),
        (lambda: taskrun.get_context("process").Lock().acquire, ["argument 1", "method 'acquire'", "pass the lock itself"]),
        (closed_connection, ["argument 1", "Connection", "handle is closed", "open until the task has it"]),
        (closed_socket, ["argument 1", "socket", "open until the task has it"]),
    ],
)
def test_the_error_names_the_argument_and_what_to_do(ex: taskrun.Executor, make: Callable[[], Any], told: list[str]) -> None:
    error = ex.submit(print, 0, make()).exception(PATIENCE)
    assert isinstance(error, taskrun.SerializationError)
    assert all(text in str(error) for text in told), str(error)
    assert ex.submit(abs, -1).result(PATIENCE) == 1


def test_nothing_is_pickled_to_a_file(ex: taskrun.Executor) -> None:
    from taskrun.serialization import dump_downward

    with pytest.raises(RuntimeError, match="inheritance"):
        dump_downward(ex.context.Lock())
    assert not primitives._inside_of_another()


# -- trouble on the way --------------------------------------------------------------------------------------------------------


def test_a_worker_out_of_descriptors_says_so_and_recovers(ex: taskrun.Executor) -> None:
    pipes = [ex.context.Pipe(duplex=False) for _ in range(20)]
    for i, (_, writer) in enumerate(pipes):
        writer.send(i)
    readers = [reader for reader, _ in pipes]
    ex.submit(jobs.limit, 2).result(PATIENCE)
    error = ex.submit(jobs.read_all, readers).exception(PATIENCE)
    assert isinstance(error, taskrun.SerializationError), repr(error)
    assert "no descriptors left" in str(error) or "Too many open files" in str(error)
    ex.submit(jobs.limit, None).result(PATIENCE)
    assert ex.submit(jobs.read_all, readers).result(PATIENCE) == list(range(20))
    for end in (each for pipe in pipes for each in pipe):
        end.close()


def test_descriptors_arrive_with_what_they_belong_to_behind_megabytes_that_wait() -> None:
    with taskrun.Executor("process", max_workers=1) as ex:
        event, ends = ex.context.Event(), [ex.context.Pipe(duplex=False) for _ in range(4)]
        busy = ex.submit(jobs.wait, event)
        blocks = [taskrun.shared(bytes(4_000_000)) for _ in range(3)]
        reading = []
        for i, (reader, writer) in enumerate(ends):
            writer.send(i)
            reading.append(ex.submit(len, blocks[i % 3]))
            reading.append(ex.submit(jobs.read, reader))
            reading.append(ex.submit(jobs.read_all, []))
        event.set()
        assert busy.result(PATIENCE)
        assert [future.result(PATIENCE) for future in reading] == [found for i in range(4) for found in (4_000_000, i, [])]
        for reader, writer in ends:
            reader.close()
            writer.close()


@pytest.mark.parametrize("backend", ["process", "pool"])
def test_a_worker_that_dies_with_descriptors_on_their_way_leaves_none_and_its_successor_gets_them(backend: str) -> None:
    with taskrun.Executor(backend, max_workers=1) as ex:
        reader, writer = ex.context.Pipe(duplex=False)
        ex.submit(time.sleep, 0).result(PATIENCE)
        before = jobs.descriptors()
        for i in range(3):
            writer.send(i)
            dying = ex.submit(jobs.die, reader)
            futures = [ex.submit(jobs.descriptors, reader) for _ in range(20)]
            reading = ex.submit(jobs.read, reader)
            assert isinstance(dying.exception(PATIENCE), taskrun.WorkerCrashedError)
            assert all(future.result(PATIENCE) for future in futures)
            assert reading.result(PATIENCE) == i
        gc.collect()
        assert jobs.descriptors() <= before + 1
        reader.close()
        writer.close()
