"""Small answers wait in memory that worker and parent share, and none is lost or late for it."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

import jobs
import pytest
from patience import PATIENCE

from taskrun.engine import answers, channel, notes
from taskrun.engine.outbox import LARGEST, Outbox
from taskrun.errors import TaskKilledError, WorkerCrashedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from patience import Wire

    from taskrun.executor import Executor
    from taskrun.submitting import OptionsView

BACKENDS = ("process",)


@pytest.fixture
def ends() -> Iterator[tuple[Outbox, Outbox]]:
    """The worker's and the parent's view of one outbox."""
    fd = notes.new_notes("test")
    views = Outbox(fd), Outbox(fd)
    yield views
    for view in views:
        view.close()
    os.close(fd)


def test_what_is_put_on_one_side_is_found_on_the_other_once(ends: tuple[Outbox, Outbox]) -> None:
    flight: dict[int, Any] = dict.fromkeys(range(70_001))
    run = "me", 1.0, 2.0, 3.0, 4
    for number in (0, 1, 255, 256, 70_000):
        for payload in (b"", b"some", b"x" * LARGEST):
            assert not ends[1].has(number)
            ends[0].put(number, 1.0, 2.0, 3.0, 4, payload)
            assert ends[1].has(number)
            assert ends[1].take(flight, number - 1, "me", 5) == []
            assert ends[1].take(flight, number, "me", 5) == [(None, channel.DONE, number, 4, run, payload)]
            assert number not in flight


def test_the_most_of_the_largest_have_room_wherever_they_begin(ends: tuple[Outbox, Outbox]) -> None:
    put = taken = 0
    sizes = random.Random(1)
    for _ in range(100):
        payloads = [sizes.randbytes(sizes.choice((0, 3, 8, LARGEST - 1, LARGEST))) for _ in range(channel.MAX_AHEAD)]
        for payload in payloads:
            ends[0].put(put, 1.0, 2.0, 3.0, 4, payload)
            put += 1
        answers = ends[1].take({}, taken + 99, "me", 5)
        answers += ends[1].take({}, put, "me", 5)
        assert [answer[2] for answer in answers] == list(range(taken, put))
        assert [answer[-1] for answer in answers] == payloads
        taken = put


def test_what_was_not_put_is_not_found_whatever_was_in_its_place_before(ends: tuple[Outbox, Outbox]) -> None:
    for number in range(2000):  # more than once around, and each looks like the numbers of those after it
        payload = (number + 2).to_bytes(8, "little") * (number % 100)
        ends[0].put(number, 1.0, 2.0, 3.0, 4, payload)
        assert not ends[1].has(number + 1)
        assert len(ends[1].take({}, number + 1, "me", 5)) == 1


def batch(ex: Executor, wire: Wire) -> OptionsView:
    """Return a view whose tasks go to the only worker together, once the wire is released."""
    view = ex.options(chunksize=50)
    view.submit(jobs.tell_and_hold, wire.path, "held")
    assert wire.hear() == "held"
    return view


def test_results_do_not_wait_for_a_long_task_behind_them(make: Callable, wire: Wire) -> None:
    with make(max_workers=1) as ex:
        view = batch(ex, wire)
        futures = [view.submit(jobs.hold_if, wire.path if i == 30 else None, i) for i in range(40)]
        wire.release()
        assert [future.result(PATIENCE) for future in futures[:30]] == list(range(30))  # the task holds meanwhile
        assert not futures[30].done()
        wire.release()
        assert [future.result(PATIENCE) for future in futures] == list(range(40))


def test_results_of_a_worker_that_dies_before_it_has_told_of_them_are_there(
    make: Callable, wire: Wire, tmp_path: object
) -> None:
    log = str(tmp_path / "log")
    with make(max_workers=1) as ex:
        view = batch(ex, wire)
        futures = [view.submit(jobs.die_if, i == 30, log, i) for i in range(40)]
        wire.release()
        assert [future.result(PATIENCE) for future in futures[:30]] == list(range(30))
        assert isinstance(futures[30].exception(PATIENCE), WorkerCrashedError)
        assert [future.result(PATIENCE) for future in futures[31:]] == list(range(31, 40))


def test_a_task_that_is_over_is_not_stopped_in_the_place_of_the_one_after_it(
    make: Callable, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "_TICK", 2 * PATIENCE)  # nobody looks of his own accord
    with make(max_workers=1) as ex:
        killed = False
        for _ in range(100):  # where no time at all was to be had between the two, it was told of
            view = batch(ex, wire)
            futures = [view.submit(jobs.hold_if, wire.path if i == 1 else None, i) for i in range(2)]
            wire.release()
            assert wire.hear() == "held"
            killed = futures[0].kill()  # it is over, and nobody has heard of it
            wire.release()
            assert futures[1].result(PATIENCE) == 1
            if killed:
                break
        assert killed
        assert isinstance(futures[0].exception(PATIENCE), TaskKilledError)


def test_an_answer_is_told_of_before_a_call_that_may_be_long_and_is_the_last_at_hand(
    make: Callable, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "_TICK", 2 * PATIENCE)  # nobody looks of his own accord
    with make(max_workers=1) as ex:
        view = batch(ex, wire)
        futures = [view.submit(jobs.nap_and_hold, wire.path, i) for i in range(2)]
        wire.release()
        for i in range(2):
            assert wire.hear() == "held"
            assert not futures[i].done()
            assert all(future.result(PATIENCE) == number for number, future in enumerate(futures[:i]))
            wire.release()
        assert futures[1].result(PATIENCE) == 1


def test_large_and_small_results_of_one_batch_are_those_of_their_tasks(make: Callable, wire: Wire) -> None:
    with make(max_workers=1) as ex:
        view = batch(ex, wire)
        sizes = [1 if i % 3 else LARGEST + i for i in range(48)]
        futures = [view.submit(bytes, size) for size in sizes]
        wire.release()
        assert [len(future.result(PATIENCE)) for future in futures] == sizes
