"""The one place that needs POSIX, and mostly Linux: descriptors across processes, process groups, death signals, memfds.

Everything else in the engine is portable; a system without this seam gets `start_method="spawn"` built on other calls here.
"""

from __future__ import annotations

import array
import errno
import fcntl
import mmap
import os
import select
import signal
import socket
import sys
from typing import Any

__all__ = [
    "STACK_SIGNAL",
    "attach_standard_streams",
    "close_all_but",
    "close_held",
    "descriptors_in",
    "die_when_closed",
    "die_with",
    "exit_status",
    "fresh_memory",
    "has_ended",
    "is_open",
    "is_over",
    "is_stopped",
    "keep_descriptors",
    "kill_rest_of_group",
    "leave_parent",
    "load_libc",
    "memory_events",
    "recv_message",
    "reset_signals",
    "signal_group",
    "start_python",
    "supported",
    "unread",
]

_PR_SET_PDEATHSIG = 1
_SIGKILL = int(signal.SIGKILL)
_MAX_FDS = 16
_INT = array.array("i").itemsize

# A real-time signal that neither the C library nor Python uses: a worker writes its Python stack when it gets it.
STACK_SIGNAL = int(getattr(signal, "SIGRTMIN", 34)) + 9


def supported() -> str | None:
    """Return what this system lacks for the engine, or None."""
    needed = ("pidfd_open", "memfd_create", "eventfd", "posix_spawn", "fork")
    missing = [name for name in needed if not hasattr(os, name)]
    if missing or not hasattr(signal, "pidfd_send_signal"):
        return "Linux 5.3 or later (" + ", ".join(missing or ["pidfd_send_signal"]) + ")"
    if not sys.executable:
        return "a Python executable (sys.executable is empty, as in some embedded interpreters)"
    return None


def recv_message(sock: socket.socket, size: int = 4096) -> tuple[bytes, list[int]]:
    """Receive one packet with its descriptors; b"" means that the other side is gone, however it went."""
    try:
        # Not `socket.recv_fds`, which forgets its flags: what a task starts would inherit these descriptors.
        data, ancillary, _, _ = sock.recvmsg(size, socket.CMSG_LEN(_MAX_FDS * _INT), socket.MSG_CMSG_CLOEXEC)
    except (ConnectionResetError, BrokenPipeError):
        # A peer that dies with unread packets in its socket shows up as a reset: the same news as end of file.
        return b"", []
    return data, descriptors_in(ancillary)


def descriptors_in(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors that came beside a message; one that broke off is none."""
    fds = array.array("i")
    for _, _, part in ancillary:
        fds.frombytes(part[: len(part) - len(part) % fds.itemsize])
    return fds.tolist()


_prctl: Any = None


def load_libc() -> None:
    """Find what `die_with` needs of the C library; in the template, so that forked workers need not."""
    global _prctl
    if _prctl is None:
        try:
            import ctypes

            _prctl = ctypes.CDLL(None, use_errno=True).prctl
            _prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
        except (ImportError, OSError, AttributeError):
            _prctl = False  # a Python without ctypes: the template's watch over the parent has to do


def die_with(parent: int) -> None:
    """Have this process killed when the thread that made it ends; exit at once if *parent* is gone already."""
    load_libc()
    if _prctl:
        _prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def die_when_closed(fd: int) -> None:
    """Have this process killed when the other end of the pipe *fd* is closed, of which nobody may have a copy but its owner.

    For a process that is not a child of the one it is to die with. The kernel does it, whatever the process is busy with.
    """
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
    try:
        if os.read(fd, 1) == b"":  # it was closed before
            os._exit(1)
    except BlockingIOError:
        pass


# `signal` wraps it in enums: a child that has just been forked copies every page that it touches, and theirs are many.
_raw: Any = sys.modules.get("_signal", signal)
_DEFAULT, _IGNORED, _SIGINT = int(signal.SIG_DFL), int(signal.SIG_IGN), int(signal.SIGINT)
_IGNORED_BY_PYTHON = (int(signal.SIGPIPE), int(getattr(signal, "SIGXFSZ", signal.SIGPIPE)))


def reset_signals() -> None:
    """Undo what a parent did to signal handling: handlers, ignored and blocked signals, the wake-up descriptor."""
    signal.set_wakeup_fd(-1)
    for number in range(1, signal.NSIG):
        handler = _raw.getsignal(number)
        if handler is None:  # nobody can say, or it is the C library's
            continue
        known = int(handler) if isinstance(handler, int) else None
        # Python itself ignores SIGPIPE and SIGXFSZ at start: writing to a closed pipe is an OSError, not the end.
        if known == _DEFAULT or (known == _IGNORED and number in _IGNORED_BY_PYTHON):
            continue
        try:
            if number == _SIGINT:
                _raw.signal(number, signal.default_int_handler)
            else:
                _raw.signal(number, _IGNORED if number in _IGNORED_BY_PYTHON else _DEFAULT)
        except (OSError, ValueError):
            continue
    _raw.pthread_sigmask(signal.SIG_SETMASK, ())


def leave_parent(parent: int, *, reset: bool = True) -> None:
    """Begin as a child that *parent* has forked: a process group of its own, its death, none of its signal handling.

    Without *reset* the last is left as it is: *parent* has none.
    """
    os.setpgid(0, 0)
    die_with(parent)
    if reset:
        reset_signals()


def attach_standard_streams(out: int, err: int) -> None:
    """Make standard input empty, and standard output and error those of the parent."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(out if out >= 0 else null, 1)
    os.dup2(err if err >= 0 else null, 2)


def close_all_but(keep: set[int]) -> None:
    """Close every descriptor above the standard streams but those in *keep*.

    Only in a process whose Python objects own none of them: a later finalizer would close a stranger's descriptor.
    """
    low = 3
    for fd in sorted(fd for fd in keep if fd > 2):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX") if not os.path.isdir("/proc/self/fd") else _highest_fd() + 1)


def keep_descriptors() -> None:
    """Have no descriptor but the standard streams be inherited by what this process starts."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                continue  # that of the directory


def close_held(owner: object, *names: str) -> None:
    """Close the descriptors in these attributes of *owner*, -1 being none; each is -1 before it is closed.

    So a copy of the process that another thread forks in between does not close one a second time: that number may be
    somebody else's by then.
    """
    for name in names:
        fd = getattr(owner, name)
        setattr(owner, name, -1)
        if fd >= 0:
            os.close(fd)


def _highest_fd() -> int:
    return max((int(name) for name in os.listdir("/proc/self/fd")), default=3)


def signal_group(pid: int, number: int) -> None:
    """Send *number* to the process group of *pid*, which must not have been reaped yet (its number cannot be re-used).

    A stopped process would not notice SIGTERM until it is continued, so that is sent too.
    """
    for each in (number, signal.SIGCONT) if number == signal.SIGTERM else (number,):
        try:
            os.killpg(pid, each)
        except ProcessLookupError:
            # Before the child's setpgid: it is alone in the world still.
            try:
                os.kill(pid, each)
            except ProcessLookupError:
                return
        except PermissionError:  # a task became another user; nothing to be done about it
            return


def kill_rest_of_group(pid: int) -> None:
    """Kill the process group of *pid*, which has ended.

    If it was reaped, the number is its group's still as long as that has members; and nobody else's within so short a time.
    """
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def exit_status(pid: int) -> int | None:
    """Reap *pid*, which has ended: exit code, minus the signal number, or None when somebody else reaped it."""
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:  # the user's waitpid(-1) took it, or SIGCHLD is ignored
        return None
    return os.waitstatus_to_exitcode(status)


def has_ended(pid: int) -> int | None:
    """Return the exit status of an ended child without reaping it, so that its group may still be signalled; else None."""
    try:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    if found is None:
        return None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def is_over(pidfd: int, within: float = 0.0) -> bool:
    """Return whether the process has ended, or ends within so many seconds; somebody else's child, too."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(within * 1000))


def is_stopped(pid: int) -> bool:
    """Return whether the process is stopped by a signal, and not by a debugger; False where the system does not say."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] == b"T"
    except (OSError, IndexError):
        return False


def memory_events() -> int | None:
    """Return how many processes of this control group the kernel has killed for want of memory; None if it does not say."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            lines = file.read().splitlines()
        path = next((line[3:] for line in lines if line.startswith("0::")), None)
        if path is None or ".." in path:
            return None
        with open(f"/sys/fs/cgroup{path.rstrip('/')}/memory.events", encoding="utf-8") as file:
            for line in file:
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
    except (OSError, ValueError):
        pass
    return None


def start_python(code: str, args: list[str], fds: list[int]) -> int:
    """Start a fresh Python that runs *code* with *args*, and *fds* as its descriptors 3, 4, ...; returns its pid.

    It leads a process group of its own: Ctrl-C in a terminal does not reach it. Same interpreter flags as ours (-O, -W, -X,
    -I, ...); sys.path is the first thing the code sets, from *args*.
    """
    argv = [sys.executable, *_flags(), "-c", code, *args]
    # Duplicates above the target numbers, so that putting one in place does not overwrite another.
    high: list[int] = []
    try:
        for fd in fds:
            high.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3 + len(fds)))  # in a loop: each is closed if the next fails
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        high.append(null)
        actions: list[Any] = [(os.POSIX_SPAWN_DUP2, null, 0)]
        actions += [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (1, 2) if not is_open(fd)]
        actions += [(os.POSIX_SPAWN_DUP2, fd, 3 + i) for i, fd in enumerate(high[:-1])]
        return os.posix_spawn(
            sys.executable,
            argv,
            os.environ,
            file_actions=actions,
            setpgroup=0,
            setsigmask=(),
            setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD, signal.SIGALRM),
        )
    finally:
        for fd in high:
            os.close(fd)


_NOTED = (
    *("debug", "optimize", "dont_write_bytecode", "verbose", "bytes_warning", "quiet", "dev_mode"),
    *("isolated", "ignore_environment", "no_site", "no_user_site", "safe_path"),
)
_INHERITED = {
    "dont_write_bytecode": "PYTHONDONTWRITEBYTECODE",
    "no_user_site": "PYTHONNOUSERSITE",
    "safe_path": "PYTHONSAFEPATH",
}
"""What another Python finds in the environment as well, if this one did: "1" there is on in any case."""


def _flags() -> list[str]:
    """Return the options that this Python was started with, as far as another one is to have them."""
    noted = any(getattr(sys.flags, name, 0) and os.environ.get(_INHERITED.get(name, "")) != "1" for name in _NOTED)
    if not (sys.warnoptions or getattr(sys, "_xoptions", None) or noted):
        return []
    import subprocess  # which takes 4 ms to load

    flags: list[str] = getattr(subprocess, "_args_from_interpreter_flags", list)()
    return flags


def fresh_memory(size: int) -> mmap.mmap:
    """Return so many bytes whose pages are there once they are used; those of a bytearray are from the beginning."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def has_one_page(pipe: int) -> bool:
    """Return whether the kernel has given a pipe a single page; most have sixteen."""
    return fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) <= mmap.PAGESIZE


def unread(fd: int) -> int:
    """Return how many bytes wait to be read from a socket."""
    import fcntl
    import termios

    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


def is_open(fd: int) -> bool:
    """Return whether *fd* is an open descriptor."""
    try:
        os.fstat(fd)
    except OSError as error:
        if error.errno == errno.EBADF:
            return False
        raise
    return True
