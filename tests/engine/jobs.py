"""The functions that the engine's tests submit: importable, so that all start methods can send them by reference.

Large modules are imported where they are needed: a fresh worker imports this one in the time of its first task.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

import taskrun


def tell(path: str, text: object = "") -> None:
    """Write a line for `Wire.hear`."""
    fd = os.open(path + ".told", os.O_WRONLY)
    os.write(fd, f"{text}\n".encode())
    os.close(fd)


def hold(path: str) -> None:
    """Wait for `Wire.release`."""
    with open(path + ".go", "rb", buffering=0) as go:
        go.read(1)


def hold_if(path: str | None, value: int) -> int:
    """Return *value*, at once or after telling that it holds, and holding."""
    if path is not None:
        tell(path, "held")
        hold(path)
    return value


def nap_and_hold(path: str, value: int) -> int:
    """Take a millisecond at least, as a function that is worth to be heard of before it runs again."""
    time.sleep(0.001)
    return hold_if(path, value)


def tell_and_hold(path: str, text: object = None) -> int:
    tell(path, os.getpid() if text is None else text)
    hold(path)
    return os.getpid()


def log(file: str, text: object) -> None:
    """Append a line; whole lines, whoever else does."""
    fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{text}\n".encode())
    os.close(fd)


def lines(file: Path) -> list[str]:
    return file.read_text().split() if file.exists() else []


def close_sockets_if(closing: bool, value: int) -> int:
    """Return *value*, after a millisecond in which it may close what the worker answers on, and nothing else."""
    time.sleep(0.001)
    for fd in range(3, 100) if closing else ():
        if os.path.exists(f"/proc/self/fd/{fd}") and stat.S_ISSOCK(os.fstat(fd).st_mode):
            os.close(fd)
    return value


def write_nonsense_if(writing: bool, size: int) -> bytes:
    """Return that many bytes, or write into each descriptor of the worker and hold on."""
    for fd in range(3, 12) if writing else ():
        with contextlib.suppress(OSError):
            os.write(fd, b"\xff" * 100)
    if writing:
        time.sleep(60)
    return bytes(size)


def hold_but_first(count: str, path: str) -> None:
    """An initializer that takes its time in all workers but the first."""
    log(count, os.getpid())
    if len(lines(Path(count))) > 1:
        tell_and_hold(path)


def hold_third(count: str, path: str) -> None:
    """An initializer that takes its time in the third worker."""
    log(count, os.getpid())
    if len(lines(Path(count))) == 3:
        tell_and_hold(path)


def log_and_return(file: str, value: Any) -> Any:
    log(file, value)
    return value


def log_and_size(file: str, value: Any, ballast: Any) -> int:
    log(file, value)
    return len(ballast)


def double(x: int) -> int:
    return x * 2


def pid(*_: object) -> int:
    return os.getpid()


def attempt() -> int:
    task = taskrun.current_task()
    assert task is not None
    return task.attempt


def die_if(deadly: bool, file: str, value: int) -> int:
    log(file, value)
    if deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def kill_self(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def die_at_first_attempt() -> tuple[int, int]:
    if attempt() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return attempt(), os.getpid()


def exit_at_once(code: int) -> NoReturn:
    os._exit(code)


def raise_error(error: BaseException) -> NoReturn:
    raise error


def crash_in_c() -> None:
    import ctypes

    ctypes.string_at(0)


def close_every_descriptor() -> str:
    os.closerange(3, 4096)
    return "unheard"


def fork_and_return() -> str:
    return "child" if os.fork() == 0 else "parent"


def fork_and_raise() -> str:
    if os.fork() == 0:
        raise ValueError("in the child")
    return "parent"


def end_in_mid_answer() -> bytes:
    """Have this worker killed when half of its answer is written."""
    from multiprocessing.connection import Connection

    from taskrun.engine import channel
    from taskrun.engine.worker import Worker

    def half(self: Worker, kind: int, sequence: int, a: float, b: float, c: float, rss: int, data: bytes) -> None:
        self._sock.sendall(channel.REPLY.pack(len(data), kind, sequence, a, b, c, rss) + data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    def half_of_message(self: Connection, data: bytes) -> None:  # on the pool backend
        os.write(self.fileno(), len(data).to_bytes(4, "big") + data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    Worker._reply = half  # type: ignore[method-assign]
    Connection._send_bytes = half_of_message  # type: ignore[attr-defined]
    return bytes(100_000)


def start_helper(path: str, then: str = "hold") -> None:
    """Start a process that ignores SIGTERM, tell its pid, and never return."""
    import subprocess

    code = "import signal, sys, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    helper = subprocess.Popen([sys.executable, "-I", "-S", "-c", code], stdout=subprocess.PIPE)
    assert helper.stdout is not None
    helper.stdout.readline()
    if then == "exit when asked":
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    tell(path, helper.pid)
    if then == "exit badly":
        os._exit(1)
    threading.Event().wait(60)


def ignore_and_hold(path: str) -> None:
    """Run on, whatever SIGTERM says."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell(path, os.getpid())
    while True:
        time.sleep(60)


def wait_until_cancelled(path: str) -> str:
    task = taskrun.current_task()
    assert task is not None
    tell(path)
    while not task.cancelled:
        time.sleep(0.001)
    return "saw it"


class Unloadable:
    """Pickles well and fails to unpickle, in the way given."""

    def __init__(self, how: str, where: int | None = None) -> None:
        self.how = how
        self.where = os.getpid() if where is None else where

    def __reduce__(self) -> tuple[Any, ...]:
        return _load_badly, (self.how, self.where)


def _load_badly(how: str, spared: int) -> object:
    if os.getpid() == spared and how == "exit":
        raise SystemExit("no way out")
    if how == "raise":
        raise LookupError("cannot be rebuilt")
    if how == "die":
        os._exit(9)
    raise SystemExit("no way out")


def make_unloadable(how: str) -> Unloadable:
    return Unloadable(how)


class Unpicklable:
    def __reduce__(self) -> NoReturn:
        raise LookupError("stays here")


class Guarded:
    """As many thread-safe objects are: whoever pickles one takes its lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __reduce__(self) -> Any:
        with self.lock:
            return Guarded, ()


async def sleep_then(seconds: float, value: Any) -> Any:
    import asyncio

    await asyncio.sleep(seconds)
    return value


async def block_in_a_coroutine(seconds: float) -> None:
    import asyncio

    await asyncio.sleep(0)
    time.sleep(seconds)  # noqa: ASYNC251 - what is tested


def hold_and_log(path: str | None, file: str, number: int) -> int:
    """Return the worker's number, and note that this ran; first tell that it holds, and hold, if there is a *path*."""
    if path is not None:
        tell_and_hold(path)
    log(file, number)
    return os.getpid()


def let_go(path: str) -> None:
    """Do as `Wire.release`."""
    fd = os.open(path + ".go", os.O_WRONLY)
    os.write(fd, b"x")
    os.close(fd)


def hold_or_let_go(path: str | None, holds: bool) -> None:
    """Wait for `let_go`, or do that; None: neither."""
    if path is not None:
        (hold if holds else let_go)(path)


def asked_to_end(path: str) -> bool:
    """Tell that it runs; return whether it is asked to end, once it is."""
    task = taskrun.current_task()
    assert task is not None
    tell(path)
    until = time.monotonic() + 20
    while not task.cancelled and time.monotonic() < until:
        time.sleep(0.001)
    return task.cancelled


def count_in(file: str, seconds: float) -> int:
    """Take so long; return how many calls were under way when this one had begun."""
    log(file, "1")
    counts = list(map(int, lines(Path(file))))
    time.sleep(seconds)
    log(file, "-1")
    return sum(counts)


def close_pipes() -> bool:
    """Close what looks like a pipe that nobody else writes to here: what a worker takes its claims from, among others."""
    closed = False
    for fd in range(3, 100):
        with contextlib.suppress(OSError):
            if stat.S_ISFIFO(os.fstat(fd).st_mode) and not os.get_blocking(fd):
                os.close(fd)
                closed = True
    return closed


class Odd:
    """A result that is not of the kinds that pickle knows by itself."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Odd) and other.value == self.value

    __hash__ = None  # type: ignore[assignment]


def odd_one(fate: str | None, value: int) -> Any:
    """Return *value*, or be odd."""
    if fate == "raises":
        raise ZeroDivisionError(value)
    if fate == "cannot be pickled":
        return threading.Lock()
    if fate == "returns its own":
        return Odd(value)
    return bytes(2_000) if fate == "returns much" else value


def alarm_if(sets: bool) -> None:
    """Set an alarm that goes off, and raises, when this is over: between two tasks, most often."""

    def ring(*_: object) -> None:
        raise ValueError("too late")

    if sets:
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.00002)


def steal(end: str | None) -> None:
    """Read whatever can be read without waiting, as a careless loop over descriptors does; then end so, if at all."""
    if end is None:
        return
    for fd in range(3, 100):
        with contextlib.suppress(OSError):
            if stat.S_ISFIFO(os.fstat(fd).st_mode) and not os.get_blocking(fd):
                os.read(fd, 1000)
    if end == "exits":
        os._exit(3)
    time.sleep(60)
