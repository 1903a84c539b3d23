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
    return without_main()


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
