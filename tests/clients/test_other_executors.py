"""Executors of other libraries, adapted; `make test-plugins` installs them. Dask's is in plugins/taskrun-dask/tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, ClassVar

import pytest

from taskrun.testing.control import ControlBehaviours
from taskrun.testing.failures import FailureBehaviours
from taskrun.testing.maps import MapBehaviours
from taskrun.testing.results import ResultBehaviours

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Iterator
    from pathlib import Path

MISSING = "{} is not installed; `make test-plugins` installs it and runs these tests"


@pytest.fixture(scope="module")
def loky() -> Iterator[concurrent.futures.Executor]:
    package = pytest.importorskip("loky", reason=MISSING.format("loky"))
    with package.ProcessPoolExecutor(2, timeout=None) as pool:
        assert list(pool.map(abs, range(4))) == [0, 1, 2, 3]
        yield pool


class TestLoky(ResultBehaviours, FailureBehaviours, MapBehaviours, ControlBehaviours):
    many = 500
    options: ClassVar = {}

    @pytest.fixture(autouse=True)
    def adapted(self, loky: concurrent.futures.Executor) -> None:
        type(self).backend = loky


CRASH = """
import os
import loky
import taskrun

with loky.ProcessPoolExecutor(2) as pool, taskrun.Executor(pool) as ex:
    assert ex._max_workers == 2
    error = ex.submit(os._exit, 3).exception(20)
    assert isinstance(error, taskrun.WorkerCrashedError), error
    assert error.guilt == "unknown"
    print("all of it")
"""


def test_a_dying_worker_of_lokys_is_told() -> None:
    pytest.importorskip("loky", reason=MISSING.format("loky"))
    # In a process of its own: loky keeps helpers, and their descriptors, until the end of the program.
    done = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "all of it"), done.stderr


MPI = """
import os
import taskrun
from mpi4py.futures import MPIPoolExecutor

if __name__ == "__main__":
    offset = 1
    with MPIPoolExecutor() as pool, taskrun.Executor(pool, max_workers=2) as ex:
        assert list(ex.map(lambda x: x + offset, range(20))) == list(range(1, 21))
        assert ex.submit(os.getpid).result() != os.getpid()
        assert isinstance(ex.submit(lambda: 1 / 0).exception(), ZeroDivisionError)
        assert isinstance(ex.submit(lambda: SystemExit(3)).result(), SystemExit)
        late = ex.options(timeout=0.1).submit(__import__("time").sleep, 1)
        assert isinstance(late.exception(), taskrun.TaskTimeoutError)
        retried = ex.options(retry=taskrun.Retry(max_attempts=3, wait="none", on=OSError)).submit(
            lambda: taskrun.current_task().attempt if taskrun.current_task().attempt > 2 else open("/no/such")
        )
        assert retried.result() == 3
        print("all of it")
"""


def test_mpi(tmp_path: Path) -> None:
    pytest.importorskip("mpi4py", reason=MISSING.format("mpi4py"))
    if shutil.which("mpiexec") is None:
        pytest.skip("there is no MPI: apt-get install openmpi-bin libopenmpi-dev")
    (tmp_path / "job.py").write_text(MPI)
    env = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    command = ["mpiexec", "--oversubscribe", "-n", "3", sys.executable, "-m", "mpi4py.futures", str(tmp_path / "job.py")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "all of it"), done.stderr
