"""Cancel, kill, time limits, retries, order and back-pressure."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from typing import TYPE_CHECKING

import pytest

import taskrun
from taskrun.testing import tasks
from taskrun.testing.base import Behaviours, Held

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ControlBehaviours"]


class ControlBehaviours(Behaviours):
    """What can be done to a task that was submitted."""

    def test_a_queued_task_can_be_cancelled_and_a_running_one_cannot(self, tmp_path: Path) -> None:
        with self.executor(max_workers=1) as ex:
            if not ex.capabilities.cancel_queued:
                assert ex.submit(tasks.add, 1).cancel() is False  # nothing queues: it is over when submit returns
                assert ex.submit(tasks.add, 1).result(self.patience) == 1
                return
            with self.held(ex, tmp_path) as running:
                queued = ex.submit(tasks.add, 1)
                assert queued.cancel()
                assert queued.cancelled()
                assert not running.future.cancel()
                assert running.future.running()
            assert running.future.result(self.patience) == "went on"
            with pytest.raises(concurrent.futures.CancelledError):
                queued.result(self.patience)

    def test_thousands_cancelled_at_once_leave_nothing_queued(self, tmp_path: Path) -> None:
        with self.executor(max_workers=1) as ex:
            if not ex.capabilities.cancel_queued:
                assert ex.stats()["queued"] == 0
                assert ex.submit(tasks.add, 1).result(self.patience) == 1
                return
            with self.held(ex, tmp_path) as running:
                futures = [ex.submit(tasks.add, i) for i in range(3000)]
                assert all(future.cancel() for future in futures)
                assert ex.stats()["queued"] == 0
            assert running.future.result(self.patience) == "went on"
            assert ex.submit(tasks.add, 1).result(self.patience) == 1

    def test_cancelling_some_of_many_changes_nothing_for_the_others(self, tmp_path: Path) -> None:
        """Wherever they are at that moment: in the queue, on their way, at a worker."""
        with self.executor(max_workers=1) as ex:
            with self.held(ex, tmp_path) as running:
                futures = [ex.submit(tasks.add, i) for i in range(self.many)]
                assert all(future.cancel() is ex.capabilities.cancel_queued for future in futures[::14])
                running.go_on()
                for future in futures[7::14]:
                    future.cancel()
            for i, future in enumerate(futures):
                if i % 7 or not future.cancelled():
                    assert future.result(self.patience) == i

    def test_a_quick_function_that_takes_its_time_once_holds_up_nobody(self, tmp_path: Path) -> None:
        """Several quick tasks may be sent at a time: what is over is heard of, what has not begun can be cancelled."""
        there, awaited = str(tmp_path), tmp_path / "awaited"
        with self.executor(max_workers=1) as ex:
            can_wait = ex.capabilities.concurrent and ex.capabilities.cancel_queued
            if not can_wait:
                awaited.touch()
            for future in [ex.submit(tasks.wait_for_file, there, i) for i in range(50)]:
                future.result(self.patience)
            before = [ex.submit(tasks.wait_for_file, there, i) for i in range(10)]
            slow = ex.submit(tasks.wait_for_file, str(awaited), "slow")
            behind = [ex.submit(tasks.wait_for_file, there, i) for i in range(20)]
            try:
                assert [future.result(self.patience) for future in before] == list(range(10))
                if can_wait:
                    self.until(slow.running)
                    assert all(future.cancel() for future in behind[::2])
            finally:
                awaited.touch()
            assert slow.result(self.patience) == "slow"
            assert [future.result(self.patience) for future in behind[1::2]] == list(range(1, 20, 2))
            assert not can_wait or all(future.cancelled() for future in behind[::2])

    def test_a_running_task_learns_that_it_was_asked_to_cancel(self) -> None:
        with self.executor(max_workers=1) as ex:
            if not (ex.capabilities.concurrent and ex.capabilities.cancel_running):
                assert ex.submit(tasks.until_asked_to_cancel, 0.0).result(self.patience) == "not asked"
                return
            future = ex.submit(tasks.until_asked_to_cancel, self.patience)
            self.until(future.running)
            assert future.cancel() is False
            assert future.result(self.patience) == "asked"

    def test_a_task_that_goes_on_though_its_time_is_up_learns_of_it(self, tmp_path: Path) -> None:
        """Where nobody can stop it."""
        path = tmp_path / "said"
        with self.executor(max_workers=1) as ex:
            if ex.capabilities.kill not in ("slot only", "coroutines"):
                return
            future = ex.options(timeout=0.1).submit(tasks.note_when_asked_to_cancel, path, self.patience)
            assert isinstance(future.exception(self.patience), taskrun.TaskTimeoutError)
            self.until(path.exists)
            self.until(lambda: path.read_text() == "asked")

    def test_kill_stops_a_task_that_runs(self, tmp_path: Path) -> None:
        with self.executor(max_workers=1) as ex, self.held(ex, tmp_path) as held:
            if ex.capabilities.kill == "no" or not ex.capabilities.concurrent:
                assert held.future.kill() is False
                held.go_on()
                assert held.future.result(self.patience) == "went on"
                return
            assert held.future.kill() is True
            error = held.future.exception(self.patience)
            assert isinstance(error, taskrun.TaskKilledError)
            assert not held.future.cancelled()
            assert ex.submit(tasks.add, 1).result(self.patience) == 1  # there is room again
            really = ex.capabilities.kill == "yes"
        if really:
            assert not held.finished.exists()

    def test_nothing_runs_in_the_place_of_a_killed_task_before_that_is_gone(self, tmp_path: Path) -> None:
        seen, end = tmp_path / "seen", tmp_path / "end"
        with self.executor(max_workers=1) as ex:
            if ex.capabilities.kill != "yes":
                return  # it goes on in the background: `slot only`
            try:
                stubborn = ex.submit(tasks.run_on, str(seen), str(end))
                follows = ex.submit(time.monotonic)
                self.until(lambda: seen.exists() and seen.read_text())
                assert stubborn.kill()
                begun = follows.result(self.patience)
                assert isinstance(stubborn.exception(self.patience), taskrun.TaskKilledError)
                time.sleep(0.05)  # in which one that goes on is seen
                assert float(seen.read_text()) <= begun
            finally:
                end.touch()

    def test_kill_and_timeout_of_a_coroutine(self, tmp_path: Path) -> None:
        """It really ends where that is said of coroutines or of everything; elsewhere it goes on, and nobody waits for it."""
        with self.executor(max_workers=2) as ex:
            able = ex.capabilities
            ends = able.kill in ("yes", "coroutines")
            seconds = self.patience if ends else 0.5
            for number, limit in enumerate((None, 0.1)):
                started, ended = tmp_path / f"{number}.started", tmp_path / f"{number}.ended"
                future = ex.options(timeout=limit).submit(tasks.tell_how_it_ended, str(started), str(ended), seconds)
                if limit is None:
                    self.until(started.exists)
                    assert future.kill() is (able.kill != "no" and able.concurrent)
                error = future.exception(self.patience)
                if limit is not None:
                    assert isinstance(error, taskrun.TaskTimeoutError)
                elif able.kill != "no" and able.concurrent:
                    assert isinstance(error, taskrun.TaskKilledError)
                else:
                    assert error is None
                if able.kill != "yes":  # there it may have had no time to say so
                    self.until(lambda ended=ended: ended.exists() and ended.read_text())  # type: ignore[misc]
                    assert ended.read_text().strip() == ("cancelled" if able.kill == "coroutines" else "ran out")
                assert ex.submit(tasks.add, number).result(self.patience) == number

    def test_kill_of_a_queued_task_is_cancel(self, tmp_path: Path) -> None:
        with self.executor(max_workers=1) as ex, self.held(ex, tmp_path):
            queued = ex.submit(tasks.add, 1)
            killed = queued.kill()
            assert killed is ex.capabilities.cancel_queued
            assert queued.cancelled() is killed

    def test_timeout_fails_the_future_and_restores_the_slot(self) -> None:
        with self.executor(max_workers=1) as ex:
            future = ex.options(timeout=0.1).submit(time.sleep, 0.5)
            error = future.exception(self.patience)
            assert isinstance(error, taskrun.TaskTimeoutError)
            assert error.limit == 0.1
            assert ex.submit(tasks.add, 1).result(self.patience) == 1

    def test_an_attempt_that_was_stopped_has_its_record(self, tmp_path: Path) -> None:
        with self.executor(max_workers=1, timeout=0.1) as ex:
            if ex.capabilities.timeout != "yes":
                return  # the table: after the call
            held = Held(tmp_path, ex, ex.submit, "stopped")
            try:
                assert isinstance(held.future.exception(self.patience), taskrun.TaskTimeoutError)
                (attempt,) = held.future.attempts
            finally:
                held.go_on()
        assert attempt.worker is not None or not ex.capabilities.names_guilty
        assert attempt.started is not None
        assert attempt.duration is not None
        assert attempt.duration >= 0.1

    def test_soft_timeout_is_raised_once_inside_the_task(self) -> None:
        with self.executor(max_workers=1) as ex:
            limited = ex.options(soft_timeout=0.05)
            error = limited.submit(tasks.spin, self.patience).exception(self.patience)
            assert isinstance(error, taskrun.TaskTimeoutError)
            assert limited.submit(tasks.spin_and_answer, self.patience).result(self.patience) == "answered"
            assert ex.submit(tasks.add, 1).result(self.patience) == 1

    def test_soft_timeout_is_raised_in_a_coroutine_where_it_awaits(self) -> None:
        with self.executor(max_workers=1) as ex:
            limited = ex.options(soft_timeout=0.05)
            error = limited.submit(tasks.sleep_for, self.patience).exception(self.patience)
            assert isinstance(error, taskrun.TaskTimeoutError)
            assert error.soft
            limited = ex.options(soft_timeout=0.3)  # by then it awaits, on a busy machine too
            assert limited.submit(tasks.sleep_and_answer, self.patience).result(self.patience) == "answered"
            assert ex.submit(tasks.double_later, 1).result(self.patience) == 2

    def test_retry_until_it_works(self) -> None:
        retry = taskrun.Retry(max_attempts=5, on=OSError, initial=0.001)
        with self.executor() as ex:
            future = ex.options(retry=retry).submit(tasks.fail_until, 3)
            assert future.result(self.patience) == 3
            assert [attempt.number for attempt in future.attempts] == [1, 2, 3]

    def test_any_number_of_attempts_is_made_if_that_is_the_policy(self) -> None:
        with self.executor(max_workers=1) as ex:
            often = ex.options(retry=taskrun.Retry(max_attempts=self.many // 2, on=OSError, wait="none"))
            future = often.submit(tasks.fail_before_attempt, self.many // 2)
            assert future.result(self.patience) == self.many // 2
            assert len(future.attempts) == self.many // 2

    def test_the_last_error_goes_through_when_attempts_run_out(self) -> None:
        retry = taskrun.Retry(max_attempts=2, on=OSError, initial=0.001)
        with self.executor() as ex:
            future = ex.options(retry=retry).submit(tasks.fail_until, 9)
            error = future.exception(self.patience)
        assert type(error) is OSError
        assert error.args == ("not yet",)
        assert len(error.__notes__) == 1
        assert len(future.attempts) == 2

    def test_what_the_policy_does_not_name_is_not_retried(self) -> None:
        retry = taskrun.Retry(max_attempts=3, on=OSError, initial=0.001)
        with self.executor() as ex:
            future = ex.options(retry=retry).submit(tasks.raise_chain)
            assert type(future.exception(self.patience)) is ValueError
            assert len(future.attempts) == 1

    def test_back_off_holds_no_worker(self) -> None:
        retry = taskrun.Retry(max_attempts=2, on=OSError, wait="fixed", initial=30.0, jitter=False)
        with self.executor(max_workers=1) as ex:
            if ex.capabilities.retry == "in the caller":
                quick = taskrun.Retry(max_attempts=2, on=OSError, initial=0.001)
                assert ex.options(retry=quick).submit(tasks.fail_until, 2).result(self.patience) == 2
                return
            waiting = ex.options(retry=retry).submit(tasks.fail_until, 2)
            self.until(lambda: ex.stats()["retried"] == 1)
            assert ex.submit(tasks.add, 1).result(self.patience) == 1
            assert waiting.cancel()  # between attempts a future is pending
            assert waiting.cancelled()

    def test_higher_priority_goes_first_and_equals_in_their_order(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        with self.executor(max_workers=1) as ex:
            with self.held(ex, tmp_path):
                for text, priority in (("a", 0), ("b", 5), ("c", -1), ("d", 5), ("e", 0)):
                    ex.options(priority=priority).submit(tasks.write_line, str(log), text)
            queues = ex.capabilities.cancel_queued
        assert log.read_text().split() == (["b", "d", "a", "e", "c"] if queues else ["a", "b", "c", "d", "e"])

    def test_what_is_urgent_does_not_wait_for_many_that_were_believed_to_be_quick(self, tmp_path: Path) -> None:
        """However many calls of a quick function are sent at once: when it takes its time, they are not all in the way."""
        with self.executor(max_workers=1) as ex:
            if not ex.capabilities.cancel_queued:
                return
            early, path = str(tmp_path / "early"), str(tmp_path / "slow")
            for future in [ex.submit(tasks.nap_and_count, early, 0.0) for _ in range(300)]:
                future.result(self.patience)
            slow = [ex.submit(tasks.nap_and_count, path, 0.005) for _ in range(300)]
            slow[2].result(self.patience)
            urgent = ex.options(priority=5).submit(tasks.nap_and_count, path, 0.0)
            assert urgent.result(self.patience) < 150
            ex.shutdown(cancel_futures=True)

    def test_tasks_may_wait_for_later_ones_however_many_are_sent_at_once(self, tmp_path: Path) -> None:
        """Ten to each of two workers, the first of which waits for the second: no trouble where one is sent at a time."""
        with self.executor(max_workers=2) as ex:
            if not ex.capabilities.concurrent:
                return
            together = ex.options(chunksize=10)
            go_on, held = tmp_path / "go on", [tmp_path / f"held {i}" for i in range(2)]
            for mark in held:
                together.submit(tasks.hold, str(mark), str(go_on), "")
            self.until(lambda: all(mark.exists() for mark in held))
            workers = len(ex.stats()["workers"])
            futures = []
            for first in (0, 10):
                path = str(tmp_path / str(first))
                futures.append(together.submit(tasks.wait_for_file, path, first, limit=2 * self.patience))
                futures.append(together.submit(tasks.make_file, path, first + 1))
                futures += [together.submit(tasks.add, first + i) for i in range(2, 10)]
            go_on.touch()
            assert [future.result(self.patience) for future in futures] == list(range(20))
            self.until(lambda: len(ex.stats()["workers"]) <= workers)  # who ran it for them leaves

    def test_a_task_that_submits_to_its_own_executor_is_not_held_back(self) -> None:
        with self.executor(max_workers=1, max_pending=1) as ex:
            if ex.capabilities.processes or self.pickling(ex.capabilities.pickles):
                assert ex.submit(tasks.add, 1).result(self.patience) == 1  # the executor does not travel
                return
            futures = ex.submit(tasks.submit_some, ex, 5).result(self.patience)
            assert isinstance(futures, list)
            assert [future.result(self.patience) for future in futures] == list(range(5))

    def test_submit_waits_while_max_pending_tasks_wait(self, tmp_path: Path) -> None:
        with self.executor(max_workers=1, max_pending=2) as ex:
            futures = []
            with self.held(ex, tmp_path):

                def submit() -> None:
                    for i in range(6):
                        futures.append(ex.submit(tasks.add, i))

                thread = threading.Thread(target=submit)
                thread.start()
                if ex.capabilities.concurrent:
                    self.until(lambda: ex.stats()["blocked"] == 1)
                    assert len(futures) == 2
            thread.join()
            assert [future.result(self.patience) for future in futures] == list(range(6))
