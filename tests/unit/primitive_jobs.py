"""What the tests of primitives run in workers: importable there, so without pytest."""

from __future__ import annotations

import ctypes
import os
import resource
import socket
import threading
from functools import partial
from typing import Any

import taskrun

PATIENCE = 20.0


def same_lock(*nested: Any) -> bool:
    """Return whether all locks, at any depth, are one object that can be taken."""
    locks = list(flat(nested))
    with locks[0]:
        return all(lock is locks[0] for lock in locks)


def flat(obj: Any) -> Any:
    if isinstance(obj, (list, tuple, set)):
        for item in obj:
            yield from flat(item)
    elif isinstance(obj, dict):
        yield from flat(list(obj.values()))
    elif isinstance(obj, partial):
        yield from flat(obj.args)
    else:
        yield obj.lock if isinstance(obj, Holder) else obj


class Holder:
    def __init__(self, lock: Any) -> None:
        self.lock = lock


def put(q: Any, item: Any) -> None:
    q.put(item)


def put_shared(shared: Any, item: Any) -> None:
    shared["q"].put(item)


def fail_once(q: Any, counter: Any) -> str:
    with counter.get_lock():
        counter.value += 1
        if counter.value == 1:
            raise OSError("the first time")
    q.put("again")
    return "done"


def nested(backend: str, lock: Any, value: Any, q: Any) -> None:
    """Give what this task got to tasks of an executor of its own."""
    with taskrun.Executor(backend, max_workers=1) as ex:
        ex.submit(add, lock, value).result(PATIENCE)
        ex.submit(put, q, backend).result(PATIENCE)
    add(lock, value)


def add(lock: Any, value: Any) -> None:
    with lock:
        value.value += 1


class Point(ctypes.Structure):
    _fields_ = (("_closed", ctypes.c_int), ("x", ctypes.c_int))


def move(point: Any, number: int) -> int:
    """Return whose it is in the worker."""
    with point.get_lock():
        point.x += number
    return id(point)


def make_lock() -> Any:
    return taskrun.get_context("process").Lock()


def descriptors(*_: Any) -> int:
    return len(os.listdir("/proc/self/fd"))


def read(end: Any) -> Any:
    if isinstance(end, socket.socket):
        return end.recv(100)
    return end.recv()


def read_all(ends: list[Any]) -> list[Any]:
    return [end.recv() for end in ends]


def limit(room: int | None) -> None:
    """Leave room for so many more descriptors; None: as many as may be."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if room is None else descriptors() - 1 + room, hard))


def die(*_: Any) -> None:
    os._exit(7)


def wait(event: Any, *_: Any) -> bool:
    return bool(event.wait(PATIENCE))


def threads() -> int:
    return threading.active_count()
