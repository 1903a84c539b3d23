"""Run code_metrics.py on `process`, then on `thread`, changing one setting only, and compare: `make demo`.

With --all on every built-in backend that is usable here, a line for each: `make demo-all`. Exits with 1 if two runs do not come
to the same results.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from taskrun.plugins import describe_backends

JOB = Path(__file__).with_name("code_metrics.py")


class Run(NamedTuple):
    """One run of the job, as it tells itself."""

    seconds: float
    failed: int
    digest: str
    """The SHA-256 of all results."""
    text: str


class JobError(Exception):
    """The job did not come to its end."""


def run(backend: str) -> Run:
    """Run the job with TASKRUN_BACKEND=*backend*; what it writes to standard error is seen."""
    env = os.environ | {"TASKRUN_BACKEND": backend}
    job = subprocess.run([sys.executable, str(JOB)], env=env, stdout=subprocess.PIPE, text=True)
    told = dict(re.findall(r"^(seconds|files failed|sha-256): +(\S+)$", job.stdout, re.MULTILINE))
    if job.returncode != 0 or len(told) < 3:
        raise JobError(f"the job failed on {backend}, exit code {job.returncode}")
    failed = int(told["files failed"].replace(",", ""))
    return Run(float(told["seconds"]), failed, told["sha-256"], job.stdout)


def compare_two() -> bool:
    """Run on `process` and `thread`, show all that the job prints, and say which was faster and why; False: they differ."""
    runs = []
    for backend in ("process", "thread"):
        print(f"$ TASKRUN_BACKEND={backend} python {os.path.relpath(JOB)}", flush=True)
        runs.append(run(backend))
        print(runs[-1].text, flush=True)
    process, thread = runs
    same = process.digest == thread.digest
    differ = f"THE RESULTS DIFFER: {process.digest} on process, {thread.digest} on thread."
    print("The results are the same." if same else differ)
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(explain(process.seconds, thread.seconds, len(os.sched_getaffinity(0)), gil))
    return same


def compare_all() -> bool:
    """Run on every built-in backend and show a line for each; False: one failed, or has other results than the first."""
    good = True
    first: str | None = None
    print(f"{'backend':12} {'seconds':>8} {'failed':>8}  same results")
    for info in describe_backends():
        if info.source != "taskrun":
            continue
        if info.problem is not None:
            print(f"{info.name:12} not usable here: {info.problem}", flush=True)
            continue
        try:
            done = run(info.name)
        except JobError as error:
            good = False
            print(f"{info.name:12} {error}", flush=True)
            continue
        first = first or done.digest
        same = done.digest == first
        good = good and same
        print(f"{info.name:12} {done.seconds:8.2f} {done.failed:8,}  {'yes' if same else 'NO'}", flush=True)
    return good


def explain(process: float, thread: float, cpus: int, gil: bool) -> str:
    """Say in two sentences which backend was faster and why, from the seconds of each."""
    fast, slow = sorted([(process, "process"), (thread, "thread")])
    first = f"{fast[1]} was faster: {fast[0]:.1f} s against {slow[0]:.1f} s on {slow[1]}, {slow[0] / fast[0]:.1f} times."
    if slow[0] < 1.1 * fast[0]:
        first = f"Both took about as long: {process:.1f} s on process, {thread:.1f} s on thread."
    if not gil:
        why = "This Python runs without the GIL, so its threads use all CPUs just as processes do."
    elif cpus == 1:
        why = "There is one CPU here, so neither can run two files at once, whatever the GIL (Python's global lock) allows."
    elif fast[1] == "process" and slow[0] >= 1.1 * fast[0]:
        why = (
            f"Parsing is work for the CPU, and the GIL (Python's global lock) lets one thread of a process run Python at a "
            f"time, while worker processes have a GIL each and share the {cpus} CPUs."
        )
    else:
        why = (
            f"The GIL (Python's global lock) lets threads run Python one at a time, so process should gain on {cpus} CPUs; "
            "here starting workers, sending results or other load on the machine ate that up."
        )
    return f"{first} {why}"


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--all"]):
        sys.exit("usage: demo.py [--all]")
    try:
        return 0 if (compare_all() if arguments else compare_two()) else 1
    except JobError as error:
        sys.exit(f"demo: {error}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
