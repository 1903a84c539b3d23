"""Where `submit` waits for room, and who must not wait."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import TYPE_CHECKING

import pytest
from patience import PATIENCE, eventually

from taskrun.errors import QueueFullError
from taskrun.room import Room
from taskrun.threads import OwnThread

if TYPE_CHECKING:
    from types import FrameType


def test_the_limit_counts_what_waits_and_one_for_each_worker() -> None:
    assert Room(10, 4).limit == 14
    assert Room(0, 4).limit == 4
    assert Room(None, 4).limit is None


def test_all_who_wait_look_again_when_there_is_news() -> None:
    room = Room(1, 1)
    results: list[bool] = []

    def wait() -> None:
        results.append(room.wait(gate))

    threads = []
    for _ in range(3):
        gate = room.listen()
        threads.append(threading.Thread(target=wait))
        threads[-1].start()
        assert eventually(lambda: len(room.waiting) == len(threads))
    assert room.waiting == {thread.ident for thread in threads}
    room.notify()
    for thread in threads:
        thread.join(PATIENCE)
    assert results == [False] * 3
    assert room.waiting == set()


def test_news_between_listening_and_waiting_is_not_lost() -> None:
    room = Room(1, 1)
    gate = room.listen()
    room.notify()
    assert room.wait(gate) is False


def test_a_thread_of_ours_takes_room_that_is_not_there() -> None:
    room = Room(1, 1)
    results: list[bool] = []
    thread = OwnThread("test", lambda: results.append(room.wait(room.listen())))
    thread.start()
    thread.join(PATIENCE)
    assert results == [True]


def test_so_does_a_signal_handler() -> None:
    room = Room(1, 1)
    results: list[bool] = []

    def handler(number: int, frame: FrameType | None) -> None:
        results.append(room.wait(room.listen()))

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert results == [True]


def test_an_event_loop_is_not_blocked() -> None:
    room = Room(3, 1)

    async def main() -> None:
        with pytest.raises(QueueFullError, match="max_pending=3") as caught:
            room.wait(room.listen())
        assert caught.value.limit == 3
        # In a thread beside the loop it may wait.
        gate = room.listen()
        waiting = asyncio.create_task(asyncio.to_thread(room.wait, gate))
        assert await asyncio.to_thread(eventually, lambda: room.waiting)
        room.notify()
        assert await waiting is False

    asyncio.run(main())
