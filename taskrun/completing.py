"""What becomes of an attempt: a result, an error, or another attempt. The one place that completes outcomes.

The lock plan is the scheduler's; see there. Retry predicates are the user's and are asked with no lock held.
"""

from __future__ import annotations

import logging
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from taskrun.closing import Closing
from taskrun.counting import NOBODY
from taskrun.deadlines import Deadlines
from taskrun.errors import TaskTimeoutError
from taskrun.exception_text import add_note
from taskrun.future_state import CANCELLED, FINISHED, NO_RUN, PENDING, hold_states
from taskrun.task import Cause, Run, Task
from taskrun.threads import take_politely

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskrun.backends.base import Backend
    from taskrun.options import WorkerSettings

__all__ = ["Completing", "Outcome"]

Outcome = tuple[Task, bool, Any, Cause | None, Run | tuple[Any, ...] | None]
"""(task, succeeded, value or error, cause of the error, what it cost): one attempt's end, as backends report it."""

_log = logging.getLogger("taskrun")


class Completing(Closing):
    """The part of the scheduler that backends report to: it settles futures, retries and keeps deadlines."""

    def __init__(self, backend: Backend, settings: WorkerSettings, max_pending: int | None, seed: int | None) -> None:
        super().__init__(backend, settings, max_pending)
        self._seed = int.from_bytes(os.urandom(8), "big") if seed is None else seed
        self._deadlines = Deadlines(self.lock, self.timer, self._expire)
        # Failed tasks whose policies are still to be asked. Whoever takes one out decides: one step of a dict, no lock.
        self._undecided: dict[Task, Outcome] = {}

    # -- reporting -------------------------------------------------------------------------------------------------------------

    def succeed(self, task: Task, value: Any, run: Run | tuple[Any, ...] | None = None) -> None:
        """Report that *task* returned *value*."""
        self.settle(((task, True, value, None, run),))

    def fail(self, task: Task, error: BaseException, cause: Cause, run: Run | tuple[Any, ...] | None = None) -> None:
        """Report that *task* ended in *error*; the retry policy decides whether it runs again."""
        self.settle(((task, False, error, cause, run),))

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Report many outcomes at once. Of a task that is settled already nothing is heard."""
        over: list[Task] = []
        failed: list[Outcome] = []
        try:
            with self.lock:
                for outcome in outcomes:
                    task, succeeded, value, _, run = outcome
                    if task.settled:
                        continue
                    task.settled = True
                    self._deadlines.drop(task)
                    if self._killed and task in self._killed:
                        succeeded, outcome = False, self._of_killed(outcome)
                    if succeeded:
                        task.future._records += (task.number, task.queued, *(run or NO_RUN), None)
                        self._resolve(task, FINISHED, value, None)
                        over.append(task)
                    else:
                        failed.append(outcome)
                ending = self._progress()
            if over:
                self._let_go(over)
            for outcome in failed:
                self._look_at_failure(outcome)
            if ending:
                self._end()
        except BaseException:  # Ctrl-C, where the caller is the user's: finish what was begun
            self._settle_plainly(outcomes)
            raise

    def settle_ours(self, outcomes: Sequence[Outcome]) -> None:
        """Do as `settle`, in a thread of ours, which no Ctrl-C strikes in the middle."""
        # The hot path of most backends: `_resolve` and `_let_go` in one piece.
        over: list[Task] = []
        failed: list[Outcome] = []
        # Made first: what the collector destroys when objects are made may wait for threads that want our locks.
        records = [(task.number, task.queued, *(run or NO_RUN), None) for task, _, _, _, run in outcomes]
        if not self.lock.acquire(False):
            take_politely(self.lock)
        try:
            try:
                wanted = self._finish_all(outcomes, records, over, failed)
                ending = (self._closed is not None or self._room.limit is not None) and self._progress()
            finally:
                self.lock.release()
        except BaseException:  # there is no memory, say: finish what was begun, nobody else would
            self._settle_plainly(outcomes)
            self._let_go(over)
            raise
        if wanted:
            self._let_go(over)
        else:
            for task in over:
                if task.future._gates:
                    task.future._open_gates()
                task.forget(NOBODY)
        for outcome in failed:
            self._look_at_failure(outcome)
        if ending:
            self._end()

    def _finish_all(
        self, outcomes: Sequence[Outcome], records: Sequence[tuple[Any, ...]], over: list[Task], failed: list[Outcome]
    ) -> bool:
        """Add the tasks that succeeded to *over*, their futures done, and what failed to *failed*. Under the lock.

        Return whether anybody but who waits in `result` wants to hear of one: a map, a callback, or who looks at its future.
        """
        counts, deadlines, killed = self.counts, self._deadlines.noted, self._killed
        wanted = False
        states = hold_states()
        try:
            for outcome, record in zip(outcomes, records, strict=True):
                task, succeeded, value, _, _ = outcome
                if task.settled:
                    continue
                task.settled = True
                if deadlines:
                    deadlines.pop(task, None)
                if killed and task in killed:
                    succeeded, outcome = False, self._of_killed(outcome)
                if not succeeded:
                    failed.append(outcome)
                    continue
                future = task.future
                future._records += record
                over.append(task)
                if states is None or not future._finish_held(FINISHED, value, None):
                    self._late[task] = FINISHED, value, None
                    self._finishing += 1
                    wanted = True
                else:
                    self._open -= 1
                    if future._callbacks:
                        self.callbacks.add(future._invoke_callbacks)
                        wanted = True
                future._task = None
                counts["succeeded"] += 1
                if task.owner is not None:
                    wanted = True
        finally:
            if states is not None:
                states.release()
        return wanted

    def _of_killed(self, outcome: Outcome) -> Outcome:
        """Return what becomes of the outcome of a task that was killed just before it was heard. Under the lock."""
        task, succeeded, value, cause, run = outcome
        return task, False, self._killing_error(task, None if succeeded else value, cause), "killed", run

    def _killing_error(self, task: Task, error: BaseException | None, cause: Cause | None) -> BaseException:
        """Return what a killed task ends in that had come to *error*, or to a value. Under the lock."""
        if error is not None and cause == "killed":  # that is how the killing ended
            return error
        killing = self._killed[task]
        killing.__cause__ = error
        return killing

    @staticmethod
    def _record(task: Task, run: Run | tuple[Any, ...] | None, error: BaseException | None) -> None:
        """Add the record of an attempt that ended; where the worker could not tell, what is known here."""
        if run is None and task.begun is not None:
            run = (task.worker, task.begun, time.monotonic() - task.begun, None, None)
        task.future._records += (task.number, task.queued, *(run or NO_RUN), error)

    def _settle_plainly(self, outcomes: Sequence[Outcome]) -> None:
        """Settle what is not settled yet; nothing is retried, and it may be called in the middle of `settle`."""
        over = []
        with self.lock:
            for task, succeeded, value, _, _ in outcomes:
                if task.future._task is task:
                    task.settled = True
                    self._deadlines.drop(task)
                    self._resolve(task, FINISHED, value if succeeded else None, None if succeeded else value)
                    over.append(task)
            ending = self._progress()
        self._let_go(over)
        if ending:
            self._end()

    # -- retrying --------------------------------------------------------------------------------------------------------------

    def _look_at_failure(self, outcome: Outcome) -> None:
        """Decide what becomes of a task that failed; the user's code is asked beside the engine and the workers."""
        task, _, error, cause, _ = outcome
        policy = task.options.retry
        if policy is not None and policy.asks and not self._inline:
            self._undecided[task] = outcome
            if task in self._killed or self._discard:  # perhaps before it could be found there
                self._decide_now(task)
            else:
                self.run_aside(partial(self._ask, task))
        else:
            self._decide(outcome, self._retry_delay(task, error, cause))

    def _ask(self, task: Task) -> None:
        """Ask the policy of a task, and act on what it says unless it was decided meanwhile."""
        outcome = self._undecided.get(task)
        if outcome is None:
            return
        delay = self._retry_delay(task, outcome[2], outcome[3])
        if self._undecided.pop(task, None) is not None:
            self._decide(outcome, delay)

    def _decide_now(self, task: Task) -> None:
        """Have a task fail without an answer of its policy, if that was still to be asked: it was killed, say."""
        outcome = self._undecided.pop(task, None)
        if outcome is not None:
            self._decide(outcome, None)

    def _turn_away(self) -> list[Task]:
        refused = super()._turn_away()
        if self._broken is None and not self._discard:
            return refused
        for task in list(self._undecided):  # there will be no attempt, whatever their policies say
            outcome = self._undecided.pop(task, None)
            if outcome is not None:
                _, _, error, cause, run = outcome
                self._fail(task, error, cause, run)
                refused.append(task)
        return refused

    def _fail(self, task: Task, error: BaseException, cause: Cause | None, run: Any) -> None:
        """Have the future of a settled task fail for good. Under the lock."""
        if task in self._killed:
            error = self._killing_error(task, error, cause)
        self._record(task, run, error)
        self._resolve(task, FINISHED, None, error)

    def _decide(self, outcome: Outcome, delay: float | None) -> None:
        """Run a failed task again after *delay*, or let its future fail. It is settled: nobody else touches it any more."""
        task, _, error, cause, run = outcome
        again = None
        with self.lock:
            # Killed perhaps while the policy was asked; and broken, there is nobody to run it again. The item of a map that was
            # closed while it ran could not be cancelled then, and nobody could do so later.
            unwanted = task.owner is not None and task.owner.closed
            if delay is None or unwanted or self._discard or self._broken is not None or task in self._killed:
                self._fail(task, error, cause, run)
            else:
                self._record(task, run, error)
                again = task.again()
                task.future._task = again
                task.future._state = PENDING
                self._backoff.add(again)
                self.counts["retried"] += 1
            ending = self._progress()
        if again is None or delay is None:
            self._let_go((task,))
        else:
            task.forget(NOBODY)
            self._back_off(again, delay)
        if ending:
            self._end()

    def _retry_delay(self, task: Task, error: BaseException, cause: Cause | None) -> float | None:
        """Ask the retry policy; None: no further attempt. Runs the user's predicate, so never under the lock."""
        policy = task.options.retry
        if policy is None or cause is None:
            return None
        records = task.future._records
        elapsed = time.monotonic() - (records[1] if records else task.queued)
        try:
            seed = self._seed ^ (task.index * 1_000_003 + task.number)
            if policy.wants_retry(error, cause, task.number, elapsed, seed):
                return policy.delay(task.number, error, seed)
            if task.number > 1:
                add_note(error, policy.note(task.number, elapsed))
        except BaseException as problem:  # a predicate's own error must not lose the task it was asked about
            if self._inline and isinstance(problem, KeyboardInterrupt):
                raise
            _log.exception("the retry policy of task %r failed", task.name)
            add_note(error, f"not retried: the retry policy raised {problem!r}")
        return None

    def _back_off(self, task: Task, delay: float) -> None:
        if self._inline:
            try:
                time.sleep(delay)
            except BaseException:  # Ctrl-C while the caller waits: nobody else would end this task
                self._abandon(task)
                raise
            self._requeue(task)
        elif delay <= 0:
            self._requeue(task)
        elif not self.timer.call_at(time.monotonic() + delay, self._requeue, task):
            _log.warning("task %r is not retried: the interpreter is shutting down and gives no more threads", task.name)
            self._abandon(task)

    def _requeue(self, task: Task) -> None:
        with self.lock:
            if task not in self._backoff:
                return  # cancelled meanwhile
            self._backoff.discard(task)
            task.queued = time.monotonic()
            self._queue.put(task)
        self._backend.wake()

    def _abandon(self, task: Task) -> None:
        """Cancel a task in back-off: there will be no further attempt."""
        with self.lock:
            if task.settled:
                return
            self._cancel_waiting(task)
            if task.future._callbacks and task not in self._late:
                self.callbacks.add(task.future._invoke_callbacks)
            ending = self._progress()
        self._let_go((task,))
        if ending:
            self._end()

    def _cancel_waiting(self, task: Task) -> None:
        """Cancel a task that waits in the queue or in back-off. Under the lock."""
        task.settled = True  # first: the queue tells dead tasks by it
        if task in self._backoff:
            self._backoff.discard(task)
        else:
            self._queue.skip(task)
        self._resolve(task, CANCELLED, None, None)

    # -- deadlines -------------------------------------------------------------------------------------------------------------

    def _expire(self, task: Task, now: float) -> None:
        """Stop a task whose time is up. Not under the lock."""
        begun, limit = task.begun, task.options.timeout
        if begun is None or limit is None or task.settled:
            return
        error = TaskTimeoutError(limit=limit, elapsed=now - begun, task=task.name, attempt=task.number)
        if not self._backend.stop(task, error, "timeout"):
            self.fail(task, error, "timeout")
            task.cancel_requested = True  # it goes on, and may ask; not before, lest it returns in time
