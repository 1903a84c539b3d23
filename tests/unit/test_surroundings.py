"""What a worker is told of its parent."""

from __future__ import annotations

import multiprocessing.process
import sys
from types import ModuleType
from typing import TYPE_CHECKING

import taskrun
from taskrun.engine import surroundings

if TYPE_CHECKING:
    import pytest


def test_a_multiprocessing_that_is_just_being_loaded_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread imports it; its function is there before what that returns."""
    half = ModuleType("multiprocessing.process")
    exec("def current_process(): return _current_process", vars(half))
    with taskrun.Executor("thread", max_workers=1) as ex:
        settings = ex._scheduler.settings
        assert surroundings.describe(settings, 0, 1, [])["authkey"] == multiprocessing.process.current_process().authkey
        monkeypatch.setitem(sys.modules, half.__name__, half)
        assert surroundings.describe(settings, 0, 1, [])["authkey"] is None
