"""tqdm shows how far the results are."""

from __future__ import annotations

import io
from concurrent import futures
from typing import TYPE_CHECKING

import pytest
from tqdm import tqdm
from work import increment

if TYPE_CHECKING:
    import taskrun


@pytest.fixture(autouse=True)
def without_a_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tqdm from starting a thread that lives on, which `fork` would warn of."""
    monkeypatch.setattr(tqdm, "monitor_interval", 0)


def test_over_a_map_over_futures_and_by_callbacks(ex: taskrun.Executor) -> None:
    bar = io.StringIO()
    assert list(tqdm(ex.map(increment, range(5)), total=5, file=bar)) == [1, 2, 3, 4, 5]
    assert "5/5" in bar.getvalue()
    bar = io.StringIO()
    started = [ex.submit(increment, number) for number in range(5)]
    assert sorted(each.result() for each in tqdm(futures.as_completed(started), total=5, file=bar)) == [1, 2, 3, 4, 5]
    assert "5/5" in bar.getvalue()
    with tqdm(total=5, file=io.StringIO()) as counted:
        for number in range(5):
            ex.submit(increment, number).add_done_callback(lambda _: counted.update())
        ex.shutdown()  # returns after the callbacks
        assert counted.n == 5
