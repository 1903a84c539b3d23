"""The template process, and what a machine short of something does to starting workers."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NoReturn

import jobs
import pytest
from patience import PATIENCE, eventually, gone, stopped

import taskrun
from taskrun.engine import dispatch, fleet, launch, poller, posix, stopping, template
from taskrun.engine.launch import TEMPLATE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from patience import Wire


def test_a_template_that_somebody_stopped_is_done_without(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "_SAID_WITHIN", 1.0)
    with make(max_workers=1) as ex:
        ex.submit(jobs.pid).result()
        assert TEMPLATE.pid is not None
        os.kill(TEMPLATE.pid, signal.SIGSTOP)  # it forks, signals and reaps nobody now
        stuck = ex.options(timeout=0.1).submit(time.sleep, 60)
        assert isinstance(stuck.exception(), taskrun.TaskTimeoutError)
        assert ex.submit(jobs.double, 2).result() == 4
        assert TEMPLATE.pid is not None
        os.kill(TEMPLATE.pid, signal.SIGSTOP)
        assert isinstance(ex.submit(jobs.exit_at_once, 3).exception(PATIENCE), taskrun.WorkerCrashedError)
        assert ex.submit(jobs.double, 4).result(PATIENCE) == 8
    monkeypatch.setattr(fleet, "BORN_WITHIN", 2.0)
    with make(max_workers=1) as ex:
        assert TEMPLATE.pid is not None
        os.kill(TEMPLATE.pid, signal.SIGSTOP)
        assert ex.submit(jobs.double, 3).result() == 6


def test_a_passing_shortage_of_descriptors_breaks_nothing(make: Callable) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with make(max_workers=1) as ex:
        ex.submit(jobs.pid).result()
        hogged = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 10, hard[1]))
        try:
            while True:
                try:
                    hogged.append(os.open(os.devnull, os.O_RDONLY))
                except OSError:
                    break
            ex.submit(jobs.kill_self).exception()
            waiting = ex.submit(jobs.double, 4)
            engine = ex._backend._supervisor._fleet  # type: ignore[attr-defined]
            assert eventually(
                lambda: engine.failures._count > 7
            )  # more than would break it were the shortage not a passing one
            assert not waiting.done()
        finally:
            for fd in hogged:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, hard)
        assert waiting.result() == 8


@pytest.mark.parametrize("tries", [1, 5])
def test_a_worker_that_dies_slowly_costs_the_others_nothing(
    make: Callable, wire: Wire, monkeypatch: pytest.MonkeyPatch, tries: int
) -> None:
    """The template has no CPU to kill it, or it has much memory to give back: both take longer than anybody waits for them."""
    send, sent = signal.pidfd_send_signal, []

    def pidfd_send_signal(pidfd: int, number: int) -> None:
        if number == signal.SIGKILL:
            sent.append(pidfd)
            if len(sent) < tries:
                return
        send(pidfd, number)

    monkeypatch.setattr(stopping, "GONE_WITHIN", 0.2)
    monkeypatch.setattr(fleet, "_SAID_WITHIN", PATIENCE)
    monkeypatch.setattr(fleet, "LOOK_AGAIN", 0.2)
    with make(max_workers=2) as ex:
        innocent = ex.submit(jobs.tell_and_hold, wire.path)
        pid = int(wire.hear())
        before = TEMPLATE.pid
        assert ex.submit(abs, -1).result(PATIENCE) == 1
        monkeypatch.setattr(launch._FromTemplate, "signal", lambda *_: None)
        monkeypatch.setattr(signal, "pidfd_send_signal", pidfd_send_signal)
        slow = ex.options(timeout=0.1).submit(time.sleep, 60)
        assert isinstance(slow.exception(PATIENCE), taskrun.TaskTimeoutError)
        monkeypatch.undo()
        assert len(sent) >= tries
        wire.release()
        assert innocent.result(PATIENCE) == pid
        assert TEMPLATE.pid == before


@pytest.mark.parametrize("backend", ["process", "pool", "fork"])
@pytest.mark.parametrize("lacking", ["epoll", "poll"])
def test_an_executor_that_cannot_be_made_leaves_no_descriptor(
    backend: str, lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left() -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    with taskrun.Executor(backend, max_workers=1):  # what there is once for the program is there
        before = count()
    before = min(before, count())
    monkeypatch.setattr(select, lacking, none_left)
    for _ in range(3):
        with contextlib.suppress(OSError):
            taskrun.Executor(backend, max_workers=1).shutdown()
    monkeypatch.undo()
    assert eventually(lambda: count() <= before)


def test_no_descriptor_for_a_new_worker_costs_the_others_nothing(
    make: Callable, wire: Wire, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The template hands its pidfd over just when no descriptor is left in the parent: the message comes without it."""
    received, refused = posix.recv_message, []

    def receive(sock: socket.socket) -> tuple[bytes, list[int]]:
        data, fds = received(sock)
        if data[:1] == bytes((template.STARTED,)) and len(refused) < 3:
            refused.append(template.MESSAGE.unpack(data)[2])
            os.close(fds.pop())
        return data, fds

    with make(max_workers=2) as ex:
        innocent = ex.submit(jobs.tell_and_hold, wire.path)
        wire.hear()
        ended = ex.submit(jobs.kill_self)  # so that there is no second worker
        assert isinstance(ended.exception(PATIENCE), taskrun.WorkerCrashedError)
        monkeypatch.setattr(posix, "recv_message", receive)
        assert ex.submit(jobs.double, 2).result(PATIENCE) == 4
        assert len(refused) == 3
        wire.release()
        innocent.result(PATIENCE)
        assert all(gone(pid) for pid in refused)
    assert not caplog.records


def test_a_worker_imports_from_where_the_parent_has_learnt_to_look_since(
    make: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make(max_workers=1) as ex:
        pid = ex.submit(jobs.pid).result()
        (tmp_path / "come_later.py").write_text("def answer(): return 42\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        import come_later  # type: ignore[import-not-found]

        assert ex.submit(come_later.answer).result() == 42
        assert ex.submit(jobs.pid).result() == pid
    sys.modules.pop("come_later")


def test_a_template_whose_parent_is_gone_before_it_has_started_ends_without_a_word() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as short:
        pass
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        code = f"import os; os.dup2({theirs.fileno()}, {template.CONTROL_FD}); {template.BOOTSTRAP}"
        arguments = [sys.executable, "-W", "error", "-c", code, str(short.pid), *map(str, sys.path)]
        ran = subprocess.run(arguments, pass_fds=[theirs.fileno()], capture_output=True, timeout=PATIENCE, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")


def test_an_executor_begins_with_its_template_before_there_is_a_task(make: Callable) -> None:
    TEMPLATE.end()
    with make():
        assert eventually(lambda: TEMPLATE.pid is not None)


@pytest.mark.parametrize("make", ["process"], indirect=True)
def test_what_is_submitted_just_after_the_look_at_the_queue_is_not_left_there(
    make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed, late = dispatch.Dispatcher.feed, []

    def feed_and_submit(dispatcher: dispatch.Dispatcher) -> bool:
        hungry = feed(dispatcher)
        if asked and not late and not any(handle.flight for handle in dispatcher._fleet.workers.values()):
            late.append(ex.submit(jobs.double, 2))
        return hungry

    asked = False
    monkeypatch.setattr(dispatch.Dispatcher, "feed", feed_and_submit)
    with make(max_workers=1) as ex:
        assert ex.submit(jobs.double, 1).result(PATIENCE) == 2
        asked = True
        assert ex.submit(jobs.double, 3).result(PATIENCE) == 6
        assert eventually(lambda: late)
        assert late[0].result(PATIENCE) == 4


def test_nothing_is_done_while_workers_take_their_time_to_start(
    make: Callable, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls, poll = [], poller.Poller.poll
    monkeypatch.setattr(poller.Poller, "poll", lambda self, timeout: (polls.append(timeout), poll(self, timeout))[1])
    with make(max_workers=4, initializer=jobs.tell_and_hold, initargs=(wire.path,)) as ex:
        future = ex.submit(jobs.double, 1)
        wire.hear()
        assert eventually(lambda: polls and polls[-1] != 0)
        before = len(polls)
        time.sleep(0.2)
        assert len(polls) - before < 20
        wire.release(4)
        assert future.result(PATIENCE) == 2


def test_a_worker_that_was_stopped_for_a_moment_is_used_again_though_another_is_made(
    make: Callable, wire: Wire, tmp_path: Path
) -> None:
    with make(max_workers=2, initializer=jobs.hold_but_first, initargs=(str(tmp_path / "count"), wire.path)) as ex:
        pid = ex.submit(jobs.pid).result(PATIENCE)
        stopped(pid)
        future = ex.submit(jobs.pid)
        wire.hear()  # it did not claim the task, so another one is made
        os.kill(pid, signal.SIGCONT)
        assert future.result(PATIENCE) == pid
        wire.release()


def test_the_template_keeps_nothing_of_the_users_open(make: Callable) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    with make(max_workers=1) as ex:
        ex.submit(abs, 1).result(PATIENCE)
        os.close(write)
        assert select.select([read], [], [], PATIENCE)[0]  # end of file: nobody else has the other end
        assert os.read(read, 1) == b""
    os.close(read)


@pytest.mark.parametrize("make", ["process", "pool", "fork"], indirect=True)
def test_what_a_task_starts_does_not_inherit_the_line_of_its_worker(make: Callable) -> None:
    """`os.system` and `os.posix_spawn` close nothing, as `subprocess` does."""
    with make(max_workers=1) as ex:
        found = ex.submit(descriptors_of_a_child).result(PATIENCE)
    assert set(found) <= {"0", "1", "2", "3"}, found  # the last is the directory's


def descriptors_of_a_child() -> list[str]:
    with os.popen("ls /proc/self/fd") as listing:  # noqa: S605, S607
        return listing.read().split()


def test_a_worker_is_given_nothing_before_it_is_known_who_it_is(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own word that it is ready may be read before the template's, which tells its number."""
    receive, until = launch._FromTemplate.receive, time.monotonic() + 2.0

    def late(self: launch._FromTemplate) -> list[launch.Event]:
        if time.monotonic() < until:
            time.sleep(0.005)
            return []
        return receive(self)

    monkeypatch.setattr(launch._FromTemplate, "receive", late)
    with make(max_workers=1) as ex:
        future = ex.submit(jobs.pid)
        while not future.done():
            assert all(ex.stats()["workers"])
            time.sleep(0.001)
        assert future.attempts[0].worker == f"pid {future.result()}"


@pytest.mark.parametrize("options", [[], ["-O"], ["-X", "utf8", "-W", "error"], ["-I"], ["-B", "-s"]])
def test_a_python_is_started_with_the_options_of_ours(options: list[str]) -> None:
    code = f"""
import sys; sys.path[:] = {sys.path!r}
from taskrun.engine.posix import _flags; import subprocess; print(_flags() == subprocess._args_from_interpreter_flags())
"""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [sys.executable, *options, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environ).stdout == "True\n"
