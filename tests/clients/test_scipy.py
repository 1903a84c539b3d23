"""SciPy's `workers=ex.map`: the same numbers as without workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from libraries import library

if TYPE_CHECKING:
    from collections.abc import Callable

    import taskrun

np, optimize, integrate = library("numpy"), library("scipy.optimize"), library("scipy.integrate")


def valley(x: Any) -> float:
    return float((100.0 * (x[1] - x[0] ** 2) ** 2) + (1 - x[0]) ** 2)


def evolved(workers: Callable[..., Any]) -> list[float]:
    bounds = [(-2, 2)] * 2
    found = optimize.differential_evolution(
        valley, bounds, workers=workers, updating="deferred", rng=1, maxiter=3, popsize=4, polish=False
    )
    return list(found.x)


def test_differential_evolution(ex: taskrun.Executor) -> None:
    assert evolved(ex.map) == evolved(map)


def test_brute_force_and_gradients(ex: taskrun.Executor) -> None:
    found = optimize.brute(valley, ((-1, 1), (-1, 1)), Ns=5, workers=ex.map, finish=None)
    assert list(found) == [1.0, 1.0]
    start, options = [0.5, 0.5], {"maxiter": 3}
    found = optimize.minimize(valley, start, method="L-BFGS-B", options={**options, "workers": ex.map})
    assert list(found.x) == list(optimize.minimize(valley, start, method="L-BFGS-B", options=options).x)


def test_integrals_of_a_local_function(ex: taskrun.Executor) -> None:
    value, _ = integrate.quad_vec(lambda x: np.array([x, x**2]), 0, 1, workers=ex.map)
    assert np.allclose(value, [1 / 2, 1 / 3])
