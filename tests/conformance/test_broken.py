"""Each conformance test must fail on a backend that breaks what it tests.

The broken backends are the thread backend behind a scheduler that meddles: with each task before it runs, and with each
outcome before it is reported.
"""

from __future__ import annotations

import inspect
import itertools
import threading
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytest

import taskrun
from taskrun.backends.calls import call
from taskrun.backends.thread import ThreadBackend
from taskrun.coroutines import CoroutineRunner
from taskrun.task import entered
from taskrun.testing import BackendConformance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Outcome, Scheduler
    from taskrun.task import Task


class _Meddler:
    """The scheduler that a broken backend's inner workings see."""

    def __init__(self, scheduler: Scheduler, backend: Broken) -> None:
        self._scheduler = scheduler
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    def pull_one(self) -> Task | None:
        task = self._scheduler.pull_one()
        if task is not None:
            self._backend.before(task)
        return task

    def settle(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            reported = self._backend.after(outcome)
            if reported is None:
                self._backend.lost.append((self._scheduler, outcome))
            else:
                self._scheduler.settle((reported,))


class Broken(ThreadBackend):
    lost: ClassVar[list[tuple[Scheduler, Outcome]]] = []
    """What was kept back; reported after the test, or the interpreter would wait for it at its exit."""

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        super().start(_Meddler(scheduler, self), settings)  # type: ignore[arg-type]

    def before(self, task: Task) -> None: ...

    def after(self, outcome: Outcome) -> Outcome | None:
        return outcome


class WrongValue(Broken):
    def after(self, outcome: Outcome) -> Outcome:
        task, succeeded, value, cause, run = outcome
        return task, succeeded, "wrong" if succeeded else value, cause, run


class SwallowsErrors(Broken):
    def after(self, outcome: Outcome) -> Outcome:
        task, _, value, _, run = outcome
        return task, True, value, None, run


class ErrorsAsText(Broken):
    def after(self, outcome: Outcome) -> Outcome:
        task, succeeded, value, cause, run = outcome
        return task, succeeded, value if succeeded else Exception(str(value)), cause, run


class TellsNothing(Broken):
    def after(self, outcome: Outcome) -> Outcome:
        return *outcome[:4], None


class Forgetful(Broken):
    """Drops every third outcome."""

    def __init__(self) -> None:
        self.count = itertools.count(1)

    def after(self, outcome: Outcome) -> Outcome | None:
        return outcome if next(self.count) % 3 else None


class NoCurrentTask(Broken):
    def before(self, task: Task) -> None:
        fn = task.fn

        def without(*args: Any, **kwargs: Any) -> Any:
            entered.set(None)
            return fn(*args, **kwargs)

        task.fn = without


class NoContext(Broken):
    def before(self, task: Task) -> None:
        task.context = None


class CoroutinesNotAwaited(Broken):
    def before(self, task: Task) -> None:
        fn = task.fn

        def closed(*args: Any, **kwargs: Any) -> Any:
            value = fn(*args, **kwargs)
            if inspect.iscoroutine(value):
                value.close()
                return "not awaited"
            return value

        task.fn = closed


class NoInitializer(Broken):
    def _initialize(self) -> bool:
        return True


class NeverStops(Broken):
    def stop(self, task: Task, error: BaseException, cause: Literal["timeout", "killed"]) -> bool:
        return True  # and reports nothing


class PullsAhead(Broken):
    """Takes everything from the queue at once and gives nothing back."""

    def wake(self) -> None:
        for task in self._scheduler.pull(1_000_000):
            threading.Thread(target=self._run, args=(task,), daemon=True).start()

    def _run(self, task: Task) -> None:
        runner = CoroutineRunner()
        self._scheduler.begin(task)
        self._scheduler.settle((call(self._scheduler, task, "nobody", runner),))
        runner.close()


class CountsTheDead(Broken):
    """Tells the queue of a cancelled task before the task says so itself: a cleaning in between counts it twice."""

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        super().start(scheduler, settings)
        skip = scheduler._queue.skip

        def early(task: Task) -> None:
            task.settled = False
            skip(task)
            task.settled = True

        scheduler._queue.skip = early  # type: ignore[method-assign]


class DeafToShutdown(Broken):
    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        super().start(scheduler, settings)
        scheduler._refuse = lambda: None  # type: ignore[method-assign]


class NoCallbacks(Broken):
    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        super().start(scheduler, settings)
        scheduler.callbacks.add = lambda _future: None  # type: ignore[method-assign]


BREAKS: dict[str, type[Broken]] = {
    "test_result_of_a_call_with_all_kinds_of_arguments": WrongValue,
    "test_lambdas_and_closures": WrongValue,
    "test_keywords_named_like_ours_belong_to_the_user": WrongValue,
    "test_coroutine_functions_are_awaited": CoroutinesNotAwaited,
    "test_many_tasks_each_once": Forgetful,
    "test_wait_and_as_completed": Forgetful,
    "test_attempts_tell_who_ran_it": TellsNothing,
    "test_the_original_exception_with_chain_and_notes": ErrorsAsText,
    "test_exceptions_with_awkward_constructors": ErrorsAsText,
    "test_base_exceptions_come_back_and_kill_nothing": ErrorsAsText,
    "test_what_is_not_callable_fails_its_own_task": SwallowsErrors,
    "test_map_keeps_the_order": WrongValue,
    "test_map_unordered_and_starmap": WrongValue,
    "test_map_raises_the_first_error_and_can_return_them": SwallowsErrors,
    "test_map_reads_an_endless_input_only_so_far": WrongValue,
    "test_map_never_iterated_runs_to_its_end": WrongValue,
    "test_map_arguments_are_checked": WrongValue,
    "test_a_queued_task_can_be_cancelled_and_a_running_one_cannot": PullsAhead,
    "test_thousands_cancelled_at_once_leave_nothing_queued": CountsTheDead,
    "test_retry_until_it_works": SwallowsErrors,
    "test_the_last_error_goes_through_when_attempts_run_out": SwallowsErrors,
    "test_timeout_fails_the_future_and_restores_the_slot": NeverStops,
    "test_current_task_and_seeds": NoCurrentTask,
    "test_context_variables": NoContext,
    "test_initializer_runs_before_the_first_task": NoInitializer,
    "test_a_failing_initializer_is_an_error_on_every_future": NoInitializer,
    "test_callbacks_run_in_order_and_errors_in_them_hurt_nobody": NoCallbacks,
    "test_shutdown_runs_what_was_submitted_and_refuses_more": DeafToShutdown,
    "test_submit_from_other_threads": WrongValue,
    "test_max_workers_must_be_positive": WrongValue,
}

BEHAVIOURS = [name for name in vars(BackendConformance) if name.startswith("test_")]

FAILURES = (AssertionError, TimeoutError, TypeError, taskrun.TaskrunError, OSError, pytest.fail.Exception)


def test_every_behaviour_has_a_backend_that_breaks_it() -> None:
    assert sorted(BREAKS) == sorted(BEHAVIOURS)


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_the_behaviour_fails_on_a_broken_backend(behaviour: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    suite = BackendConformance()
    suite.backend = BREAKS[behaviour]  # type: ignore[misc]
    suite.patience = 0.4  # type: ignore[misc]
    test: Callable[..., None] = getattr(suite, behaviour)
    fixtures = {"tmp_path": tmp_path, "caplog": caplog, "kind": SystemExit}
    wanted = {name: fixtures[name] for name in inspect.signature(test).parameters}
    try:
        with pytest.raises(FAILURES):
            test(**wanted)
    finally:
        while Broken.lost:
            scheduler, outcome = Broken.lost.pop()
            scheduler.settle((outcome,))
