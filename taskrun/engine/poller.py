"""What the I/O thread listens to: an epoll, and whose each descriptor is."""

from __future__ import annotations

import select
from typing import Final

__all__ = ["LAUNCHER", "WAKE", "Poller"]

WAKE: Final = -1
LAUNCHER: Final = -2
"""In place of the number of a worker."""


class Poller:
    """Descriptors with the number of the worker they belong to (or WAKE or LAUNCHER). Used by the I/O thread only."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._owners: dict[int, tuple[int, bool]] = {}
        self._for_room: set[int] = set()

    def add(self, fd: int, number: int, *, pidfd: bool = False) -> None:
        """Listen to *fd*; a second time: nothing."""
        if fd not in self._owners:
            self._epoll.register(fd, select.EPOLLIN)
            self._owners[fd] = (number, pidfd)

    def remove(self, fd: int) -> None:
        """Listen to *fd* no more; before it is closed, since a forked child may hold a copy that keeps it in the epoll."""
        if self._owners.pop(fd, None) is not None:
            self._for_room.discard(fd)
            self._epoll.unregister(fd)

    def want_room(self, fd: int, wanted: bool) -> None:
        """Listen for room to write as well, or no longer."""
        if wanted != (fd in self._for_room) and fd in self._owners:
            (self._for_room.add if wanted else self._for_room.discard)(fd)
            self._epoll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if wanted else 0))

    def owner(self, fd: int) -> tuple[int | None, bool]:
        """Return (number, is it a pidfd) of *fd*; (None, False) when it was removed since the events were collected."""
        return self._owners.get(fd, (None, False))

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        """Wait for events: (descriptor, mask) each. *timeout* in seconds, -1: for ever."""
        return self._epoll.poll(timeout)

    def close(self) -> None:
        """Close the epoll, not what it listened to."""
        self._owners.clear()
        self._epoll.close()

    def forget_all(self) -> None:
        """In a forked child: the epoll is shared with the parent, so nothing must be taken out of it."""
        self._owners.clear()
        self._for_room.clear()
