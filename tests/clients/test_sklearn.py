"""scikit-learn: models fitted by tasks, and by joblib inside of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import joblib
import pytest
from libraries import library
from test_joblib import TaskrunBackend

if TYPE_CHECKING:
    import taskrun

np, linear = library("numpy"), library("sklearn.linear_model")
selection, exceptions = library("sklearn.model_selection"), library("sklearn.exceptions")

pytestmark = pytest.mark.usefixtures("collected")

X = np.random.default_rng(0).normal(size=(40, 3))
y = X @ [1, 2, 3]


def score(fold: tuple[Any, Any]) -> float:
    train, test = fold
    return float(linear.Ridge().fit(X[train], y[train]).score(X[test], y[test]))


def test_folds_are_scored_as_without_an_executor(ex: taskrun.Executor) -> None:
    folds = list(selection.KFold(4).split(X))
    assert list(ex.map(score, folds)) == pytest.approx(list(map(score, folds)))


def test_a_fitted_model_comes_back_and_an_unfitted_one_says_so(ex: taskrun.Executor) -> None:
    model = ex.submit(linear.Ridge().fit, X, y).result()
    assert model.predict(X).shape == (40,)
    error = ex.submit(linear.Ridge().predict, X).exception()
    assert type(error) is exceptions.NotFittedError
    assert str(error).startswith("This Ridge instance is not fitted yet.")


def test_a_search_runs_on_the_backend_that_joblib_is_told_of(ex: taskrun.Executor) -> None:
    search = selection.GridSearchCV(linear.Ridge(), {"alpha": [0.1, 10.0]}, cv=2)
    joblib.register_parallel_backend("taskrun", TaskrunBackend)
    with joblib.parallel_config("taskrun", executor=ex, n_jobs=2):
        search.fit(X, y)
    assert search.best_params_ == {"alpha": 0.1}
    assert ex.stats()["succeeded"] >= 4
