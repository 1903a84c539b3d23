"""Line 1: worker processes that end in every way, at every moment. Only the task that ran fails, with the evidence."""

from __future__ import annotations

import os
import signal
import threading
import time
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

import acts
from leftovers import children
from patience import PATIENCE, gone, stopped
from table import ENGINE, POOL, PROCESSES, fault

import taskrun

if TYPE_CHECKING:
    from case import Case

SHORT = tuple(each for each in PROCESSES if each not in ("pool:spawn", "pool:fork"))
KEPT = (*ENGINE, *POOL)

ENDS = {
    "killed": (acts.kill_self, (), signal.SIGKILL, None),
    "terminated": (acts.kill_self, (signal.SIGTERM,), signal.SIGTERM, None),
    "exits": (acts.exit_hard, (3,), None, 3),
    "exits well": (acts.exit_hard, (0,), None, 0),
    "segfault": (acts.segfault, (), signal.SIGSEGV, None),
    "abort": (acts.abort, (), signal.SIGABRT, None),
}


def crashed(future: taskrun.Future[object]) -> taskrun.WorkerCrashedError:
    """Return the error of a task that took its worker down."""
    error = future.exception(PATIENCE)
    assert isinstance(error, taskrun.WorkerCrashedError), repr(error)
    assert error.pid is not None
    assert len(future.attempts) == 1
    return error


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@fault(*SHORT, soak=PROCESSES)
def a_task_ends_its_process(case: Case) -> None:
    """In every way there is, among innocents; the error says how."""
    with case.executor() as run:
        run.innocents(10)
        guilty = {}
        for how, (fn, args, _, _) in ENDS.items():
            guilty[how] = run.submit(fn, *args)
            run.innocents(5)
        for how, (fn, _, number, code) in ENDS.items():
            error = crashed(guilty[how])
            assert (error.signal, error.task, error.attempt) == (number, fn.__name__, 1), (how, error)
            if number is None:
                assert error.exitcode == code, (how, error)
            assert error.oom in (False, None)
        stack = crashed(guilty["segfault"]).stack
        assert stack is not None
        assert "segfault" in stack


@fault(*SHORT, soak=PROCESSES)
def a_task_ends_its_process_and_may_run_again(case: Case) -> None:
    """The retry policy says so: it runs again, alone on a fresh worker, and nobody else does."""
    with case.executor(retry=taskrun.Retry(max_attempts=2, wait="none")) as run:
        run.innocents(10)
        again = [run.submit(die_at_first, case.log("deaths")) for _ in range(3)]
        run.innocents(10)
        pids = [future.result(PATIENCE) for future in again]
        assert not set(map(str, pids)) & set(acts.lines(case.log("deaths")))
        for future in again:
            assert [type(attempt.error) for attempt in future.attempts] == [taskrun.WorkerCrashedError, type(None)]


def die_at_first(log: str) -> int:
    task = taskrun.current_task()
    assert task is not None
    if task.attempt == 1:
        acts.write(log, os.getpid())
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


@fault(*SHORT, soak=PROCESSES)
def a_task_becomes_another_program(case: Case) -> None:
    """Nothing will come from that any more, however long it runs: it is killed."""
    with case.executor() as run:
        guilty = run.submit(os.execv, "/bin/sleep", ["sleep", "600"])
        run.innocents(10)
        error = crashed(guilty)
        assert error.signal == signal.SIGKILL
        assert "os.exec" in "".join(error.__notes__)


@fault("process", "fork", soak=("process:spawn",))
def a_task_writes_into_every_descriptor(case: Case) -> None:
    """What comes is no answer of its worker's, and hurts nobody else; it has one of its own if that gets through.

    Not where multiprocessing's own helpers hear it, and die.
    """
    spared = [0, 1, 2, *(map(int, os.listdir("/proc/self/fd")) if case.backend == "fork" else ())]
    with case.executor() as run:
        for byte in (0xFF, 0x00):
            guilty = run.submit(acts.write_everywhere, byte, spared)
            run.innocents(10)
            if guilty.exception(PATIENCE) is not None:
                crashed(guilty)


@fault(*SHORT, soak=PROCESSES)
def a_grandchild_keeps_the_descriptors(case: Case) -> None:
    """It has left the group, so that nobody kills it, and holds the line to the worker open."""
    with case.executor() as run:
        log = case.log("grandchildren")
        guilty = [run.submit(acts.leave_grandchild, log, end) for end in ("kill", "exit")]
        run.innocents(10)
        assert (crashed(guilty[0]).signal, crashed(guilty[1]).exitcode) == (signal.SIGKILL, 7)
        left = [int(pid) for pid in acts.lines(log)]
        assert len(left) == 2
        for pid in left:
            kill(pid)
            assert gone(pid)


@fault("process", "pool", "fork", soak=PROCESSES)
def a_worker_is_killed_while_it_writes_a_large_result(case: Case) -> None:
    """Half a result is no result."""
    size = case.count(30, 200) << 20
    with case.executor() as run:
        for delay in (0.0, 0.01, 0.03) if not case.full else [i / 100 for i in range(20)]:
            future = run.submit(acts.die_after, delay, size)
            run.innocents(3)
            error = future.exception(PATIENCE)
            if error is None:
                assert len(future.result()) == size
            else:
                assert crashed(future).signal == signal.SIGKILL
            del future
            run.futures.pop()


@fault("process", "pool", soak=KEPT)
def a_worker_is_killed_while_it_reads_a_large_argument(case: Case) -> None:
    """Its task had begun, or runs elsewhere; never both."""
    data = bytes(case.count(4, 200) << 20)
    with case.executor(workers=1) as run:
        for delay in (0.0, 0.005, 0.02) if not case.full else [i / 200 for i in range(20)]:
            worker = run.ex.submit(acts.pid).result(PATIENCE)
            stopped(worker)
            future = run.submit(measure, case.log("measured"), data)
            run.innocents(2)
            os.kill(worker, signal.SIGCONT)
            time.sleep(delay)
            kill(worker)
            error = future.exception(PATIENCE)
            assert error is None or crashed(future).pid == worker, error
            assert len(acts.lines(case.log("measured"))) <= len(run.futures)


def measure(log: str, data: bytes) -> int:
    acts.write(log, os.getpid())
    return len(data)


@fault("process", "pool", "process:fork", soak=KEPT)
def idle_workers_are_killed(case: Case) -> None:
    """Nobody is to blame, and the next tasks run as if nothing had been."""
    with case.executor() as run:
        for _ in range(case.count(4, 50)):
            done = [run.submit(acts.pid) for _ in range(4)]
            for pid in {future.result(PATIENCE) for future in done}:
                kill(pid)
            # All of them: one that was taken back from a slow worker would find this one not idle.
            for future in run.innocents(6):
                future.result(PATIENCE)


@fault("process", "pool", soak=PROCESSES)
def workers_are_killed_while_they_start(case: Case) -> None:
    """Whatever appears as a child is killed at once, some times; then they are let live, as else it would be given up."""
    if case.backend == "pool":
        resource_tracker.ensure_running()  # not a worker: multiprocessing warns of its death, an error here
    known = set(children(os.getpid()))
    for turn in range(case.count(1, 8)):
        killed: list[int] = []
        over = threading.Event()
        hunter = threading.Thread(target=hunt, args=(3, known, killed, over))
        hunter.start()
        log = case.log(f"ran {turn}")
        try:
            with case.executor() as run:
                futures = [run.submit(acts.innocent, log, i) for i in range(12)]
                failed = [i for i, future in enumerate(futures) if future.exception(2 * PATIENCE) is not None]
                over.set()
                assert {type(futures[i].exception()) for i in failed} <= {taskrun.WorkerCrashedError}, failed
                assert {crashed(futures[i]).pid for i in failed} <= set(killed)
                ran = acts.lines(log)
                assert len(ran) == len(set(ran))
                assert set(ran) >= {str(i) for i in range(len(futures)) if i not in failed}
        finally:
            over.set()
            hunter.join()
        assert killed


def hunt(enough: int, known: set[int], killed: list[int], over: threading.Event) -> None:
    launch = __import__("taskrun.engine.launch", fromlist=["TEMPLATE"])
    while len(killed) < enough and not over.is_set():
        parents = {os.getpid(), *([launch.TEMPLATE.pid] if launch.TEMPLATE.pid else [])}
        helpers = {launch.TEMPLATE.pid, *fork_servers()}
        for pid in children(*parents, *fork_servers()):
            if pid not in known and pid not in helpers and len(killed) < enough:
                known.add(pid)
                killed.append(pid)
                kill(pid)


def fork_servers() -> list[int]:
    """Return the pids of multiprocessing's helpers here."""
    import sys

    module = sys.modules.get("multiprocessing.forkserver")
    made = getattr(module, "_forkserver", None)  # while another thread imports it there is none
    server = None if made is None else made._forkserver_pid
    return [pid for pid in (server, resource_tracker._resource_tracker._pid) if pid]


@fault("process", "pool", "fork", soak=PROCESSES)
def a_worker_is_killed_in_its_initializer(case: Case) -> None:
    """Once is no reason to give up."""
    log = str(case.directory / "initialized")
    with case.executor(initializer=die_in_the_first, initargs=(log,)) as run:
        for future in run.innocents(6):
            future.result(PATIENCE)


def die_in_the_first(log: str) -> None:
    acts.write(log, os.getpid())
    if len(acts.lines(log)) == 1:
        os.kill(os.getpid(), signal.SIGKILL)


@fault("process", "pool", "fork", soak=PROCESSES)
def random_workers_are_killed_among_innocents_that_are_long(case: Case) -> None:
    """As many tasks fail as workers were killed that ran one; each error names its worker."""
    with case.executor(workers=3) as run:
        for round_ in range(case.count(2, 30)):
            log = case.log(f"pids{round_}")
            futures = [run.submit(acts.tell_pid_and_hold, log, case.log(f"go{round_}")) for _ in range(3)]
            assert acts.until(lambda log=log: len(acts.lines(log)) == 3)
            victim = int(acts.lines(log)[round_ % 3])
            run.innocents(5)
            kill(victim)
            assert acts.until(lambda futures=futures: any(future.done() for future in futures))
            acts.write(case.log(f"go{round_}"), "")
            errors = [future.exception(PATIENCE) for future in futures]
            assert [error.pid for error in errors if error is not None] == [victim], errors
