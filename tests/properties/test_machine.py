"""Random sequences of what users and fate do to an executor, against a model of what each future may end in.

`make test` tries a few, always the same; ``FAULTS=full`` (`make soak`) many, others each time.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from patience import PATIENCE, eventually
from sequence_task import act

import taskrun

FULL = os.environ.get("FAULTS") == "full"
OUTCOMES = st.sampled_from(["value", "value", "value", "error", "crash", "late", "second attempt"])


class Known:
    """A task, and what its future may end in."""

    def __init__(self, number: int, what: str, future: taskrun.Future[int]) -> None:
        self.number = number
        self.what = what
        self.future = future
        self.cancelled: bool | None = None
        """What `cancel` or `kill` said last."""
        self.killed = False
        self.told = 0
        future.add_done_callback(self._tell)

    def _tell(self, _: object) -> None:
        self.told += 1

    def ended_in(self) -> str:
        try:
            value = self.future.result(0)
        except CancelledError as error:
            return "killed" if isinstance(error, taskrun.TaskKilledError) else "cancelled"
        except taskrun.WorkerCrashedError:
            return "crash"
        except taskrun.TaskTimeoutError:
            return "late"
        except LookupError as error:
            return "error" if error.args == (self.number,) else f"{error!r} of another task"
        assert value == self.number
        return "value"

    def may_end_in(self, *, shut: bool, fire: bool) -> set[str]:
        own = {"second attempt": "value"}.get(self.what, self.what)
        allowed = {own}
        if self.cancelled:
            allowed = {"cancelled"}
        if self.killed:
            allowed = {"killed", "cancelled"}
        if shut:
            allowed.add("cancelled")
            if self.what == "second attempt":  # what fails then is not retried
                allowed.add("error")
        if fire:
            allowed.add("crash")
        return allowed


class Machine(RuleBasedStateMachine):
    """An executor on `backend`, and the model beside it."""

    backend: ClassVar[str]

    @initialize(workers=st.integers(1, 3), count=st.sampled_from([None, None, 1, 3]), idle=st.sampled_from([None, 0.01]))
    def make(self, workers: int, count: int | None, idle: float | None) -> None:
        self.directory = tempfile.mkdtemp()
        self.log = str(Path(self.directory, "log"))
        self.ex = taskrun.Executor(self.backend, max_workers=workers, max_tasks_per_child=count, idle_timeout=idle)
        self.capabilities = self.ex.capabilities
        self.known: list[Known] = []
        self.closed = self.discarded = False
        self.shot_at: set[int] = set()

    # -- what users do -------------------------------------------------------------------------------------------------------

    @rule(what=OUTCOMES, count=st.integers(1, 6), priority=st.integers(-1, 1))
    def submit(self, what: str, count: int, priority: int) -> None:
        if what == "crash" and not self.capabilities.crash_isolation:
            what = "error"
        if what == "late" and self.capabilities.timeout != "yes":
            what = "value"
        options: dict[str, Any] = {"priority": priority}
        if what == "late":
            options["timeout"] = 0.05
        if what == "second attempt":
            options["retry"] = taskrun.Retry(max_attempts=2, on=LookupError, initial=0.005, max_wait=0.01)
        for _ in range(count):
            number = len(self.known)
            if self.closed:
                with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
                    self.ex.options(**options).submit(act, self.log, number, what)
                return
            acts = "very late" if what == "late" and self.capabilities.kill == "yes" else what
            self.known.append(Known(number, what, self.ex.options(**options).submit(act, self.log, number, acts)))

    @precondition(lambda self: not self.closed)
    @rule(count=st.integers(0, 30), taken=st.integers(0, 30))
    def map_and_abandon(self, count: int, taken: int) -> None:
        results = self.ex.map(abs, range(count))
        if not self.shot_at:  # else it may raise
            assert [value for value, _ in zip(results, range(taken), strict=False)] == list(range(min(count, taken)))
        results.close()

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.known:
            each = data.draw(st.sampled_from(self.known))
            if each.future.cancel():
                each.cancelled = True

    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        if self.known:
            each = data.draw(st.sampled_from(self.known))
            done = each.future.done()
            if each.future.kill():
                assert not done
                each.killed = True

    @rule(data=st.data())
    def wait_for_one(self, data: st.DataObject) -> None:
        if self.known:
            each = data.draw(st.sampled_from(self.known))
            taskrun.wait([each.future], timeout=PATIENCE)
            assert each.future.done()

    @rule(cancel=st.booleans())
    def shut_down(self, cancel: bool) -> None:
        self.ex.shutdown(wait=False, cancel_futures=cancel)
        self.closed = True
        self.discarded = self.discarded or cancel

    # -- what fate does --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.capabilities.crash_isolation)
    @rule()
    def a_worker_is_killed(self) -> None:
        for label in self.ex.stats()["workers"][:1]:
            pid = int(label.split()[1])
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            self.shot_at.add(pid)

    @rule(seconds=st.sampled_from([0.001, 0.02]))
    def time_goes_by(self, seconds: float) -> None:
        time.sleep(seconds)

    # -- the end ---------------------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "ex"):
            return
        try:
            ended = threading.Thread(target=self.ex.shutdown, daemon=True)
            ended.start()
            ended.join(3 * PATIENCE + len(self.known))  # each may cost a process, on a machine that is busy
            assert not ended.is_alive(), "shutdown hangs"
            self._check()
        finally:
            self.ex.kill_workers()
            shutil.rmtree(self.directory)

    def _check(self) -> None:
        crashes = 0
        runs = Counter(Path(self.log).read_text().split()) if os.path.exists(self.log) else Counter()
        for each in self.known:
            assert each.future.done(), each.what
            assert each.told == 1, (each.what, each.told)
            outcome = each.ended_in()
            error = None if outcome in ("cancelled", "value") else each.future.exception(0)
            shot = isinstance(error, taskrun.WorkerCrashedError) and error.pid in self.shot_at
            assert outcome in each.may_end_in(shut=self.discarded, fire=shot), (each.what, outcome, each.future.attempts)
            crashes += shot
            most = 2 if each.what == "second attempt" else 1
            assert runs[str(each.number)] <= most, (each.what, runs[str(each.number)])
            if outcome == "value":
                assert runs[str(each.number)] >= 1
        assert crashes <= len(self.shot_at)
        stats = self.ex.stats()
        assert (stats["queued"], stats["unfinished"]) == (0, 0), stats
        assert eventually(lambda: not self.ex.stats()["workers"])


EXAMPLES = {"serial": (10, 300), "thread": (12, 300), "dummy": (6, 150), "asyncio": (8, 200), "process": (6, 150)}


BACKENDS = ["serial", "thread", "dummy", "asyncio", "process", "pool", "fork"]


@pytest.mark.timeout(600 if FULL else 120)
@pytest.mark.parametrize("backend", BACKENDS if FULL else ["thread", "asyncio", "process", "fork"])
def test_each_future_resolves_once_with_what_the_model_allows(backend: str) -> None:
    kind = type(f"On_{backend}", (Machine,), {"backend": backend})
    few, many = EXAMPLES.get(backend, (4, 60))
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=many if FULL else few,
            stateful_step_count=25 if FULL else 12,
            deadline=None,
            derandomize=not FULL,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # sequences are short, and what depends on timing does not shrink
        ),
    )
