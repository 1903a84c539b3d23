"""Values: what is submitted comes back, once, whoever waits and however."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import sys
import threading
import time
from array import array
from typing import TYPE_CHECKING, Any

import pytest

import taskrun
from taskrun.testing import tasks
from taskrun.testing.base import Behaviours

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ResultBehaviours"]


class ResultBehaviours(Behaviours):
    """`submit`, and what can be done with a future."""

    def test_result_of_a_call_with_all_kinds_of_arguments(self) -> None:
        with self.executor() as ex:
            assert ex.submit(tasks.add, 1, 2, c=3).result(self.patience) == 6

    def test_lambdas_and_closures(self) -> None:
        offset = 5
        with self.executor() as ex:
            assert ex.submit(lambda x: x + offset, 1).result(self.patience) == 6

    def test_local_classes_keep_their_identity(self) -> None:
        class Point:
            def __init__(self, x: int) -> None:
                self.x = x

            def moved(self) -> Point:
                return Point(self.x + 1)

        with self.executor() as ex:
            result = ex.submit(Point(1).moved).result(self.patience)
        assert type(result) is Point
        assert result.x == 2

    def test_what_is_shared_is_shipped_once_and_arrives_as_itself(self) -> None:
        tasks.Counted.loads = 0
        counted = taskrun.shared(tasks.Counted(10))
        with self.executor(max_workers=2) as ex:
            done = [ex.submit(tasks.use_counted, i, counted=counted).result(self.patience) for i in range(6)]
            done += ex.map(functools.partial(tasks.use_counted, counted=counted), range(6))
            assert [number for number, _ in done] == [10, 11, 12, 13, 14, 15] * 2
            assert max(loads for _, loads in done) <= 2  # once, but for threads of one worker that ask at the same time
            # Only what the function itself is given is taken out; elsewhere the stand-in says what it is.
            assert ex.submit(tasks.kinds_in, [counted], named=counted).result(self.patience) == ["Shared", "Counted"]

    def test_what_a_function_reads_is_what_it_is_when_the_task_leaves(self) -> None:
        level = 1

        class Reader:
            offset = 10

            def read(self) -> int:
                return level + self.offset

        @functools.cache
        def cached() -> int:
            return Reader().read()

        def read() -> tuple[int, int]:
            return Reader().read(), cached.__wrapped__()

        with self.executor(max_workers=1) as ex:
            assert ex.submit(read).result(self.patience) == (11, 11)
            assert ex.submit(cached).result(self.patience) == 11
            level = 2
            assert ex.submit(read).result(self.patience) == (12, 12)
            Reader.offset = 20
            assert ex.submit(read).result(self.patience) == (22, 22)

    def test_keywords_named_like_ours_belong_to_the_user(self) -> None:
        with self.executor() as ex:
            assert ex.submit(dict, fn=1, self=2, timeout=3).result(self.patience) == {"fn": 1, "self": 2, "timeout": 3}

    def test_coroutine_functions_are_awaited(self) -> None:
        with self.executor() as ex:
            assert ex.submit(tasks.double_later, 4).result(self.patience) == 8

    def test_many_tasks_each_once(self) -> None:
        with self.executor() as ex:
            futures = [ex.submit(tasks.add, i) for i in range(self.many)]
            assert [future.result(self.patience) for future in futures] == list(range(self.many))

    def test_arguments_and_results_are_private_where_they_are_pickled(self) -> None:
        given: list[int] = []
        with self.executor() as ex:
            pickled = self.pickling(ex.capabilities.pickles) or ex.capabilities.processes
            result = ex.submit(tasks.append_to, given, 1).result(self.patience)
            assert result == [1]
            assert (result is given) is not pickled
            assert given == ([] if pickled else [1])

    def test_an_object_given_to_several_tasks_is_another_one_for_each_where_it_is_pickled(self) -> None:
        """However many of them travel together."""
        given: list[int] = []
        with self.executor(max_workers=1) as ex:
            pickled = self.pickling(ex.capabilities.pickles) or ex.capabilities.processes
            futures = [ex.submit(tasks.append_to, given, i) for i in range(self.many)]
            results = [future.result(self.patience) for future in futures]
        assert results == ([[i] for i in range(self.many)] if pickled else [given] * self.many)
        assert sorted(given) == ([] if pickled else list(range(self.many)))

    def test_large_buffers_arrive_as_what_they_are(self) -> None:
        """However they travel: private where they are pickled, writable if they were."""
        for value in (bytearray(1 << 20), bytes(1 << 20), array("d", bytes(1 << 20))):
            with self.executor() as ex:
                told = ex.submit(tasks.mark_and_return, value).result(self.patience)
                copied = self.pickling(ex.capabilities.pickles) or ex.capabilities.pickles == "results"
            assert len(told) == 3
            kind, first, arrived = told
            assert (kind, first, type(arrived)) == (type(value).__name__, 0, type(value))
            assert len(arrived) == len(value)
            if isinstance(value, bytes):
                assert arrived == value
                continue
            assert arrived[0] == 1
            assert value[0] == (0 if copied else 1)
            arrived[0] = 2

    def test_wait_and_as_completed(self) -> None:
        with self.executor() as ex:
            futures = [ex.submit(tasks.add, i) for i in range(10)]
            assert {f.result() for f in taskrun.as_completed(futures, self.patience)} == set(range(10))
            done, not_done = concurrent.futures.wait(futures, self.patience)
            assert (len(done), len(not_done)) == (10, 0)
            assert sum(f.result() for f in done) == 45

    def test_a_future_can_be_awaited(self) -> None:
        with self.executor() as ex:

            async def main() -> int:
                loop = asyncio.get_running_loop()
                return sum([await ex.submit(tasks.add, 1, 2), await loop.run_in_executor(ex, tasks.add, 4)])

            assert asyncio.run(asyncio.wait_for(main(), self.patience)) == 7

    def test_cancelling_who_awaits_cancels_the_task(self, tmp_path: Path) -> None:
        with self.executor(max_workers=1) as ex, self.held(ex, tmp_path):
            if not ex.capabilities.cancel_queued:
                future = ex.submit(tasks.add, 1)
                assert (future.cancel(), future.result(self.patience)) == (False, 1)
                return
            queued = ex.submit(tasks.add, 1)

            async def main() -> None:
                waiter = asyncio.ensure_future(asyncio.wrap_future(queued))
                await asyncio.sleep(0)
                waiter.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiter

            asyncio.run(main())
            assert queued.cancelled()

    def test_attempts_tell_who_ran_it(self) -> None:
        with self.executor() as ex:
            future = ex.submit(tasks.add, 1)
            assert future.result(self.patience) == 1
            (attempt,) = future.attempts
            assert attempt.number == 1
            assert attempt.worker
            assert attempt.started is not None
            assert attempt.started >= attempt.queued
            assert attempt.duration is not None
            assert attempt.error is None
            if ex.capabilities.processes and sys.platform == "linux":
                assert attempt.worker_rss is not None
                assert attempt.worker_rss > 1_000_000

    def test_submit_from_other_threads(self) -> None:
        found: list[Any] = []
        with self.executor() as ex:
            threads = [
                threading.Thread(target=lambda n=n: found.append(ex.submit(tasks.add, n).result(self.patience)))
                for n in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert sorted(found) == list(range(8))

    def test_the_numbers_add_up(self) -> None:
        with self.executor() as ex:
            futures = [ex.submit(tasks.add, i) for i in range(5)] + [ex.submit(tasks.raise_chain)]
            concurrent.futures.wait(futures, self.patience)
            stats = ex.stats()
            found = {name: stats[name] for name in ("submitted", "queued", "unfinished", "succeeded", "failed", "cancelled")}
            assert found == {"submitted": 6, "queued": 0, "unfinished": 0, "succeeded": 5, "failed": 1, "cancelled": 0}

    def test_a_view_with_options_is_enough_to_hold(self) -> None:
        backend = self.backend() if isinstance(self.backend, type) else self.backend
        view = taskrun.Executor(backend, max_workers=1, **self.options).options(name="held by its view")
        gc.collect()  # an executor that nobody holds ends soon, in another thread: that this does not happen shows in time
        for value in range(20):
            assert view.submit(tasks.add, value).result(self.patience) == value
            time.sleep(0.002)
