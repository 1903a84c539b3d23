"""joblib runs its calls on a backend registered with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import joblib
import pytest
from joblib.parallel import ParallelBackendBase, register_parallel_backend
from work import fail, increment

if TYPE_CHECKING:
    from collections.abc import Callable

    import taskrun

pytestmark = pytest.mark.usefixtures("collected")


class TaskrunBackend(ParallelBackendBase):
    supports_retrieve_callback = True

    def __init__(self, executor: taskrun.Executor, **options: Any) -> None:
        super().__init__(**options)
        self.executor = executor

    def effective_n_jobs(self, n_jobs: int) -> int:
        return self.executor._max_workers

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], None]) -> Any:
        future = self.executor.submit(func)
        future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, future: Any) -> Any:
        return future.result()


register_parallel_backend("taskrun", TaskrunBackend)


def test_calls_and_errors(ex: taskrun.Executor) -> None:
    with joblib.parallel_config("taskrun", executor=ex, n_jobs=2):
        assert joblib.Parallel()(joblib.delayed(increment)(number) for number in range(20)) == list(range(1, 21))
        with pytest.raises(LookupError, match=r"^no$"):
            joblib.Parallel()([joblib.delayed(fail)("no")])
    assert ex.submit(with_threads_of_its_own).result() == [1, 2, 3]


def with_threads_of_its_own() -> list[int]:
    with joblib.parallel_config("threading", n_jobs=2):
        return joblib.Parallel()(joblib.delayed(increment)(number) for number in range(3))
