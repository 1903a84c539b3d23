"""Whether items of a `map` travel together: what was asked for may forbid it, and how long they take decides (see `runs`)."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from taskrun import sharing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskrun.future import Future
    from taskrun.options import TaskOptions
    from taskrun.scheduler import Scheduler

__all__ = ["LOOK_AT", "Pace", "may_run_together"]

LOOK_AT = 16
"""Items that travel alone before it is decided how the others do."""
_LOOK_LONGER = 5e-3  # seconds of items that are as slow as may be: likewise, after a run was slow


def may_run_together(scheduler: Scheduler, fn: Callable[..., Any], options: TaskOptions) -> bool:
    """Return whether nothing that was asked for needs each item to be a task."""
    settings = scheduler.settings
    asked = (options.timeout, options.soft_timeout, options.retry, settings.seed, settings.max_tasks_per_child)
    return (
        scheduler.concurrent
        and scheduler.combines_items
        and all(each is None for each in asked)
        and options.chunksize != 1
        and (scheduler.pickles_arguments or not sharing.in_use)  # else what stands for an object is an argument itself
        and not _is_coroutine_function(fn)
    )


def _is_coroutine_function(fn: Any) -> bool:
    while type(fn) is partial:
        fn = fn.func
    code = getattr(fn, "__code__", None)
    return bool(getattr(code, "co_flags", 0) & 0x80)  # CO_COROUTINE; `inspect` is slow to load


class Pace:
    """How long an item takes, as far as it decides whether items travel together. Owner: the map, under its lock."""

    def __init__(self, tiny: float, cold: float = 0.0) -> None:
        self.seconds: float | None = None
        """None: not known yet."""
        self._tiny = tiny  # seconds; items that take less come in runs
        self._cold = cold  # seconds that they take longer when they travel alone
        self._looks = LOOK_AT  # at items that travel alone, before it is decided
        self._seen: list[float] = []
        self._runs: deque[float] = deque(maxlen=3)

    @property
    def tiny(self) -> bool:
        """Whether they are known to take so little that several travel together."""
        return self.seconds is not None and self.seconds <= self._tiny

    def learn(self, ended: Sequence[Future[Any]]) -> None:
        """Take note of items that travelled alone: the middle of some, since the first are slow and others were interrupted."""
        if self.tiny:
            return
        for future in ended:
            duration = future.last_duration
            if duration is not None:
                self._seen.append(duration)
        if len(self._seen) >= self._looks:
            self.seconds = max(0.0, sorted(self._seen)[len(self._seen) // 2] - self._cold)
            self._seen.clear()

    def learn_run(self, items: int, seconds: float) -> None:
        """Take note of how long items of a run took; if they are not so tiny after all, that is believed for a while."""
        self._runs.append(seconds / items)
        self.seconds = sorted(self._runs)[len(self._runs) // 2]  # one that was slow was interrupted, most often
        if self.tiny:
            return
        if min(self._runs) <= self._tiny:  # perhaps both others were, on a machine that has much to do
            self.seconds = self._tiny
        else:
            self._looks = max(LOOK_AT, int(_LOOK_LONGER / self._tiny))
            self._runs.clear()
