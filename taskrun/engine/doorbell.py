"""What wakes the one thread that waits for descriptors: an eventfd that any thread may ring, also once it is closed."""

from __future__ import annotations

import os
import threading

__all__ = ["Doorbell"]


class Doorbell:
    """Wakes whoever polls `fd`.

    Its lock (a leaf, re-entrant: a signal handler may strike the thread that rings, and ring itself) is held for one system
    call; without it the descriptor could be closed, and its number somebody else's, between the look at it and the ringing.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """-1 once it is closed."""

    def ring(self) -> None:
        with self._lock:
            if self.fd >= 0:
                os.eventfd_write(self.fd, 1)

    def heard(self) -> None:
        """Have it silent again. By the one who polls."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return  # it was silent

    def close(self) -> None:
        """Close it; what rings from now on, rings nothing."""
        with self._lock:
            fd, self.fd = self.fd, -1
            if fd >= 0:
                os.close(fd)

    def close_forked_copy(self) -> None:
        """In a forked child, where another thread may have held the lock for ever."""
        self._lock = threading.RLock()
        self.close()
