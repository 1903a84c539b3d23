"""A fresh Python beside the test that calls what it is sent: a worker without an engine.

It has the parent's `sys.path` and nothing else of it: not its `__main__`, not its memory.
"""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys

from taskrun.exceptions import load_exception
from taskrun.reach import new_moment
from taskrun.serialization import dump_arguments, dump_function, load_result

WORKER = """
import pickle, struct, sys
inp, out = sys.stdin.buffer, sys.stdout.buffer
sys.stdout = sys.stderr  # what a task prints must not get among the answers

def read():
    head = inp.read(8)
    if len(head) < 8:
        sys.exit()
    return inp.read(struct.unpack("<q", head)[0])

sys.path[:] = pickle.loads(read())
from taskrun.exceptions import dump_exception
from taskrun.serialization import dump_result, load_arguments, load_function

while True:
    function, arguments = read(), read()
    try:
        fn = load_function(function)
        args, kwargs = load_arguments(arguments)
        answer = b"R" + dump_result(fn(*args, **kwargs))
    except BaseException as error:
        answer = b"E" + dump_exception(error)
    out.write(struct.pack("<q", len(answer)) + answer)
    out.flush()
"""


class SecondProcess:
    def __init__(self):
        self.process = subprocess.Popen([sys.executable, "-I", "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._send(pickle.dumps(sys.path))

    def _send(self, data):
        self.process.stdin.write(struct.pack("<q", len(data)) + data)

    def call(self, fn, *args, **kwargs):
        """Call fn over there; return its result or raise its error."""
        new_moment()
        function, arguments = dump_function(fn), dump_arguments(args, kwargs)
        self._send(function)
        self._send(arguments)
        self.process.stdin.flush()
        head = self.process.stdout.read(8)
        assert len(head) == 8, "the second process died"
        answer = self.process.stdout.read(struct.unpack("<q", head)[0])
        if answer[:1] == b"E":
            raise load_exception(answer[1:])
        return load_result(answer[1:])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait(10) == 0
