"""A thread with the interface of `multiprocessing.Process`, as far as a thread can have it."""

from __future__ import annotations

import sys
import threading
from functools import partial
from multiprocessing import dummy
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakSet

from taskrun.thread_pipe import ThreadConnection
from taskrun.threads import renew_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["ThreadProcess", "active_children"]

_registry = threading.RLock()
renew_after_fork(globals(), "_registry", threading.RLock)
_started: WeakSet[ThreadProcess] = WeakSet()


class ThreadProcess(dummy.DummyProcess):
    """Runs a function, or the `run` of a subclass, in a thread of its own."""

    _parent: threading.Thread
    _args: tuple[Any, ...]
    _kwargs: dict[str, Any]
    _exitcode = 0

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        super().__init__(group, target, name, tuple(args), dict(kwargs or {}))
        if daemon is not None:
            self.daemon = daemon

    @property
    def exitcode(self) -> int | None:  # type: ignore[override]  # the original knows 0 only
        """None while it runs; then 0, 1 after an error, or what it gave to `sys.exit`."""
        return None if self._started_as_none() else self._exitcode

    @property
    def pid(self) -> int | None:
        """The number of the thread in the kernel; None before the start."""
        return self.native_id

    @property
    def authkey(self) -> bytes:
        """The key of this process."""
        from multiprocessing import current_process

        return bytes(current_process().authkey)

    @property
    def sentinel(self) -> int:
        """Raise NotImplementedError: a thread has no descriptor that tells of its end."""
        _cannot("has no sentinel", "join(timeout)")

    def start(self) -> None:
        """Start it, from the thread that made it. Raises RuntimeError from another, or the second time.

        Connections among its arguments are its own from then on, as if it had inherited them: it has them when they are closed
        here, and they are closed when it ends.
        """
        if self._start_called:
            super().start()  # raises
        inherited: list[ThreadConnection] = []
        before = self._args, self._kwargs
        self._args = tuple(_inherit(value, inherited) for value in self._args)
        self._kwargs = {name: _inherit(value, inherited) for name, value in self._kwargs.items()}
        self.run = partial(self._recorded, self.run, inherited)  # type: ignore[method-assign]
        try:
            super().start()
        except BaseException:
            del self.run
            self._args, self._kwargs = before
            _close(inherited)
            raise
        with _registry:
            _started.add(self)

    def _recorded(self, run: Callable[[], object], inherited: list[ThreadConnection]) -> None:
        del self.run  # the two refer to each other
        try:
            run()
        except SystemExit as error:
            code = error.code
            self._exitcode = code & 0xFF if isinstance(code, int) else 0 if code is None else 1  # as of a process
            if code is not None and not isinstance(code, int):
                print(code, file=sys.stderr)  # as a process does
        except BaseException:
            self._exitcode = 1
            raise
        finally:
            _close(inherited)

    def _started_as_none(self) -> bool:
        return not self._start_called or self.is_alive()

    def terminate(self) -> NoReturn:
        """Raise NotImplementedError: a thread cannot be stopped from outside."""
        _cannot("cannot be terminated", "an Event that it looks at")

    def kill(self) -> NoReturn:
        """Raise NotImplementedError: a thread cannot be stopped from outside."""
        _cannot("cannot be killed", "an Event that it looks at")

    def close(self) -> None:
        """Let go of it. Raises ValueError while it runs."""
        if self.is_alive():
            raise ValueError("Cannot close a process while it is still running. You should first call join() or terminate().")


def _inherit(value: Any, inherited: list[ThreadConnection]) -> Any:
    if not isinstance(value, ThreadConnection):
        return value
    inherited.append(value.duplicate())
    return inherited[-1]


def _close(inherited: list[ThreadConnection]) -> None:
    for connection in inherited:
        connection.close()


def active_children() -> list[ThreadProcess]:
    """Return the processes that the current thread has started and that still run."""
    here: Any = threading.current_thread()
    with _registry:  # it must not grow while it is read
        started = list(_started)
    return [each for each in started if each._parent is here and each.is_alive()]


def _cannot(what: str, instead: str) -> NoReturn:
    raise NotImplementedError(f'a thread {what}: use {instead}, or Process of taskrun.get_context("process")')
