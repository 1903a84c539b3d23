"""Tasks that are alike travel in one frame, and each is by itself all the same."""

from __future__ import annotations

import fcntl
import functools
import os
import pickle
import time
import types
import weakref
from contextvars import copy_context
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import jobs
import pytest
from patience import PATIENCE

from taskrun import current_task
from taskrun.engine import channel, orders, packing, worker
from taskrun.engine import handle as handles
from taskrun.engine.dispatch import Dispatcher
from taskrun.engine.functions import Slot
from taskrun.engine.handle import Handle
from taskrun.engine.packing import Frames, Packing
from taskrun.errors import SerializationError
from taskrun.future import Future
from taskrun.runs import Run
from taskrun.task import NO_KWARGS, Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from patience import Wire

    from taskrun.executor import Executor
    from taskrun.submitting import OptionsView

BACKENDS = ("process",)


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[Frames]:
    """All frames that are made, as the engine has packed them."""
    made: list[Frames] = []
    pack = Packing.pack

    def packing(self: Packing, *args: Any) -> Frames:
        made.append(pack(self, *args))
        return made[-1]

    monkeypatch.setattr(Packing, "pack", packing)
    return made


def headers(packed: list[Frames]) -> list[tuple[int, int]]:
    """Kind and length of the frames with tasks in them."""
    found = [channel.TASK_HEADER.unpack(header) for frames in packed for header in frames.parts[::2]]
    return [(header[1], header[0]) for header in found if header[1] <= channel.TASKS]


def kinds(packed: list[Frames]) -> list[int]:
    return [kind for kind, _ in headers(packed)]


def together(ex: Executor, wire: Wire) -> OptionsView:
    """Return a view whose tasks go to the only worker in one batch, once the wire is released."""
    view = ex.options(chunksize=100)
    view.submit(jobs.tell_and_hold, wire.path, "held")
    assert wire.hear() == "held"
    return view


@pytest.mark.parametrize(
    "value",
    [
        lambda i: b"%100000d" % i,
        lambda i: bytearray(2_000_000),
        lambda i: [i] * 20_000,
        lambda i: f"{i:6000d}",
        lambda i: functools.partial(len, f"{i:30000d}"),
    ],
    ids=["alone", "beside", "grouped", "several", "object"],
)
def test_a_batch_is_not_large_whatever_was_known_of_its_tasks(
    make: Callable, wire: Wire, packed: list[Frames], value: Callable[[int], Any]
) -> None:
    with make(max_workers=1) as ex:
        view = together(ex, wire)
        packed.clear()
        futures = [view.submit(kind_of, i, value(i)) for i in range(100)]
        wire.release()
        kinds = [(i, type(value(i)).__name__) for i in range(100)]
        assert [future.result(PATIENCE) for future in futures] == kinds
        assert sum(len(frames.sent) for frames in packed) == 100
        each = sum(frames.size for frames in packed) / 100
        assert each > 5_000
        for frames in packed:
            assert 0 < frames.size <= packing.ENOUGH + max(each, 1 << 17)


def test_a_batch_ends_when_pickling_takes_its_time(
    make: Callable, wire: Wire, packed: list[Frames], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_LONGEST", 0.0)
    with make(max_workers=1) as ex:
        view = together(ex, wire)
        packed.clear()
        futures = [view.submit(kind_of, i, [i]) for i in range(30)]
        wire.release()
        assert [future.result(PATIENCE) for future in futures] == [(i, "list") for i in range(30)]
        assert [len(frames.sent) for frames in packed] == 30 * [1]  # one at least, however late it is


def test_what_calls_weigh_is_learned_for_each_function_by_itself(make: Callable, wire: Wire) -> None:
    with make(max_workers=1) as ex:
        view = together(ex, wire)
        futures = [view.submit(*call) for i in range(25) for call in ((len, b"%10000d" % i), (kind_of, i, [i]))]
        wire.release()
        for future in futures:
            future.result(PATIENCE)
        slots = [ex._backend._supervisor._dispatcher.pace_slot(fn) for fn in (len, kind_of)]
        assert 5_000 < slots[0].size < 11_000
        assert 0 < slots[1].size < 100


def test_one_large_call_among_many_does_not_make_all_of_them_large() -> None:
    slot = Slot(0, 0, weakref.ref(kind_of), kind_of)
    slot.weigh(30, calls=50)
    assert slot.size == 30
    for i in range(400):
        slot.weigh(20_000 if i % 20 == 0 else 30)
        assert slot.size < 5_000
    assert slot.size > 100


def kind_of(number: int, value: object) -> tuple[int, str]:
    return number, type(value).__name__


def keep(kept: list[int], value: int) -> list[int]:
    kept.append(value)
    return kept


def about_me(_: object) -> tuple[int, int]:
    me = current_task()
    assert me is not None
    return me.index, me.seed


def both(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


class FailsToPickle:
    def __reduce__(self) -> Any:
        raise ValueError("not this one")


class FailsToLoad:
    def __reduce__(self) -> Any:
        return int, ("no number",)


def test_what_is_alike_and_plain_is_one_frame_with_one_pickle(make: Callable, wire: Wire, packed: list[Frames]) -> None:
    with make(max_workers=1) as ex:
        view = together(ex, wire)
        packed.clear()
        futures = [view.submit(both, i, "text", None) for i in range(50)]
        wire.release()
        assert [future.result(PATIENCE)[0][0] for future in futures] == list(range(50))
    assert kinds(packed) == [channel.TASKS]
    calls = pickle.loads(packed[-1].parts[-1])
    assert calls == [(i, "text", None) for i in range(50)]


def test_an_object_given_to_several_tasks_is_another_one_for_each(make: Callable, wire: Wire, packed: list[Frames]) -> None:
    with make(max_workers=1) as ex:
        view = together(ex, wire)
        packed.clear()
        shared: list[int] = []
        futures = [view.submit(keep, shared, i) for i in range(20)]
        wire.release()
        assert [future.result(PATIENCE) for future in futures] == [[i] for i in range(20)]
    assert kinds(packed) == [channel.TASKS]  # a frame all the same, of a pickle each


@pytest.mark.parametrize("bad", [FailsToPickle, FailsToLoad])
def test_who_cannot_be_sent_or_loaded_fails_alone(make: Callable, wire: Wire, bad: type) -> None:
    with make(max_workers=1) as ex:
        view = together(ex, wire)
        futures = [view.submit(both, bad() if i == 7 else i) for i in range(20)]
        wire.release()
        assert isinstance(futures[7].exception(PATIENCE), SerializationError)
        assert [f.result(PATIENCE)[0] for i, f in enumerate(futures) if i != 7] == [(i,) for i in range(20) if i != 7]


def test_a_task_knows_which_one_it_is_wherever_it_travelled(make: Callable, wire: Wire, packed: list[Frames]) -> None:
    with make(max_workers=1, seed=3) as ex:
        view = together(ex, wire)
        packed.clear()
        some = [view.submit(about_me, i) for i in range(10)]
        other = [view.submit(jobs.hold_if, None, 1)]
        listed = [view.submit(about_me, [i]) for i in range(10)]
        wire.release()
        found = [future.result(PATIENCE) for future in some + listed]
    assert [index for index, _ in found] == [*range(1, 11), *range(12, 22)]
    assert len({seed for _, seed in found}) == 20
    assert other[0].result() == 1
    assert kinds(packed) == [channel.TASKS, channel.TASK, channel.TASKS]


def test_keyword_arguments_and_texts_like_names_of_modules_arrive(make: Callable, wire: Wire) -> None:
    with make(max_workers=1) as ex:
        view = together(ex, wire)
        named = [view.submit(both, i, key=i) for i in range(10)]
        texts = [view.submit(both, "__main__" if i == 5 else "x") for i in range(10)]
        wire.release()
        assert [future.result(PATIENCE) for future in named] == [((i,), {"key": i}) for i in range(10)]
        assert [future.result(PATIENCE)[0][0] for future in texts] == ["__main__" if i == 5 else "x" for i in range(10)]


@pytest.mark.parametrize("size", [3000, 40_000, 70_000, 300_000])
@pytest.mark.parametrize("kind", [bytes, list])
def test_large_arguments_travel_few_at_a_time_or_alone(
    make: Callable, wire: Wire, packed: list[Frames], size: int, kind: type
) -> None:
    with make(max_workers=1) as ex:
        view = together(ex, wire)
        packed.clear()
        values = [kind(bytes([i]) * (size if kind is bytes else size // 5)) for i in range(40)]
        futures = [view.submit(both, value) for value in values]
        wire.release()
        assert [future.result(PATIENCE)[0][0] for future in futures] == values
    assert all(length < 1 << 17 for kind, length in headers(packed) if kind == channel.TASKS)
    if size == 3000:
        assert channel.TASKS in kinds(packed)
    if size == 300_000:
        assert channel.TASKS not in kinds(packed)


def test_one_that_is_taken_back_out_of_the_middle_does_not_run(make: Callable, wire: Wire) -> None:
    with make(max_workers=1) as ex:
        view = together(ex, wire)
        futures = [view.submit(jobs.hold_if, wire.path if i == 0 else None, i) for i in range(100)]
        wire.release()
        assert wire.hear() == "held"  # the others lie behind it, at the worker or, soon, in the queue
        cancelled = [future.cancel() for future in futures[10:90:7]]
        assert all(cancelled)
        wire.release()
        rest = [i for i in range(100) if not futures[i].cancelled()]
        assert len(rest) == 100 - len(cancelled)
        assert [futures[i].result(PATIENCE) for i in rest] == rest


@pytest.mark.parametrize("listed", [False, True])
def test_one_that_is_cancelled_while_it_is_packed_changes_nothing_for_the_others(
    make: Callable, wire: Wire, monkeypatch: pytest.MonkeyPatch, listed: bool
) -> None:
    with make(max_workers=1) as ex:
        view = together(ex, wire)
        futures = [view.submit(jobs.hold_if, None, [i] if listed else i) for i in range(20)]
        plain, functions, armed = packing.are_plain, packing.dump_arguments, [True]

        def cancel_the_first(ours: Callable) -> Callable:
            def cancelling(*args: Any, **kwargs: Any) -> Any:
                if armed and futures[0].cancel():  # in the engine's thread; another one might come here as well
                    armed.clear()
                return ours(*args, **kwargs)

            return cancelling

        monkeypatch.setattr(packing, "are_plain", cancel_the_first(plain))
        monkeypatch.setattr(packing, "dump_arguments", cancel_the_first(functions))
        wire.release()
        wanted = [[i] if listed else i for i in range(20)]
        assert [future.result(PATIENCE) for future in futures[1:]] == wanted[1:]
        assert futures[0].cancelled()
        assert ex.submit(jobs.hold_if, None, 5).result(PATIENCE) == 5


@pytest.mark.parametrize("where", ["dumps", "dump_downward"])
def test_without_memory_for_a_frame_of_several_each_has_its_own(
    make: Callable, wire: Wire, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    with make(max_workers=1) as ex:
        view = together(ex, wire)

        def no_memory(*_: Any, **__: Any) -> NoReturn:
            raise MemoryError

        futures = [view.submit(jobs.hold_if, None, i if where == "dump_downward" else [i]) for i in range(20)]
        lacking = packing if where == "dump_downward" else types.SimpleNamespace(**vars(pickle))
        if where == "dumps":
            monkeypatch.setattr(packing, "pickle", lacking)
        monkeypatch.setattr(lacking, where, no_memory)
        wire.release()
        assert [future.result(PATIENCE) for future in futures] == [i if where == "dump_downward" else [i] for i in range(20)]


def test_what_is_tiny_does_not_travel_with_what_is_huge(make: Callable, wire: Wire, packed: list[Frames]) -> None:
    with make(max_workers=1) as ex:
        view = together(ex, wire)
        packed.clear()
        for make_value in (lambda size: [b"x" * 1000] * size, lambda size: b"x" * size):
            futures = [view.submit(both, make_value(200_000 if i in (5, 11) else 1)) for i in range(20)]
            wire.release()
            assert all(future.exception(PATIENCE) is None for future in futures)
    assert all(length < 1 << 17 for kind, length in headers(packed) if kind == channel.TASKS)
    assert channel.TASKS in kinds(packed)


def test_a_worker_without_memory_for_what_came_together_tries_again_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(_: object) -> NoReturn:
        raise MemoryError

    payload = pickle.dumps([(i,) for i in range(4)])
    with monkeypatch.context() as patch:
        patch.setattr(orders, "pickle", types.SimpleNamespace(loads=no_memory))
        found = list(orders._taken_apart((9, channel.TASKS, 3, 4, 100, 50, 0.0, 0.0), payload))
    assert [(frame[0][1], frame[1][0]) for frame in found] == [(orders.ONE_OF_SEVERAL, i) for i in range(4)]
    assert [worker._one_of(frame[1][1], frame[1][0], "name") for frame in found] == [(i,) for i in range(4)]
    monkeypatch.setattr(worker, "pickle", types.SimpleNamespace(loads=no_memory))
    with pytest.raises(SerializationError, match="name"):
        worker._one_of(found[0][1][1], 0, "name")


def test_a_result_comes_though_what_is_sent_next_is_pickled_only_by_who_has_it(make: Callable) -> None:
    """Workers are fed before results are told of, but not where the user's code may run: it may wait for one of them."""
    with make(max_workers=1) as ex:
        for _ in range(3):  # known to take long, so that nothing is sent behind it
            ex.submit(time.sleep, 0.05).result(PATIENCE)
        guarded = jobs.Guarded()
        first, last = ex.submit(time.sleep, 0.05), ex.submit(type, guarded)
        with guarded.lock:
            first.result(PATIENCE)
        assert last.result(PATIENCE) is jobs.Guarded


def test_what_surely_runs_none_of_the_users_code_is_known(make: Callable) -> None:
    with make(max_workers=1) as ex:
        assert ex.submit(jobs.double, 1).result(PATIENCE) == 2
        supervisor = ex._backend._supervisor
        (handle,) = supervisor._fleet.workers.values()
        asked = supervisor._dispatcher._packing.runs_nothing
        options = ex._options

        def task(fn: Callable, *args: Any, context: Any = None, **kwargs: Any) -> Task:
            return Task(fn, args, kwargs or NO_KWARGS, Future(), 0, options, context)

        plain = task(jobs.double, 1, "text", b"bytes", None, 2.5)
        assert asked(handle, [plain])
        assert asked(handle, [plain, task(jobs.double)])
        for other in (
            task(jobs.double, [1]),
            task(jobs.double, (1,)),  # of anything, it may be
            task(jobs.double, jobs.Guarded()),
            task(jobs.double, x=1),
            task(jobs.double, 1, context=copy_context()),
            task(jobs.pid, 1),  # the worker has never seen it
            task(functools.partial(jobs.double, 1)),
        ):
            assert not asked(handle, [plain, other])


def test_what_a_run_has_left_is_submitted_before_its_worker_gets_more(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its turn before others; so the end of a run is told of first, though workers are fed before."""
    feed, held = Dispatcher.feed, []

    def feeding(self: Dispatcher) -> bool:
        held.extend(task.name for task, *_ in self._fleet.outcomes if type(task.fn) is Run)
        return feed(self)

    monkeypatch.setattr(Dispatcher, "feed", feeding)
    with make(max_workers=1) as ex:
        assert list(ex.map(jobs.double, range(20_000))) == [2 * number for number in range(20_000)]
    assert held == []


def test_what_the_user_wanted_sent_together_stays_where_it_is(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Handle] = []
    with make(max_workers=1) as ex:
        view = ex.options(chunksize=100)
        monkeypatch.setattr(Handle, "take_back", lambda handle: taken.append(handle) or [])
        for future in [view.submit(time.sleep, 0.005) for _ in range(60)]:
            assert future.result(PATIENCE) is None
        assert taken == []
        monkeypatch.undo()


def test_a_pipe_of_one_page_is_never_full(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    # What a user with very many pipes is given. The page is not used again before all of it was read.
    def one_page(flags: int) -> tuple[int, int]:
        ends = os.pipe2(flags)
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, 4096)
        return ends

    for path, number in ((one_page, 20_000), (os.pipe2, 2_000)):
        monkeypatch.setattr(handles, "os", SimpleNamespace(**{**vars(os), "pipe2": path}))
        with make(max_workers=2) as ex:
            futures = [ex.submit(abs, -i) for i in range(number)]
            cancelled = [future.cancel() for future in futures[5::7]]
            for i, future in enumerate(futures):
                if not (i % 7 == 5 and cancelled[i // 7]):
                    assert future.result(PATIENCE) == i
            assert {each._one_page for each in ex._backend._supervisor._fleet.workers.values()} == {path is one_page}
