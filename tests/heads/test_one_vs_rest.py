"""OneVsRestHead: many regressions at once, each with the optimum that scikit-learn finds for it alone."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression

from featcache.cache import lazy_arrays
from featcache.cache.lazy_arrays import CenteredMatrix, LazyRows
from featcache.heads.one_vs_rest import OneVsRestHead
from featcache.heads.solvers.one_vs_rest import OneVsRestProblem, balance_labels
from featcache.heads.solvers.preconditioner import LowRankPreconditioner
from featcache.heads.solvers.softmax import solve_path

N = 90
LEAST = 1e-9  # the odds of what is never seen


def data(c: int = 3, dtype: str = "float64") -> tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.float64]]:
    """Features off centre, labels that go together with them and with each other, weights."""
    rng = np.random.default_rng(c)
    labels = (rng.uniform(size=(N, c)) < np.linspace(0.5, 0.15, c)).astype(np.uint8)
    labels[:, -1] |= labels[:, 0] & (rng.uniform(size=N) < 0.5)
    x = 3 + rng.normal(size=(N, 5)) + labels @ rng.normal(size=(c, 5))
    return x.astype(dtype), labels, rng.uniform(0, 2, N)


def alone(x: NDArray[Any], y: NDArray[Any], weight: NDArray[np.float64], C: float) -> LogisticRegression:
    """One label, by scikit-learn."""
    head = LogisticRegression(C=C, tol=1e-10, solver="newton-cholesky", max_iter=1000)
    return head.fit(x.astype(np.float64), y, weight)


def assert_solved(coef: NDArray[Any], intercept: NDArray[Any], expected: LogisticRegression) -> None:
    np.testing.assert_allclose(coef, expected.coef_[0], rtol=1e-3, atol=1e-3 * np.abs(expected.coef_).max())
    np.testing.assert_allclose(intercept, expected.intercept_[0], rtol=1e-3, atol=1e-3)


def importance(class_weight: Any, y: NDArray[Any], weight: NDArray[Any], label: int) -> NDArray[np.float64]:
    """How much each row counts for a label."""
    if class_weight == "balanced":
        with_label = (weight * y[:, label]).sum()
        probabilities = weight.sum() / 2 / np.array([weight.sum() - with_label, with_label])
        return weight * probabilities[y[:, label]]
    return weight * np.where(y[:, label], (class_weight or {}).get(label, 1.0), 1.0)


# The optimum


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 5.0, 2: 0.25}], ids=str)
@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
def test_each_label_has_the_optimum_that_it_has_alone(C: float, class_weight: Any, weighted: bool) -> None:
    x, y, weights = data()
    w = weights if weighted else np.ones(N)
    head = OneVsRestHead(C, class_weight=class_weight).fit(x, y, w if weighted else None)
    assert (head.coef_.shape, head.intercept_.shape, head.classes_.tolist()) == ((3, 5), (3,), [0, 1, 2])
    for label in range(3):
        expected = alone(x, y[:, label], importance(class_weight, y, w, label), C)
        assert_solved(head.coef_[label], head.intercept_[label], expected)
        probabilities = expected.predict_proba(x)[:, 1]
        np.testing.assert_allclose(head.predict_proba(x)[:, label], probabilities, atol=1e-3)


@pytest.mark.parametrize("class_weight", ["balanced", {1: 3.0}], ids=str)
def test_class_weights_are_those_of_scikit_learn(class_weight: Any) -> None:
    x, y, _ = data()
    head = OneVsRestHead(class_weight=class_weight).fit(x, y)
    theirs = class_weight if class_weight == "balanced" else {0: 1.0, 1: 3.0}
    expected = LogisticRegression(class_weight=theirs, tol=1e-10, solver="newton-cholesky").fit(x, y[:, 1])
    assert_solved(head.coef_[1], head.intercept_[1], expected)


def test_a_label_does_not_depend_on_the_others() -> None:
    x, y, _ = data(6)
    head = OneVsRestHead(tol=1e-12).fit(x, y)
    order = np.array([4, 0, 5])
    problem_data = OneVsRestHead(tol=1e-12).fit(x, y[:, order])
    np.testing.assert_allclose(problem_data.coef_, head.coef_[order], atol=1e-5)
    np.testing.assert_allclose(problem_data.intercept_, head.intercept_[order], atol=1e-5)


def test_a_weight_of_two_is_the_row_twice_and_of_zero_not_at_all() -> None:
    x, y, _ = data()
    counts = np.arange(N) % 3
    weighted = OneVsRestHead(class_weight="balanced", tol=1e-12).fit(x, y, counts)
    repeated = OneVsRestHead(class_weight="balanced", tol=1e-12).fit(
        np.repeat(x, counts, axis=0), np.repeat(y, counts, axis=0)
    )
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, atol=1e-5)
    np.testing.assert_allclose(weighted.intercept_, repeated.intercept_, atol=1e-5)


@pytest.mark.parametrize("balance", [None, "balanced", {1: 4.0}], ids=str)
def test_the_fold_of_a_problem_is_not_trained_on(balance: Any) -> None:
    """Problem f * c + l is label l without fold f; those of the last fold hold out none."""
    x, y, w = data()
    fold = np.arange(N) % 4 - 1  # -1, 0, 1, 2
    weights = balance_labels(balance, y, w)
    problems = OneVsRestProblem(CenteredMatrix(x, w), y, w, weights, fold, 4)
    assert (problems.k, problems.outputs) == (12, 1)
    path = list(solve_path(problems, LowRankPreconditioner.from_rows(problems.x, w), [0.05, 2.0], 1e-10, 1000))
    assert [item.C for item in path] == [0.05, 2.0]
    for item in path:
        assert item.converged.all()
        for number in range(4):
            seen = fold != number
            for label in range(3):
                position = 3 * number + label
                counts = w[seen] * weights[label][y[seen, label]]
                expected = alone(x[seen], y[seen, label], counts, item.C)
                assert_solved(item.coef[position, 0], item.intercept[position, 0], expected)


def test_the_shares_of_a_problem_are_the_weights_without_and_with_its_label() -> None:
    y = np.array([[1, 0], [1, 1], [0, 1], [0, 0]], np.uint8)
    w, fold = np.array([1.0, 2.0, 4.0, 8.0]), np.array([0, 1, -1, 0])
    balance = np.array([[1.0, 10.0], [2.0, 0.5]])
    problems = OneVsRestProblem(CenteredMatrix(np.eye(4), w), y, w, balance, fold, 3)
    expected = [[4, 20], [0, 3], [12, 10], [18, 2], [12, 30], [18, 3]]  # folds 0, 1, none; labels 0, 1
    np.testing.assert_allclose(problems.class_weights(), expected)


# Labels of which nothing can be learnt


def test_labels_of_all_rows_or_none_stay_at_their_odds() -> None:
    """Without warnings, and without any effect on others: pytest turns warnings into errors."""
    x, y, w = data()
    constant = np.column_stack([np.zeros(N, np.uint8), y[:, 0], np.ones(N, np.uint8), y[:, 1]])
    head = OneVsRestHead(tol=1e-12).fit(x, constant, w)
    assert not head.coef_[[0, 2]].any()
    np.testing.assert_allclose(np.exp(head.intercept_[[0, 2]]), [LEAST, 1 / LEAST], rtol=1e-6)
    np.testing.assert_allclose(head.predict_proba(x)[:, 0], LEAST, rtol=1e-6)
    assert head.predict(x)[:, [0, 2]].tolist() == [[0, 1]] * N
    np.testing.assert_allclose(head.coef_[[1, 3]], OneVsRestHead(tol=1e-12).fit(x, y[:, :2], w).coef_, atol=1e-5)


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0}], ids=str)
def test_labels_of_all_rows_with_weight_stay_at_their_odds_too(class_weight: Any) -> None:
    x, y, w = data()
    w[y[:, 0] == 0] = 0  # all that count have label 0
    head = OneVsRestHead(class_weight=class_weight).fit(x, y, w)
    assert not head.coef_[0].any()
    np.testing.assert_allclose(np.exp(-head.intercept_[0]), LEAST, rtol=1e-6)
    expected = alone(x, y[:, 1], importance(class_weight, y, w, 1), 1.0)
    assert_solved(head.coef_[1], head.intercept_[1], expected)


def test_nothing_is_learnt_of_a_label_that_one_fold_alone_has() -> None:
    x, y, w = data()
    fold = np.arange(N) % 3
    y[:, 1] = fold == 0
    y[:, 2] = fold != 1
    problems = OneVsRestProblem(CenteredMatrix(x, w), y, w, np.ones((3, 2)), fold, 4)
    (item,) = solve_path(problems, LowRankPreconditioner.from_rows(problems.x, w), [1.0], 1e-10, 1000)
    coef, odds = item.coef[:, 0].reshape(4, 3, 5), np.exp(item.intercept[:, 0].reshape(4, 3))
    still = np.zeros((4, 3), bool)
    still[0, 1] = still[1, 2] = True
    np.testing.assert_array_equal(~coef.any(axis=2), still)
    np.testing.assert_allclose([odds[0, 1], odds[1, 2]], [LEAST, 1 / LEAST], rtol=1e-6)
    assert item.converged.all()


def test_features_without_spread_give_the_shares_of_the_labels() -> None:
    head = OneVsRestHead().fit(np.full((4, 2), 7.0), [[1, 0], [0, 0], [1, 0], [1, 1]])
    np.testing.assert_allclose(head.predict_proba(np.full((1, 2), 7.0)), [[0.75, 0.25]], atol=1e-4)


# Features in files


@pytest.mark.parametrize("mask", [2**29, 0])
def test_rows_of_a_file_of_float16_give_the_same_as_arrays(
    mask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y, w = data(dtype="float16")
    index = np.random.default_rng(0).permutation(2 * N)[:N]
    stored = np.full((2 * N, 5), np.nan, np.float16)
    stored[index] = x
    stored.tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", np.float16, "r", shape=(2 * N, 5))
    expected = OneVsRestHead(10.0).fit(x.astype(np.float32), y, w)
    monkeypatch.setattr(lazy_arrays, "BLOCK_BYTES", 400)
    monkeypatch.setattr(lazy_arrays, "MAX_CACHED_BYTES", mask)
    head = OneVsRestHead(10.0).fit(LazyRows(mapped, index), y, w)
    np.testing.assert_allclose(head.coef_, expected.coef_, atol=2e-3)
    np.testing.assert_allclose(head.intercept_, expected.intercept_, atol=5e-3)
    assert_solved(head.coef_[0], head.intercept_[0], alone(x, y[:, 0], w, 10.0))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_features_that_are_not_finite_are_refused(value: float, name: str, dtype: str) -> None:
    x, y, _ = data(dtype=dtype)
    x[N - 1, 4] = value
    with pytest.raises(ValueError, match=f"^Input X contains {name}"):
        OneVsRestHead().fit(x, y)
    with pytest.raises(ValueError, match=f"^Input X contains {name}"):
        OneVsRestHead().fit(LazyRows(x, np.arange(N)), y)


# Predicting


def test_a_label_is_predicted_where_it_is_more_probable_than_not() -> None:
    x, y, w = data()
    head = OneVsRestHead().fit(x, y, w)
    odds = x @ head.coef_.T + head.intercept_
    np.testing.assert_allclose(head.decision_function(x), odds)
    np.testing.assert_allclose(head.predict_proba(x), expit(odds))
    np.testing.assert_array_equal(head.predict(x), head.predict_proba(x) > 0.5)
    assert head.score(x, y) == (head.predict(x) == y).all(axis=1).mean()
    assert 0.2 < head.score(x, y) < 1


def test_given_weights_are_predicted_with() -> None:
    head = OneVsRestHead.from_weights(np.array([[1.0, 0.0], [0.0, -2.0]]), np.array([0.0, 1.0]))
    assert head.decision_function([[3.0, 4.0], [-1.0, 0.5]]).tolist() == [[3.0, -7.0], [-1.0, 0.0]]
    assert head.predict([[3.0, 4.0], [-1.0, 0.5]]).tolist() == [[1, 0], [0, 0]]
    assert (head.classes_.tolist(), head.n_features_in_) == ([0, 1], 2)


def test_too_few_iterations_of_any_label_are_said() -> None:
    """Nothing has to be done for the last one, which no row has."""
    x, y, _ = data()
    y[:, 2] = 0
    with pytest.warns(ConvergenceWarning) as caught:
        OneVsRestHead(max_iter=1).fit(x, y)
    assert [str(item.message) for item in caught] == [
        "OneVsRestHead stopped after 1 iterations before reaching tol=1e-08; raise max_iter, or lower C"
    ]


def test_a_copy_has_the_same_settings() -> None:
    x, y, _ = data()
    head = OneVsRestHead(0.3, class_weight={1: 2.0}, tol=1e-10)
    np.testing.assert_array_equal(clone(head).fit(x, y).coef_, head.fit(x, y).coef_)


# What cannot be


@pytest.mark.parametrize("C", [0, -1.0, float("nan"), float("inf")])
def test_a_penalty_that_is_none_is_refused(C: float) -> None:
    x, y, _ = data()
    with pytest.raises(ValueError, match=f"^C must be greater than 0 and finite; got {C}$"):
        OneVsRestHead(C).fit(x, y)


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y[:, 0],
        lambda y: y[:, :, None],
        lambda y: 2 * y,
        lambda y: y.astype(int) - 1,
        lambda y: np.where(y, np.nan, y),
        lambda y: np.where(y, 0.5, y),
        lambda y: y.astype(str),
    ],
)
def test_labels_that_are_not_columns_of_0_and_1_are_refused(change: Any) -> None:
    x, y, _ = data()
    with pytest.raises(ValueError, match=r"^y must have a column of 0 and 1 for each label$"):
        OneVsRestHead().fit(x, change(y))


@pytest.mark.parametrize("kind", [bool, float, np.int64])
def test_labels_of_any_type_are_0_and_1(kind: Any) -> None:
    x, y, _ = data()
    expected = OneVsRestHead().fit(x, y).coef_
    np.testing.assert_array_equal(OneVsRestHead().fit(x, y.astype(kind)).coef_, expected)
    np.testing.assert_array_equal(OneVsRestHead().fit(x, y.astype(kind).tolist()).coef_, expected)


def test_lengths_must_agree() -> None:
    x, y, w = data()
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[90, 89\]"):
        OneVsRestHead().fit(x, y[1:])
    with pytest.raises(ValueError, match=r"sample_weight"):
        OneVsRestHead().fit(x, y, w[1:])
    with pytest.raises(ValueError, match=r"[Nn]egative"):
        OneVsRestHead().fit(x, y, -w)


@pytest.mark.parametrize("wrong", [{3: 1.0}, {-1: 2.0}, {0: 0}, {0: -1.0}, {0: float("nan")}], ids=str)
def test_class_weights_of_no_label_or_none_are_refused(wrong: dict[int, float]) -> None:
    x, y, _ = data()
    ((label, factor),) = wrong.items()
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        OneVsRestHead(class_weight=wrong).fit(x, y)
    assert str(caught.value) == f"class_weight has {label}: {factor}; it takes labels 0 to 2 and weights above 0"


@pytest.mark.parametrize(
    "wrong", ["even", 3, [1.0, 2.0, 3.0], {"a": 2.0}, {0: None}, {0.5: 2.0}, {0: float("inf")}], ids=str
)
def test_what_is_no_class_weight_is_refused_by_name(wrong: Any) -> None:
    x, y, _ = data()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="class_weight"):
            OneVsRestHead(class_weight=wrong, max_iter=5).fit(x, y)


def test_a_head_that_is_not_fitted_says_so() -> None:
    x, y, _ = data()
    with pytest.raises(NotFittedError):
        OneVsRestHead().predict(x)
    with pytest.raises(ValueError, match="X has 4 features, but OneVsRestHead is expecting 5 features as input"):
        OneVsRestHead().fit(x, y).predict(x[:, :4])
