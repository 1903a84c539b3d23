"""Each conformance test must fail on a backend that breaks what it tests."""

from __future__ import annotations

import inspect
import itertools
import threading
from typing import TYPE_CHECKING, Any, Literal

import pytest

import taskrun
from taskrun.backends import thread
from taskrun.backends.calls import call
from taskrun.backends.thread import ThreadBackend
from taskrun.coroutines import CoroutineRunner
from taskrun.task import entered
from taskrun.testing import BackendConformance

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Outcome, Scheduler
    from taskrun.task import Task

Answer = tuple[BaseException | None, Any, tuple[Any, ...] | None]


class Broken(ThreadBackend):
    """A thread backend that reports what `answer` makes of each outcome."""

    def answer(self, task: Task, worker: str) -> Answer:
        _, succeeded, value, _, run = call(self._scheduler, task, worker, CoroutineRunner())
        return (None, value, run) if succeeded else (value, None, run)

    def _work(self, worker: Any) -> None:
        # The one place where the real backend runs calls; replaced for this thread's class only.
        worker.backend_call = self.answer
        super()._work(worker)


@pytest.fixture(autouse=True)
def _calls_go_through_the_broken_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(scheduler: Scheduler, task: Task, worker: str, runner: CoroutineRunner) -> Outcome:
        current: Any = threading.current_thread()
        if not hasattr(current, "backend_call"):
            return call(scheduler, task, worker, runner)
        error, value, run = current.backend_call(task, worker)
        return (task, True, value, None, run) if error is None else (task, False, error, "raised", run)

    monkeypatch.setattr(thread, "call", answer)


class WrongValue(Broken):
    def answer(self, task: Task, worker: str) -> Answer:
        error, _, run = super().answer(task, worker)
        return error, "wrong", run


class SwallowsErrors(Broken):
    def answer(self, task: Task, worker: str) -> Answer:
        _, value, run = super().answer(task, worker)
        return None, value, run


class ErrorsAsText(Broken):
    def answer(self, task: Task, worker: str) -> Answer:
        error, value, run = super().answer(task, worker)
        return (None if error is None else Exception(str(error))), value, run


class TellsNothing(Broken):
    def answer(self, task: Task, worker: str) -> Answer:
        error, value, _ = super().answer(task, worker)
        return error, value, None


class NoCurrentTask(Broken):
    def answer(self, task: Task, worker: str) -> Answer:
        value, error = None, None
        try:
            entered.set(None)
            value = task.fn(*task.args, **task.kwargs)
        except BaseException as raised:
            error = raised
        return error, value, (worker, task.queued, 0.0, None, None)


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
        self._scheduler.begin(task)
        self._scheduler.settle((call(self._scheduler, task, "nobody", CoroutineRunner()),))


class Forgetful(Broken):
    """Drops every third task once it has run."""

    count = itertools.count(1)

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        super().start(scheduler, settings)
        settle = scheduler.settle
        scheduler.settle = lambda outcomes: None if next(self.count) % 3 == 0 else settle(outcomes)  # type: ignore[method-assign]


class DeafToShutdown(Broken):
    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        super().start(scheduler, settings)
        scheduler._refuse = lambda: None  # type: ignore[method-assign]


class LoudCallbacks(Broken):
    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        super().start(scheduler, settings)
        scheduler.callbacks.add = lambda _future: None  # type: ignore[method-assign]


BREAKS: dict[str, type[Broken]] = {
    "test_result_of_a_call_with_all_kinds_of_arguments": WrongValue,
    "test_lambdas_and_closures": WrongValue,
    "test_keywords_named_like_ours_belong_to_the_user": WrongValue,
    "test_coroutine_functions_are_awaited": WrongValue,
    "test_many_tasks_each_once": Forgetful,
    "test_wait_and_as_completed": WrongValue,
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
    "test_retry_until_it_works": SwallowsErrors,
    "test_the_last_error_goes_through_when_attempts_run_out": SwallowsErrors,
    "test_timeout_fails_the_future_and_restores_the_slot": NeverStops,
    "test_current_task_and_seeds": NoCurrentTask,
    "test_context_variables": NoCurrentTask,
    "test_initializer_runs_before_the_first_task": NoInitializer,
    "test_a_failing_initializer_is_an_error_on_every_future": NoInitializer,
    "test_callbacks_run_in_order_and_errors_in_them_hurt_nobody": LoudCallbacks,
    "test_shutdown_runs_what_was_submitted_and_refuses_more": DeafToShutdown,
    "test_submit_from_other_threads": WrongValue,
    "test_max_workers_must_be_positive": WrongValue,
}

BEHAVIOURS = [name for name in vars(BackendConformance) if name.startswith("test_")]


def test_every_behaviour_has_a_backend_that_breaks_it() -> None:
    assert sorted(BREAKS) == sorted(BEHAVIOURS)


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_the_behaviour_fails_on_a_broken_backend(
    behaviour: str, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    suite = BackendConformance()
    suite.backend = BREAKS[behaviour]  # type: ignore[misc]
    suite.patience = 0.4  # type: ignore[misc]
    test: Callable[..., None] = getattr(suite, behaviour)
    fixtures = {"tmp_path": tmp_path, "caplog": caplog, "kind": SystemExit}
    wanted = {name: fixtures[name] for name in inspect.signature(test).parameters}
    with pytest.raises((AssertionError, TimeoutError, TypeError, taskrun.TaskrunError, OSError, pytest.fail.Exception)):
        test(**wanted)
