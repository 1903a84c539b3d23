"""What a system has to offer to be timed: the same few verbs for each of them."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["FuturesSystem", "System"]


class System(ABC):
    """One way to run calls, with *workers* workers, each replaced after *tasks_per_worker* tasks if that is given.

    `can` says what it offers, of: "submit" (one call at a time, gathered later), "call" (one call, waited for), "map",
    "stream" (in order, from an input that may be endless), "stream-unordered", "fresh" (a new process for each task),
    "shared" (objects promised not to change), "queue" (queued tasks wait in this very process).
    """

    kind: ClassVar[str] = "process"
    needs: ClassVar[str] = ""
    """The package that has to be there; none for the standard library."""
    modules: ClassVar[tuple[str, ...]] = ()
    """What a program imports at its top to use it, where that is not the package."""
    can: frozenset[str] = frozenset()
    lazy = True
    """Whether `stream` may be given an endless input."""

    def __init__(self, workers: int, tasks_per_worker: int | None = None) -> None:
        self.workers = workers
        self.tasks_per_worker = tasks_per_worker

    def __enter__(self) -> System:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def load(cls) -> None:
        """Import what a program imports at its top."""
        for module in cls.modules or (cls.needs,):
            importlib.import_module(module)

    @abstractmethod
    def open(self) -> None:
        """Construct; workers may come later."""

    @abstractmethod
    def close(self) -> None:
        """Shut down and wait for the end."""

    def submit(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Start one call and return a handle on it."""
        raise NotImplementedError

    def gather(self, handles: Sequence[Any]) -> list[Any]:
        """Return the values of all *handles*."""
        raise NotImplementedError

    def call(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Run one call and return its value."""
        return self.gather([self.submit(fn, *args)])[0]

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """Run *fn* on each item, with the system's own choice of chunks."""
        raise NotImplementedError

    def stream(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Return the results in order, one at a time, as far as the system can without reading all items first."""
        raise NotImplementedError

    def stream_unordered(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Do as `stream`, with the results as they come."""
        raise NotImplementedError

    def shared(self, value: Any) -> Any:
        """Return *value* as the system wants what will not change."""
        raise NotImplementedError


class FuturesSystem(System):
    """A system with the interface of `concurrent.futures`."""

    can = frozenset({"submit", "call", "map", "stream", "queue"})
    lazy = False  # `Executor.map` collects its input first (before Python 3.14)

    def __init__(self, workers: int, tasks_per_worker: int | None = None) -> None:
        super().__init__(workers, tasks_per_worker)
        self._executor: Any = None

    @abstractmethod
    def make(self) -> Any:
        """Return the executor."""

    def open(self) -> None:
        self._executor = self.make()

    def close(self) -> None:
        self._executor.shutdown()

    def submit(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self._executor.submit(fn, *args)

    def gather(self, handles: Sequence[Any]) -> list[Any]:
        return [handle.result() for handle in handles]

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return list(self._executor.map(fn, items))

    def stream(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        results: Iterator[Any] = self._executor.map(fn, items)
        return results
