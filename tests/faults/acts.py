"""The functions that are submitted: importable, so that every start method can send them by reference."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import time
from pathlib import Path
from typing import Any, NoReturn


def write(file: str, text: object) -> None:
    """Append a line in one write, whoever else does."""
    fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{text}\n".encode())
    finally:
        os.close(fd)


def lines(file: str) -> list[str]:
    path = Path(file)
    return path.read_text().split() if path.exists() else []


def until(condition: Any, limit: float = 20.0) -> bool:
    """Wait for what nobody announces."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def product(number: int) -> int:
    return number * number + 1


def innocent(log: str, number: int) -> int:
    write(log, number)
    return product(number)


def slow_innocent(log: str, number: int, seconds: float) -> int:
    write(log, number)
    time.sleep(seconds)
    return product(number)


def meet(directory: str, name: int, count: int, limit: float) -> int:
    """Return how many are there once *count* tasks are; fewer when they do not come."""
    Path(directory, str(name)).touch()
    until(lambda: len(os.listdir(directory)) >= count, limit)
    return len(os.listdir(directory))


def pid(*_: object) -> int:
    return os.getpid()


def tell_pid_and_hold(file: str, then: str = "") -> str:
    """Write one's pid; hold until there is a file *then* (for ever without a name)."""
    write(file, os.getpid())
    until(lambda: then and os.path.exists(then), 60)
    return "went on"


def raise_this(error: BaseException) -> NoReturn:
    raise error


def give_back(value: Any) -> Any:
    return value


# -- ends of a process -----------------------------------------------------------------------------------------------------


def kill_self(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def exit_hard(code: int) -> NoReturn:
    os._exit(code)


def segfault() -> None:
    import ctypes

    ctypes.string_at(0)


def abort() -> None:
    os.abort()


def overflow_the_stack_of_c() -> None:
    """Nest deeper than the C stack: what pure Python refuses, C code that recurses does not."""
    import resource

    resource.setrlimit(resource.RLIMIT_STACK, (1 << 16, resource.getrlimit(resource.RLIMIT_STACK)[1]))
    segfault()


def close_everything() -> str:
    os.closerange(3, 4096)
    return "unheard"


def leave_grandchild(file: str, end: str) -> None:
    """Leave a process with all descriptors behind, out of the group, then end as told."""
    ready, tell = os.pipe()
    if os.fork() == 0:
        os.setsid()
        write(file, os.getpid())
        os.write(tell, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(ready, 1)
    os.close(ready)
    os.close(tell)
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(7)


def die_after(seconds: float, size: int) -> bytes:
    """Return *size* bytes, and be killed so many seconds after that has begun."""
    import threading

    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return bytes(size)


# -- ways to hold on ---------------------------------------------------------------------------------------------------------


def sleep_on(file: str) -> None:
    write(file, os.getpid())
    time.sleep(60)


def spin(file: str) -> None:
    write(file, os.getpid())
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        pass


def hold_the_gil(file: str) -> None:
    """Compute in one call of C that does not let go of the interpreter."""
    write(file, os.getpid())
    sum(range(3_000_000_000))


def ignore_sigterm(file: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sleep_on(file)


def swallow(file: str) -> None:
    """Go on whatever is raised."""
    write(file, os.getpid())
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(BaseException):
            time.sleep(0.01)


def stop_self(file: str) -> None:
    write(file, os.getpid())
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)


def with_child(file: str) -> None:
    """Have a child that ignores SIGTERM, and wait for it."""
    import subprocess

    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    write(file, os.getpid())
    write(file, child.pid)
    child.wait()


def slow_at_first() -> int:
    """Return which attempt this is; the first takes its time."""
    import taskrun

    task = taskrun.current_task()
    assert task is not None
    time.sleep(60 if task.attempt == 1 else 0.1)
    return task.attempt


# -- awkward values -----------------------------------------------------------------------------------------------------------


class Traveller:
    """Does something, where it is told to: "pickled" or "unpickled", in the "worker" or the "parent"."""

    def __init__(self, when: str, where: str, how: str) -> None:
        self.when, self.where, self.how = when, where, how
        self.home = os.getpid()

    def _here(self) -> bool:
        return (os.getpid() == self.home) == (self.where == "home")

    def __getstate__(self) -> dict[str, Any]:
        if self.when == "pickled" and self._here():
            do(self.how)
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.when == "unpickled" and self._here():
            do(self.how)


class AwkwardError(Exception, Traveller):
    """An exception that does something on its way."""

    def __init__(self, when: str, where: str, how: str) -> None:
        Exception.__init__(self, "awkward")
        Traveller.__init__(self, when, where, how)

    def __reduce__(self) -> Any:
        if self.when == "pickled" and self._here():
            do(self.how)
        return _rebuild_awkward, (self.when, self.where, self.how, self.home)


def _rebuild_awkward(when: str, where: str, how: str, home: int) -> AwkwardError:
    if when == "unpickled" and (os.getpid() == home) == (where == "home"):
        do(how)
    return AwkwardError(when, where, how)


def do(how: str) -> None:
    if how == "raise":
        raise LookupError("no room at the inn")
    if how == "exit":
        raise SystemExit("no way on")
    if how == "interrupt":
        raise KeyboardInterrupt("no rest")
    if how == "recurse":
        do(how)
    if how == "die":
        os._exit(9)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


class Impostor:
    """Comes back as a value of another type."""

    def __reduce__(self) -> Any:
        return str, ("an impostor",)


def make(kind: type, *args: Any) -> Any:
    return kind(*args)


def raise_made(kind: type[BaseException], *args: Any) -> NoReturn:
    raise kind(*args)


def as_many(*values: Any, **named: Any) -> int:
    return len(values) + len(named)


def write_everywhere(byte: int, spared: list[int]) -> None:
    """Write into every descriptor but those *spared*, as who mixes up numbers would, without waiting for anybody."""
    for fd in set(range(200)) - set(spared):
        with contextlib.suppress(OSError):
            if stat.S_ISREG(os.fstat(fd).st_mode):
                continue  # memory that is shared with the parent is another matter
            os.set_blocking(fd, False)
            os.write(fd, bytes([byte]) * 64)
