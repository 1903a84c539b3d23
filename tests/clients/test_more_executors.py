"""more-executors wraps an executor, and composes its futures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from more_executors import Executors, MapExecutor, RetryExecutor, ThrottleExecutor, TimeoutExecutor, f_map, f_sequence, f_zip
from work import fail, increment

if TYPE_CHECKING:
    import taskrun


def test_bound_to_a_function_and_throttled(ex: taskrun.Executor) -> None:
    with ThrottleExecutor(ex, count=1, logger=None) as throttled:
        add = Executors.bind(throttled, increment)
        assert [add(number).result() for number in range(3)] == [1, 2, 3]


def test_retried_timed_and_mapped(ex: taskrun.Executor) -> None:
    ex.submit(abs, 1).result()  # before there are threads that `fork` would warn of
    with MapExecutor(
        TimeoutExecutor(RetryExecutor(ex, max_attempts=2, sleep=0), timeout=60), increment, error_fn=repr
    ) as wrapped:
        assert list(wrapped.map(increment, [1, 2])) == [3, 4]
        assert wrapped.submit(fail, "no").result() == "LookupError('no')"


def test_composed_futures(ex: taskrun.Executor) -> None:
    one, two = ex.submit(increment, 0), ex.submit(increment, 1)
    assert f_zip(one, f_map(two, increment)).result() == (1, 3)
    assert f_sequence([one, two]).result() == [1, 2]
    assert repr(f_zip(one, ex.submit(fail, "no")).exception()) == "LookupError('no')"
