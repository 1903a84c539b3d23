"""Runs tasks in workers of `multiprocessing.Pool`; how these are made and seen off is in `pool_workers`.

The keeper hands a task to a worker that has none. It is pickled in a thread of the pool that it was given to, and begins when
that is done: until then it can be taken back. Its answer is unpickled in another one, which gives the worker what waits next;
the keeper is asked again when nothing waits, or when something is to be done about the worker.

So a worker's task, with what goes with it, is that thread's as long as the worker is `busy`, else the keeper's. Both change it
under the scheduler's lock, as the keeper does `stop` and `dead`: after these a worker is given nothing more.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from taskrun.backends.base import Capabilities, refuse_waiting_in
from taskrun.backends.pool_parked import PoolParked
from taskrun.backends.start_methods import MP_CONTEXT, chosen_method
from taskrun.errors import SerializationError
from taskrun.runs import Run
from taskrun.serialization import not_sent
from taskrun.threads import in_subinterpreter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from taskrun.engine.pooled import PooledWorker
    from taskrun.options import WorkerSettings
    from taskrun.scheduler import Scheduler
    from taskrun.task import Task

__all__ = ["PoolBackend"]


class PoolBackend(PoolParked):
    """A dying worker fails only the task it ran."""

    name: ClassVar[str] = "pool"
    cold = 30e-6
    capabilities = Capabilities(
        crash_isolation=True,
        kill="yes",
        recycle_by_count=True,
        recycle_by_state=True,
        pickles="yes",
        processes=True,
    )
    option_names: ClassVar[Mapping[str, str]] = {
        "start_method": 'how workers are made: "forkserver" (default: from multiprocessing\'s fork server), "spawn" or "fork"',
        **MP_CONTEXT,
    }

    @classmethod
    def unavailable(cls) -> str | None:
        if in_subinterpreter():
            return (
                'multiprocessing.Pool needs daemon threads, which a sub-interpreter does not allow; use backend="process" here'
            )
        return super().unavailable()

    def configure(self, options: Mapping[str, Any]) -> None:
        chosen_method(options)  # raises

    def start(self, scheduler: Scheduler, settings: WorkerSettings) -> None:
        """Start two threads of ours; workers are made when there is work."""
        self._suspects: deque[Task] = deque()  # took a worker down, and run again: each on a fresh one
        super().start(scheduler, settings)

    # -- getting workers to work -----------------------------------------------------------------------------------------------

    def _room(self) -> bool:
        self._all_at_work = self._at_work() >= self._limit and len(self._staying()) >= self._limit
        return self._step() is not None  # after that: what is queued from here on wakes us, or one of these takes it

    def _feed(self) -> None:
        while (step := self._step()) is not None and step() is not False:
            pass

    def _step(self) -> Callable[[], object] | None:
        """Return what to do next for the tasks that wait, or None."""
        owed, suspects = len(self._owed), self._suspects
        queued = max(0, self._scheduler.queued - self._called()) + owed
        if not (queued or suspects):
            return None
        if self._broken:
            return self._recall if suspects or owed else None
        at_work = self._at_work()
        only_owed = self._only_owed(at_work)
        to_give = owed if only_owed else queued
        fresh, used = self._free_workers() if at_work < self._limit else (None, None)
        current = self._current()
        room = len(self._staying()) < self._limit
        if suspects:
            if fresh is not None and not only_owed:
                return partial(self._give_suspect, fresh)
            if used is not None and not room and all(worker.done for worker in current):
                return partial(self._leave, used)  # it makes room for a fresh one
        worker = used or (None if suspects else fresh)
        if to_give and worker is not None:
            return partial(self._give_next, worker)
        coming = sum(not worker.ready for worker in current)
        if room and coming < queued + len(suspects) and time.monotonic() >= self._failures.not_before:
            return self._start_worker
        return None

    def _free_workers(self) -> tuple[PooledWorker | None, PooledWorker | None]:
        """Return a free worker that was given nothing yet; and the other one that worked last: its caches are warm."""
        free = [worker for worker in self._processes.values() if self._is_free(worker)]
        fresh = next((worker for worker in free if not worker.done), None)
        return fresh, max((worker for worker in free if worker.done), key=lambda worker: worker.moved, default=None)

    def _give_next(self, worker: PooledWorker) -> bool:
        """Give a free worker what waits next; False: there is nothing for it after all. In the keeper."""
        with self._scheduler.lock:  # who cancels a task finds it in the queue or with a worker, never between them
            if not self._claim(worker):
                return False
            suspects = len(self._suspects)
            task, worker.busy = self._take_for(worker)
        if worker.busy and task is not None:
            self._hand_over(worker, task)
        elif task is not None:
            self._scheduler.give_back((task,))
        return task is not None or len(self._suspects) > suspects

    def _take_for(self, worker: PooledWorker) -> tuple[Task | None, bool]:
        only = bool(self._extra) and self._only_owed(self._at_work() - worker.busy)
        task = self._next_owed(only=only)
        worker.alone = task is not None
        if task is None and not only:
            task = next(iter(self._scheduler.pull(1)), None)
        if task is not None and task.number > 1 and task.future in self._crashed:
            self._suspects.append(task)
            task = None
        return task, task is not None and self._assign(worker, task)

    def _claim(self, worker: PooledWorker) -> bool:
        """Own a free worker, if no more are at work than may be; False: somebody else does. Under the lock."""
        if not self._is_free(worker) or self._at_work() >= self._limit:
            return False
        self._unpark(worker)
        worker.busy = True
        return True

    def _give_suspect(self, worker: PooledWorker) -> None:
        """Give a free worker a task that took another one down. In the keeper."""
        with self._scheduler.lock:
            if not (self._suspects and self._claim(worker)):
                return
            task = self._suspects.popleft()
            worker.busy = taken = self._assign(worker, task)
        if taken:
            self._hand_over(worker, task)
        else:
            self._scheduler.give_back((task,))

    def _assign(self, worker: PooledWorker, task: Task) -> bool:
        """Note that a worker has *task*; False: it is on its way out, or *task* was killed or discarded. Under the lock."""
        if worker.stop or worker.leaving or worker.dead or not self._scheduler.wanted(task):
            return False
        worker.task, worker.packing, worker.busy = task, True, True
        worker.answering = False
        worker.sequence = worker.note_given()
        self._note_whether_it_ends_soon(worker)
        return True

    def _hand_over(self, worker: PooledWorker, task: Task, *, here: bool = False) -> None:
        """Give a worker the task that it was assigned."""
        task.worker = worker.label
        worker.give(
            partial(self._pack, worker, task),
            partial(self._answered, worker, task),
            partial(self._not_sent, worker, task),
            here=here,
        )

    def _pack(self, worker: PooledWorker, task: Task) -> tuple[Any, ...] | None:
        """Return *task* as it is sent, and begin it; None: it was taken back, killed or discarded meanwhile."""
        self._inside.ours = True
        try:
            call = worker.call_for(task, self._context_vars, self._seeded)
        except SerializationError:
            raise
        except BaseException as error:  # else the pool's thread would end, or take it for the worker's death
            raise not_sent(error, task) from error
        with self._scheduler.lock:
            if worker.task is not task:
                return None
            worker.packing = False
            unwanted = not self._scheduler.wanted(task)
            if unwanted:
                worker.task = None
        if unwanted:
            self._scheduler.give_back((task,))
            return None
        if not self._scheduler.begin(task):
            return None
        worker.note_sent()
        return call

    def _not_sent(self, worker: PooledWorker, task: Task, error: BaseException) -> None:
        self._inside.ours = True
        if not isinstance(error, SerializationError):  # the worker died while it was sent to, or nobody knows what it has now
            self._tell(self._lost, worker, error.with_traceback(None))  # its frames keep what was to be sent
            return
        with self._scheduler.lock:
            ours = worker.task is task  # else it was given back meanwhile, and runs elsewhere
        if ours:
            self._scheduler.fail(task, error, "serialization")
        self._tell(self._free, worker)

    # -- what workers say ------------------------------------------------------------------------------------------------------

    def _answered(self, worker: PooledWorker, task: Task, answer: Sequence[Any] | None) -> None:
        self._inside.ours = True
        if answer is None:
            self._tell(self._free, worker)
            return
        worker.answering = True
        self._take_answer(worker, task, answer)
        self._look_for_more(worker)

    def _take_answer(self, worker: PooledWorker, task: Task, answer: Sequence[Any]) -> None:
        outcome = worker.outcome(task, answer)
        if outcome[1] and outcome[4] is not None:
            worker.note_pace(task, outcome[4][2])
        self._scheduler.settle_ours((outcome,))

    def _look_for_more(self, worker: PooledWorker) -> None:
        if not (self._goes_on(worker) or self._park(worker)):
            self._tell(self._free, worker)

    def _goes_on(self, worker: PooledWorker) -> bool:
        """Give a worker that has answered what waits next; False: the keeper has to look at it."""
        if self._suspects or self._too_many() or self._is_spent(worker):
            return False
        with self._scheduler.lock:  # as in `_give_next`
            task, taken = self._take_for(worker)
        if task is None:
            return False
        if not taken:
            self._scheduler.give_back((task,))
            return False
        if worker.alone or not self._send_with_others(worker, task):
            self._hand_over(worker, task, here=True)
        self._have_it_watched(worker, task)
        return True

    def _have_it_watched(self, worker: PooledWorker, task: Task) -> None:
        with self._scheduler.lock:
            watched, wish = worker.watched, 1 if worker.batch is None else 2
            worker.watched = max(watched, wish)
        if watched < wish or type(task.fn) is Run:
            self._have_it_look()

    def _free(self, worker: PooledWorker) -> None:
        """A worker has done what it was given."""
        if worker.number not in self._processes:
            return  # buried meanwhile
        self._failures.progress()
        stop, task = worker.stop, worker.task
        with self._scheduler.lock:
            worker.task = None
            worker.busy = worker.packing = worker.answering = False
        worker.moved = time.monotonic()
        if stop is not None and stop.task is not None and stop.task is task:
            if stop.asked_at is None:  # nothing has been done to it
                worker.stop = None
                worker.forget_stack()
            else:
                stop.task = None
        if self._is_spent(worker):
            self._leave(worker)
        else:
            self._park_free(worker)

    def _is_spent(self, worker: PooledWorker) -> bool:
        """Return whether a worker has done its share."""
        settings = self._settings
        count, size, age = settings.max_tasks_per_child, settings.max_memory_per_child, settings.max_age_per_child
        return (
            (count is not None and worker.done >= count)
            or (size is not None and worker.rss > size)
            or (age is not None and time.monotonic() > worker.born + age)
        )

    # -- taking back -----------------------------------------------------------------------------------------------------------

    def revoke(self, task: Task) -> bool:
        if self._struck():
            return False  # "not to be had" is a permitted answer
        with self._scheduler.lock:
            return task in self._take_back(task) or self._ask_back(task)

    def recall(self) -> None:
        self._tell(self._recall)  # not here, where Ctrl-C may strike between taking them and giving them back

    def _recall(self) -> None:
        with self._scheduler.lock:
            tasks = self._take_back() + self._all_not_begun()
        self._scheduler.give_back(tasks)

    def _take_back(self, only: Task | None = None) -> list[Task]:
        """Take tasks that have not begun: all of them, or *only* that one. Under the lock."""
        back = [task for task in self._suspects if only is None or task is only]
        for task in back:
            self._suspects.remove(task)
        for worker in self._processes.values():
            task_or_none = worker.task
            if worker.packing and task_or_none is not None and (only is None or task_or_none is only):
                worker.task, worker.packing = None, False
                back.append(task_or_none)
        return back

    # -- stopping --------------------------------------------------------------------------------------------------------------

    def _still_runs(self, process: PooledWorker) -> bool:
        return process.task is not None and not (process.answering or process.dead)

    # -- waiting ---------------------------------------------------------------------------------------------------------------

    def owns_current_thread(self) -> bool:
        current = threading.current_thread()
        return getattr(self._inside, "ours", False) or current is self._keeper or current is self._maker

    def waiting(self) -> AbstractContextManager[None]:
        refuse_waiting_in(threading.current_thread() if self.owns_current_thread() else None)
        return nullcontext()

    # -- ending ----------------------------------------------------------------------------------------------------------------

    def _give_up(self, error: BaseException) -> None:
        super()._give_up(error)
        self._recall()  # what was pulled and given to nobody fails with the rest

    def _something_waits(self) -> bool:
        return bool(self._scheduler.queued or self._suspects or self._owed)

    def _is_over(self) -> bool:
        return super()._is_over() and not (self._suspects or self._owed)
