"""Line 11: too little of something. A clear error on the tasks concerned, recovery when there is enough again, and no leak."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import acts
from patience import PATIENCE
from table import CONCURRENT, PROCESSES, fault

import taskrun

if TYPE_CHECKING:
    from collections.abc import Iterator

    from case import Case

MB = 1 << 20


@contextlib.contextmanager
def limited(what: int, value: int) -> Iterator[None]:
    """Have this process live with so little, for a while."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (value, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Use all of them up."""
    hogged: list[int] = []
    with limited(resource.RLIMIT_NOFILE, len(os.listdir("/proc/self/fd")) + 8):
        try:
            with contextlib.suppress(OSError):
                while True:
                    hogged.append(os.open(os.devnull, os.O_RDONLY))
            yield
        finally:
            for fd in hogged:
                os.close(fd)


@fault("process", "pool", "fork", soak=PROCESSES)
def there_are_no_descriptors(case: Case) -> None:
    """Workers that live go on; those that cannot be made are made when there are descriptors again."""
    with case.executor() as run:
        workers = {future.result(PATIENCE) for future in [run.submit(acts.pid) for _ in range(6)]}
        # A child of the fork backend would give its descriptors back, and has no more than its parent.
        assert case.keeps_workers or acts.until(lambda: not run.ex.stats()["workers"])
        with no_descriptors():
            for worker in workers if case.keeps_workers else ():
                os.kill(worker, 9)
                assert gone_without_descriptors(worker)
            run.innocents(5 if case.keeps_workers else 0)
            # What the dead had may be enough for a new one; if not, it is made once there are descriptors again.
            waiting = run.submit(acts.give_back, 7)
            acts.until(waiting.done, 0.5)
        assert waiting.result(PATIENCE) == 7


@fault("thread", "dummy", "asyncio", soak=("thread", "dummy", "asyncio"))
def there_are_no_descriptors_for_threads(case: Case) -> None:
    """What needs some is made when there are descriptors again: the first worker, and the one after it."""
    limit = {} if case.backend == "asyncio" else {"max_tasks_per_child": 1}
    with case.executor(workers=1, **limit) as run:
        for number in range(3):
            with no_descriptors():
                waiting = run.submit(acts.give_back, number)
                acts.until(waiting.done, 0.5)
            assert waiting.result(PATIENCE) == number


def gone_without_descriptors(pid: int) -> bool:
    """Wait for the end of a process by asking after it; looking into /proc would take a descriptor."""

    def ended() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    return acts.until(ended)


@contextlib.contextmanager
def silent_processes() -> Iterator[None]:
    """Have processes that end for want of memory say so to nobody."""
    before, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(null)


def vm_size() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def limit_memory(more: int) -> None:
    """As initializer: this process may grow by so many bytes."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (vm_size() + more, hard))


def use(size: int) -> int:
    return len(bytearray(size))


def made(size: int) -> bytes:
    return bytes(size)


@fault("process", "pool", "fork", soak=PROCESSES)
def there_is_no_memory_in_workers(case: Case) -> None:
    """For the task's own data, for its argument, for its result: that task fails, the worker need not."""
    with silent_processes(), case.executor(initializer=limit_memory, initargs=(100 * MB,)) as run:
        run.innocents(3)
        own = run.submit(use, 500 * MB)
        result = run.submit(made, 70 * MB)  # there is room for it once, not twice
        assert isinstance(own.exception(PATIENCE), MemoryError)
        failed(result)
        if case.keeps_workers:
            argument = run.submit(len, bytes(150 * MB))
            failed(argument)
        run.innocents(3)


def failed(future: taskrun.Future[object]) -> None:
    """See that it failed for want of memory, in whatever way."""
    error = future.exception(2 * PATIENCE)
    assert isinstance(error, (MemoryError, taskrun.SerializationError)), repr(error)
    assert "MemoryError" in repr(error) + repr(error.__cause__)


@fault("process", "pool", "fork", soak=PROCESSES)
def there_is_no_memory_in_the_parent(case: Case) -> None:
    """For an argument's pickle, for a result: those tasks fail; afterwards the executor is what it was."""
    data = bytes(300 * MB)
    with case.executor() as run:
        for future in run.innocents(3):
            future.result(PATIENCE)
        with limited(resource.RLIMIT_AS, vm_size() + 80 * MB):
            other = run.submit(acts.tell_pid_and_hold, case.log("pid"), case.log("go"))
            assert acts.until(lambda: acts.lines(case.log("pid")))
            failed(run.submit(made, 300 * MB))
            if case.backend != "fork":  # nothing is pickled there
                failed(run.submit(len, data))
            run.innocents(3)[-1].result(PATIENCE)
            acts.write(case.log("go"), "")
            assert other.result(PATIENCE) == "went on"
        assert run.submit(made, 1 * MB).result(PATIENCE) == bytes(MB)


@contextlib.contextmanager
def no_threads() -> Iterator[None]:
    """Have the system refuse new threads, as it does at its limit."""
    start = (
        "_start_new_thread" if hasattr(threading, "_start_new_thread") else "_start_joinable_thread"
    )  # until 3.12, since 3.13
    before = getattr(threading, start)

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    setattr(threading, start, refuse)
    try:
        yield
    finally:
        setattr(threading, start, before)


@fault("process", "pool", "fork", "thread", "dummy", "asyncio", soak=CONCURRENT)
def there_are_no_threads(case: Case) -> None:
    """A new executor says so, at once or on its futures; later all is well. One that lives goes on with what it has."""
    with no_threads(), contextlib.suppress(RuntimeError, taskrun.InitializerError):
        with case.executor(whole=False) as run:
            run.ex.submit(acts.give_back, 1).result(PATIENCE)
        raise AssertionError("how did it run?")
    with case.executor() as run:
        for future in run.innocents(4):
            future.result(PATIENCE)
        with no_threads():
            run.innocents(20)
            for future in run.innocents(4):
                future.result(PATIENCE)


# -- /dev/shm -------------------------------------------------------------------------------------

TINY = """
import os, sys, taskrun, warnings
warnings.simplefilter("ignore")
backend, options = sys.argv[1], {"start_method": sys.argv[2]} if sys.argv[2] else {}
filled = open("/dev/shm/filler", "wb", buffering=0) if sys.argv[3] == "full" else None
if filled is not None:
    try:
        while True: filled.write(bytes(4096))
    except OSError: pass
ex = taskrun.Executor(backend, max_workers=2, **options)
futures = [ex.submit(len, bytes(8 << 20)) for _ in range(4)]
if filled is not None and backend == "pool":
    # Its locks are made there: it waits for room, or says why it cannot start.
    taskrun.wait(futures, timeout=0.5)
    os.truncate("/dev/shm/filler", 0)
errors = [future.exception(30) for future in futures]
assert errors == [None] * 4, errors
ex.shutdown()
print("done")
"""


def may_mount() -> bool:
    return subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0  # noqa: S607


@fault("process", "pool", "fork", soak=PROCESSES)
def there_is_no_shared_memory(case: Case) -> None:
    """/dev/shm is full, or holds one page: nothing of ours needs it; multiprocessing's locks do, and wait for room."""
    if not may_mount():
        print("not tried: no permission to mount", file=sys.stdout)
        return
    method = str(case.backend_options.get("start_method", ""))
    for size, state in (("64k", "free"), ("64k", "full")):
        mount = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
        command = ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, "-c", TINY, case.backend, method, state]
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE, check=False)
        assert (done.returncode, done.stdout) == (0, "done\n"), (state, done.stderr)


# -- leaks -------------------------------------------------------------------------------------------


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def held() -> tuple[int, int]:
    """Return how many descriptors and threads this process has."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count()


@fault("process", "pool", "fork", "thread", "dummy", "asyncio", soak=CONCURRENT)
def many_tasks_leave_nothing(case: Case) -> None:
    """No descriptor, thread or shared memory, and of the parent's memory no more than a few MB; results, errors, large ones."""
    many = {"process": (4000, 1_000_000), "thread": (4000, 1_000_000), "fork": (40, 5000)}.get(case.backend, (300, 50_000))
    chunk = max(many[0] // 4, 10)
    with case.executor() as run:

        def work(count: int) -> None:
            for _ in range(max(1, count // chunk)):
                list(run.ex.map(acts.give_back, range(chunk)))
                for future in [run.ex.submit(acts.raise_this, ValueError("x")) for _ in range(chunk // 10)]:
                    assert isinstance(future.exception(PATIENCE), ValueError)
                assert len(run.ex.submit(acts.give_back, bytes(MB)).result(PATIENCE)) == MB

        work(chunk * 2)
        (descriptors, threads), size = held(), resident()
        if case.backend == "process":  # a worker that gets its first large buffer only now: two mappings that stay
            descriptors += 2 * run.ex.stats()["max_workers"]
        before = descriptors, threads
        work(case.count(*many))
        assert acts.until(lambda: held() <= before), (before, held())  # pairs of numbers that may be less
        assert resident() - size < 12 * MB, (resident() - size) / MB
