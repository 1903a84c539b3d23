"""How an executor of `concurrent.futures` ends, to the letter: `shutdown`, `with`, dropping it, the interpreter's end.

The standard library's ThreadPoolExecutor takes part, which proves that a test asks for what it does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent import futures as standard
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import standard_kinds as kinds
from standard_kinds import CONCURRENT, EVERYWHERE, PATIENCE, PICKLING, THREADS, Gate, until

import taskrun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

everywhere = pytest.mark.parametrize("kind", EVERYWHERE)
concurrent = pytest.mark.parametrize("kind", CONCURRENT)

REFUSED = r"^cannot schedule new futures after shutdown$"


@pytest.fixture
def make() -> Iterator[Callable[..., Any]]:
    """Make executors of a kind; at the end they are shut down."""
    made: list[Any] = []

    def executor(kind: str, **options: Any) -> Any:
        made.append(kinds.make(kind, **options))
        return made[-1]

    yield executor
    for each in made:
        each.shutdown()


class TestShutdown:
    @everywhere
    @pytest.mark.parametrize("wait", [True, False])
    def test_nothing_more_is_taken(self, make: Any, kind: str, wait: bool) -> None:
        ex = make(kind)
        assert ex.shutdown(wait) is None
        with pytest.raises(RuntimeError, match=REFUSED):
            ex.submit(abs, 1)
        with pytest.raises(RuntimeError, match=REFUSED):
            ex.map(abs, [1])
        assert list(ex.map(abs, [])) == []

    @everywhere
    def test_it_may_be_done_many_times(self, make: Any, kind: str) -> None:
        ex = make(kind)
        future = ex.submit(abs, -1)
        for arguments in ({}, {"wait": False}, {"wait": False, "cancel_futures": True}, {"cancel_futures": True}, {}):
            ex.shutdown(**arguments)
        assert future.result(0) == 1

    @everywhere
    def test_what_else_than_waiting_is_wanted_is_told_by_keyword(self, make: Any, kind: str) -> None:
        with pytest.raises(TypeError):
            make(kind).shutdown(True, True)

    @everywhere
    def test_what_was_submitted_runs_to_its_end(self, make: Any, kind: str) -> None:
        ex = make(kind)
        futures = [ex.submit(kinds.divide, 1, number) for number in range(50)]
        ex.map(abs, range(50))  # for its side effects
        ex.shutdown()
        assert all(future.done() for future in futures)
        assert isinstance(futures[0].exception(0), ZeroDivisionError)
        assert [future.result(0) for future in futures[1:]] == [1 / number for number in range(1, 50)]

    @concurrent
    def test_without_waiting_it_returns_while_tasks_run(self, make: Any, kind: str, tmp_path: Path) -> None:
        ex, gate = make(kind, max_workers=1), Gate(kind, tmp_path)
        running, queued = gate.run_on(ex), ex.submit(abs, -1)
        ex.shutdown(wait=False)
        assert not running.done()
        gate.open()
        assert (running.result(PATIENCE), queued.result(PATIENCE)) == ("went on", 1)
        ex.shutdown()

    @concurrent
    def test_what_has_not_started_can_be_cancelled(self, make: Any, kind: str, tmp_path: Path) -> None:
        ex, gate = make(kind, max_workers=1), Gate(kind, tmp_path)
        running = gate.run_on(ex)
        queued = [ex.submit(kinds.mark, str(tmp_path / f"ran {number}")) for number in range(20)]
        ex.shutdown(wait=False, cancel_futures=True)
        assert running.running()
        if kind in PICKLING:
            # What a worker was sent ahead is asked back first; the standard one looks into a queue of its own.
            standard.wait(queued, PATIENCE)
        assert all(future.cancelled() for future in queued)
        gate.open()
        assert running.result(PATIENCE) == "went on"
        ex.shutdown()
        assert not list(tmp_path.glob("ran *"))

    @pytest.mark.parametrize("kind", ["thread", "process", "asyncio"])
    def test_who_waits_for_what_is_cancelled_wakes_up(self, make: Any, kind: str, tmp_path: Path) -> None:
        # The standard executor leaves `wait` and `as_completed` hanging here (cpython#87893).
        ex, gate = make(kind, max_workers=1), Gate(kind, tmp_path)
        gate.run_on(ex)
        queued = ex.submit(abs, 1)
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.extend(standard.as_completed([queued], PATIENCE)))
        thread.start()
        until(lambda: queued._waiters)
        ex.shutdown(wait=False, cancel_futures=True)
        thread.join(PATIENCE)
        assert found == [queued]
        gate.open()

    @everywhere
    def test_a_task_cancelled_just_before_holds_nothing_up(self, make: Any, kind: str) -> None:
        for _ in range(5):
            ex = make(kind, max_workers=1)
            assert ex.submit(int).result(PATIENCE) == 0
            ex.submit(int).cancel()
            ex.shutdown()

    @everywhere
    def test_many_threads_may_do_it_at_once(self, make: Any, kind: str) -> None:
        ex = make(kind)
        futures = [ex.submit(abs, number) for number in range(20)]
        threads = [threading.Thread(target=ex.shutdown) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in threads)
        assert [future.result(0) for future in futures] == list(range(20))

    @pytest.mark.parametrize("kind", THREADS)
    def test_no_thread_is_left(self, make: Any, kind: str, tmp_path: Path) -> None:
        ex, gate = make(kind, max_workers=3, thread_name_prefix="Ending"), Gate(kind, tmp_path)
        for _ in range(3):
            gate.run_on(ex)
        workers = [thread for thread in threading.enumerate() if thread.name.startswith("Ending_")]
        gate.open()
        ex.shutdown()
        assert [thread.is_alive() for thread in workers] == [False] * 3

    def test_no_process_is_left(self, make: Any) -> None:
        ex = make("process")
        pid = ex.submit(kinds.process_id).result(PATIENCE)
        ex.shutdown()
        until(lambda: not Path(f"/proc/{pid}").exists())  # the template process buries it

    @pytest.mark.parametrize("kind", ["standard", "serial", "thread"])
    def test_a_task_that_waits_for_the_end_of_its_executor_gets_an_error(self, make: Any, kind: str) -> None:
        ex = make(kind)
        with pytest.raises(RuntimeError):
            ex.submit(ex.shutdown).result(PATIENCE)

    @pytest.mark.parametrize("kind", ["standard", "serial", "thread"])
    def test_a_task_may_shut_its_executor_down_without_waiting(self, make: Any, kind: str) -> None:
        ex = make(kind)
        assert ex.submit(ex.shutdown, wait=False).result(PATIENCE) is None
        with pytest.raises(RuntimeError, match=REFUSED):
            ex.submit(abs, 1)

    @pytest.mark.parametrize("kind", THREADS)
    def test_a_task_that_still_runs_can_submit_no_more(self, make: Any, kind: str) -> None:
        ex = make(kind)
        gate = threading.Event()

        def late() -> None:
            gate.wait(PATIENCE)
            ex.submit(abs, 1)

        future = ex.submit(late)
        ex.shutdown(wait=False)
        gate.set()
        with pytest.raises(RuntimeError, match=REFUSED):
            future.result(PATIENCE)


class TestBlock:
    @everywhere
    def test_the_block_gives_the_executor_and_shuts_it_down(self, kind: str) -> None:
        ex = kinds.make(kind)
        with ex as entered:
            assert entered is ex
            future = ex.submit(abs, -1)
            failed = ex.submit(kinds.divide, 1, 0)
            results = ex.map(abs, [-1, -2])
        assert future.done()
        assert (future.result(0), type(failed.exception(0)), list(results)) == (1, ZeroDivisionError, [1, 2])
        with pytest.raises(RuntimeError, match=REFUSED):
            ex.submit(abs, 1)

    @everywhere
    def test_an_error_in_the_block_waits_for_the_tasks_and_goes_on(self, kind: str, tmp_path: Path) -> None:
        error = LookupError("lost")
        with pytest.raises(LookupError) as caught, kinds.make(kind, max_workers=1) as ex:
            futures = [ex.submit(kinds.mark, str(tmp_path / str(number))) for number in range(5)]
            raise error
        assert caught.value is error
        assert all(future.done() and not future.cancelled() for future in futures)
        assert len(list(tmp_path.iterdir())) == 5

    @everywhere
    def test_it_may_be_shut_down_inside(self, kind: str) -> None:
        with kinds.make(kind) as ex:
            future = ex.submit(abs, -1)
            ex.shutdown()
            assert future.done()


class TestDropping:
    @everywhere
    def test_the_tasks_of_one_that_nobody_holds_are_done(self, kind: str, tmp_path: Path) -> None:
        ex, gate = kinds.make(kind, max_workers=1), Gate(kind, tmp_path)
        futures = [gate.run_on(ex), *[ex.submit(abs, -number) for number in range(3)]]
        results = ex.map(abs, range(-5, 5))
        del ex
        gate.open()
        assert [future.result(PATIENCE) for future in futures] == ["went on", 0, 1, 2]
        assert list(results) == list(map(abs, range(-5, 5)))


SCRIPT = """
import atexit, sys, threading
from pathlib import Path
import standard_kinds as kinds

kind, directory = sys.argv[1], Path(sys.argv[2])
gate = kinds.Gate(kind, directory)

@atexit.register
def too_late():
    for ask in (lambda: left.submit(abs, 1), lambda: left.map(abs, [1]), lambda: unused.submit(abs, 1)):
        try:
            ask()
        except RuntimeError as error:
            print(error)

left, told, dropped, unused = (kinds.make(kind, max_workers=1) for _ in range(4))
for number, executor in enumerate((left, told, dropped)):
    gate.run_on(executor)
    gate.started.unlink(missing_ok=True)
    executor.submit(kinds.mark, str(directory / f"ran {number}"))
told.shutdown(wait=False)
del dropped, executor
threading._register_atexit(gate.open)  # the last registered is the first called, before the executors' own
"""


class TestEndOfTheInterpreter:
    @everywhere
    def test_what_was_submitted_runs_to_its_end_and_no_more_is_taken(self, kind: str, tmp_path: Path) -> None:
        """The tasks start while the program runs and are let go when it is over."""
        script = tmp_path / "script.py"
        script.write_text(SCRIPT)
        paths = [str(Path(kinds.__file__).parent), str(Path(taskrun.__file__).parents[1])]
        ended = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", str(script), kind, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )
        if kind == "fork" and (3, 12, 0) <= sys.version_info < (3, 12, 3):  # they allow no forks then
            assert ended.returncode == 0
            assert "are cancelled: can't fork at interpreter shutdown" in ended.stderr
            return
        assert (ended.returncode, ended.stderr) == (0, "")
        assert sorted(path.name for path in tmp_path.glob("ran *")) == ["ran 0", "ran 1", "ran 2"]
        lines = ended.stdout.splitlines()
        refused = "cannot schedule new futures after interpreter shutdown"
        if kind == "standard":
            # The standard executor that has workers counts as shut down by then; one that has none tells the cause.
            assert lines == ["cannot schedule new futures after shutdown"] * 2 + [refused]
        else:
            assert lines == [refused] * 3
