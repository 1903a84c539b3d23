"""A timer with a signal that is ours: SIGALRM and the timer that comes with it belong to the task."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["OwnTimer"]

_NUMBER = int(getattr(signal, "SIGRTMIN", 0)) + 9  # no program that we know of uses it
_MONOTONIC = 1  # CLOCK_MONOTONIC of Linux
_BY_SIGNAL = 0  # SIGEV_SIGNAL


class OwnTimer:
    """Calls *on_time* in the main thread, as signal handlers are, when the time that was set is up. See timer_create(2).

    Made in the main thread. Raises OSError where there is no such timer, or somebody else uses its signal.
    """

    def __init__(self, on_time: Callable[[], object]) -> None:
        if signal.getsignal(_NUMBER) is not signal.SIG_DFL:
            raise OSError(f"signal {_NUMBER} is in use")
        try:
            import ctypes

            library = ctypes.CDLL(None, use_errno=True)
            if not hasattr(library, "timer_create"):
                library = ctypes.CDLL("librt.so.1", use_errno=True)  # before glibc 2.34
            create, self._settime = library.timer_create, library.timer_settime
        except (ImportError, AttributeError) as error:
            raise OSError("no timer_create here") from error

        class Event(ctypes.Structure):  # struct sigevent: 64 bytes, of which three fields matter here
            _fields_ = (
                ("value", ctypes.c_void_p),
                ("signo", ctypes.c_int),
                ("notify", ctypes.c_int),
                ("rest", ctypes.c_char * (64 - ctypes.sizeof(ctypes.c_void_p) - 2 * ctypes.sizeof(ctypes.c_int))),
            )

        event, number = Event(signo=_NUMBER, notify=_BY_SIGNAL), ctypes.c_void_p()
        if create(_MONOTONIC, ctypes.byref(event), ctypes.byref(number)):
            raise OSError(ctypes.get_errno(), "timer_create")
        self._number = number
        spec = ctypes.c_long * 4  # struct itimerspec: how often again, then when; in seconds and nanoseconds
        self._never, self._spec, self._reference = ctypes.byref(spec()), spec, ctypes.byref
        self._kept: dict[float, Any] = {}
        signal.signal(_NUMBER, lambda _number, _frame: on_time())

    def set(self, seconds: float) -> None:
        """Call in *seconds*."""
        when = self._kept.get(seconds)
        if when is None:
            when = self._kept[seconds] = self._reference(self._spec(0, 0, int(seconds), int(seconds % 1 * 1e9)))
        self._settime(self._number, 0, when, None)

    def clear(self) -> None:
        """Do not call any more; one call may be on its way."""
        self._settime(self._number, 0, self._never, None)
