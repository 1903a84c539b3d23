"""Who submits calls a free worker of `pool` and `dummy` by himself, in one step that Ctrl-C cannot tear."""

from __future__ import annotations

import multiprocessing
import sys
from typing import TYPE_CHECKING

import pytest
from patience import PATIENCE, eventually

import taskrun

if TYPE_CHECKING:
    from types import FrameType


@pytest.mark.parametrize("backend", ["pool", "dummy"])
def test_no_code_of_the_standard_pool_runs_in_the_submitting_thread(backend: str) -> None:
    """Its `apply_async`, torn, leaves an entry that a pool waits for at its end."""
    entered: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            entered.append((frame.f_code.co_name, frame.f_code.co_filename))

    with taskrun.Executor(backend, max_workers=1) as ex:
        for _ in range(3):
            ex.submit(abs, -1).result(PATIENCE)
            parked = ex._backend._parked  # type: ignore[attr-defined]
            assert eventually(lambda parked=parked: parked)
            previous = sys.getprofile()
            sys.setprofile(note)
            try:
                future = ex.submit(abs, -2)
            finally:
                sys.setprofile(previous)
            assert future.result(PATIENCE) == 2
    assert "_call_parked" in [name for name, _ in entered]
    assert not [file for _, file in entered if file.startswith(multiprocessing.__path__[0])]
