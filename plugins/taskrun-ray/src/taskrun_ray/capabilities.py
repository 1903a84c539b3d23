"""What the backend can do: Ray runs each task in a process that runs no other one meanwhile."""

from __future__ import annotations

from taskrun.backends import Capabilities

__all__ = ["RAY"]

RAY = Capabilities(
    cancel_running=False,  # Ray can interrupt a task or kill its worker, not tell it something
    crash_isolation=True,
    kill="yes",  # ray.cancel(force=True)
    initializer="no",  # Ray makes workers as it sees fit; `runtime_env` has a `worker_process_setup_hook`
    pickles="yes",
    primitives="no",  # the workers are no children of this process, perhaps on no machine of its
    processes=True,
)
