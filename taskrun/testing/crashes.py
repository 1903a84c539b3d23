"""A worker that dies: only its own task fails, and the rest goes on as if nothing had happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import taskrun
from taskrun.testing import tasks
from taskrun.testing.base import Behaviours

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CrashBehaviours"]


class CrashBehaviours(Behaviours):
    """Where workers share a process with everything else, a program that depends on them not to is refused."""

    def test_a_dying_worker_fails_only_its_own_task(self, tmp_path: Path) -> None:
        ran = tmp_path / "ran"
        with self.executor(max_workers=2) as ex:
            if self.see_refused(ex, "crash_isolation"):
                return
            able = ex.capabilities
            with self.held(ex, tmp_path) as neighbour:
                guilty = ex.submit(tasks.die)
                others = [ex.submit(tasks.write_line, str(ran), number) for number in range(10)]
                error = guilty.exception(self.patience)
                assert isinstance(error, taskrun.WorkerCrashedError)
                assert not (able.names_guilty and neighbour.future.done())
                taskrun.wait(others, self.patience)
            ends = [future.exception(self.patience) for future in others]
            ends.append(neighbour.future.exception(self.patience))
        assert "die" in str(error)
        if not able.names_guilty:  # what ran beside it in the same worker may have gone with it
            ends = [end for end in ends if not isinstance(end, taskrun.WorkerCrashedError)]
        else:
            assert sorted(map(int, ran.read_text().split())) == list(range(10))
        assert set(ends) <= {None}

    def test_a_worker_that_died_is_replaced(self, tmp_path: Path) -> None:
        with self.executor(max_workers=2) as ex:
            if self.see_refused(ex, "crash_isolation"):
                return
            for number in range(2):
                place = tmp_path / str(number)
                place.mkdir()
                assert isinstance(ex.submit(tasks.die).exception(self.patience), taskrun.WorkerCrashedError)
                meeting = [ex.submit(tasks.meet, str(place), name, 2, self.patience) for name in ("a", "b")]
                assert [future.result(self.patience) for future in meeting] == [2, 2]

    def test_a_task_whose_worker_died_runs_again_only_by_its_policy(self, tmp_path: Path) -> None:
        once, twice = tmp_path / "once", tmp_path / "twice"
        policy = taskrun.Retry(max_attempts=3, on=(), initial=0.0, jitter=False, on_crash=True)
        with self.executor(max_workers=2) as ex:
            if self.see_refused(ex, "crash_isolation"):
                return
            plain = ex.submit(tasks.die_unless_there, str(once))
            retried = ex.options(retry=policy).submit(tasks.die_unless_there, str(twice))
            assert isinstance(plain.exception(self.patience), taskrun.WorkerCrashedError)
            assert retried.result(self.patience) == 2
            assert [type(attempt.error) for attempt in retried.attempts] == [taskrun.WorkerCrashedError, type(None)]
        assert once.read_text() == "1\n"
