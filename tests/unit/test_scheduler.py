"""The scheduler with a backend that does nothing by itself: each step, of each party, is done by hand and in any order."""

from __future__ import annotations

import concurrent.futures
import threading
from typing import TYPE_CHECKING, Any

import pytest
from patience import eventually

import taskrun
from taskrun.backends import Backend, Capabilities
from taskrun.errors import TaskKilledError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskrun.task import Task


class ByHand(Backend):
    """Says what it was asked, and does what the test says."""

    name = "by-hand"
    capabilities = Capabilities(kill="yes", crash_isolation=True)

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.can_revoke = True
        self.can_stop = True

    def start(self, scheduler: Any, settings: Any) -> None:
        self.scheduler = scheduler
        self.pulled: list[Task] = []
        take_one, take = scheduler._queue.take_one, scheduler._queue.take

        def noting() -> Task | None:
            task = take_one()
            self.pulled += [task] if task is not None else []
            return task

        def noting_all(limit: int) -> list[Task]:
            tasks = take(limit)
            self.pulled += (task for task in tasks if task not in self.pulled)
            return tasks

        scheduler._queue.take_one, scheduler._queue.take = noting, noting_all

    def wake(self) -> None:
        self.asked.append(("wake",))

    def revoke(self, task: Task) -> bool:
        self.asked.append(("revoke", task))
        return self.can_revoke

    def recall(self) -> None:
        self.asked.append(("recall",))

    def stop(self, task: Task, error: BaseException, cause: Any) -> bool:
        self.asked.append(("stop", task, error, cause))
        return self.can_stop

    def notice_cancel(self, task: Task) -> None:
        self.asked.append(("notice_cancel", task))

    def shutdown(self) -> None:
        self.asked.append(("shutdown",))

    def abort(self, *, force: bool) -> None:
        self.asked.append(("abort", force))

    def join(self, timeout: float | None = None) -> bool:
        return True

    def was_asked(self, what: str) -> list[tuple[Any, ...]]:
        return [asked for asked in self.asked if asked[0] == what]


@pytest.fixture
def backend() -> ByHand:
    return ByHand()


@pytest.fixture
def ex(backend: ByHand) -> Iterator[taskrun.Executor]:
    ex = taskrun.Executor(backend, max_workers=2)
    yield ex
    for task in [*backend.pulled, *backend.scheduler.pull(1000)]:
        backend.scheduler.fail(task, LookupError("left over"), "raised")
    ex.shutdown(wait=False, cancel_futures=True)
    assert ex.stats()["unfinished"] == 0
    ex.shutdown()


def counts(ex: taskrun.Executor) -> dict[str, int]:
    return {name: count for name, count in ex.stats().items() if isinstance(count, int) and count and name != "max_workers"}


class TestCancel:
    def test_of_a_queued_task_it_is_never_pulled(self, ex: taskrun.Executor, backend: ByHand) -> None:
        first, second = ex.submit(abs, 1), ex.submit(abs, 2)
        assert first.cancel()
        assert first.cancel()  # again: it is
        assert [task.future for task in backend.scheduler.pull(9)] == [second]
        assert backend.was_asked("revoke") == []

    def test_of_a_pulled_task_it_is_asked_back(self, ex: taskrun.Executor, backend: ByHand) -> None:
        future = ex.submit(abs, 1)
        (task,) = backend.scheduler.pull(1)
        assert not future.running()
        assert future.cancel()
        assert backend.was_asked("revoke") == [("revoke", task)]
        assert not backend.scheduler.begin(task)
        backend.scheduler.succeed(task, 1)  # a late report
        assert future.cancelled()
        assert counts(ex) == {"submitted": 1, "cancelled": 1}

    def test_of_one_that_a_worker_has_changes_nothing_but_that_the_task_knows(
        self, ex: taskrun.Executor, backend: ByHand
    ) -> None:
        future = ex.submit(abs, 1)
        backend.can_revoke = False
        (task,) = backend.scheduler.pull(1)
        assert not future.cancel()
        assert task.cancel_requested
        assert backend.was_asked("notice_cancel") == [("notice_cancel", task)]
        backend.scheduler.begin(task)
        assert not future.cancel()
        backend.scheduler.succeed(task, 5)
        assert future.result(0) == 5

    def test_of_one_in_back_off_ends_it(self, ex: taskrun.Executor, backend: ByHand) -> None:
        retry = taskrun.Retry(max_attempts=2, on=OSError, wait="fixed", initial=60, jitter=False)
        future = ex.options(retry=retry).submit(abs, 1)
        task = backend.scheduler.pull_one()
        backend.scheduler.fail(task, OSError("once"), "raised")
        assert (future.done(), future.running()) == (False, False)
        assert ex.stats()["queued"] == 1
        assert future.cancel()
        assert counts(ex) == {"submitted": 1, "cancelled": 1, "retried": 1}


class TestReports:
    def test_only_the_first_of_an_attempt_counts(self, ex: taskrun.Executor, backend: ByHand) -> None:
        future = ex.submit(abs, 1)
        task = backend.scheduler.pull_one()
        backend.scheduler.succeed(task, "first")
        backend.scheduler.succeed(task, "second")
        backend.scheduler.fail(task, LookupError(), "raised")
        assert future.result(0) == "first"
        assert len(future.attempts) == 1

    def test_a_late_report_of_an_attempt_is_not_taken_for_the_next(self, ex: taskrun.Executor, backend: ByHand) -> None:
        future = ex.options(retry=taskrun.Retry(max_attempts=2, on=OSError, initial=0, jitter=False)).submit(abs, 1)
        first = backend.scheduler.pull_one()
        backend.scheduler.fail(first, OSError("once"), "raised")
        assert eventually(lambda: backend.scheduler.queued)
        second = backend.scheduler.pull_one()
        backend.scheduler.succeed(first, "late")
        assert not future.done()
        backend.scheduler.succeed(second, "second")
        assert (future.result(0), len(future.attempts)) == ("second", 2)

    def test_what_is_given_back_is_first_again_and_has_used_no_attempt(self, ex: taskrun.Executor, backend: ByHand) -> None:
        futures = [ex.submit(abs, i) for i in range(3)]
        tasks = backend.scheduler.pull(2)
        backend.scheduler.begin(tasks[0])
        backend.scheduler.give_back(tasks)
        assert not futures[0].running()
        assert [task.future for task in backend.scheduler.pull(9)] == futures
        assert futures[0].attempts == ()

    def test_nothing_of_the_users_runs_under_the_lock(self, ex: taskrun.Executor, backend: ByHand) -> None:
        free: list[bool] = []

        def look() -> None:  # from another thread: this one might hold a lock that can be entered again
            thread = threading.Thread(target=try_it)
            thread.start()
            thread.join()

        def try_it() -> None:
            free.append(backend.scheduler.lock.acquire(timeout=5))
            if free[-1]:
                backend.scheduler.lock.release()

        class Argument:
            def __del__(self) -> None:
                look()

        def predicate(error: BaseException) -> bool:
            look()
            return False

        future = ex.options(retry=taskrun.Retry(max_attempts=2, on=predicate)).submit(abs, Argument())
        future.add_done_callback(lambda _: look())
        task = backend.scheduler.pull_one()
        backend.scheduler.fail(task, OSError("once"), "raised")
        assert eventually(lambda: len(free) == 3)
        assert free == [True] * 3


class TestTime:
    def test_a_task_over_its_time_is_stopped_once_and_fails_as_the_backend_says(
        self, ex: taskrun.Executor, backend: ByHand
    ) -> None:
        future = ex.options(timeout=0.01).submit(abs, 1)
        (pulled,) = backend.scheduler.pull(1)
        backend.scheduler.begin(pulled)
        assert eventually(lambda: backend.was_asked("stop"))
        ((_, task, error, cause),) = backend.was_asked("stop")
        assert (task, cause, future.done()) == (pulled, "timeout", False)
        backend.scheduler.fail(task, error, "timeout")
        assert future.exception(0) is error

    def test_where_the_backend_cannot_stop_it_the_future_fails_all_the_same(
        self, ex: taskrun.Executor, backend: ByHand
    ) -> None:
        backend.can_stop = False
        future = ex.options(timeout=0.01).submit(abs, 1)
        backend.scheduler.pull_one()
        assert isinstance(future.exception(20), taskrun.TaskTimeoutError)

    def test_the_time_of_a_task_that_waits_does_not_run(self, ex: taskrun.Executor, backend: ByHand) -> None:
        waiting = ex.options(timeout=0.01).submit(abs, 1)
        running = ex.options(timeout=0.02).submit(abs, 2)
        (first, second) = backend.scheduler.pull(2)
        backend.scheduler.begin(second)
        assert eventually(lambda: backend.was_asked("stop"))
        assert [task.future for _, task, _, _ in backend.was_asked("stop")] == [running]
        assert (waiting.done(), first.begun) == (False, None)

    def test_kill_stops_what_runs_and_cancels_what_waits(self, ex: taskrun.Executor, backend: ByHand) -> None:
        running, waiting = ex.submit(abs, 1), ex.submit(abs, 2)
        task = backend.scheduler.pull_one()
        assert waiting.kill()
        assert waiting.cancelled()
        assert running.kill()
        ((_, stopped, error, cause),) = backend.was_asked("stop")
        assert (stopped, type(error), cause) == (task, TaskKilledError, "killed")
        backend.scheduler.fail(task, error, "killed")
        assert not running.cancelled()
        assert not running.kill()  # it is over


class TestEnd:
    def test_shutdown_waits_for_the_last_attempt_of_a_task_in_back_off(self, ex: taskrun.Executor, backend: ByHand) -> None:
        retry = taskrun.Retry(max_attempts=2, on=OSError, wait="fixed", initial=0.01, jitter=False)
        future = ex.options(retry=retry).submit(abs, 1)
        backend.scheduler.fail(backend.scheduler.pull_one(), OSError("once"), "raised")
        ex.shutdown(wait=False)
        assert backend.was_asked("shutdown") == []
        assert eventually(lambda: backend.scheduler.queued)
        backend.scheduler.succeed(backend.scheduler.pull_one(), 7)
        assert future.result(0) == 7
        assert backend.was_asked("shutdown") == [("shutdown",)]

    def test_cancel_futures_ends_the_back_off_and_retries_nothing_more(self, ex: taskrun.Executor, backend: ByHand) -> None:
        retry = taskrun.Retry(max_attempts=9, on=OSError, wait="fixed", initial=60, jitter=False)
        waiting, running = [ex.options(retry=retry).submit(abs, i) for i in range(2)]
        backend.scheduler.fail(backend.scheduler.pull_one(), OSError("once"), "raised")
        task = backend.scheduler.pull_one()
        ex.shutdown(wait=False, cancel_futures=True)
        assert waiting.cancelled()
        assert backend.was_asked("recall") == [("recall",)]
        backend.scheduler.fail(task, OSError("once"), "raised")
        assert isinstance(running.exception(0), OSError)

    def test_a_map_submits_nothing_more_after_cancel_futures(self, ex: taskrun.Executor, backend: ByHand) -> None:
        results = ex.map(abs, range(100))
        (running,) = backend.scheduler.pull(1)
        backend.scheduler.begin(running)
        ex.shutdown(wait=False, cancel_futures=True)
        assert backend.scheduler.queued == 0
        backend.scheduler.succeed(running, 0)
        assert backend.scheduler.queued == 0
        assert next(results) == 0
        with pytest.raises(concurrent.futures.CancelledError):
            next(results)

    def test_what_is_given_back_after_cancel_futures_is_cancelled(self, ex: taskrun.Executor, backend: ByHand) -> None:
        future = ex.submit(abs, 1)
        tasks = backend.scheduler.pull(1)
        ex.shutdown(wait=False, cancel_futures=True)
        assert not future.done()
        backend.scheduler.give_back(tasks)
        assert future.cancelled()

    def test_a_broken_executor_fails_what_waits_and_what_comes(self, ex: taskrun.Executor, backend: ByHand) -> None:
        running, waiting = ex.submit(abs, 1), ex.submit(abs, 2)
        task = backend.scheduler.pull_one()
        pauses = [backend.scheduler.initializer_failed(LookupError("no licence")) for _ in range(4)]
        assert pauses[:3] == sorted(pauses[:3])
        assert pauses[3] is None
        assert isinstance(waiting.exception(0), taskrun.InitializerError)
        with pytest.raises(taskrun.InitializerError, match="no licence"):
            ex.submit(abs, 3)
        backend.scheduler.succeed(task, 1)
        assert running.result(0) == 1

    def test_an_initializer_that_recovers_is_forgiven(self, ex: taskrun.Executor, backend: ByHand) -> None:
        for _ in range(10):
            assert backend.scheduler.initializer_failed(LookupError()) is not None
            backend.scheduler.initializer_ok()

    def test_ctrl_c_in_the_middle_of_a_submit_leaves_nothing_of_it(
        self, ex: taskrun.Executor, backend: ByHand, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queue = backend.scheduler._queue
        put = queue.put

        def torn(task: Task) -> None:
            put(task)
            raise KeyboardInterrupt

        monkeypatch.setattr(queue, "put", torn)
        with pytest.raises(KeyboardInterrupt):
            ex.submit(abs, 1)
        with pytest.raises(KeyboardInterrupt):
            ex.map(abs, [1, 2, 3])
        monkeypatch.undo()
        assert counts(ex) == {}
        future = ex.submit(abs, 4)
        assert [task.future for task in backend.scheduler.pull(9)] == [future]

    @pytest.mark.parametrize("where", ["skip", "_finish"])
    def test_ctrl_c_in_the_middle_of_a_cancel_leaves_a_cancelled_task(
        self, ex: taskrun.Executor, backend: ByHand, monkeypatch: pytest.MonkeyPatch, where: str
    ) -> None:
        future, other = ex.submit(abs, 1), ex.submit(abs, 2)
        owner: Any = backend.scheduler._queue if where == "skip" else taskrun.Future
        whole = getattr(owner, where)
        torn = [True]

        def once(*args: Any) -> Any:
            value = whole(*args)
            if torn:
                torn.clear()
                raise KeyboardInterrupt
            return value

        monkeypatch.setattr(owner, where, once)
        with pytest.raises(KeyboardInterrupt):
            future.cancel()
        assert future.cancelled()
        assert counts(ex) == {"submitted": 2, "cancelled": 1, "queued": 1, "unfinished": 1}
        assert [task.future for task in backend.scheduler.pull(9)] == [other]


class TestManyAtOnce:
    def settle(self, backend: ByHand, outcomes: list[Any]) -> BaseException | None:
        """Report *outcomes* as a thread of ours does; return what that raised."""
        raised: list[BaseException] = []

        def report() -> None:
            try:
                backend.scheduler.settle_ours(outcomes)
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=report)
        thread.start()
        thread.join()
        return raised[0] if raised else None

    @pytest.mark.parametrize("bad", [0, 2, 4])
    def test_an_error_in_the_middle_leaves_nobody_waiting(self, ex: taskrun.Executor, backend: ByHand, bad: int) -> None:
        futures = [ex.submit(abs, i) for i in range(5)]
        called: list[int] = []
        for future in futures[:4]:
            future.add_done_callback(lambda done: called.append(futures.index(done)))
        results = ex.map(abs, range(3))
        tasks = backend.scheduler.pull(8)
        backend.scheduler.begin(tasks[3])
        futures[bad]._records = None  # in the place of what cannot be foreseen: no memory, say
        outcomes = [(task, i != 3, i if i != 3 else ValueError("its own"), "raised", None) for i, task in enumerate(tasks)]
        assert isinstance(self.settle(backend, outcomes), TypeError)
        assert [future.result(10) for i, future in enumerate(futures) if i != 3] == [0, 1, 2, 4]
        assert isinstance(futures[3].exception(10), ValueError)
        assert list(results) == [5, 6, 7]
        assert eventually(lambda: sorted(called) == [0, 1, 2, 3])
        assert ex.stats()["unfinished"] == 0

    def test_one_that_is_looked_at_is_done_with_the_others(self, ex: taskrun.Executor, backend: ByHand) -> None:
        futures = [ex.submit(abs, i) for i in range(5)]
        waiting = concurrent.futures.as_completed(futures[2:4])
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.extend(waiting))
        thread.start()
        assert eventually(lambda: futures[3]._waiters)
        assert self.settle(backend, [(task, True, i, None, None) for i, task in enumerate(backend.scheduler.pull(5))]) is None
        thread.join(10)
        assert set(found) == set(futures[2:4])
        assert counts(ex) == {"submitted": 5, "succeeded": 5}
