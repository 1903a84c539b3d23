"""What a worker is sent: tasks in the order of their tokens, and between them what holds for those that come."""

from __future__ import annotations

import importlib
import pickle
import select
import sys
from collections import deque
from itertools import repeat
from typing import TYPE_CHECKING, Any

from taskrun import shipping
from taskrun.engine import channel, surroundings

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

__all__ = ["ONE_OF_SEVERAL", "Frame", "Orders"]

Frame = tuple[tuple[Any, ...], Any]
"""Header and payload."""

ONE_OF_SEVERAL = 0
"""The kind of a task that came with others (`channel.TASKS`) and has the header of them all. The payload says which it is, and
what it is called with: a tuple, the pickle of a call, or, where there was no memory for it, a view of the pickle of all."""


class Orders:
    """The worker's end of its channel, for reading. Owner: the worker's main thread. EOFError says that the parent is gone."""

    def __init__(self, sock: socket.socket) -> None:
        self._reader = channel.FrameReader(sock, channel.TASK_HEADER, descriptors=True)
        self._line = select.poll()
        self._line.register(sock, select.POLLIN)
        self.frames: deque[Frame] = deque()
        """What was received and not looked at yet."""
        self.more = False
        """Whether still more was seen to be there, and not received."""
        self.functions: dict[int, Any] = {}
        """By slot: what dump_function made, replaced by the function at first use."""
        self.root: int | None = None
        """The seed that the tasks to come derive theirs from."""
        self.setup: dict[str, Any] = {}
        """What the parent has told of itself."""

    def wait_for_setup(self) -> None:
        """Receive until the parent has told what comes before any task."""
        while not self.setup:
            self._receive()
            while self.frames:
                self._take(*self.frames.popleft())

    def task_of(self, token: bytes) -> Frame:
        """Return the frame of a claimed task, passing over those that were taken back."""
        frames, number = self.frames, channel.number_of(token)
        while True:
            if not frames:
                self._receive()
                continue
            frame = frames.popleft()
            header, payload = frame
            kind = header[1]
            if kind > channel.TASK_MORE:
                self._take(header, payload)
            elif (header[4] + payload[0] if kind == ONE_OF_SEVERAL else header[4]) % channel.TOKENS == number:
                return frame
            elif number >= channel.TOKENS:
                raise RuntimeError("a task has read from a descriptor of its worker")  # the next worker goes on

    def _take(self, header: tuple[Any, ...], payload: Any) -> None:
        """Keep what holds for the tasks to come."""
        kind = header[1]
        if kind == channel.FUNCTION:
            self.functions[header[2]] = payload
        elif kind == channel.SHIPMENT:
            shipping.receive(payload, self._reader.batches.popleft() if header[2] else ())
        else:
            self._take_state(pickle.loads(payload))

    def _take_state(self, state: dict[str, Any]) -> None:
        self.root = state.get("root", self.root)
        self.setup = state.get("setup", self.setup)
        if "unshared" in state:
            shipping.forget(state["unshared"])
        if "path" in state:
            sys.path[:] = state["path"]
            importlib.invalidate_caches()
        if "authkey" in state:
            surroundings.take_authkey(state["authkey"])

    def _receive(self) -> None:
        self.more = False
        for header, payload in self._reader.read():
            if header[1] == channel.TASKS:
                self.frames.extend(_taken_apart(header, payload))
            else:
                self.frames.append((header, payload))

    # -- looking ahead ---------------------------------------------------------------------------------------------------------

    def next_slot(self) -> int:
        """Return the slot of the function of the task that comes next, or -1 if that is not known."""
        frames = self.frames
        return frames[0][0][2] if frames and frames[0][0][1] <= channel.TASK_MORE else -1

    def look(self) -> bool:
        """Return whether more was sent than was received, which is left there: whose it is, that task is to blame for its size.

        Raises OSError where a task has closed the line: then that one shall be the one that cannot be answered.
        """
        for _, event in self._line.poll(0):
            if event & select.POLLNVAL:
                raise OSError("the line to the parent is closed")
            self.more = True
        return self.more


def _taken_apart(header: tuple[Any, ...], payload: bytes | bytearray) -> Iterable[Frame]:
    """Return the tasks of a frame of several. What is loaded here runs none of the user's code."""
    calls: Iterable[Any]
    try:
        calls = pickle.loads(payload)
    except Exception:  # there is no memory now: each of them tries again when it is its turn
        calls = repeat(memoryview(payload), header[3])
    return zip(repeat((header[0], ONE_OF_SEVERAL, *header[2:])), enumerate(calls), strict=False)
