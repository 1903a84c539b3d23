"""`kill` and the end of a task at the same moment: what `kill` has promised holds, on every backend."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from patience import eventually
from standard_kinds import OURS, make

import taskrun

PATIENCE = 40
KILLING = [kind for kind in OURS if kind != "serial"]


def act(gate: str, fails: bool) -> str:
    """Wait for the file, so that the executor has known for long that this runs."""
    Path(gate + " begun").touch()
    deadline = time.monotonic() + PATIENCE
    while not Path(gate).exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    if fails:
        raise LookupError(gate)
    return gate


@pytest.mark.parametrize("fails", [False, True], ids=["returns", "fails"])
@pytest.mark.parametrize("kind", KILLING)
def test_what_is_killed_while_it_ends_is_killed_all_the_same(
    kind: str, fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its outcome is heard after `kill` has begun and before anything is done to its worker. It is not run again either."""
    gate = str(tmp_path / "gate")
    with make(kind, max_workers=1) as ex:
        backend: Any = ex._backend
        stop = backend.stop

        def stop_too_late(*args: Any) -> Any:
            Path(gate).touch()
            assert eventually(future.done)
            return stop(*args)

        monkeypatch.setattr(backend, "stop", stop_too_late)
        future = ex.options(retry=taskrun.Retry(max_attempts=3, wait="none")).submit(act, gate, fails)
        assert eventually(lambda: Path(gate + " begun").exists() and future.running())
        assert future.kill()
        with pytest.raises(taskrun.TaskKilledError, match="attempt 1") as caught:
            future.result(PATIENCE)
        assert isinstance(caught.value.__cause__, LookupError if fails else type(None))
        assert len(future.attempts) == 1
        assert ex.submit(abs, -3).result(PATIENCE) == 3
    assert not ex._scheduler._killed


@pytest.mark.parametrize("kind", KILLING)
def test_what_is_killed_while_its_policy_is_asked_is_not_run_again(kind: str) -> None:
    def ask(_: BaseException) -> bool:
        killed.append(future.kill())
        return True

    killed: list[bool] = []
    with make(kind, max_workers=1) as ex:
        view = ex.options(retry=taskrun.Retry(max_attempts=3, wait="none", on=ask))
        held = ex.submit(time.sleep, 0.05)  # so that `future` is known when it fails
        future = view.submit(int, "x")
        held.result(PATIENCE)
        assert isinstance(future.exception(PATIENCE), taskrun.TaskKilledError)
        assert eventually(lambda: killed == [True])  # the future is done a moment earlier
        assert len(future.attempts) == 1
    assert not ex._scheduler._killed  # the future is done a moment earlier
