"""Run code_metrics.py on `process`, then on `thread`, changing one setting only, and compare: `make demo`.

Exits with 1 if the two runs do not come to the same results.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

JOB = Path(__file__).with_name("code_metrics.py")


def run(backend: str) -> tuple[float, str]:
    """Run the job with TASKRUN_BACKEND=*backend*, show what it prints, and return its seconds and its SHA-256."""
    print(f"$ TASKRUN_BACKEND={backend} python {os.path.relpath(JOB)}", flush=True)
    job = subprocess.run(
        [sys.executable, str(JOB)], env=os.environ | {"TASKRUN_BACKEND": backend}, stdout=subprocess.PIPE, text=True
    )
    print(job.stdout, flush=True)
    seconds = re.search(r"^seconds: +([0-9.]+)$", job.stdout, re.MULTILINE)
    digest = re.search(r"^sha-256: +([0-9a-f]{64})$", job.stdout, re.MULTILINE)
    if job.returncode != 0 or seconds is None or digest is None:
        sys.exit(f"demo: the job failed on {backend}, exit code {job.returncode}")
    return float(seconds[1]), digest[1]


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


def main() -> int:
    process, of_process = run("process")
    thread, of_thread = run("thread")
    same = of_process == of_thread
    print("The results are the same." if same else f"THE RESULTS DIFFER: {of_process} on process, {of_thread} on thread.")
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(explain(process, thread, len(os.sched_getaffinity(0)), gil))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
