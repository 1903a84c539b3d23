"""What runs programs one after the other, each as a script: ``python one_after_another.py PROGRAM...``.

In one interpreter, since to start one for each takes longer than what most of them do. Prints, as JSON, what each printed;
the first that raises ends it. A fork warns of threads, and some programs leave one until they end: that is ignored here.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import tempfile
import warnings


def printed_by(program: str) -> str:
    """Run *program* as `python program` would; return what was written to standard output, by tasks too."""
    with tempfile.TemporaryFile() as caught:
        sys.stdout.flush()
        os.dup2(caught.fileno(), 1)
        runpy.run_path(program, run_name="__main__")
        sys.stdout.flush()
        caught.seek(0)
        return caught.read().decode()


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "(?s).*fork", Warning)
    standard_output = os.dup(1)
    everything = {program: printed_by(program) for program in sys.argv[1:]}
    os.dup2(standard_output, 1)
    os.close(standard_output)
    print(json.dumps(everything))
