"""A cluster of its own: executors share it, and it ends with the last of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import ray
from clusters import PATIENCE, STORE, descendants, eventually
from work import runs

import taskrun
from taskrun.cpus import cpu_count

if TYPE_CHECKING:
    from pathlib import Path

OWN = {"max_workers": 2, "object_store_memory": STORE}


def test_who_has_started_it_may_end_before_who_shares_it() -> None:
    with taskrun.Executor("ray", **OWN) as sharing:
        with taskrun.Executor("ray", **OWN) as starting:
            assert starting.submit(pow, 2, 3).result(PATIENCE) == 8
            assert sharing.submit(pow, 2, 3).result(PATIENCE) == 8
            # An executor in a task takes its part of the CPUs, as in a worker of `process`.
            inner = starting.submit(lambda: taskrun.Executor("process")._max_workers)
            assert inner.result(PATIENCE) == max(1, cpu_count() // 2)
        assert [sharing.submit(pow, 2, n).result(PATIENCE) for n in range(5)] == [1, 2, 4, 8, 16]
        assert ray.is_initialized()
    assert not ray.is_initialized()


LEFT_OPEN = f"""
import os, sys, taskrun
from work import note_run

ex = taskrun.Executor("ray", max_workers=2, object_store_memory={STORE})
assert ex.submit(pow, 2, 3).result() == 8
if os.fork() == 0:
    os._exit(0)  # a copy that ends takes nothing with it
os.wait()
future = ex.submit(note_run, *sys.argv[1:])
"""


@pytest.mark.parametrize("ending", ["by itself", "by Ctrl-C"])
def test_a_program_ends_and_its_cluster_with_it(ending: str, tmp_path: Path) -> None:
    log, go = tmp_path / "log", tmp_path / "go"
    code = LEFT_OPEN + ("future.result()" if ending == "by Ctrl-C" else "")
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    program = subprocess.Popen([sys.executable, "-c", code, str(log), str(go)], env=environment)
    try:
        assert eventually(lambda: runs(log))
        cluster = descendants(program.pid)
        assert any("raylet" in line for line in cluster.values())
        if ending == "by Ctrl-C":
            program.send_signal(signal.SIGINT)
        else:
            go.touch()
        assert (program.wait(PATIENCE) == 0) is (ending == "by itself")
    finally:
        program.kill()
        program.wait()
    assert eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in cluster))
