"""Large buffers travel beside the pickle, and nobody can tell."""

from __future__ import annotations

import asyncio
import gc
import mmap
import os
import pickle
import subprocess
import sys
import time
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import taskrun
from taskrun.engine import bulk, notes
from taskrun.serialization import LARGE, Beside, dump_arguments, load_arguments
from tests.patience import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

MB = 1 << 20


class Matrix:
    """Something with a large buffer, which says so to pickle as arrays do."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: int) -> Any:
        return Matrix, (pickle.PickleBuffer(self.data),)


class Trap:
    """Comes out of a pickle and never in again."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise LookupError("not here")


def describe(matrix: Matrix) -> tuple[str, bool, int, bytes]:
    with memoryview(matrix.data) as view:
        return type(matrix.data).__name__, view.readonly, view.nbytes, bytes(view[:3])


def change(matrix: Matrix) -> bytes:
    memoryview(matrix.data)[0] = 9
    return bytes(memoryview(matrix.data)[:2])


def give(size: int, first: int) -> Matrix:
    data = bytearray(size)
    data[0] = first
    return Matrix(array("b", bytes(data)))


Array = type("Array", (bytearray,), {"__module__": "numpy"})  # does not show what it lies in


def echo(matrix: Matrix) -> Matrix:
    """Return one like it, in memory of its own."""
    return Matrix(Array(matrix.data))


def raw(kind: str, size: int) -> Any:
    return {"bytes": bytes, "bytearray": bytearray}[kind](size)


def kinds(*args: Any, **kwargs: Any) -> list[str]:
    return [type(value).__name__ for value in (*args, *kwargs.values())]


def is_same(one: Any, other: Any) -> bool:
    return one is other


def with_a_trap(*_: Any) -> tuple[Matrix, Trap]:
    return Matrix(bytearray(LARGE)), Trap()


def without_a_pickle(_: Any) -> tuple[Matrix, Any]:
    return Matrix(bytearray(LARGE)), iter_nothing()


def iter_nothing() -> Iterator[None]:
    yield


def first_byte(data: Any) -> int:
    return memoryview(data).cast("B")[0]


@pytest.fixture
def ex() -> Iterator[taskrun.Executor]:
    with taskrun.Executor("process", max_workers=2) as executor:
        yield executor


@pytest.mark.parametrize("size", [LARGE - 1, LARGE, 3 * MB + 1, 9 * MB])
def test_buffers_arrive_private_and_writable(ex: taskrun.Executor, size: int) -> None:
    matrix = Matrix(array("b", b"abc" + bytes(size - 3)))
    _, readonly, length, beginning = ex.submit(describe, matrix).result()
    assert (readonly, length, beginning) == (False, size, b"abc")
    assert ex.submit(change, matrix).result() == b"\x09b"
    assert bytes(matrix.data[:3]) == b"abc"
    result = ex.submit(give, size, 5).result()
    assert first_byte(result.data) == 5
    memoryview(result.data)[0] = 6


def test_what_is_read_only_stays_so(ex: taskrun.Executor) -> None:
    with memoryview(array("b", bytes(MB))).toreadonly() as view:
        assert ex.submit(describe, Matrix(view)).result()[1] is True


@pytest.mark.parametrize("kind", ["bytes", "bytearray"])
def test_raw_bytes_arrive_as_what_they_are(ex: taskrun.Executor, kind: str) -> None:
    value = raw(kind, 2 * MB)
    assert ex.submit(kinds, value, 1, x=value).result() == [kind, "int", kind]
    assert ex.submit(kinds, value, [value]).result() == [kind, "list"]
    result = ex.submit(raw, kind, 2 * MB).result()
    assert type(result) is type(value)
    assert result == value


def test_one_object_twice_is_one_object_there_too(ex: taskrun.Executor) -> None:
    value, other = bytearray(MB), bytearray(MB)
    assert ex.submit(is_same, value, value).result() is True
    assert ex.submit(is_same, value, other=value).result() is True
    assert ex.submit(is_same, value, other).result() is False


def test_many_under_way_do_not_overwrite_one_another(ex: taskrun.Executor) -> None:
    futures = [ex.submit(first_byte, bytearray([number % 251]) + bytearray(LARGE)) for number in range(300)]
    back = [ex.submit(give, LARGE + 100 * number, number % 120) for number in range(100)]
    assert [future.result() for future in futures] == [number % 251 for number in range(300)]
    assert [first_byte(future.result().data) for future in back] == [number % 120 for number in range(100)]
    assert [len(data) for data in ex.map(bytearray, [LARGE + number for number in range(100)])] == [
        LARGE + number for number in range(100)
    ]


def test_errors_are_those_of_other_arguments_and_results(ex: taskrun.Executor) -> None:
    matrix = Matrix(bytearray(LARGE))
    with pytest.raises(taskrun.SerializationError, match="argument 1") as arrived:
        ex.submit(kinds, matrix, Trap()).result()
    assert "not here" in str(arrived.value)
    with pytest.raises(taskrun.SerializationError, match="argument 1"):
        ex.submit(kinds, matrix, iter_nothing()).result()
    with pytest.raises(taskrun.SerializationError, match="result") as result:
        ex.submit(with_a_trap).result()
    assert isinstance(result.value.__cause__, LookupError)
    with pytest.raises(taskrun.SerializationError, match="result"):
        ex.submit(without_a_pickle, 1).result()
    assert ex.submit(first_byte, bytearray(b"z") + bytearray(LARGE)).result() == ord("z")


def test_the_memory_of_what_is_not_kept_is_given_back() -> None:
    with taskrun.Executor("process", max_workers=1) as executor:
        large = bytearray(bulk.KEPT + 16 * MB)
        assert executor.submit(len, large).result() == len(large)
        assert len(executor.submit(raw, "bytearray", len(large)).result()) == len(large)
        assert executor.submit(first_byte, b"a").result() == ord("a")
        (handle,) = executor._backend._supervisor._fleet.workers.values()  # type: ignore[attr-defined]
        assert os.fstat(handle.notes).st_blocks * 512 <= 2 * bulk.KEPT + notes.STACK_AT + MB


def test_the_arguments_of_a_task_are_not_kept(ex: taskrun.Executor) -> None:
    matrix = Matrix(bytearray(LARGE))
    ex.submit(kinds, matrix).result()
    ex.submit(kinds, 1).result()
    gc.collect()
    matrix.data.append(1)  # BufferError if somebody looks at it
    assert len(matrix.data) == LARGE + 1


@pytest.mark.parametrize("where", ["_MOST", "mmap"])
def test_without_room_they_travel_in_the_pickle(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if where == "_MOST":
        monkeypatch.setattr(bulk, "_MOST", LARGE)
    else:
        monkeypatch.setattr(bulk._Window, "_up_to", _no_memory)
    data = bytearray(b"x") + bytearray(MB)
    # Its workers are forked from here, so that there is no room for results either.
    with taskrun.Executor("process", max_workers=1, start_method="fork") as executor:
        assert executor.submit(first_byte, data).result() == ord("x")
        assert executor.submit(raw, "bytearray", MB).result() == bytearray(MB)


def _no_memory(*_: Any) -> Any:
    raise OSError("no memory")


def test_a_limit_on_the_size_of_files_costs_only_the_shortcut() -> None:
    code = """
import resource, taskrun
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
with taskrun.Executor("process", max_workers=1) as ex:
    print(ex.submit(len, bytearray(1 << 20)).result(), len(ex.submit(bytearray, 1 << 20).result()))
    print(ex.submit(len, b"a").result())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{MB} {MB}\n1\n", "")


def test_a_result_for_which_there_is_no_memory_is_its_tasks_error_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with taskrun.Executor("process", max_workers=1) as executor:
        assert executor.submit(first_byte, b"a").result() == ord("a")
        with monkeypatch.context() as patch:
            patch.setattr(bulk, "_copy", _too_much)
            with pytest.raises(taskrun.SerializationError, match="could not be taken in by the parent: MemoryError"):
                executor.submit(raw, "bytearray", MB).result()
        assert len(executor.submit(raw, "bytearray", MB).result()) == MB


def _too_much(*_: Any) -> Any:
    raise MemoryError("so large")


def test_what_is_mapped_does_not_count_as_memory_of_the_worker() -> None:
    data = bytearray(48 * MB)
    with taskrun.Executor("process", max_workers=1, max_memory_per_child="40MB") as executor:
        executor.submit(len, data).result()
        one, other = (executor.submit(os.getpid).result() for _ in range(2))
        assert one == other  # it holds the memory of the arguments, of its own only while the task runs
        (handle,) = executor._backend._supervisor._fleet.workers.values()  # type: ignore[attr-defined]
        mapped = int(Path(f"/proc/{handle.pid}/statm").read_text().split()[1]) * mmap.PAGESIZE
        assert mapped > 48 * MB


def test_a_pickle_without_large_buffers_has_nothing_beside_it() -> None:
    beside = Beside()
    data = dump_arguments((Matrix(bytearray(LARGE - 1)), b"a"), {}, beside=beside)
    assert not beside.buffers
    args, _ = load_arguments(data)
    assert len(args[0].data) == LARGE - 1
    dump_arguments((bytearray(LARGE),), {}, beside=beside)
    assert [buffer.nbytes for buffer in beside.buffers] == [LARGE]


class Evil:
    """Ends its own pickling in a way that is no Exception."""

    def __reduce__(self) -> Any:
        raise asyncio.CancelledError("evil")


def test_what_one_task_could_not_send_is_not_sent_with_the_next(ex: taskrun.Executor) -> None:
    refused = ex.submit(first_byte, Matrix(bytearray(b"x") + bytearray(LARGE)), Evil())
    assert isinstance(refused.exception(), taskrun.SerializationError)
    for number in range(3):
        assert ex.submit(describe, Matrix(bytearray([number]) + bytearray(LARGE))).result()[3][0] == number


@pytest.mark.parametrize("size", [LARGE, 5 * MB])
def test_a_class_gets_what_pickle_would_give_it(ex: taskrun.Executor, size: int) -> None:
    """In both directions, whatever exports the buffer, and however large it is."""
    exporters = (array("b", bytes(size)), bytearray(size), bytes(size), memoryview(bytearray(size)).toreadonly())
    for exporter in exporters:
        expected = type(pickle.loads(pickle.dumps(Matrix(exporter), 5)).data).__name__
        assert ex.submit(describe, Matrix(exporter)).result()[0] == expected
    assert type(ex.submit(give, size, 1).result().data) is bytearray


def test_what_was_taken_back_does_not_stay_allocated() -> None:
    with taskrun.Executor("process", max_workers=1) as executor:
        assert executor.submit(first_byte, b"a").result() == ord("a")
        many = executor.options(chunksize=30)
        futures = [many.submit(first_byte, bytearray(8 * MB)) for _ in range(30)]
        for future in futures:
            future.cancel()
        taskrun.wait(futures)
        assert executor.submit(first_byte, b"a").result() == ord("a")
        (handle,) = executor._backend._supervisor._fleet.workers.values()  # type: ignore[attr-defined]
        assert eventually(lambda: os.fstat(handle.notes).st_blocks * 512 <= bulk.KEPT + notes.STACK_AT + MB)


# -- memory that is used again -------------------------------------------------------------------------------------------------

LENGTH = 5 * MB


def test_an_array_that_is_kept_is_not_overwritten_and_one_that_is_let_go_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "UNUSED_FOR", 600.0)
    with taskrun.Executor("process", max_workers=1) as executor:
        spares = executor._backend._supervisor._answers.spares  # type: ignore[attr-defined]
        kept: list[Any] = []
        for number in range(12):
            result = executor.submit(echo, Matrix(Array(bytes([number]) * LENGTH))).result().data
            assert type(result) is memoryview
            assert bytes(result[:3]) == bytes([number] * 3)
            if number % 3 == 0:
                kept.append(result)
        assert [view[LENGTH - 1] for view in kept] == [0, 3, 6, 9]
        del result
        assert 0 < len(spares._given) <= len(kept) + 2


def test_two_buffers_of_one_task_are_two(ex: taskrun.Executor) -> None:
    for _ in range(3):
        two = [Matrix(Array(bytes([number]) * LENGTH)) for number in (1, 2)]
        assert ex.submit(map_to_first_bytes, two).result() == [1, 2]
        assert [first_byte(each.data) for each in ex.submit(list, two).result()] == [1, 2]


def map_to_first_bytes(matrices: list[Matrix]) -> list[int]:
    return [first_byte(matrix.data) for matrix in matrices]


def test_memory_is_used_again_once_nobody_has_it() -> None:
    spares = bulk.Spares(3 * LENGTH)
    first, second = spares.take(LENGTH), spares.take(LENGTH)
    array, memory = memoryview(first)[1:], second.obj
    assert memory is not first.obj
    del first, second
    assert spares.unused == 0  # a view of it is as good as itself, and so is what the view is of
    third = spares.take(LENGTH)
    assert third.obj not in (array.obj, memory)
    del memory
    assert spares.unused == LENGTH
    assert spares.take(LENGTH).obj is not array.obj
    assert len(spares.take(LENGTH // 2)) == LENGTH // 2  # there is room for no more: the oldest is forgotten, though in use
    array.release()
    del third
    assert spares.unused == 2 * LENGTH + LENGTH // 2
    spares.let_go()
    assert not spares


def test_memory_that_its_user_has_closed_is_in_nobodys_way() -> None:
    spares = bulk.Spares(2 * LENGTH)
    view = spares.take(LENGTH)
    memory = view.obj
    assert isinstance(memory, mmap.mmap)
    view.release()
    memory.close()
    del memory
    assert len(spares.take(LENGTH)) == LENGTH
    assert spares.unused == LENGTH
    assert len(spares.take(LENGTH // 2)) == LENGTH // 2


def test_what_is_kept_goes_with_the_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "UNUSED_FOR", 600.0)
    executor = taskrun.Executor("process", max_workers=1)
    spares = executor._backend._supervisor._answers.spares  # type: ignore[attr-defined]
    result = executor.submit(echo, Matrix(Array(LENGTH))).result()
    assert spares
    executor.shutdown()
    assert not spares
    assert first_byte(result.data) == 0


def test_what_is_kept_is_let_go_when_nothing_large_came_for_a_while() -> None:
    spares = bulk.Spares(LENGTH)
    assert spares.tidy(time.monotonic()) is None
    spares.take(LENGTH)
    due = spares.tidy(time.monotonic())
    assert due is not None
    assert spares
    assert spares.tidy(due) is None
    assert not spares


def test_parent_and_worker_let_go_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "UNUSED_FOR", 0.05)  # the worker has its own: a second
    with taskrun.Executor("process", max_workers=1) as executor:
        supervisor = executor._backend._supervisor  # type: ignore[attr-defined]
        executor.submit(echo, Matrix(Array(1))).result()
        (handle,) = supervisor._fleet.workers.values()
        before = private(handle.pid)
        executor.submit(echo, Matrix(Array(4 * LENGTH))).result()
        assert eventually(lambda: not supervisor._answers.spares)
        assert eventually(lambda: private(handle.pid) < before + LENGTH)


def private(pid: int) -> int:
    """Return how many bytes of a process' memory are in no file."""
    _, resident, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
    return (resident - shared) * mmap.PAGESIZE


def test_where_there_is_no_memory_what_is_kept_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    spares = bulk.Spares(4 * LENGTH)
    spares.take(LENGTH)
    new, room = bulk.Spares._new, iter([OSError("no memory"), None])

    def scarce(self: bulk.Spares, size: int) -> mmap.mmap:
        if (error := next(room)) is not None:
            raise error
        assert not self
        return new(self, size)

    monkeypatch.setattr(bulk.Spares, "_new", scarce)
    assert len(spares.take(2 * LENGTH)) == 2 * LENGTH
