"""Looking before a sleep: what it finds, how long it looks, and when it keeps out of the way."""

from __future__ import annotations

import multiprocessing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import taskrun
from taskrun.engine import pool_worker, spin
from taskrun.engine.pool_line import PoolLine
from taskrun.engine.spin import LONGEST, Spin

if TYPE_CHECKING:
    import pytest


class Machine:
    """A clock that each look moves on, a bit more if others take the CPU meanwhile; news comes at a given time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.news_at = float("inf")
        self.taken = 0.0  # seconds that others have the CPU when it is offered
        self.looks = self.offers = 0

    def look(self, timeout: int) -> list[Any]:
        assert timeout == 0
        self.looks += 1
        self.now += 1e-6
        return [(3, 1)] if self.now >= self.news_at else []

    def give_way(self) -> None:
        self.offers += 1
        self.now += self.taken

    def spin(self) -> Spin:
        return Spin(self.look, lambda: self.now, self.give_way)


def waits_without_a_look(machine: Machine, spin: Spin) -> int:
    """Return how many waits pass until it looks again."""
    before, waits = machine.looks, 0
    while machine.looks == before:
        assert spin() == [] or machine.looks > before
        waits += 1
    return waits - 1


def test_news_that_comes_soon_is_found() -> None:
    machine = Machine()
    spin = machine.spin()
    for _ in range(1_000):  # again and again
        machine.news_at = machine.now + LONGEST / 2
        assert spin() == [(3, 1)]


def test_it_is_bounded_and_offers_the_cpu_between_looks() -> None:
    machine = Machine()
    spin = machine.spin()
    began = machine.now
    assert spin() == []
    assert LONGEST <= machine.now - began < LONGEST + 1e-5
    assert machine.offers == machine.looks > 10


def test_looks_in_vain_become_rare() -> None:
    machine = Machine()
    spin = machine.spin()
    assert [waits_without_a_look(machine, spin) for _ in range(9)] == [0, 0, 1, 3, 7, 15, 31, 63, 63]


def test_what_is_found_makes_it_look_again_each_time() -> None:
    machine = Machine()
    spin = machine.spin()
    for _ in range(5):
        waits_without_a_look(machine, spin)
    machine.news_at = 0.0
    waits_without_a_look(machine, spin)
    assert all(spin() for _ in range(10))


def test_it_keeps_out_of_the_way_where_others_want_the_cpu() -> None:
    machine = Machine()
    machine.taken = 3e-3
    spin = machine.spin()
    passed = [waits_without_a_look(machine, spin) for _ in range(9)]
    assert passed == [0, 63, 126, 252, 504, 1008, 2016, 4032, 4095]


def test_luck_makes_it_patient_with_others_again() -> None:
    machine = Machine()
    machine.taken = 3e-3
    spin = machine.spin()
    for _ in range(4):
        waits_without_a_look(machine, spin)
    machine.taken, machine.news_at = 0.0, 0.0
    waits_without_a_look(machine, spin)
    for _ in range(1_000):
        assert spin()
    machine.taken, machine.news_at = 3e-3, float("inf")
    waits_without_a_look(machine, spin)
    assert waits_without_a_look(machine, spin) == 63


def counted(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list that each call of a `Spin` in this process adds to: whether it has found something."""
    calls: list[bool] = []
    original = spin.Spin.__call__

    def call(self: Spin) -> list[Any]:
        found = original(self)
        calls.append(bool(found))
        return found

    monkeypatch.setattr(spin.Spin, "__call__", call)
    return calls


def test_the_io_thread_looks_for_the_answer_of_a_task_that_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskrun.engine.supervisor.cpu_count", lambda: 2)
    calls = counted(monkeypatch)
    with taskrun.Executor("process", max_workers=1) as ex:
        for number in range(20):
            assert ex.submit(abs, -number).result() == number
    assert calls


def test_it_does_not_where_there_is_one_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskrun.engine.supervisor.cpu_count", lambda: 1)
    calls = counted(monkeypatch)
    with taskrun.Executor("process", max_workers=1) as ex:
        assert [ex.submit(abs, -number).result() for number in range(20)] == list(range(20))
    assert not calls


def test_a_worker_of_pool_looks_first_while_one_task_at_a_time_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    worker = SimpleNamespace(spins=True, run_batch=lambda *_: (0, None))
    monkeypatch.setattr(pool_worker, "_worker", worker, raising=False)
    monkeypatch.setattr(PoolLine, "look_first", False)
    line = PoolLine(multiprocessing.get_context("spawn"))
    try:
        for look, before in (
            (False, lambda: None),
            (True, lambda: pool_worker.run(None)),
            (False, lambda: pool_worker.run_batch((1, 0, False, []))),
        ):
            before()
            calls.clear()
            line.put("a task")
            assert line.get() == "a task"
            assert calls == [True] * look
    finally:
        line.close()
