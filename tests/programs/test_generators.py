"""NumPy's global generator in workers, by a stand-in for NumPy that notes how it is seeded; tests/clients has the real one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from running import Program

STAND_IN = "seeds = []\n\n\ndef seed(number=None):\n    seeds.append(number)\n"

LOADED_BY_THE_TASK = """
import sys
import taskrun

def draw(_):
    import numpy.random
    return numpy.random.seeds[-1] == taskrun.current_task().seed % 2**32

with taskrun.Executor(sys.argv[1], max_workers=1, seed=5) as ex:
    print(*ex.map(draw, range(3)))
"""

LOADED_BEFORE = """
import sys
import numpy.random
import taskrun

numpy.random.seed(1)
options = {} if sys.argv[1] == "fork" else {"start_method": "fork"}
with taskrun.Executor(sys.argv[1], max_workers=1, **options) as ex:
    print(ex.submit(lambda: numpy.random.seeds[:]).result())
"""


@pytest.fixture
def with_numpy(program: Program) -> Program:
    program.write("numpy/__init__.py", "")
    program.write("numpy/random.py", STAND_IN)
    program.env["PYTHONPATH"] = f"{program.directory}:{program.env['PYTHONPATH']}"
    return program


@pytest.mark.parametrize("backend", ["process", "pool", "fork"])
def test_a_task_that_is_the_first_to_load_numpy_draws_from_its_seed(with_numpy: Program, backend: str) -> None:
    assert with_numpy.prints(LOADED_BY_THE_TASK, backend) == "True True True\n"


@pytest.mark.parametrize("backend", ["process", "pool", "fork"])
def test_a_forked_worker_does_not_draw_its_parents_numbers(with_numpy: Program, backend: str) -> None:
    assert with_numpy.prints(LOADED_BEFORE, backend) == "[1, None]\n"
