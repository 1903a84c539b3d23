"""How a cluster is found, or started and ended.

Ray knows one cluster for a process. What the user has connected to is used and left alone; what we have connected to, or
started, is let go of by the last of our executors that used it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from taskrun.errors import BackendUnavailableError, ConfigError
from taskrun.threads import OwnThread

if TYPE_CHECKING:
    from taskrun_ray.options import RayOptions

__all__ = ["Connection", "answers", "connect", "connection", "disconnect", "is_ours"]

Connection = tuple[str, str]
"""A session of Ray's and the job that this process is in it: those of no other connection, later or elsewhere."""

_made: Connection | None = None
"""What we have connected to, whether it is still there or not."""
_users = 0
"""How many of our executors use that."""
_let_go: threading.Event | None = None
"""To be set when nobody needs the cluster any more that we have started."""
_guard = threading.Lock()


def connection() -> Connection | None:
    """Return what this process is connected to at present. Ray itself would connect anew to anything where that is over."""
    import ray

    try:
        if ray.is_initialized():
            about = ray.get_runtime_context()
            return about.get_session_name(), about.get_job_id()
    except Exception:  # it ends at this moment
        return None
    return None


def connect(options: RayOptions, workers: int | None) -> Connection | None:
    """Be connected, starting a cluster for *workers* tasks at a time if there is no address.

    Return what to give to `disconnect`; None if the user has connected, and disconnects.

    Raises BackendUnavailableError within `connect_timeout` seconds or so where nobody answers, ConfigError where this process
    is connected to another cluster.
    """
    import ray

    global _made, _users
    with _guard:
        if ray.is_initialized():
            _refuse_another(options.address)
            if _made is None or connection() != _made:
                return None
            _users += 1
            return _made
        if options.address is not None and options.address != "auto" and not answers(options.address, options.connect_timeout):
            raise _nobody(options, "nobody listens there")
        try:
            (_start if options.address is None else ray.init)(**_arguments(options, workers))
        except Exception as error:  # of Ray: no cluster, another version, another token
            with contextlib.suppress(Exception):
                ray.shutdown()
            raise _nobody(options, f"{type(error).__name__}: {error}") from error
        _made, _users = connection(), 1
        return _made


def _start(**arguments: Any) -> None:
    """Call `ray.init` in a thread that stays: Ray has what it starts killed when the thread that has started it ends.

    (PR_SET_PDEATHSIG.) The thread of an executor would not do: others may use the cluster longer than it.
    """
    import ray

    global _let_go
    _end_keeper()  # if the user has ended the one before himself
    let_go = threading.Event()
    started: Future[None] = Future()

    def keep() -> None:
        try:
            ray.init(**arguments)
        except BaseException as error:  # raised in the thread that waits for it
            started.set_exception(error)
            return
        started.set_result(None)
        let_go.wait()

    OwnThread("taskrun-ray-keeper", keep).start()
    started.result()
    _let_go = let_go


def _end_keeper() -> None:
    global _let_go
    if _let_go is not None:
        _let_go.set()
        _let_go = None


def is_ours() -> bool:
    """Return whether we have started the cluster that this process is connected to."""
    return _let_go is not None


def _arguments(options: RayOptions, workers: int | None) -> dict[str, Any]:
    told: dict[str, Any] = {
        "configure_logging": False,  # the program's logging is the program's
        "log_to_driver": True,
        "runtime_env": None if options.runtime_env is None else dict(options.runtime_env),
        "namespace": options.namespace,
    }
    if options.address is not None:
        return {**told, "address": options.address}
    cpus = max(1, round((workers or 1) * options.num_cpus))
    own = {"num_cpus": cpus, "num_gpus": options.num_gpus, "object_store_memory": options.object_store_memory}
    resources = {name: amount * (workers or 1) for name, amount in (options.resources or {}).items()}
    return {**told, **own, "resources": resources or None, "include_dashboard": False, "address": "local"}


def _nobody(options: RayOptions, why: str) -> BackendUnavailableError:
    if options.address is None:
        return BackendUnavailableError(f"no Ray cluster could be started on this machine: {why}", backend="ray")
    return BackendUnavailableError(
        f"no Ray cluster can be used at {options.address}: {why}. Is its head node running there, reachable from here, of the "
        "same versions of Ray and Python, and with the same token (RAY_AUTH_MODE, RAY_AUTH_TOKEN)?",
        backend="ray",
    )


def _refuse_another(address: str | None) -> None:
    import ray

    connected = ray.get_runtime_context().gcs_address
    if address not in (None, "auto") and _resolved(str(address)) != _resolved(connected):
        raise ConfigError(
            f"address is {address!r}, but this process is connected to the Ray cluster at {connected}; Ray knows one cluster "
            "for a process: leave address out, or ray.shutdown() first",
            setting="address",
        )


def _resolved(address: str) -> tuple[str, str]:
    host, _, port = address.rpartition(":")
    try:
        found = socket.gethostbyname(host)
    except OSError:
        return host, port
    mine = {"127.0.0.1", _own_address()}
    return ("here" if found in mine else found), port


def _own_address() -> str:
    import ray

    return ray.util.get_node_ip_address()  # type: ignore[no-any-return]


def answers(address: str, timeout: float) -> bool:
    """Return whether somebody listens at *address*."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout).close()
    except OSError:
        return False
    return True


def disconnect(using: Connection) -> None:
    """Undo a `connect` that returned this."""
    import ray

    global _made, _users
    with _guard:
        if using != _made:
            return  # the user has ended it himself, and another has been made since
        _users -= 1
        if _users == 0:
            if connection() == _made:
                ray.shutdown()
            _made = None
            _end_keeper()
