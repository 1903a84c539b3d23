"""What the tests of contexts run in processes and tasks: importable there, so without pytest."""

from __future__ import annotations

import multiprocessing
import os
import queue
import sys
import threading
from multiprocessing.managers import BaseManager
from typing import TYPE_CHECKING, Any

from taskrun.engine.without_main import without_main

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

PATIENCE = 20.0


def not_running_main() -> AbstractContextManager[None]:
    """A context whose new processes do not run pytest again, which takes them longer than all the rest."""
    return without_main(multiprocessing.get_context())


# -- managers ------------------------------------------------------------------------------------------------------------------


class Counter:
    """What a manager of one's own has."""

    def __init__(self, number: int = 0) -> None:
        self._number = number

    def add(self, more: int = 1) -> int:
        self._number += more
        return self._number

    def fail(self) -> None:
        raise ZeroDivisionError

    def _hidden(self) -> None: ...


_queue: queue.Queue[Any] = queue.Queue()


def the_queue() -> queue.Queue[Any]:
    return _queue


class Offers(BaseManager):
    """Its process has the counter and the queue."""


class Wants(BaseManager):
    """Is told by address where they are."""


Offers.register("Counter", Counter)
Offers.register("the_queue", the_queue)
Wants.register("the_queue")


def put_by_address(address: Any, key: bytes, item: Any) -> None:
    manager: Any = Wants(address, key)
    manager.connect()
    manager.the_queue().put(item)


# -- processes -----------------------------------------------------------------------------------------------------------------


def tell(results: Any, *args: Any, **kwargs: Any) -> None:
    """Put what is known about this process."""
    me = multiprocessing.current_process()
    results.put((args, kwargs, me.name, os.getpid(), threading.current_thread().name))


def wait_for(event: Any) -> None:
    event.wait(PATIENCE)


def leave(code: Any) -> None:
    sys.exit(code)


def upper(end: Any) -> None:
    """Answer each text in upper case, until None comes."""
    for text in iter(end.recv, None):
        end.send(text.upper())


def rebuilt_process(base: Any, state: dict[str, Any]) -> Any:
    class Rebuilt(base):  # type: ignore[misc]
        def run(self) -> None:
            upper(self.end)

    process = Rebuilt.__new__(Rebuilt)
    process.__dict__.update(state)
    return process


# -- tasks ---------------------------------------------------------------------------------------------------------------------


def acquire(lock: Any, *how: Any) -> bool:
    return bool(lock.acquire(*how))


def release(lock: Any) -> None:
    lock.release()


def take_and_say(lock: Any, said: Any) -> None:
    if not lock.acquire(False):
        said.put("not at once")
        lock.acquire(True, PATIENCE)
    said.put("now")
    lock.release()


def hold_and_say(lock: Any, said: Any) -> None:
    said.put("begun")
    with lock:
        pass


def take_thrice(lock: Any, said: Any, go_on: Any) -> None:
    with lock, lock, lock:
        said.put(3)
        go_on.wait(PATIENCE)


def wait_to_be_told(condition: Any, said: Any, timeout: float = PATIENCE) -> bool:
    with condition:
        said.put("asleep")
        return bool(condition.wait(timeout))


def answer_event(event: Any, back: Any) -> bool:
    event.wait(PATIENCE)
    back.set()
    return bool(event.is_set())


def put_all(q: Any, name: str, number: int) -> None:
    for i in range(number):
        q.put((name, i))


def put_and_close(q: Any, item: Any) -> None:
    q.put(item)
    q.close()
    if hasattr(q, "join_thread"):
        q.join_thread()


def work_off(q: Any, number: int, go_on: Any) -> list[Any]:
    go_on.wait(PATIENCE)
    done = []
    for _ in range(number):
        done.append(q.get(timeout=PATIENCE))
        q.task_done()
    return done


def count_down(end: Any, begin: int | None) -> int:
    """Send numbers to and fro, each one less; return how many came."""
    if begin is not None:
        end.send(begin)
    came = 0
    while end.poll(PATIENCE):
        number = end.recv()
        came += 1
        if number:
            end.send(number - 1)
        if number <= 1:
            return came
    raise TimeoutError


def add_and_say(lock: Any, value: Any, q: Any) -> None:
    for _ in range(200):
        with lock:
            value.value += 1
    q.put("added")
