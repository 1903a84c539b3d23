"""How pools begin and end: arguments, workers, `close`, `terminate`, `join`, `with`; pools that are dropped or inherited."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import threading
import time
import warnings
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pool_jobs as jobs
import pytest
from pool_jobs import PATIENCE, Gate

import taskrun
from taskrun.pool_results import AsyncResult, IMapIterator

if TYPE_CHECKING:
    from pathlib import Path

# -- making --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [0, -1])
def test_there_is_at_least_one_worker(make: Any, kind: str, processes: int) -> None:
    with pytest.raises(ValueError, match="Number of processes must be at least 1"):
        make(kind, processes)


def test_the_number_of_workers_is_a_whole_number(make: Any, kind: str) -> None:
    for wrong in ("3", 2.5):
        with pytest.raises(TypeError):
            make(kind, wrong)
    pool = make(kind, 3)
    assert pool._processes == 3


@pytest.mark.parametrize("wrong", [0, -1, 0.5, "12"])
def test_a_limit_of_tasks_is_a_positive_whole_number(backend: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match="maxtasksperchild must be a positive int or None"):
        taskrun.Pool(3, maxtasksperchild=wrong, backend=backend)
    with pytest.raises(ValueError, match="maxtasksperchild must be a positive int or None"):
        multiprocessing.Pool(3, maxtasksperchild=wrong)


def test_the_initializer_is_a_callable(make: Any, kind: str) -> None:
    with pytest.raises(TypeError, match="initializer must be a callable"):
        make(kind, 2, "prepare")


def test_a_pool_that_was_refused_its_arguments_is_dropped_in_silence() -> None:
    wrong: dict[str, Any] = {"workers": 3}
    with pytest.raises(TypeError, match="workers"):
        taskrun.Pool(**wrong)
    gc.collect()  # pytest fails on what `__del__` raises


def test_arguments_may_be_given_by_position_as_for_the_original(backend: str) -> None:
    with taskrun.Pool(1, jobs.prepare, [1, 2], 10, None, backend=backend) as pool:
        assert pool.apply(jobs.prepared)[-2:] == [1, 2]
    jobs.READY.clear()


def test_an_initializer_that_fails_is_a_clear_error(make: Any, backend: str) -> None:
    pool = make(backend, 1, jobs.refuse)
    with pytest.raises(taskrun.InitializerError, match="no licence"):
        pool.apply(jobs.square, (2,))


def test_workers_are_replaced_after_so_many_tasks(make: Any, backend: str) -> None:
    pool = make(backend, 1, maxtasksperchild=2)
    if not pool._executor.capabilities.recycle_by_count:
        assert pool.map(jobs.square, range(6)) == [0, 1, 4, 9, 16, 25]
        return
    ids = [pool.apply(jobs.process_id if pool._executor.capabilities.processes else jobs.thread_id) for _ in range(6)]
    if pool._executor.capabilities.processes:
        assert [ids[0] == ids[1], ids[2] == ids[3], len(set(ids))] == [True, True, 3]
    results = [pool.apply_async(jobs.square, (n,)) for n in range(6)]
    pool.close()
    pool.join()
    assert [result.get(0) for result in results] == [n * n for n in range(6)]


def test_without_a_backend_the_configured_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKRUN_BACKEND", "dummy")
    monkeypatch.setenv("TASKRUN_MAX_WORKERS", "3")
    with taskrun.Pool() as pool:
        assert repr(pool) == "<taskrun.pool.Pool state=RUN pool_size=3 backend='dummy'>"
    with taskrun.using(backend="thread"), taskrun.Pool(2) as pool:
        assert repr(pool) == "<taskrun.pool.Pool state=RUN pool_size=2 backend='thread'>"
    assert repr(pool) == "<taskrun.pool.Pool state=TERMINATE pool_size=2 backend='thread'>"


@pytest.mark.parametrize("backend", ["process", "pool"])
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_context_of_multiprocessing_chooses_the_start_method(backend: str, method: Any) -> None:
    with taskrun.Pool(1, context=multiprocessing.get_context(method), backend=backend) as pool:
        assert pool.apply(jobs.process_id) != os.getpid()
        settings = pool._executor._scheduler.settings
        assert settings.backend_options["mp_context"].get_start_method() == method


def test_a_start_method_means_nothing_to_threads_which_is_told() -> None:
    with pytest.warns(taskrun.UnsupportedOptionWarning, match="mp_context"):
        pool = taskrun.Pool(1, context=multiprocessing.get_context("spawn"), backend="thread")
    pool.terminate()
    with pytest.raises(taskrun.ConfigError, match="not a multiprocessing context"):
        taskrun.Pool(1, context=5, backend="process")


def test_a_context_of_taskrun_names_the_backend() -> None:
    class Context:
        backend_name = "dummy"

    with taskrun.Pool(1, context=Context()) as pool:
        assert pool._executor.backend_name == "dummy"
    with taskrun.Pool(1, context=Context(), backend="serial") as pool:
        assert pool._executor.backend_name == "serial"


def test_a_pool_over_an_executor_of_the_users() -> None:
    with ThreadPoolExecutor(2) as executor:
        with taskrun.Pool(2, backend=executor) as pool:
            assert pool.map(jobs.square, range(10)) == [n * n for n in range(10)]
            called: list[int] = []
            assert pool.apply_async(jobs.square, (3,), callback=called.append).get(PATIENCE) == 9
            assert called == [9]
        assert executor.submit(jobs.square, 2).result(PATIENCE) == 4


@pytest.mark.parametrize("chunksize", [0, -1])
def test_chunks_have_at_least_one_item(make: Any, kind: str, chunksize: int) -> None:
    pool = make(kind)
    for imap in (pool.imap, pool.imap_unordered):
        with pytest.raises(ValueError, match=r"Chunksize must be 1\+, not"):
            imap(jobs.square, [1], chunksize)
    assert pool.map(jobs.square, [], chunksize) == []
    if kind != "original":  # which returns a list of None
        with pytest.raises(ValueError, match=r"Chunksize must be 1\+, not"):
            pool.map(jobs.square, [1], chunksize)


# -- ending --------------------------------------------------------------------------------------------------------------------


def calls(pool: Any) -> list[Any]:
    return [
        lambda: pool.apply(jobs.square, (1,)),
        lambda: pool.apply_async(jobs.square, (1,)),
        lambda: pool.map(jobs.square, [1]),
        lambda: pool.map_async(jobs.square, [1]),
        lambda: pool.starmap(jobs.square, [(1,)]),
        lambda: pool.starmap_async(jobs.square, [(1,)]),
        lambda: pool.imap(jobs.square, [1]),
        lambda: pool.imap_unordered(jobs.square, [1]),
        pool.__enter__,
    ]


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_nothing_is_taken_any_more_after_the_end(make: Any, kind: str, end: str) -> None:
    pool = make(kind)
    getattr(pool, end)()
    for call in calls(pool):
        with pytest.raises(ValueError, match="Pool not running"):
            call()
    getattr(pool, end)()
    pool.close()
    pool.join()
    pool.join()


def test_join_is_refused_while_the_pool_runs(make: Any, kind: str) -> None:
    with pytest.raises(ValueError, match="Pool is still running"):
        make(kind).join()


def test_close_and_join_wait_for_everything_and_for_callbacks(make: Any, kind: str) -> None:
    pool = make(kind)
    called: list[Any] = []

    def slow(value: Any) -> None:
        time.sleep(0.01)
        called.append(value)

    results = [pool.apply_async(jobs.square, (n, 0.01), callback=slow) for n in range(6)]
    mapped = pool.map_async(jobs.square, range(10), callback=slow)
    pool.close()
    pool.join()
    assert sorted(value for value in called if isinstance(value, int)) == [n * n for n in range(6)]
    assert [value for value in called if isinstance(value, list)] == [[n * n for n in range(10)]]
    assert all(result.ready() for result in [*results, mapped])


def test_with_gives_the_pool_and_terminates_it(make: Any, kind: str, tmp_path: Path) -> None:
    gate = Gate(kind, tmp_path)
    with make(kind) as pool:
        assert pool.map(jobs.square, range(10)) == [n * n for n in range(10)]
        if kind == "original":
            gate.open()  # its threads have to come to their end
        held = pool.apply_async(*gate.task)
    if kind not in ("original", "serial"):
        with pytest.raises(CancelledError):
            held.get(PATIENCE)
    pool.join()
    gate.open()
    with pytest.raises(ValueError, match="Pool not running"), pool:
        pass


def test_terminate_ends_what_runs_and_what_waits(make: Any, concurrent_backend: str, tmp_path: Path) -> None:
    pool, gate = make(concurrent_backend), Gate(concurrent_backend, tmp_path)
    called: list[Any] = []
    held = pool.apply_async(*gate.task, error_callback=called.append)
    jobs.until(gate.started.exists)
    mapped = pool.starmap_async(gate.task[0], [gate.task[1]] * 10_000, chunksize=1, error_callback=called.append)
    iterated = pool.imap(jobs.square, [1] * 10_000)
    begun = time.monotonic()
    pool.terminate()
    pool.join()
    assert time.monotonic() - begun < 10
    for ask in (held.get, mapped.get, lambda timeout: iterated.next(timeout)):
        with pytest.raises(CancelledError):
            ask(PATIENCE)
    jobs.until(lambda: len(called) == 2)
    assert all(isinstance(error, CancelledError) for error in called)
    gate.open()


def test_an_error_callback_may_terminate_the_pool(make: Any, kind: str) -> None:
    pool = make(kind)
    terminated = threading.Event()

    def end(error: BaseException) -> None:
        if not terminated.is_set():
            pool.terminate()
            terminated.set()

    pool.apply_async(jobs.odd_fails, (1,), error_callback=end)
    assert terminated.wait(PATIENCE)
    with pytest.raises(ValueError, match="Pool not running"):
        pool.apply(jobs.square, (1,))
    pool.join()


def test_a_callback_may_close_the_pool(make: Any, kind: str) -> None:
    pool = make(kind)
    result = pool.apply_async(jobs.square, (2,), callback=lambda _: pool.close())
    assert result.get(PATIENCE) == 4
    pool.join()


def test_join_in_a_callback_or_a_task_is_refused(make: Any, backend: str) -> None:
    pool = make(backend)
    errors: list[Any] = []

    def join(_: object = None) -> None:
        try:
            pool.join()
        except Exception as error:
            errors.append(error)

    def close(value: object) -> None:
        pool.close()
        join()

    pool.apply_async(jobs.square, (2,), callback=close).wait(PATIENCE)
    pool.join()
    assert [type(error) for error in errors] == [RuntimeError]


# -- dropping, pickling, forking -----------------------------------------------------------------------------------------------


def test_a_pool_dropped_while_it_runs_warns_and_ends(backend: str) -> None:
    pool = taskrun.Pool(1, backend=backend)
    result = pool.apply_async(jobs.square, (3,))
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool <taskrun.pool.Pool state=RUN"):
        del pool
    assert result.get(PATIENCE) == 9


def test_a_pool_that_was_ended_is_dropped_in_silence(backend: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for end in ("close", "terminate"):
            pool = taskrun.Pool(1, backend=backend)
            getattr(pool, end)()
            del pool
            gc.collect()
        with pytest.raises(ValueError, match="at least 1"):
            taskrun.Pool(0, backend=backend)
        gc.collect()


def test_a_pool_is_neither_pickled_nor_copied(make: Any, kind: str) -> None:
    pool = make(kind)
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(NotImplementedError, match="pool objects cannot be passed between processes or pickled"):
            attempt(pool)


def test_a_pool_stays_in_the_process_that_made_it(make: Any, concurrent_backend: str) -> None:
    if not hasattr(os, "fork") or concurrent_backend == "interpreter":
        pytest.skip("no fork")
    pool = make(concurrent_backend)
    assert pool.apply(jobs.square, (2,)) == 4
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a fork beside threads
        pid = os.fork()
    if pid == 0:
        try:
            pool.apply(jobs.square, (2,))
        except BaseException as error:
            os.write(writing, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as told:
        assert told.read() == b"RuntimeError"
    os.waitpid(pid, 0)
    assert pool.apply(jobs.square, (3,)) == 9


def test_the_results_are_generic() -> None:
    assert AsyncResult[int].__origin__ is AsyncResult
    assert IMapIterator[int].__origin__ is IMapIterator
