"""The contract of `concurrent.futures.Executor`, to the letter: submitting, workers, what is kept alive, who else relies on it.

The standard library's ThreadPoolExecutor takes part, which proves that a test asks for what it does.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import os
import pickle
import threading
import traceback
import weakref
from concurrent import futures as standard
from typing import TYPE_CHECKING, Any

import pytest
import standard_kinds as kinds
from standard_kinds import (
    CONCURRENT,
    ELSEWHERE,
    EVERYWHERE,
    OURS,
    PATIENCE,
    PICKLING,
    THREADS,
    Gate,
    Thing,
    no_collector,
    until,
)

import taskrun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

everywhere = pytest.mark.parametrize("kind", EVERYWHERE)
ours = pytest.mark.parametrize("kind", OURS)


@pytest.fixture
def make() -> Iterator[Callable[..., Any]]:
    """Make executors of a kind; at the end they are shut down."""
    made: list[Any] = []

    def executor(kind: str, **options: Any) -> Any:
        made.append(kinds.make(kind, **options))
        return made[-1]

    yield executor
    for each in made:
        each.shutdown()


class TestSubmitting:
    @everywhere
    def test_an_executor_and_its_futures_are_of_the_standard_classes(self, make: Any, kind: str) -> None:
        ex = make(kind)
        future = ex.submit(abs, -3)
        assert isinstance(ex, standard.Executor)
        assert isinstance(future, standard.Future)
        assert future.result(PATIENCE) == 3

    @everywhere
    @pytest.mark.parametrize(
        ("call", "value"),
        [
            ((pow, 2, 8), 256),
            (("a b".split,), ["a", "b"]),
            ((int, "5"), 5),
            ((functools.partial(divmod, 7), 4), (1, 3)),
            ((Thing().method,), "called"),
            ((lambda: 5,), 5),
        ],
        ids=["builtin", "bound", "class", "partial", "method", "lambda"],
    )
    def test_whatever_can_be_called(self, make: Any, kind: str, call: Any, value: Any) -> None:
        assert make(kind).submit(*call).result(PATIENCE) == value

    @everywhere
    def test_all_keywords_belong_to_the_task(self, make: Any, kind: str) -> None:
        ex = make(kind)
        keywords = {"self": 2, "fn": 3, "timeout": 4, "chunksize": 5, "name": 6, "priority": 7}
        assert ex.submit(kinds.capture, 1, **keywords).result(PATIENCE) == ((1,), keywords)

    @everywhere
    def test_the_function_is_given_by_position(self, make: Any, kind: str) -> None:
        ex = make(kind)
        with pytest.raises(TypeError):
            ex.submit(fn=abs)
        with pytest.raises(TypeError):
            ex.submit()

    @everywhere
    def test_what_cannot_be_called_fails_its_own_task(self, make: Any, kind: str) -> None:
        ex = make(kind)
        wrong, short, right = ex.submit(5), ex.submit(pow, 1), ex.submit(pow, 2, 3)
        assert type(wrong.exception(PATIENCE)) is type(short.exception(PATIENCE)) is TypeError
        assert "'int' object is not callable" in str(wrong.exception())
        assert right.result(PATIENCE) == 8

    @everywhere
    def test_an_exception_tells_where_in_the_task_it_was_raised(self, make: Any, kind: str) -> None:
        future = make(kind).submit(kinds.divide, 1, b=0)
        with pytest.raises(ZeroDivisionError) as caught:
            future.result(PATIENCE)
        assert caught.value is future.exception()
        text = "".join(traceback.format_exception(caught.value))
        assert "in divide" in text
        assert "return a / b" in text
        if kind in ELSEWHERE:
            assert type(caught.value.__cause__) is taskrun.RemoteTraceback
        else:
            assert caught.value.__cause__ is None

    @everywhere
    def test_a_base_exception_is_an_outcome_and_ends_no_worker(self, make: Any, kind: str) -> None:
        ex = make(kind, max_workers=1)
        before = ex.submit(kinds.process_id).result(PATIENCE)
        error = ex.submit(kinds.leave, 3).exception(PATIENCE)
        assert (type(error), error.args) == (SystemExit, (3,))
        after = ex.submit(kinds.process_id).result(PATIENCE)
        assert (after == before) is (kind != "fork")  # where each task has a process of its own

    @everywhere
    def test_a_callback_gets_the_future_in_a_thread_of_this_process(self, make: Any, kind: str) -> None:
        found: list[Any] = []
        ex = make(kind)
        future = ex.submit(abs, -3)
        future.add_done_callback(lambda f: found.append((f, f.result(0), os.getpid())))
        ex.shutdown()
        assert found == [(future, 3, os.getpid())]

    @pytest.mark.parametrize("kind", ["thread", "process", "asyncio"])
    def test_a_base_exception_in_a_callback_keeps_no_other_from_running(
        self, make: Any, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        def leave(_: object) -> None:
            raise SystemExit(3)

        ex = make(kind)
        gate = Gate(kind, tmp_path)
        seen: list[Any] = []
        future = gate.run_on(ex)
        future.add_done_callback(leave)
        future.add_done_callback(seen.append)
        gate.open()
        ex.shutdown()
        assert seen == [future]
        assert {record.name for record in caplog.records} == {"concurrent.futures"}
        assert "SystemExit: 3" in caplog.text

    @pytest.mark.parametrize("kind", CONCURRENT)
    def test_a_task_is_pending_then_running_then_done(self, make: Any, kind: str, tmp_path: Path) -> None:
        ex, gate = make(kind, max_workers=1), Gate(kind, tmp_path)
        first, second, third = gate.run_on(ex), ex.submit(abs, -1), ex.submit(abs, -2)
        assert [first.running(), first.cancel(), first.done()] == [True, False, False]
        assert [second.running(), second.done()] == [False, False]
        assert [third.cancel(), third.cancelled(), third.done(), third.running()] == [True, True, True, False]
        with pytest.raises(TimeoutError):
            second.result(0)
        gate.open()
        assert (first.result(PATIENCE), second.result(PATIENCE)) == ("went on", 1)
        assert [first.running(), first.cancel(), first.cancelled()] == [False, False, False]

    @pytest.mark.filterwarnings("ignore::taskrun.UnsafeForkWarning")  # beside the standard library's threads
    def test_futures_of_several_executors_can_be_waited_for_together(self, make: Any) -> None:
        # A process with a sub-interpreter must not fork (cpython#139759).
        kinds_here = [kind for kind in EVERYWHERE if "interpreter" not in OURS or not kind.endswith("fork")]
        futures = [make(kind).submit(abs, -number) for number, kind in enumerate(kinds_here)]
        for by in (standard, taskrun):
            assert set(by.as_completed(futures, PATIENCE)) == set(futures)
            assert by.wait(futures, PATIENCE) == (set(futures), set())
        assert [future.result() for future in futures] == list(range(len(kinds_here)))


class TestWorkers:
    @everywhere
    @pytest.mark.parametrize("number", [0, -1])
    def test_there_is_at_least_one(self, kind: str, number: int) -> None:
        with pytest.raises(ValueError, match="max_workers must be greater than 0"):
            kinds.make(kind, max_workers=number)

    @ours
    @pytest.mark.parametrize("number", ["2", 1.5, True, [2]])
    def test_their_number_is_a_whole_number(self, kind: str, number: Any) -> None:
        # The standard executors let a comparison fail, or take what compares.
        with pytest.raises(taskrun.ConfigError, match="max_workers must be an integer"):
            kinds.make(kind, max_workers=number)

    @everywhere
    def test_their_number_can_be_read(self, make: Any, kind: str) -> None:
        assert make(kind, max_workers=3)._max_workers == 3
        assert make(kind, max_workers=None)._max_workers >= 1

    @pytest.mark.parametrize("kind", THREADS)
    def test_by_default_there_are_more_threads_than_processors(self, make: Any, kind: str) -> None:
        usable = len(os.sched_getaffinity(0))
        number = make(kind, max_workers=None)._max_workers
        assert 1 + 4 <= number <= min(32, (os.cpu_count() or usable) + 4)

    @pytest.mark.parametrize("kind", THREADS)
    def test_threads_are_named_by_the_prefix_and_numbered(self, make: Any, kind: str) -> None:
        ex = make(kind, thread_name_prefix="Special")
        assert ex.submit(lambda: threading.current_thread().name).result(PATIENCE) in {"Special_0", "Special_1"}

    @pytest.mark.parametrize("kind", THREADS)
    def test_there_are_never_more_threads_than_asked_for(self, make: Any, kind: str, tmp_path: Path) -> None:
        ex, gate = make(kind, max_workers=3, thread_name_prefix="Saturated"), Gate(kind, tmp_path)
        for _ in range(3 * 15):
            gate.run_on(ex)
        assert sum(thread.name.startswith("Saturated_") for thread in threading.enumerate()) == 3
        gate.open()

    @everywhere
    @pytest.mark.parametrize("wrong", [5, "print"])
    def test_the_initializer_can_be_called(self, kind: str, wrong: Any) -> None:
        with pytest.raises(TypeError, match="initializer must be a callable"):
            kinds.make(kind, initializer=wrong)

    @everywhere
    def test_the_initializer_runs_first_in_each_worker(self, make: Any, kind: str) -> None:
        ex = make(kind, initializer=kinds.initialize, initargs=("ready",))
        kinds.INITIALIZED.clear()
        assert set(ex.map(kinds.last_initialized, range(20))) == {"ready"}

    @everywhere
    def test_a_failing_initializer_breaks_the_executor(self, make: Any, kind: str) -> None:
        ex = make(kind, initializer=kinds.fail_with, initargs=("",), max_workers=1)
        assert isinstance(ex.submit(abs, 1).exception(PATIENCE), standard.BrokenExecutor)
        with pytest.raises(standard.BrokenExecutor):
            ex.submit(abs, 1)
        with pytest.raises(standard.BrokenExecutor):
            list(ex.map(abs, [1]))


class TestReferences:
    """An executor keeps nothing of a task that is over, and no worker that is idle does."""

    @everywhere
    def test_the_function_and_its_arguments_end_with_the_task(self, make: Any, kind: str) -> None:
        ex = make(kind)
        of_method, argument, keyword = things = Thing(), Thing(), Thing()
        gone = [weakref.ref(thing) for thing in things]
        ex.submit(of_method.method, argument)
        ex.submit(kinds.capture, key=keyword).result(PATIENCE)
        del of_method, argument, keyword, things
        until(lambda: [ref() for ref in gone] == [None] * 3)

    @everywhere
    def test_a_result_ends_with_its_future(self, make: Any, kind: str) -> None:
        ex = make(kind)
        future = ex.submit(kinds.make_thing)
        gone = weakref.ref(future.result(PATIENCE))
        del future
        until(lambda: gone() is None)

    @everywhere
    def test_an_exception_and_what_its_traceback_holds_end_with_the_future(self, make: Any, kind: str) -> None:
        ex = make(kind)
        with no_collector():
            payload = Thing()
            future = ex.submit(kinds.fail_with, payload)
            gone = [weakref.ref(payload), weakref.ref(future)]
            with pytest.raises(LookupError):
                future.result(PATIENCE)
            gone.append(weakref.ref(future.exception()))
            del payload, future
            until(lambda: [ref() for ref in gone] == [None] * 3)

    @everywhere
    def test_a_worker_that_is_idle_keeps_nothing(self, make: Any, kind: str) -> None:
        if kind in PICKLING:
            ex = make(kind, max_workers=1)
            # Looked at from the next task: what the worker held of the last one is gone.
            assert ex.submit(kinds.remember_result).result(PATIENCE).payload is None
            assert ex.submit(kinds.remembered).result(PATIENCE) is None
            with pytest.raises(LookupError):
                ex.submit(kinds.remember_error).result(PATIENCE)
            assert ex.submit(kinds.remembered).result(PATIENCE) is None
            return
        ex = make(kind, max_workers=1)
        thing = Thing()
        gone = weakref.ref(thing)
        (found,), _ = ex.submit(kinds.capture, thing).result(PATIENCE)
        assert (found is thing) is (kind != "fork")  # whose results are pickled
        del thing, found, _
        until(lambda: gone() is None)

    @everywhere
    def test_one_that_nobody_holds_is_gone_though_its_workers_live(self, kind: str) -> None:
        with no_collector():
            ex = kinds.make(kind)
            gone = weakref.ref(ex)
            assert ex.submit(abs, -1).result(PATIENCE) == 1
            del ex
            assert gone() is None

    @pytest.mark.parametrize("kind", THREADS)
    def test_the_threads_of_one_that_nobody_holds_end(self, kind: str) -> None:
        ex = kinds.make(kind, thread_name_prefix="Dropped")
        future = ex.submit(abs, -1)
        del ex
        gc.collect()
        assert future.result(PATIENCE) == 1
        until(lambda: not any(thread.name.startswith("Dropped_") for thread in threading.enumerate()))


class TestWhatClientsDo:
    @everywhere
    def test_submit_can_be_replaced_on_the_instance(self, make: Any, kind: str) -> None:
        ex, calls = make(kind), []
        submit = ex.submit

        def counted(fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            calls.append(fn)
            return submit(fn, *args, **kwargs)

        ex.submit = counted
        assert ex.submit(abs, -1).result(PATIENCE) == 1

        async def main() -> Any:
            return await asyncio.get_running_loop().run_in_executor(ex, abs, -2)

        assert asyncio.run(main()) == 2
        assert calls == [abs, abs]
        del ex.submit
        assert ex.submit(abs, -3).result(PATIENCE) == 3
        assert calls == [abs, abs]

    @everywhere
    def test_it_can_be_a_key_and_be_referred_to_weakly(self, make: Any, kind: str) -> None:
        one, other = make(kind), make(kind)
        assert one != other
        assert weakref.WeakKeyDictionary({one: 1, other: 2})[one] == 1

    @everywhere
    @pytest.mark.parametrize("how", [pickle.dumps, copy.deepcopy])
    def test_it_does_not_pickle(self, make: Any, kind: str, how: Any) -> None:
        with pytest.raises((TypeError, pickle.PicklingError), match="pickle"):  # the standard one's differs since 3.14
            how(make(kind))

    @ours
    @pytest.mark.parametrize("how", [pickle.dumps, copy.copy, copy.deepcopy])
    def test_that_it_does_not_pickle_says_what_to_do(self, make: Any, kind: str, how: Any) -> None:
        with pytest.raises(TypeError, match=r"an executor cannot be pickled: make one where it is needed .*get_executor"):
            how(make(kind))

    @everywhere
    def test_an_event_loop_runs_functions_on_it(self, make: Any, kind: str) -> None:
        ex = make(kind)

        async def main() -> None:
            run = functools.partial(asyncio.get_running_loop().run_in_executor, ex)
            assert await asyncio.gather(run(pow, 2, 3), run(abs, -5), run(functools.partial(int, base=2), "101")) == [8, 5, 5]
            with pytest.raises(ZeroDivisionError):
                await run(kinds.divide, 1, 0)

        asyncio.run(asyncio.wait_for(main(), PATIENCE))

    @pytest.mark.parametrize("kind", CONCURRENT)
    def test_cancellation_in_an_event_loop_reaches_a_task_that_waits(self, make: Any, kind: str, tmp_path: Path) -> None:
        ex, gate = make(kind, max_workers=1), Gate(kind, tmp_path)
        ran = tmp_path / "ran"

        async def main() -> None:
            waiting = asyncio.get_running_loop().run_in_executor(ex, kinds.mark, str(ran))
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

        running = gate.run_on(ex)
        asyncio.run(main())
        gate.open()
        assert running.result(PATIENCE) == "went on"
        ex.shutdown()
        assert not ran.exists()

    @ours
    def test_an_event_loop_takes_none_but_thread_pool_executors_as_its_default(self, make: Any, kind: str) -> None:
        """asyncio insists on the class since Python 3.11; ours are passed to `run_in_executor`."""
        ex = make(kind)

        async def main() -> None:
            with pytest.raises(TypeError, match="executor must be ThreadPoolExecutor instance"):
                asyncio.get_running_loop().set_default_executor(ex)

        asyncio.run(main())
