"""APScheduler runs its jobs on a backend."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED
from apscheduler.executors.pool import BasePoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from work import fail, increment

import taskrun

if TYPE_CHECKING:
    from apscheduler.events import JobExecutionEvent


# The time until a job begins includes the start of a worker; by default APScheduler skips a job that is late by a second.
JOBS = {"misfire_grace_time": None}


class TaskrunExecutor(BasePoolExecutor):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(taskrun.Executor(*args, **kwargs))


def test_jobs_and_their_errors_are_reported(backend: str) -> None:
    ended: queue.Queue[JobExecutionEvent] = queue.Queue()
    scheduler = BackgroundScheduler(
        executors={"default": TaskrunExecutor(backend, max_workers=2)}, timezone="UTC", job_defaults=JOBS
    )
    scheduler.add_listener(ended.put, EVENT_JOB_EXECUTED | EVENT_JOB_ERROR)
    scheduler.start()
    try:
        scheduler.add_job(increment, args=[1], id="good")
        scheduler.add_job(fail, args=["no"], id="bad")
        events = {event.job_id: event for event in (ended.get(timeout=30), ended.get(timeout=30))}
    finally:
        scheduler.shutdown()  # and its executors
    assert events["good"].retval == 2
    assert repr(events["bad"].exception) == "LookupError('no')"
