"""Each conformance test must fail on a backend that breaks what it tests.

The broken backends are the thread backend behind a scheduler that meddles: with each task before it runs, and with each
outcome before it is reported.
"""

from __future__ import annotations

import ctypes
import inspect
import itertools
import queue
import threading
import time
from contextlib import nullcontext
from contextvars import copy_context
from multiprocessing import sharedctypes
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytest

import taskrun
from taskrun.backends.calls import call
from taskrun.backends.thread import ThreadBackend, ThreadWorker
from taskrun.coroutines import CoroutineRunner
from taskrun.task import entered
from taskrun.testing import BackendConformance
from taskrun.testing.primitives import die_with
from taskrun.thread_pipe import ThreadConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Outcome, Scheduler
    from taskrun.task import Cause, Task


class _Meddler:
    """The scheduler that a broken backend's inner workings see."""

    def __init__(self, scheduler: Scheduler, backend: Broken, settings: WorkerSettings) -> None:
        self._scheduler = scheduler
        self._backend = backend
        self.settings = settings

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    def take_one(self) -> Task | None:
        task = self._scheduler.take_one()
        if task is not None:
            self._backend.before(task)
        return task

    def fail(self, task: Task, error: BaseException, cause: Cause) -> None:
        self.settle(((task, False, error, cause, None),))

    def settle(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            reported = self._backend.after(outcome)
            if reported is None:
                self._backend.lost.append((self._scheduler, outcome))
            else:
                self._scheduler.settle((reported,))

    settle_ours = settle


class Broken(ThreadBackend):
    lost: ClassVar[list[tuple[Scheduler, Outcome]]] = []
    """What was kept back; reported after the test, or the interpreter would wait for it at its exit."""

    mend: ClassVar[list[Callable[[], object]]] = []
    """What is called after the test, for what would go on for ever else."""
    worse: ClassVar[dict[str, Any]] = {}
    """Settings that it puts in the place of the user's."""

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        settings = settings._replace(**self.worse)
        super().start(_Meddler(scheduler, self, settings), settings)  # type: ignore[arg-type]

    def before(self, task: Task) -> None: ...

    def after(self, outcome: Outcome) -> Outcome | None:
        return outcome


class Remembers(Broken):
    """As a worker that answers from what a function gave the last time."""

    known: ClassVar[dict[str, Any]] = {}

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        self.known.clear()
        super().start(scheduler, settings)

    def after(self, outcome: Outcome) -> Outcome:
        task, succeeded, value, cause, run = outcome
        return task, succeeded, self.known.setdefault(task.name, value) if succeeded else value, cause, run


class GivesStandIns(Broken):
    """Takes nothing out of what it stands in for."""

    def before(self, task: Task) -> None:
        task.args = tuple(map(taskrun.shared, task.args))
        task.kwargs = {name: taskrun.shared(value) for name, value in task.kwargs.items()}


class NeverMakesUp(Broken):
    def waiting(self) -> AbstractContextManager[None]:
        return nullcontext()

    one_more = waiting


class ClaimsToStopCoroutines(Broken):
    capabilities = ThreadBackend.capabilities._replace(kill="coroutines")


class OwnPrimitives(Broken):
    """Its tasks get locks, queues and values of their own."""

    def before(self, task: Task) -> None:
        task.args = tuple(_another(arg) for arg in task.args)


def _another(obj: Any) -> Any:
    context = taskrun.get_context("thread")
    if isinstance(obj, (list, dict)):
        return type(obj)(obj)
    if isinstance(obj, ctypes._SimpleCData):
        return context.RawValue(type(obj))
    if isinstance(obj, sharedctypes.SynchronizedBase):
        return context.Value(type(obj.get_obj()))
    if isinstance(obj, ThreadConnection):
        return context.Pipe()[0]
    for name in ("Lock", "RLock", "Queue", "BoundedSemaphore", "Condition", "Event"):
        made = getattr(context, name)()
        if type(obj) is type(made):
            return made
    return obj


class AnyLock(Broken):
    """Its locks cannot be acquired again by who has them."""

    def before(self, task: Task) -> None:
        lock = threading.Lock()
        task.args = [lock], lock


class SilentAboutLocks(Broken):
    """Does not look at the locks that a dead worker had."""

    capabilities = ThreadBackend.capabilities._replace(crash_isolation=True)

    def before(self, task: Task) -> None:
        if task.fn is die_with:
            task.fn, task.args = _die_in_silence, ()


def _die_in_silence() -> None:
    raise taskrun.WorkerCrashedError("it died")


class AllDieTogether(Broken):
    """Has one worker, so to speak, and no other one once it is dead."""

    capabilities = ThreadBackend.capabilities._replace(crash_isolation=True)

    def before(self, task: Task) -> None:
        task.fn, task.args = _die_in_silence, ()


class ClaimsProcesses(Broken):
    capabilities = ThreadBackend.capabilities._replace(processes=True)


class ClaimsToKill(Broken):
    capabilities = Broken.capabilities._replace(kill="yes")


class ClaimsToRecycle(Broken):
    capabilities = ThreadBackend.capabilities._replace(recycle_by_state=True)


class TimesOutInSilence(Broken):
    """What its time is up for is told nothing."""

    def stop(self, task: Task, error: BaseException, cause: Literal["timeout", "killed"]) -> bool:
        super().stop(task, error, cause)
        self._scheduler.fail(task, error, cause)
        return True


class LeavesAfterEach(Broken):
    """Its workers are too old once they have done one task."""

    capabilities = ThreadBackend.capabilities._replace(recycle_by_state=True)
    worse: ClassVar = {"max_tasks_per_child": 1, "initializer": None}


class LacksNothing(Broken):
    class Able(taskrun.Capabilities):
        def lacks(self, names: tuple[str, ...]) -> list[str]:
            return []

    capabilities = Able(kill="slot only", recycle_by_count=True)


class ClaimsOptions(Broken):
    """Takes all options of other backends, and does nothing about them."""

    option_names: ClassVar = dict.fromkeys(("start_method", "mp_context", "thread_name_prefix", "check_pickle"), "anything")
    worse: ClassVar = {"backend_options": {}}


class KeepsOutcomes(Broken):
    """As a worker that keeps its last outcome while it is idle."""

    def after(self, outcome: Outcome) -> Outcome:
        self.kept = outcome
        return outcome


class ForgetsTheWorker(Broken):
    def stop(self, task: Task, error: BaseException, cause: Literal["timeout", "killed"]) -> bool:
        super().stop(task, error, cause)
        task.worker = None
        return False


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


class OneContext(Broken):
    """All its tasks run in one context."""

    context = copy_context()

    def before(self, task: Task) -> None:
        fn = task.fn

        def in_it(*args: Any, **kwargs: Any) -> Any:
            with self.turn:
                return self.context.run(fn, *args, **kwargs)

        task.fn = in_it

    turn = threading.Lock()


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
    worse: ClassVar = {"initializer": None}


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


class KeepsWhatItTook(Broken):
    """Each of two workers takes ten tasks at once, and gives none back."""

    workers_there, at_once = 2, 10

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        self._free = threading.Semaphore(self.workers_there)
        super().start(scheduler, settings)

    def wake(self) -> None:
        while self._scheduler.queued and self._free.acquire(blocking=False):
            threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        runner = CoroutineRunner()
        while taken := self._scheduler.pull(self.at_once):
            for task in taken:
                self._scheduler.begin(task)
                self._scheduler.settle((call(self._scheduler, task, "nobody", runner),))
        runner.close()
        self._free.release()
        self.wake()


class BelievesThemQuick(KeepsWhatItTook):
    """Its only worker takes a thousand."""

    workers_there, at_once = 1, 1000


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
        self.mend.append(scheduler._queue.clean)


class SpoilsNeighbours(Broken):
    """Once a task was cancelled, the others have nothing to give."""

    def after(self, outcome: Outcome) -> Outcome:
        task, succeeded, value, cause, run = outcome
        return task, succeeded, None if self._scheduler.counts["cancelled"] else value, cause, run


class DeafToShutdown(Broken):
    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        super().start(scheduler, settings)
        scheduler._refuse = lambda: None  # type: ignore[method-assign]


class NoCallbacks(Broken):
    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        super().start(scheduler, settings)
        scheduler.callbacks.add = lambda _future: None  # type: ignore[method-assign]


class ClonesClasses(Broken):
    """Sends classes along with their objects and forgets that it has seen them."""

    def after(self, outcome: Outcome) -> Outcome:
        task, succeeded, value, cause, run = outcome
        clone = object.__new__(type(type(value).__name__, (), {}))
        clone.__dict__.update(vars(value))
        return task, succeeded, clone, cause, run


class ClaimsToPickle(Broken):
    capabilities = ThreadBackend.capabilities._replace(pickles="yes")


class TellsWithTheNext(Broken):
    """Keeps each result back until there is another one."""

    kept: ClassVar[list[Outcome]] = []

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        self.kept.clear()
        self.mend.append(lambda: scheduler.settle(self.kept))
        super().start(scheduler, settings)

    def after(self, outcome: Outcome) -> Outcome | None:
        self.kept.append(outcome)
        return self.kept.pop(0) if len(self.kept) > 1 else None


class Silent(Broken):
    def after(self, outcome: Outcome) -> None:
        return None


class LosesContexts(Broken):
    def after(self, outcome: Outcome) -> Outcome:
        if not outcome[1]:
            outcome[2].__context__ = None
        return outcome


class NeverJoins(Broken):
    """Its threads take their time after the last task, and nobody waits for them."""

    def join(self, timeout: float | None = None) -> bool:
        return True

    def _leave(self, worker: ThreadWorker) -> None:
        time.sleep(0.1)
        super()._leave(worker)


class NoTracebacks(Broken):
    def after(self, outcome: Outcome) -> Outcome:
        task, succeeded, value, cause, run = outcome
        return task, succeeded, value if succeeded else value.with_traceback(None), cause, run


class OneAtATime(Broken):
    worse: ClassVar = {"max_workers": 1}


class Contagious(Broken):
    """After an error, everything fails with it."""

    error: BaseException | None = None

    def after(self, outcome: Outcome) -> Outcome:
        task, succeeded, value, _, run = outcome
        self.error = self.error or (None if succeeded else value)
        return outcome if self.error is None else (task, False, self.error, "raised", run)


class StopsAtShutdown(Broken):
    def before(self, task: Task) -> None:
        if self._scheduler.closed:
            task.fn = lambda *_, **__: None


class NoSoftTimeout(Broken):
    def before(self, task: Task) -> None:
        task.options = task.options._replace(soft_timeout=None)


class CallsItACrash(Broken):
    def after(self, outcome: Outcome) -> Outcome:
        task, succeeded, value, cause, run = outcome
        return task, succeeded, value, cause if succeeded else "crashed", run


class WaitsInTheWorker(Broken):
    """Sleeps through the back-off where the task ran."""

    def before(self, task: Task) -> None:
        fn = task.fn

        def sleeping(*args: Any, **kwargs: Any) -> Any:
            try:
                return fn(*args, **kwargs)
            except OSError:
                time.sleep(0.6)
                raise

        task.fn = sleeping


class NoLimit(Broken):
    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        super().start(scheduler, settings)
        scheduler._room.limit = None


class NoFinalizer(Broken):
    worse: ClassVar = {"finalizer": None}


class NeverRecycles(Broken):
    worse: ClassVar = {"max_tasks_per_child": None}


class KilledIsDone(Broken):
    """Takes a task that was stopped for one that came to its end."""

    def after(self, outcome: Outcome) -> Outcome:
        task, _, _, cause, run = outcome
        return (task, True, None, None, run) if cause == "killed" else outcome


BREAKS: dict[str, tuple[type[Broken], ...]] = {
    # results
    "test_result_of_a_call_with_all_kinds_of_arguments": (WrongValue, Silent),
    "test_lambdas_and_closures": (WrongValue,),
    "test_local_classes_keep_their_identity": (ClonesClasses,),
    "test_what_is_shared_is_shipped_once_and_arrives_as_itself": (GivesStandIns,),
    "test_what_a_function_reads_is_what_it_is_when_the_task_leaves": (Remembers,),
    "test_keywords_named_like_ours_belong_to_the_user": (WrongValue,),
    "test_coroutine_functions_are_awaited": (CoroutinesNotAwaited,),
    "test_many_tasks_each_once": (Forgetful, WrongValue),
    "test_arguments_and_results_are_private_where_they_are_pickled": (ClaimsToPickle,),
    "test_an_object_given_to_several_tasks_is_another_one_for_each_where_it_is_pickled": (ClaimsToPickle,),
    "test_large_buffers_arrive_as_what_they_are": (WrongValue, ClaimsToPickle),
    "test_wait_and_as_completed": (Forgetful,),
    "test_a_future_can_be_awaited": (Silent,),
    "test_cancelling_who_awaits_cancels_the_task": (PullsAhead,),
    "test_attempts_tell_who_ran_it": (TellsNothing,),
    "test_submit_from_other_threads": (WrongValue,),
    "test_a_view_with_options_is_enough_to_hold": (WrongValue,),
    "test_the_numbers_add_up": (Forgetful, SwallowsErrors),
    # failures
    "test_the_original_exception_with_chain_and_notes": (ErrorsAsText, SwallowsErrors),
    "test_the_traceback_shows_where_in_the_task_it_was_raised": (NoTracebacks,),
    "test_exceptions_with_awkward_constructors": (ErrorsAsText,),
    "test_base_exceptions_come_back_and_kill_nothing": (ErrorsAsText,),
    "test_a_keyboard_interrupt_in_a_task_is_its_outcome": (ErrorsAsText,),
    "test_what_is_not_callable_fails_its_own_task": (SwallowsErrors,),
    "test_an_argument_that_does_not_pickle_fails_its_own_task_and_is_named": (ClaimsToPickle,),
    "test_a_result_that_does_not_pickle_fails_its_own_task": (ClaimsToPickle,),
    "test_an_exception_that_refuses_to_be_changed_comes_back": (ErrorsAsText,),
    "test_a_failed_task_leaves_no_cycle": (KeepsOutcomes,),
    "test_pickling_that_waits_for_the_same_executor_hurts_nothing_else": (ClaimsToPickle,),
    "test_an_exception_that_cannot_be_rebuilt_is_still_caught_by_its_base": (ErrorsAsText,),
    # maps
    "test_map_keeps_the_order": (WrongValue,),
    "test_map_unordered_and_starmap": (WrongValue,),
    "test_unordered_results_come_as_they_are_done": (OneAtATime,),
    "test_chunks_change_no_outcome": (Contagious,),
    "test_map_raises_the_first_error_and_can_return_them": (SwallowsErrors,),
    "test_a_task_that_raises_stop_iteration_does_not_end_the_map_in_silence": (SwallowsErrors,),
    "test_map_reads_an_endless_input_only_so_far": (WrongValue,),
    "test_an_input_that_fails_does_so_in_its_place": (WrongValue,),
    "test_a_list_that_changes_after_the_call_changes_nothing": (WrongValue,),
    "test_inputs_that_repeat_or_count_are_as_long_as_the_others": (WrongValue,),
    "test_a_map_never_iterated_runs_to_its_end": (StopsAtShutdown,),
    "test_results_that_are_dropped_are_gone": (KeepsOutcomes,),
    "test_results_can_be_read_after_shutdown": (StopsAtShutdown,),
    "test_an_input_without_a_length_is_never_cut_short_in_silence": (DeafToShutdown,),
    "test_a_map_out_of_time_raises_and_cancels_what_has_not_started": (PullsAhead,),
    "test_progress_is_told_to_the_end": (NoCallbacks,),
    "test_many_threads_share_one_map": (WrongValue,),
    "test_an_input_may_wait_for_its_own_items_when_they_have_become_tiny": (WrongValue,),
    "test_a_stream_of_tiny_items_that_fails_does_so_in_its_place": (WrongValue,),
    "test_map_arguments_are_checked": (WrongValue,),
    "test_a_process_that_a_task_forks_answers_nothing": (WrongValue,),
    "test_an_error_comes_out_of_a_map_with_its_own_context_and_no_other": (LosesContexts,),
    # tiny items
    "test_tiny_items_have_an_index_each": (NoCurrentTask,),
    "test_errors_of_tiny_items_are_their_own": (SwallowsErrors,),
    "test_a_stop_iteration_of_a_tiny_item_ends_nothing_in_silence": (SwallowsErrors,),
    "test_a_context_variable_that_a_tiny_item_sets_is_its_own": (OneContext,),
    "test_tiny_items_share_no_objects": (ClaimsToPickle,),
    "test_what_cannot_travel_among_tiny_items_fails_alone": (ClaimsToPickle,),
    "test_slow_items_among_tiny_ones_run_side_by_side": (OneAtATime,),
    "test_tiny_items_are_counted_each": (SwallowsErrors,),
    "test_progress_of_tiny_items_is_told": (NoCallbacks,),
    "test_coroutines_of_tiny_items_are_awaited": (WrongValue,),
    "test_a_map_of_tiny_items_closed_or_dropped_ends_well": (WrongValue,),
    "test_no_thread_of_an_executor_is_left_after_shutdown": (NeverJoins,),
    # control
    "test_a_queued_task_can_be_cancelled_and_a_running_one_cannot": (PullsAhead,),
    "test_a_quick_function_that_takes_its_time_once_holds_up_nobody": (PullsAhead, TellsWithTheNext),
    "test_cancelling_some_of_many_changes_nothing_for_the_others": (SpoilsNeighbours,),
    "test_thousands_cancelled_at_once_leave_nothing_queued": (CountsTheDead,),
    "test_a_running_task_learns_that_it_was_asked_to_cancel": (NoCurrentTask,),
    "test_a_task_that_goes_on_though_its_time_is_up_learns_of_it": (NoCurrentTask, TimesOutInSilence),
    "test_kill_stops_a_task_that_runs": (NeverStops,),
    "test_nothing_runs_in_the_place_of_a_killed_task_before_that_is_gone": (ClaimsToKill,),
    "test_kill_and_timeout_of_a_coroutine": (ClaimsToStopCoroutines,),
    "test_kill_of_a_queued_task_is_cancel": (PullsAhead,),
    "test_timeout_fails_the_future_and_restores_the_slot": (NeverStops,),
    "test_an_attempt_that_was_stopped_has_its_record": (NeverStops, ForgetsTheWorker),
    "test_soft_timeout_is_raised_once_inside_the_task": (NoSoftTimeout,),
    "test_soft_timeout_is_raised_in_a_coroutine_where_it_awaits": (NoSoftTimeout,),
    "test_retry_until_it_works": (SwallowsErrors, NoCurrentTask),
    "test_any_number_of_attempts_is_made_if_that_is_the_policy": (SwallowsErrors, NoCurrentTask),
    "test_the_last_error_goes_through_when_attempts_run_out": (SwallowsErrors, ErrorsAsText),
    "test_what_the_policy_does_not_name_is_not_retried": (CallsItACrash,),
    "test_back_off_holds_no_worker": (WaitsInTheWorker,),
    "test_higher_priority_goes_first_and_equals_in_their_order": (PullsAhead,),
    "test_what_is_urgent_does_not_wait_for_many_that_were_believed_to_be_quick": (BelievesThemQuick,),
    "test_tasks_may_wait_for_later_ones_however_many_are_sent_at_once": (KeepsWhatItTook,),
    "test_a_task_that_submits_to_its_own_executor_is_not_held_back": (WrongValue,),
    "test_submit_waits_while_max_pending_tasks_wait": (NoLimit,),
    # surroundings
    "test_current_task_and_seeds": (NoCurrentTask,),
    "test_a_map_seeds_its_items_by_their_position": (NoCurrentTask,),
    "test_a_task_knows_its_name_and_its_deadline": (NoCurrentTask,),
    "test_context_variables": (NoContext,),
    "test_in_this_process_all_context_variables_are_the_submitters": (NoContext,),
    "test_a_closed_pipe_is_an_error_whatever_the_program_does_about_its_own": (WrongValue,),
    "test_a_task_that_waits_for_another_one_of_its_executor_does_not_wait_for_ever": (NeverMakesUp,),
    "test_a_task_can_use_an_executor_of_its_own": (WrongValue,),
    # workers
    "test_max_workers_must_be_positive": (WrongValue,),
    "test_two_workers_run_two_tasks_at_once_and_not_three": (OneAtATime, PullsAhead),
    "test_initializer_runs_before_the_first_task": (NoInitializer,),
    "test_a_failing_initializer_is_an_error_on_every_future": (NoInitializer,),
    "test_a_failing_initializer_is_an_error_of_each_item_of_a_map": (NoInitializer,),
    "test_no_task_is_lost_where_no_more_threads_are_to_be_had": (Forgetful,),
    # crashes
    "test_a_dying_worker_fails_only_its_own_task": (AllDieTogether,),
    "test_a_worker_that_died_is_replaced": (AllDieTogether,),
    "test_a_task_whose_worker_died_runs_again_only_by_its_policy": (AllDieTogether,),
    "test_finalizer_runs_when_a_worker_ends_in_order": (NoFinalizer,),
    "test_max_tasks_per_child_replaces_workers": (NeverRecycles,),
    # settings
    "test_env_is_seen_by_tasks": (ClaimsProcesses,),
    "test_cpu_affinity_pins_workers_in_turn": (ClaimsProcesses,),
    "test_inner_max_num_threads_bounds_what_libraries_use": (ClaimsProcesses,),
    "test_memory_age_and_idleness_are_limits_or_accepted": (ClaimsToRecycle,),
    "test_the_age_of_a_worker_begins_when_it_is_ready": (LeavesAfterEach,),
    "test_retry_and_soft_timeout_hold_for_all_tasks": (SwallowsErrors, NoSoftTimeout),
    "test_require_refuses_a_backend_that_lacks_it": (LacksNothing,),
    "test_an_executor_has_the_name_it_is_given": (WrongValue,),
    "test_a_profile_of_the_project_file_applies": (NoCurrentTask,),
    "test_start_method_and_its_synonym_choose_how_processes_are_made": (ClaimsOptions,),
    "test_thread_name_prefix_names_the_workers": (ClaimsOptions,),
    "test_check_pickle_finds_what_cannot_travel": (ClaimsOptions,),
    # primitives
    "test_a_lock_excludes_all_other_tasks": (OwnPrimitives,),
    "test_an_rlock_is_one_lock_however_often_it_is_passed": (AnyLock,),
    "test_shared_values_are_changed_for_all": (OwnPrimitives,),
    "test_queues_carry_objects_both_ways": (OwnPrimitives,),
    "test_simple_and_joinable_queues": (OwnPrimitives,),
    "test_a_pipe_carries_objects_until_its_end_is_closed": (OwnPrimitives,),
    "test_events_conditions_barriers_and_semaphores": (OwnPrimitives,),
    "test_a_manager_has_lists_and_tables": (OwnPrimitives,),
    "test_they_travel_in_closures_and_as_initargs_and_come_back_as_themselves": (OwnPrimitives,),
    "test_a_lock_that_a_dead_worker_has_left_locked_is_reported": (SilentAboutLocks,),
    "test_a_lock_of_a_value_or_a_condition_left_locked_is_reported_too": (SilentAboutLocks,),
    # ending
    "test_callbacks_run_in_order_and_errors_in_them_hurt_nobody": (NoCallbacks,),
    "test_a_callback_that_blocks_delays_no_result_and_no_deadline": (NoCallbacks,),
    "test_a_callback_may_shut_its_executor_down": (NoCallbacks,),
    "test_a_callback_may_submit_and_may_not_wait_for_its_own_executor": (NoCallbacks,),
    "test_callbacks_may_submit_and_so_on_for_ever": (NoCallbacks,),
    "test_shutdown_runs_what_was_submitted_and_refuses_more": (DeafToShutdown,),
    "test_shutdown_returns_after_the_callbacks": (NoCallbacks,),
    "test_shutdown_with_cancel_futures_cancels_what_has_not_started": (PullsAhead,),
    "test_leaving_by_ctrl_c_cancels_what_waits_and_stops_what_runs": (KilledIsDone,),
    "test_work_of_an_executor_that_nobody_holds_is_done": (Forgetful,),
}

BEHAVIOURS = [name for name in dir(BackendConformance) if name.startswith("test_")]

FAILURES = (
    AssertionError,
    TimeoutError,
    TypeError,
    taskrun.TaskrunError,
    OSError,
    queue.Empty,
    EOFError,
    pytest.fail.Exception,
)


def test_every_behaviour_has_a_backend_that_breaks_it() -> None:
    assert sorted(BREAKS) == sorted(BEHAVIOURS)


def first_parameters(test: Callable[..., None]) -> dict[str, Any]:
    """Return a value for each parameter that pytest.mark.parametrize gives."""
    marks = [mark for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
    return {mark.args[0]: next(iter(mark.args[1])) for mark in marks}


@pytest.mark.parametrize(
    ("behaviour", "broken"), [(behaviour, broken) for behaviour in BEHAVIOURS for broken in BREAKS.get(behaviour, ())]
)
def test_the_behaviour_fails_on_a_broken_backend(
    behaviour: str,
    broken: type[Broken],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suite = BackendConformance()
    suite.backend = broken  # type: ignore[misc]
    suite.patience = 0.4  # type: ignore[misc]
    test: Callable[..., None] = getattr(suite, behaviour)
    fixtures = {"tmp_path": tmp_path, "caplog": caplog, "monkeypatch": monkeypatch, **first_parameters(test)}
    wanted = {name: fixtures[name] for name in inspect.signature(test).parameters}
    try:
        with pytest.raises(FAILURES):
            test(**wanted)
    finally:
        while Broken.lost:
            scheduler, outcome = Broken.lost.pop()
            scheduler.settle((outcome,))
        while Broken.mend:
            Broken.mend.pop()()
