"""Every built-in backend keeps every promise."""

from taskrun.testing import BackendConformance


class TestSerial(BackendConformance):
    backend = "serial"


class TestThread(BackendConformance):
    backend = "thread"


class TestProcess(BackendConformance):
    backend = "process"
