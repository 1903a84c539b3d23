"""In a worker process: a run of items whose current one does not end gives the others back, for it may wait for one of them.

A thread looks, now and then, while there are runs. Not a signal handler: a signal cuts short what the task does in C, and comes
to nothing where the task has blocked it, or taken it, or has a thread that the kernel likes better.
"""

from __future__ import annotations

import _thread
import os
import signal
from typing import TYPE_CHECKING

from taskrun import runs
from taskrun.bell import new_gate

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RunWatch"]

_IDLE = 5  # looks in a row without anything new, after which the thread ends: a process of one thread is better to fork


class RunWatch:
    """Is told by `runs` when one begins and when it is over, in the main thread.

    *number* returns that of the task that runs. *give_back* is called in a thread of ours, with that and how many items of the
    run are begun.
    """

    def __init__(self, number: Callable[[], int], give_back: Callable[[int, int], object]) -> None:
        self._number = number
        self._give_back = give_back
        self._run: tuple[runs.Rest, int] | None = None  # what is left of the one that is called, and its number
        self._gate = self._gone = new_gate()  # of the thread: the first ends it, the second opens when it has ended
        self._alive = False
        self._one = _thread.allocate_lock()  # several threads of an item may fork, or one while the next run begins
        os.register_at_fork(before=self._stop, after_in_parent=self._resume, after_in_child=self._forget)

    def __call__(self, rest: runs.Rest | None) -> None:
        """Take note of what is left of a run that begins; None: it is over."""
        self._run = None if rest is None else (rest, self._number())
        if rest is not None and not self._alive:  # in this order: the thread clears the latter, and looks for a run after that
            self._start()

    def _start(self) -> None:
        with self._one:
            if not self._alive:
                self._start_it()

    def _start_it(self) -> None:
        self._gate, self._gone = new_gate(), new_gate()
        self._alive = True
        # It is to be woken by no signal: Python looks for them in the main thread, which sleeps on if that was not woken.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            # Nothing that the task would find in `threading`, or that the end of the process waits for.
            _thread.start_new_thread(self._watch, (self._gate, self._gone))
        except RuntimeError:  # no thread is to be had; the next run tries again
            self._alive = False
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _watch(self, gate: _thread.LockType, gone: _thread.LockType) -> None:
        seen: object = None
        idle = 0
        try:
            while not gate.acquire(timeout=runs.OVERDUE) and gate is self._gate:
                run, before = self._run, seen
                seen = run
                if run is not None and run is before:
                    rest, number = run
                    if idle == 0:
                        self._give_back(number, rest.take())  # also where there is nothing left: it is stuck
                idle = idle + 1 if run is before else 0
                if idle >= _IDLE:
                    self._alive = False
                    if self._run is run:
                        return
                    self._alive = True  # a run has begun just now: either it has started another thread, or has this one
        finally:
            gone.release()

    def _stop(self) -> None:
        """Before a fork: have the thread end."""
        with self._one:
            if self._alive:
                self._gate.release()
                self._gone.acquire()
                self._alive = False

    def _resume(self) -> None:
        """After a fork: the run that is called may wait for what comes after it."""
        if self._run is not None and not self._alive:
            self._start()

    def _forget(self) -> None:
        """In a process that the task has forked: the run is not that one's."""
        self._run = None
        self._alive = False
        self._one = _thread.allocate_lock()
