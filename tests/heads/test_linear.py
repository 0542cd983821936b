"""LinearHead follows the estimator contract of scikit-learn, and has the same optimum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.special import softmax
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from featcache.heads.linear import LinearHead


@parametrize_with_checks([LinearHead()])
def test_the_contract_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def data(classes: int, dtype: str = "float64") -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.float64]]:
    """Overlapping clouds, off centre, with sample weights."""
    rng = np.random.default_rng(classes)
    y = rng.integers(0, classes, 120)
    x = 3 + rng.normal(size=(120, 6)) + rng.normal(size=(classes, 6))[y]
    return x.astype(dtype), y, rng.uniform(0, 2, 120)


def loss(
    coef: NDArray[Any], intercept: NDArray[Any], x: NDArray[Any], y: NDArray[Any], w: NDArray[Any], C: float
) -> float:
    """The objective that LinearHead's docstring gives."""
    logits = x.astype(np.float64) @ coef.T + intercept
    if len(coef) == 1:
        logits = np.hstack([np.zeros_like(logits), logits])
    probabilities = softmax(logits, axis=1)[np.arange(len(y)), y]
    return float(C * -(w * np.log(probabilities)).sum() + (coef**2).sum() / 2)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_optimum_is_that_of_logistic_regression(classes: int, C: float, weighted: bool) -> None:
    x, y, weights = data(classes)
    w = weights if weighted else np.ones(len(y))
    head = LinearHead(C=C).fit(x, y, w if weighted else None)
    reference = LogisticRegression(C=C, tol=1e-10, solver="newton-cholesky").fit(x, y, w)
    best = loss(reference.coef_, reference.intercept_, x, y, w, C)
    assert abs(loss(head.coef_, head.intercept_, x, y, w, C) / best - 1) <= 1e-4
    np.testing.assert_allclose(head.coef_, reference.coef_, rtol=1e-2, atol=2e-3 * np.abs(reference.coef_).max())
    np.testing.assert_allclose(head.predict_proba(x), reference.predict_proba(x), atol=2e-3)
    np.testing.assert_array_equal(head.predict(x), head.classes_[head.predict_proba(x).argmax(1)])


@pytest.mark.parametrize("C", [1e-3, 1.0, 10.0, 100.0])
def test_the_optimum_is_reached_on_separable_float16_features_too(C: float) -> None:
    rng = np.random.default_rng(3)
    y = np.arange(245) % 2
    x = np.maximum(0, rng.normal(size=(245, 1280)) + 0.3 * rng.normal(size=(2, 1280))[y]).astype(np.float16)
    w = np.ones(len(y))
    head = LinearHead(C=C).fit(x, y)
    reference = LogisticRegression(C=C, tol=1e-9, max_iter=20_000).fit(x.astype(np.float64), y)
    best = loss(reference.coef_, reference.intercept_, x, y, w, C)
    assert loss(head.coef_, head.intercept_, x, y, w, C) / best - 1 <= 1e-4


def test_float16_is_worked_on_in_float32() -> None:
    x, y, _ = data(3, "float16")
    half, single = LinearHead().fit(x, y), LinearHead().fit(x.astype(np.float32), y)
    np.testing.assert_array_equal(half.coef_, single.coef_)
    np.testing.assert_array_equal(half.decision_function(x), single.decision_function(x.astype(np.float32)))
    double = LinearHead().fit(x.astype(np.float64), y)
    np.testing.assert_allclose(half.coef_, double.coef_, rtol=1e-2, atol=1e-3)


def test_large_float16_features_do_not_overflow() -> None:
    x, y, _ = data(2)
    x = (x - x.mean(0)) * 8000
    np.testing.assert_array_equal(
        LinearHead().fit(x.astype(np.float16), y).predict(x.astype(np.float16)), LinearHead().fit(x, y).predict(x)
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_a_weight_of_two_is_the_sample_twice_and_of_zero_not_at_all(classes: int) -> None:
    x, y, _ = data(classes)
    counts = np.arange(len(y)) % 3
    weighted = LinearHead(tol=1e-12).fit(x, y, counts.astype(np.float64))
    repeated = LinearHead(tol=1e-12).fit(np.repeat(x, counts, axis=0), np.repeat(y, counts))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, atol=1e-4)
    np.testing.assert_allclose(weighted.intercept_, repeated.intercept_, atol=1e-4)


def test_features_without_spread_give_the_shares_of_the_classes() -> None:
    head = LinearHead().fit(np.full((4, 2), 7.0), [0, 1, 1, 1])
    np.testing.assert_allclose(head.predict_proba([[7.0, 7.0]]), [[0.25, 0.75]], atol=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("C", [1e-9, 1e-6])
def test_without_any_freedom_the_shares_of_the_classes_are_left(C: float, classes: int) -> None:
    x, _, _ = data(classes)
    y = np.arange(len(x)) % (classes + 1)
    y[y == classes] = 1  # class 1 is twice as frequent as the others
    probabilities = np.bincount(y) / len(y)
    head = LinearHead(C=C).fit(x + np.eye(classes, 6)[y], y)
    np.testing.assert_allclose(head.predict_proba(x), np.tile(probabilities, (len(x), 1)), atol=1e-3)
    assert set(head.predict(x)) == {1}


def test_too_few_iterations_are_said() -> None:
    x, y, _ = data(3)
    message = "LinearHead stopped after 2 iterations before reaching tol=1e-08; raise max_iter, or lower C"
    with pytest.warns(ConvergenceWarning) as caught:
        head = LinearHead(max_iter=2).fit(x, y)
    assert [str(item.message) for item in caught] == [message]
    assert head.n_iter_ == 2


@pytest.mark.parametrize("C", [0, -1.0, float("nan")])
def test_a_penalty_that_is_none_is_refused(C: float) -> None:
    with pytest.raises(ValueError, match=f"^C must be greater than 0 and finite; got {C}$"):
        LinearHead(C=C).fit([[0.0], [1.0]], [0, 1])


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^LinearHead needs two classes or more with weight; found one class: \[3\]$"):
        LinearHead().fit([[0.0], [1.0]], [3, 3])
    with pytest.raises(ValueError, match=r"^LinearHead needs two classes or more with weight; found one class: \[5\]$"):
        LinearHead().fit([[0.0], [1.0]], [3, 5], sample_weight=[0, 1])


def test_class_names_are_given_back() -> None:
    x, y, _ = data(3)
    names = np.array(["wasps", "ants", "bees"])
    head = LinearHead().fit(x, names[y])
    assert head.classes_.tolist() == ["ants", "bees", "wasps"]
    np.testing.assert_array_equal(head.predict(x), names[LinearHead().fit(x, y).predict(x)])


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_the_weights_of_a_linear_layer_give_its_softmax(classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    coef, intercept = rng.normal(size=(classes, 4)), rng.normal(size=classes)
    x = rng.normal(size=(7, 4))
    head = LinearHead.from_weights(coef, intercept, np.arange(classes))
    expected = softmax(x @ coef.T + intercept, axis=1)
    np.testing.assert_allclose(head.predict_proba(x), expected, atol=1e-12)
    np.testing.assert_array_equal(head.predict(x), expected.argmax(1))


def test_one_row_of_weights_is_the_log_odds_of_the_second_class() -> None:
    head = LinearHead.from_weights(np.array([[2.0]]), np.array([-1.0]), np.array([0, 1]))
    assert head.decision_function([[0.5], [1.0]]).tolist() == [0.0, 1.0]
    np.testing.assert_allclose(head.predict_proba([[1.0]])[0, 1], 1 / (1 + np.exp(-1)))


@pytest.mark.parametrize("class_weight", ["balanced", {0: 3.0, 2: 0.5}])
@pytest.mark.parametrize("classes", [2, 3])
def test_class_weights_are_those_of_logistic_regression(class_weight: Any, classes: int) -> None:
    x, y, w = data(classes)
    if classes == 2 and class_weight != "balanced":
        class_weight = {0: 3.0, 1: 0.5}
    rare = (y > 0) | (np.arange(len(y)) % 4 == 0)
    x, y, w = x[rare], y[rare], w[rare] if class_weight != "balanced" else np.ones(rare.sum())
    head = LinearHead(class_weight=class_weight).fit(x, y, w)
    reference = LogisticRegression(class_weight=class_weight, tol=1e-10, solver="newton-cholesky").fit(x, y, w)
    np.testing.assert_allclose(head.coef_, reference.coef_, atol=2e-3)
    np.testing.assert_allclose(head.predict_proba(x), reference.predict_proba(x), atol=2e-3)


def test_a_grid_search_through_a_pipeline_finds_what_it_finds_with_logistic_regression() -> None:
    x, y, _ = data(3)
    grid = {"head__C": [1e-4, 1e-2, 1.0]}
    fitted = [
        GridSearchCV(Pipeline([("scale", StandardScaler()), ("head", head)]), grid, cv=4, scoring="neg_log_loss").fit(
            x, y
        )
        for head in (LinearHead(), LogisticRegression(tol=1e-8))
    ]
    assert fitted[0].best_params_ == fitted[1].best_params_
    actual, theirs = (search.cv_results_["mean_test_score"] for search in fitted)
    np.testing.assert_allclose(actual, theirs, rtol=1e-3)


def test_it_can_be_calibrated() -> None:
    x, y, _ = data(3)
    probabilities = CalibratedClassifierCV(LinearHead(), cv=3).fit(x, y).predict_proba(x)
    assert (probabilities.argmax(1) == y).mean() > 0.7


def test_sparse_features_are_refused_clearly() -> None:
    with pytest.raises(TypeError, match=r"Sparse data was passed.*dense"):
        LinearHead().fit(csr_matrix(np.eye(4)), [0, 1, 0, 1])


def test_a_thousand_classes_of_two_images_each() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(1000, 32))
    x = (np.repeat(centres, 2, axis=0) + 0.1 * rng.normal(size=(2000, 32))).astype(np.float32)
    head = LinearHead(C=100.0, tol=1e-4).fit(x, np.repeat(np.arange(1000), 2))
    assert (head.predict(centres.astype(np.float32)) == np.arange(1000)).mean() > 0.99


def test_balanced_weights_make_classes_equal_whatever_their_samples_weigh() -> None:
    x, y, w = data(3)
    w[y == 1] *= 0.01
    probabilities = np.array([w[y == label].sum() for label in range(3)])
    expected = LinearHead().fit(x, y, w * (w.sum() / (3 * probabilities))[y])
    np.testing.assert_allclose(LinearHead(class_weight="balanced").fit(x, y, w).coef_, expected.coef_, atol=1e-9)
    w[y == 1] = 0  # a class without any weight has no share in the balance
    left = LinearHead(class_weight="balanced").fit(x, y, w)
    assert np.isfinite(left.coef_).all()
