"""What runs in a worker of the cluster: a task. It needs this package there."""

from __future__ import annotations

import os
import sys
import threading
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any

from distributed import get_worker
from distributed.utils import sync

import taskrun
from taskrun.backends.remote import run_pickled_call
from taskrun_dask.arbiter import BEGIN, BEGUN, GO, GRANTED

if TYPE_CHECKING:
    from distributed import Worker

    from taskrun.backends.remote import Answer, Payload

__all__ = ["VERSIONS", "Large", "run"]

VERSIONS = (f"Python {sys.version_info.major}.{sys.version_info.minor}", f"taskrun {taskrun.__version__}")
"""What has to be the same at both ends: code travels by value."""

_SMALL = 100_000  # bytes of an answer that the scheduler passes on
_SHORT = 0.005  # seconds; what is over by then is not announced: the answer would wait for its turn behind that, a fifth longer
_answered: dict[str, tuple[str, Answer]] = {}
"""Worker -> key and answer of the last task that it ran, if it runs one at a time and that was small."""


class Large:
    """A call whose bytes travel as they are: what Dask pickles of a task at each station would else be a copy of them."""

    __slots__ = ("_payload",)

    def __init__(self, payload: Payload) -> None:
        self._payload = payload

    def __reduce__(self) -> tuple[Any, ...]:
        about, packed = self._payload
        return _arrived, (about, packed._replace(arguments=PickleBuffer(packed.arguments)))  # type: ignore[arg-type]

    def unwrapped(self) -> Payload:
        return self._payload


def _arrived(about: bytes, packed: Any) -> Large:
    return Large((about, packed))


def _say_begun(worker: Worker, key: str) -> None:
    """Tell the scheduler that a task is under way which had not to ask; in the worker's event loop."""
    task = worker.state.tasks.get(key)
    if task is not None and task.state == "executing":
        worker.batched_send({"op": BEGUN, "key": key})


def run(versions: tuple[str, ...], key: str, payload: Payload | Large, sharers: int) -> Answer | str:
    """Run the task of Dask's called *key* if the scheduler says that it may begin; return what it said if not.

    *sharers*: how many such workers share the CPUs of the machine, as far as is known.
    """
    worker = get_worker()
    if versions != VERSIONS:
        ours, theirs = ", ".join(versions), ", ".join(VERSIONS)
        raise RuntimeError(f"the worker {worker.address} has {theirs}; the program that submits has {ours}")
    label = f"{worker.address}, pid {os.getpid()}, {threading.current_thread().name}"
    before = _answered.pop(worker.address, None)
    if worker.state.tasks[key].annotations.get(GRANTED) == worker.address:
        worker.loop.add_callback(worker.loop.call_later, _SHORT, _say_begun, worker, key)
    else:
        ask = getattr(worker.scheduler, BEGIN)
        said = sync(worker.loop, ask, key=key, worker=worker.address, label=label, pid=os.getpid(), before=before)
        if said is None:
            raise RuntimeError(
                "the scheduler has lost taskrun's plugin, or has that of another version; a new executor gives it"
            )
        if said != GO:
            return str(said)
    alone = worker.state.nthreads == 1
    call = payload.unwrapped() if isinstance(payload, Large) else payload
    succeeded, data, cause, (_, *cost) = run_pickled_call(call, alone=alone, workers=sharers)
    answer: Answer = (succeeded, data, cause, (label, *cost))  # type: ignore[assignment]
    if alone and len(data) <= _SMALL:
        _answered[worker.address] = key, answer
    return answer
