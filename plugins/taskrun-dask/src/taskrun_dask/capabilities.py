"""What the backend can do: more on a cluster of its own, whose processes are its to kill."""

from __future__ import annotations

from taskrun.backends import Capabilities

__all__ = ["OWN", "THEIRS"]

THEIRS = Capabilities(
    cancel_running=False,  # nothing reaches a task that runs in a thread of a worker
    crash_isolation=True,
    names_guilty=False,  # a worker with several threads runs several tasks: all of them die with it
    kill="no",  # a thread cannot be stopped, and the process is everybody's
    initializer="no",  # the workers were there before; Dask has `--preload` and worker plugins for it
    pickles="yes",
    primitives="no",  # the workers are no children of this process, perhaps on no machine of its
    processes=True,
)
"""On a cluster reached by its address."""

OWN = THEIRS._replace(names_guilty=True, kill="yes")
"""On one that the executor started: each worker is a process that runs one task at a time."""
