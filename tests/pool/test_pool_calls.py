"""`apply`, `apply_async` and their results, as `multiprocessing.Pool` has them."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import threading
import time
from multiprocessing.pool import MaybeEncodingError
from typing import TYPE_CHECKING, Any

import pool_jobs as jobs
import pytest
from pool_jobs import PATIENCE, Gate

import taskrun

if TYPE_CHECKING:
    from pathlib import Path


def test_apply_returns_the_value(make: Any, kind: str) -> None:
    pool = make(kind)
    assert pool.apply(jobs.square, (5,)) == 25
    assert pool.apply(jobs.square, [5]) == 25
    assert pool.apply(jobs.square, (), {"x": 3}) == 9
    assert pool.apply(jobs.keywords, (1,), {"callback": 2, "args": 3}) == ((1,), {"callback": 2, "args": 3})


def test_apply_raises_what_the_function_raised(make: Any, kind: str) -> None:
    with pytest.raises(KeyError, match="1"):
        make(kind).apply(jobs.odd_fails, (1,))


@pytest.mark.parametrize(("args", "kwds"), [(5, {}), ((5,), 5), ((5,), None)])
def test_arguments_that_cannot_be_unpacked_are_the_results_error(make: Any, kind: str, args: Any, kwds: Any) -> None:
    failed: list[Any] = []
    result = make(kind).apply_async(jobs.square, args, kwds, error_callback=failed.append)
    with pytest.raises(TypeError):
        result.get(PATIENCE)
    assert [type(error) for error in failed] == [TypeError]


def test_what_cannot_be_called_is_the_results_error(make: Any, kind: str) -> None:
    with pytest.raises(TypeError, match="not callable"):
        make(kind).apply_async(5).get(PATIENCE)


def test_a_result_is_ready_then_successful_or_not(make: Any, concurrent: str, tmp_path: Path) -> None:
    pool, gate = make(concurrent), Gate(concurrent, tmp_path)
    held, failing = pool.apply_async(*gate.task), pool.apply_async(jobs.odd_fails, (1,))
    assert not held.ready()
    with pytest.raises(ValueError, match="not ready"):
        held.successful()
    gate.open()
    assert held.wait(PATIENCE) is None
    failing.wait(PATIENCE)
    assert [held.ready(), held.successful(), failing.ready(), failing.successful()] == [True, True, True, False]
    assert [held.get(0), held.get()] == ["went on"] * 2
    for _ in range(2):
        with pytest.raises(KeyError):
            failing.get(0)


def test_get_and_wait_end_with_their_timeout(make: Any, concurrent: str, tmp_path: Path) -> None:
    pool, gate = make(concurrent), Gate(concurrent, tmp_path)
    result = pool.apply_async(*gate.task)
    for timeout in (0.2, 0, -1):
        begun = time.monotonic()
        with pytest.raises(multiprocessing.TimeoutError) as caught:
            result.get(timeout)
        assert caught.type is multiprocessing.TimeoutError
        result.wait(timeout)
        assert 2 * max(timeout, 0) <= time.monotonic() - begun < 2 * max(timeout, 0) + 4
    gate.open()
    assert result.get(PATIENCE) == "went on"


def test_a_tasks_own_timeout_error_is_not_that_of_get(make: Any, kind: str) -> None:
    def late() -> None:
        raise TimeoutError("of the task")

    with pytest.raises(TimeoutError, match="of the task") as caught:
        make(kind).apply_async(late).get(PATIENCE)
    assert not isinstance(caught.value, multiprocessing.TimeoutError)


def test_a_callback_has_run_when_the_result_is_there(make: Any, kind: str) -> None:
    pool = make(kind)
    for number in range(20):
        called: list[Any] = []

        def slow(value: Any, called: list[Any] = called) -> None:
            time.sleep(0.002)
            called.append((value, os.getpid()))

        assert pool.apply_async(jobs.square, (number,), callback=slow).get(PATIENCE) == number * number
        assert called == [(number * number, os.getpid())]
        result = pool.apply_async(jobs.fail_for, ((number,), number), callback=slow, error_callback=slow)
        result.wait(PATIENCE)
        assert result.ready()
        assert type(called[1][0]) is KeyError


def test_callbacks_run_one_at_a_time_in_order_and_not_in_the_thread_that_submits(make: Any, concurrent: str) -> None:
    pool = make(concurrent, 1)
    seen: list[int] = []
    threads: set[int] = set()
    busy = threading.Lock()

    def callback(value: int) -> None:
        assert busy.acquire(blocking=False)
        threads.add(threading.get_ident())
        time.sleep(0.001)
        seen.append(value)
        busy.release()

    held = threading.Lock()
    with held:  # a callback that ran in this thread would wait for itself

        def locked(value: int) -> None:
            with held:
                callback(value)

        results = [pool.apply_async(jobs.identity, (n,), callback=locked) for n in range(50)]
        time.sleep(0.05)
    for result in results:
        result.wait(PATIENCE)
    assert seen == list(range(50))
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


def test_a_callback_that_raises_is_logged_and_hurts_nothing(make: Any, backend: str, caplog: pytest.LogCaptureFixture) -> None:
    def broken(value: Any) -> None:
        raise ArithmeticError(f"for {value!r}")

    pool, later = make(backend), []
    first = pool.apply_async(jobs.square, (2,), callback=broken)
    second = pool.apply_async(jobs.odd_fails, (1,), error_callback=broken)
    third = pool.map_async(jobs.square, [3], callback=broken)
    fourth = pool.apply_async(jobs.square, (4,), callback=later.append)
    assert [first.get(PATIENCE), third.get(PATIENCE), fourth.get(PATIENCE)] == [4, [9], 16]
    with pytest.raises(KeyError):
        second.get(PATIENCE)
    assert later == [16]
    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.name for record in told] == ["taskrun"] * 3
    assert "ArithmeticError: for 4" in caplog.text


def test_an_exit_in_a_callback_hurts_nothing(make: Any, concurrent_backend: str, caplog: pytest.LogCaptureFixture) -> None:
    def leave(_: object) -> None:
        raise SystemExit(3)

    pool = make(concurrent_backend)
    assert pool.apply_async(jobs.square, (2,), callback=leave).get(PATIENCE) == 4
    assert pool.apply_async(jobs.square, (3,), callback=[].append).get(PATIENCE) == 9
    assert "SystemExit: 3" in caplog.text


def test_a_callback_may_submit(make: Any, kind: str) -> None:
    pool = make(kind)
    found: list[Any] = []
    chained = threading.Event()

    def again(value: int) -> None:
        found.append(value)
        if len(found) < 5:
            pool.apply_async(jobs.square, (value,), callback=again)
        else:
            chained.set()

    pool.apply_async(jobs.square, (2,), callback=again)
    assert chained.wait(PATIENCE)
    assert found == [4, 16, 256, 65536, 4294967296]


def test_waiting_in_a_callback_for_what_it_holds_up_is_an_error(make: Any, concurrent_backend: str, tmp_path: Path) -> None:
    pool, gate = make(concurrent_backend), Gate(concurrent_backend, tmp_path)
    held = pool.apply_async(*gate.task)
    errors: list[Any] = []

    def wait(_: object) -> None:
        for ask in (held.get, pool.join):
            try:
                ask()
            except Exception as error:
                errors.append(error)
        gate.open()

    pool.apply_async(jobs.square, (1,), callback=wait).get(PATIENCE)
    assert [type(error) for error in errors] == [RuntimeError, ValueError]
    assert "callback" in str(errors[0])


def test_a_result_that_does_not_pickle_is_a_maybe_encoding_error(make: Any, backend: str) -> None:
    pool = make(backend)
    if pool._executor.capabilities.pickles not in ("yes", "results"):
        assert isinstance(pool.apply(jobs.make_stuck), jobs.Stuck)
        return
    for _ in range(5):
        failed: list[Any] = []
        result = pool.apply_async(jobs.make_stuck, error_callback=failed.append)
        with pytest.raises(MaybeEncodingError, match=r"Error sending result: .*make_stuck.*Reason: .*cannot pickle") as caught:
            result.get(PATIENCE)
        assert failed == [caught.value]
        assert failed[0].exc
        assert failed[0].value
    with pytest.raises(MaybeEncodingError):
        pool.apply_async(jobs.make_stuck).get(PATIENCE)
    with pytest.raises(MaybeEncodingError):
        pool.map(jobs.make_stuck, [1])
    with pytest.raises(MaybeEncodingError):
        next(pool.imap(jobs.make_stuck, [1]))


def test_an_error_that_does_not_pickle_is_still_caught_by_its_base(make: Any, backend: str) -> None:
    with pytest.raises(ValueError, match="stuck"):
        make(backend).apply(jobs.raise_stuck)


def test_an_argument_that_does_not_pickle_raises_what_its_pickling_raised(make: Any, backend: str) -> None:
    pool = make(backend)
    stuck = jobs.Stuck()
    result = pool.apply_async(jobs.identity, (stuck,))
    if pool._executor.capabilities.pickles != "yes":
        if backend == "fork":  # the argument is inherited, the result is pickled
            with pytest.raises(MaybeEncodingError):
                result.get(PATIENCE)
        else:
            assert result.get(PATIENCE) is stuck
        return
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"^cannot pickle") as caught:
            result.get(PATIENCE)
        ours = [note for note in caught.value.__notes__ if "argument 0" in note]  # since 3.14 pickle has notes of its own
        assert len(ours) == 1
    with pytest.raises(RuntimeError, match=r"^cannot pickle"):
        pool.map(jobs.identity, [stuck] * 10)


def test_an_error_tells_where_in_the_task_it_was_raised(make: Any, backend: str) -> None:
    import traceback

    with pytest.raises(KeyError) as caught:
        make(backend).apply(jobs.odd_fails, (1,))
    assert "raise KeyError(item)" in "".join(traceback.format_exception(caught.value))


def test_an_exit_of_a_task_comes_back(make: Any, backend: str) -> None:
    pool = make(backend)
    with pytest.raises(SystemExit) as caught:
        pool.apply(jobs.leave, (3,))
    assert caught.value.code == 3
    assert pool.apply(jobs.square, (2,)) == 4


def test_nothing_is_kept_of_a_call_that_is_over(make: Any, kind: str) -> None:
    import gc
    import weakref

    class Thing:
        pass

    pool, thing = make(kind), Thing()
    gone = weakref.ref(thing)
    callback = Thing()
    callback_gone = weakref.ref(callback)
    pool.apply_async(jobs.identity, (thing,), callback=lambda _, kept=callback: None).get(PATIENCE)
    pool.map(jobs.identity, [thing])
    list(pool.imap(jobs.identity, iter([thing])))
    del thing, callback
    jobs.until(lambda: (gc.collect(), gone() is None and callback_gone() is None)[1])


def test_coroutine_functions_are_awaited(make: Any, backend: str) -> None:
    pool = make(backend)
    assert pool.apply(jobs.awaited, (1,)) == 2
    assert pool.map(jobs.awaited, [1, 2]) == [2, 3]
    assert list(pool.imap(jobs.awaited, [1, 2])) == [2, 3]


def test_a_result_does_not_pickle(make: Any, backend: str) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(make(backend).apply_async(jobs.square, (1,)))


def test_a_killed_worker_fails_its_own_task_only(make: Any, backend: str) -> None:
    pool = make(backend)
    if not pool._executor.capabilities.crash_isolation:
        pytest.skip(f"a worker of {backend} cannot die alone")
    failed: list[Any] = []
    results = [pool.apply_async(jobs.die, (n,), error_callback=failed.append) for n in range(8)]
    assert [result.get(PATIENCE) for n, result in enumerate(results) if n != 3] == [0, 1, 2, 4, 5, 6, 7]
    with pytest.raises(taskrun.WorkerCrashedError):
        results[3].get(PATIENCE)
    assert [type(error) for error in failed] == [taskrun.WorkerCrashedError]
    with pytest.raises(taskrun.WorkerCrashedError):
        pool.map(jobs.die, range(8))
    iterator, seen = pool.imap(jobs.die, range(8)), []
    for _ in range(8):
        try:
            seen.append(iterator.next(PATIENCE))
        except taskrun.WorkerCrashedError:
            seen.append("crashed")
    assert seen == [0, 1, 2, "crashed", 4, 5, 6, 7]
    pool.close()
    pool.join()


@pytest.mark.parametrize("error", [SystemExit, GeneratorExit, ValueError])
def test_a_callback_that_raises_anything_is_told_of_and_hurts_nothing(
    make: Any, backend: str, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: object) -> None:
        raise error

    pool = make(backend)
    assert pool.apply_async(jobs.square, (3,), callback=refuse).get(PATIENCE) == 9
    with pytest.raises(ZeroDivisionError):
        pool.apply_async(divmod, (1, 0), error_callback=refuse).get(PATIENCE)
    assert pool.apply(jobs.square, (4,)) == 16
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [error, error]
