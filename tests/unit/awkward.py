"""Exception classes that do not survive pickle as they are; importable by the second process."""

from __future__ import annotations

import threading


class TwoArguments(Exception):
    """Its args are not those of its constructor: pickle calls it with one argument too few."""

    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")
        self.code = code


class Doubled(Exception):
    """Pickle rebuilds it, with another message."""

    def __init__(self, size):
        super().__init__(f"more than {size} bytes")


class NoArguments(Exception):
    def __init__(self):
        super().__init__("text", 1, 2)


class KeywordOnly(ValueError):
    def __init__(self, *, reason):
        super().__init__(reason)
        self.reason = reason


class RaisesInInit(Exception):
    armed = False

    def __init__(self, *args):
        if RaisesInInit.armed:
            raise SystemExit("in __init__")
        super().__init__(*args)


class NewWithArguments(Exception):
    def __new__(cls, one, two):
        self = super().__new__(cls, one)
        self.two = two
        return self

    def __init__(self, one, two):
        super().__init__(one)


class OwnReduce(Exception):
    def __init__(self, a, b):
        super().__init__("composed")
        self.a, self.b = a, b

    def __reduce__(self):
        return OwnReduce, (self.a, self.b)


class ForgetfulReduce(Exception):
    """Pickle rebuilds it without what its message began with, as urllib3 does."""

    def __init__(self, pool, problem):
        super().__init__(f"{pool}: {problem}")
        self.problem = problem

    def __reduce__(self):
        return ForgetfulReduce, (None, self.problem)


class BadReduce(KeyError):
    def __reduce__(self):
        raise SystemExit("in __reduce__")


class ReducesToSomethingElse(Exception):
    def __reduce__(self):
        return int, (5,)


class SubOSError(OSError):
    def __init__(self, path, code):
        super().__init__(code, "went wrong", path)
        self.path = path


class Slotted(Exception):
    __slots__ = ("extra",)

    def __init__(self, message, extra):
        super().__init__(message)
        self.extra = extra


class WithLock(Exception):
    def __init__(self, message):
        super().__init__(message, threading.Lock())
        self.lock = threading.Lock()
        self.fine = 1


class BadStr(Exception):
    def __str__(self):
        raise KeyboardInterrupt("in __str__")

    __repr__ = __str__


class ReadOnly(Exception):
    """Attributes cannot be set in the usual way."""

    def __setattr__(self, name, value):
        raise AttributeError(name)


class RaisesAtLoad:
    def __reduce__(self):
        return exec, ("raise SystemExit('at load')",)


class Group(ExceptionGroup):
    def __new__(cls, text, members, code):
        self = super().__new__(cls, text, members)
        self.code = code
        return self

    def __init__(self, text, members, code):
        super().__init__(text, members, code)


class Stop(BaseException):
    pass
