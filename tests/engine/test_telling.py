"""When a worker tells of its answers, and when the parent, awake for another one, looks for them itself."""

from __future__ import annotations

import os
import socket
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from taskrun.engine import channel
from taskrun.engine.answers import Answers
from taskrun.engine.handle import Handle
from taskrun.engine.orders import Orders
from taskrun.engine.outbox import Outbox
from taskrun.engine.telling import Telling, patience

if TYPE_CHECKING:
    from collections.abc import Iterator

LASTS = 1e-3
SLOT = 7


class Parent:
    """What the worker sees of it: when it last looked by itself."""

    looked = 0.0

    def telling(self, *, ended: float) -> Telling:
        """Return what is not told of after a call that ended then."""
        telling = Telling(lambda: self.looked)
        telling.lasted[SLOT] = LASTS
        telling.add(0, LASTS, ended)
        return telling


def test_answers_are_told_of_before_the_first_of_them_is_older_than_promised() -> None:
    telling = Parent().telling(ended=100.0)
    assert not telling.is_due_before(SLOT, 100.0 + patience(LASTS) - LASTS - 1e-6, more=True)
    assert telling.is_due_before(SLOT, 100.0 + patience(LASTS) - LASTS + 1e-6, more=True)


def test_what_the_parent_has_found_is_not_told_of_and_what_came_after_that_is_in_time() -> None:
    parent = Parent()
    telling = parent.telling(ended=100.0)
    now = 100.0 + patience(LASTS)
    parent.looked = now - LASTS / 2
    assert not telling.is_due_before(SLOT, now, more=True)
    assert telling.is_due_before(SLOT, parent.looked + patience(LASTS) - LASTS + 1e-6, more=True)


def test_a_look_before_the_first_of_them_changes_nothing() -> None:
    parent = Parent()
    telling = parent.telling(ended=100.0)
    parent.looked = 99.9
    assert telling.is_due_before(SLOT, 100.0 + patience(LASTS), more=True)


@pytest.mark.parametrize("looked", [float("nan"), float("inf"), 1e300, -1.0])
def test_a_time_that_cannot_be_is_not_believed(looked: float) -> None:
    parent = Parent()
    telling = parent.telling(ended=100.0)
    parent.looked = looked
    assert telling.is_due_before(SLOT, 100.0 + patience(LASTS), more=True)


def test_the_last_one_at_hand_is_announced_whoever_has_looked() -> None:
    parent = Parent()
    telling = parent.telling(ended=100.0)
    parent.looked = 100.0005
    assert telling.is_due_before(SLOT, 100.001, more=False)  # the parent shall send more meanwhile


@pytest.fixture
def fleet() -> SimpleNamespace:
    def nothing(*_: object) -> None:
        return

    return SimpleNamespace(lock=threading.RLock(), outcomes=[], progress=nothing, check_size=nothing)


@pytest.fixture
def handle() -> Iterator[Handle]:
    """A worker with three tasks, the first of which it has answered, and not told of; it has claimed the second."""
    handle = Handle(1)
    theirs = Outbox(handle.notes)
    handle.flight = {number: SimpleNamespace(fn=len, place=handle, number=1) for number in range(3)}  # type: ignore[misc]
    handle.next_sequence = 3
    handle.put_tokens(channel.tokens_of(0, 3))
    theirs.put(0, 1.0, LASTS, LASTS, 0, b"I5\n.")
    assert os.read(handle.tokens_out, 2 * channel.TOKEN) == channel.tokens_of(0, 2)
    handle.pace = LASTS
    yield handle
    theirs.close()
    handle.close()


def looking(fleet: Any) -> Answers:
    scheduler: Any = SimpleNamespace(begin=lambda task: None)
    dispatcher: Any = SimpleNamespace(pace_slot=lambda fn: None)
    poller: Any = None
    return Answers(scheduler, fleet, dispatcher, poller)


def test_who_is_awake_finds_what_another_worker_has_not_told_of(fleet: SimpleNamespace, handle: Handle) -> None:
    handle.heard = time.monotonic() - patience(LASTS)
    before = time.monotonic()
    looking(fleet).look_around([handle])
    assert [(outcome[1], outcome[2]) for outcome in fleet.outcomes] == [(True, 5)]
    assert list(handle.flight) == [1, 2]
    theirs = Outbox(handle.notes)
    try:
        assert before <= theirs.looked_at() <= time.monotonic()
    finally:
        theirs.close()


def test_it_is_not_looked_for_again_and_again(fleet: SimpleNamespace, handle: Handle) -> None:
    handle.heard = time.monotonic() + channel.MAX_AHEAD  # just now, however slow this machine is
    looking(fleet).look_around([handle])
    assert fleet.outcomes == []


def test_a_worker_with_one_task_in_hand_tells_by_itself(fleet: SimpleNamespace, handle: Handle) -> None:
    handle.heard = 0.0
    del handle.flight[1], handle.flight[2]
    looking(fleet).look_around([handle])
    assert fleet.outcomes == []


def test_what_was_sent_and_not_received_is_more_at_hand() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        orders = Orders(theirs)
        assert not orders.look()
        assert not orders.more
        ours.sendall(channel.TASK_HEADER.pack(4, channel.TASK, SLOT, 1, 0, 0, 0.0, 0.0) + b"call")
        assert orders.look()
        assert orders.more
        assert orders.task_of(channel.tokens_of(0))[1] == b"call"
        assert not orders.more


def test_half_tokens_end_the_worker() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        orders = Orders(theirs)
        ours.sendall(channel.TASK_HEADER.pack(4, channel.TASK, SLOT, 1, 0, 0, 0.0, 0.0) + b"call")
        with pytest.raises(RuntimeError, match="has read from a descriptor of its worker"):
            orders.task_of(channel.tokens_of(0, 2)[1:3])
        with pytest.raises(IndexError):
            orders.task_of(channel.tokens_of(0)[:1])
