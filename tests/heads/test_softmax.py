"""Softmax regression along a path for several folds: equal to scikit-learn fitted to the rows of the other folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from featcache.cache import lazy_arrays
from featcache.cache.lazy_arrays import CenteredMatrix
from featcache.heads.solvers.preconditioner import LowRankPreconditioner
from featcache.heads.solvers.softmax import CVSoftmaxProblem, Solution, cross_entropy, solve_path

K = 4  # problems: three folds, and all rows
PATH = [1e-4, 1e-2, 1.0, 100.0]


class Data(NamedTuple):
    x: NDArray[Any]
    y: NDArray[np.int64]
    weight: NDArray[np.float64]
    fold: NDArray[np.int64]

    def seen(self, problem: int) -> NDArray[np.int64]:
        return np.flatnonzero((self.fold != problem) & (self.weight > 0))

    def problems(self) -> CVSoftmaxProblem:
        classes = int(self.y.max()) + 1
        outputs = 1 if classes == 2 else classes
        return CVSoftmaxProblem(CenteredMatrix(self.x, self.weight), self.y, self.weight, self.fold, K, outputs)


def data(classes: int, n: int = 120, d: int = 6, seed: int = 0, dtype: str = "float64") -> Data:
    """Overlapping clouds off centre, with weights; some rows are in no fold."""
    rng = np.random.default_rng(seed + classes)
    y = rng.integers(0, classes, n)
    x = 3 + rng.normal(size=(n, d)) + rng.normal(size=(classes, d))[y]
    return Data(x.astype(dtype), y, rng.uniform(0, 2, n), rng.integers(-1, K - 1, n))


def ill_conditioned(classes: int, seed: int = 0) -> Data:
    """60 features whose standard deviations are 1, 1/2, ..., 1/60 along directions of their own, off centre."""
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.normal(size=(60, 60)))
    y = rng.integers(0, classes, 400)
    x = (rng.normal(size=(400, 60)) + 0.5 * rng.normal(size=(classes, 60))[y]) / np.arange(1, 61) @ axes.T
    return Data(5 + x, y, np.ones(400), rng.integers(-1, K - 1, 400))


def solve(data: Data, Cs: Sequence[float], tol: float = 1e-9, max_iter: int = 1000) -> list[Solution]:
    problems = data.problems()
    return list(solve_path(problems, LowRankPreconditioner.from_rows(problems.x, problems.weight), Cs, tol, max_iter))


def loss(coef: NDArray[Any], intercept: NDArray[Any], data: Data, rows: NDArray[np.int64], C: float) -> float:
    """The objective that `solve_path` documents."""
    logits = data.x[rows].astype(np.float64) @ coef.T + intercept
    if len(coef) == 1:
        logits = np.hstack([np.zeros_like(logits), logits])
    losses = -log_softmax(logits, axis=1)[np.arange(len(rows)), data.y[rows]]
    return float(C * data.weight[rows] @ losses + (coef**2).sum() / 2)


def reference(data: Data, problem: int, C: float) -> tuple[NDArray[Any], NDArray[Any]]:
    rows = data.seen(problem)
    head = LogisticRegression(C=C, tol=1e-10, solver="newton-cholesky", max_iter=1000)
    head.fit(data.x[rows].astype(np.float64), data.y[rows], data.weight[rows])
    return head.coef_, head.intercept_


def gap(result: Solution, data: Data, problem: int, best: tuple[NDArray[Any], NDArray[Any]]) -> float:
    """By which fraction a loss is above that of scikit-learn."""
    rows, (coef, intercept) = data.seen(problem), best
    actual = loss(result.coef[problem], result.intercept[problem], data, rows, result.C)
    return actual / loss(coef, intercept, data, rows, result.C) - 1


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_every_problem_is_logistic_regression_on_the_other_folds(classes: int, dtype: str) -> None:
    problem_data = data(classes, dtype=dtype)
    result = solve(problem_data, PATH)
    assert [item.C for item in result] == PATH
    for item in result:
        assert item.converged.all()
        for problem in range(K):
            coef, intercept = reference(problem_data, problem, item.C)
            assert abs(gap(item, problem_data, problem, (coef, intercept))) <= 1e-4
            size = np.abs(coef).max()
            np.testing.assert_allclose(item.coef[problem], coef, rtol=1e-2, atol=2e-3 * size)
            actual, theirs = (
                softmax(np.pad(problem_data.x @ c.T + b, ((0, 0), (len(c) == 1, 0))), axis=1)
                for c, b in ((item.coef[problem], item.intercept[problem]), (coef, intercept))
            )
            np.testing.assert_allclose(actual, theirs, atol=2e-3)


@pytest.mark.parametrize("classes", [2, 3])
def test_ill_conditioned_features_off_centre_are_solved_too(classes: int) -> None:
    data = ill_conditioned(classes)
    for item in solve(data, [1e-4, 1e-2, 1.0, 10.0, 100.0], tol=1e-5):
        assert item.converged.all()
        for problem in (0, K - 1):
            assert gap(item, data, problem, reference(data, problem, item.C)) <= 1e-4


def test_float32_that_is_ill_conditioned_ends_well() -> None:
    data = ill_conditioned(3)
    data = data._replace(x=data.x.astype(np.float32))
    for item in solve(data, [1e-2, 1.0, 100.0], tol=1e-5):
        assert item.converged.all()
        assert gap(item, data, 0, reference(data, 0, item.C)) <= 1e-4


@pytest.mark.parametrize("seed", [6, 9])
def test_what_is_said_to_have_converged_has(seed: int) -> None:
    """Almost separable classes, along a path to almost no penalty."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(120) % 3)
    means = 2 * np.linalg.qr(rng.normal(size=(12, 12)))[0][:3]
    data = Data(3 + means[y] + rng.normal(size=(120, 12)), y, np.ones(120), rng.integers(-1, K - 1, 120))
    gaps = {
        item.C: max(gap(item, data, problem, reference(data, problem, item.C)) for problem in range(K))
        for item in solve(data, np.logspace(-4, 4, 13).tolist(), tol=1e-5)
        if item.converged.all()
    }
    assert {C: probability for C, probability in gaps.items() if probability > 5e-3} == {}


@pytest.mark.parametrize("Cs", [PATH[::-1], [1.0, 1e-4, 100.0, 1e-2]])
def test_the_order_of_the_path_does_not_change_the_minima(Cs: list[float]) -> None:
    problem_data = data(3)
    forth = {item.C: item for item in solve(problem_data, PATH, tol=1e-13)}
    for item in solve(problem_data, Cs, tol=1e-13):
        np.testing.assert_allclose(item.coef, forth[item.C].coef, atol=1e-4)
        np.testing.assert_allclose(item.intercept, forth[item.C].intercept, atol=1e-3)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_logits_of_a_problem_sum_to_zero_or_are_one(classes: int) -> None:
    for item in solve(data(classes), [0.1, 10.0]):
        assert item.coef.shape == (K, 1 if classes == 2 else classes, 6)
        if classes > 2:
            np.testing.assert_allclose(item.coef.sum(axis=1), 0, atol=1e-9)
            np.testing.assert_allclose(item.intercept.sum(axis=1), 0, atol=1e-9)


def test_the_unit_of_the_features_changes_no_prediction() -> None:
    problem_data = data(3)
    larger = problem_data._replace(x=problem_data.x * 8000)
    for first, other in zip(
        solve(problem_data, [0.01, 1.0]), solve(larger, [0.01 / 8000**2, 1 / 8000**2]), strict=True
    ):
        np.testing.assert_allclose(first.coef, other.coef * 8000, atol=1e-3)
        np.testing.assert_allclose(first.intercept, other.intercept, atol=5e-3)


@pytest.mark.parametrize("mask", [True, False])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, mask: bool) -> None:
    problem_data = data(3)
    (whole,) = solve(problem_data, [1.0])
    monkeypatch.setattr(lazy_arrays, "BLOCK_BYTES", 400)
    if not mask:
        monkeypatch.setattr(lazy_arrays, "MAX_CACHED_BYTES", 0)
    (parts,) = solve(problem_data, [1.0])
    np.testing.assert_allclose(parts.coef, whole.coef, atol=1e-4)
    np.testing.assert_allclose(parts.intercept, whole.intercept, atol=1e-4)


@pytest.mark.parametrize("C", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("absent", ["left out", "weightless"])
def test_a_class_that_a_problem_does_not_see_gets_no_probability(absent: str, C: float) -> None:
    """The other classes are fitted as if there were none; with k logits, only their sum of squares is shared."""
    problem_data = data(3)
    if absent == "left out":
        problem_data = problem_data._replace(
            fold=np.where(problem_data.y == 2, 0, np.where(problem_data.fold == 0, 1, problem_data.fold))
        )
    else:
        problem_data = problem_data._replace(weight=np.where(problem_data.y == 2, 0.0, problem_data.weight))
    (result,) = solve(problem_data, [C])
    assert np.isfinite(result.coef).all()
    assert np.isfinite(result.intercept).all()
    rows = problem_data.seen(0)
    probabilities = softmax(problem_data.x[rows] @ result.coef[0].T + result.intercept[0], axis=1)
    assert probabilities[:, 2].max() < 1e-3
    two = LogisticRegression(C=2 * C, tol=1e-10).fit(
        problem_data.x[rows], problem_data.y[rows], problem_data.weight[rows]
    )
    np.testing.assert_allclose(probabilities[:, 1], two.predict_proba(problem_data.x[rows])[:, 1], atol=0.01)


def test_a_problem_that_sees_one_class_is_sure_of_it() -> None:
    problem_data = data(2)
    problem_data = problem_data._replace(fold=np.where(problem_data.y == 1, 0, -1))
    for result in solve(problem_data, [1e-3, 1.0, 100.0], tol=1e-5):
        assert np.isfinite(result.coef).all()
        assert (problem_data.x @ result.coef[0, 0] + result.intercept[0, 0] < -7).all()


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
def test_a_thousand_to_one_is_logistic_regression(C: float) -> None:
    rng = np.random.default_rng(0)
    y = (np.arange(3003) % 1001 == 0).astype(np.int64)
    x = rng.normal(size=(3003, 4)) + 2 * y[:, None]
    data = Data(x, y, np.ones(3003), np.full(3003, -1))
    (result,) = solve(data, [C])
    assert result.converged.all()
    coef, intercept = reference(data, 0, C)
    for problem in range(K):  # nothing is left out by any
        assert abs(gap(result, data, problem, (coef, intercept))) <= 1e-6
        np.testing.assert_allclose(result.coef[problem], coef, rtol=5e-3, atol=1e-3)
        np.testing.assert_allclose(result.intercept[problem], intercept, rtol=5e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_columns_without_spread_get_no_weight(dtype: str) -> None:
    problem_data = data(3, dtype=dtype)
    wider = problem_data._replace(x=np.insert(problem_data.x, [0, 3], [7.0, -40.0], axis=1).astype(dtype))
    (result,), (plain,) = solve(wider, [1.0]), solve(problem_data, [1.0])
    np.testing.assert_allclose(result.coef[..., [0, 4]], 0, atol=1e-3 if dtype == "float32" else 1e-5)
    np.testing.assert_allclose(np.delete(result.coef, [0, 4], axis=-1), plain.coef, atol=1e-3)


def test_features_without_any_spread_give_the_shares_of_the_classes() -> None:
    problem_data = data(3)
    problem_data = problem_data._replace(x=np.full_like(problem_data.x, 7.0))
    (result,) = solve(problem_data, [1.0])
    for problem in range(K):
        rows = problem_data.seen(problem)
        probabilities = np.bincount(problem_data.y[rows], problem_data.weight[rows]) / problem_data.weight[rows].sum()
        logits = problem_data.x[0] @ result.coef[problem].T + result.intercept[problem]
        np.testing.assert_allclose(softmax(logits), probabilities, atol=1e-4)


def test_too_few_iterations_are_no_convergence() -> None:
    (result,) = solve(ill_conditioned(3), [100.0], tol=1e-12, max_iter=2)
    assert result.iterations.tolist() == [2] * K
    assert result.converged.tolist() == [False] * K


def test_leading_directions_save_half_of_the_iterations() -> None:
    """60 features are no more than the spectrum's rank, so that the first estimate is about Newton's."""
    data = ill_conditioned(2)
    problems = data.problems()
    blind = LowRankPreconditioner(np.eye(60), np.ones(60), 1.0)
    counts = [
        sum(item.iterations.sum() for item in solve_path(problems, spectrum, PATH, 1e-5, 1000))
        for spectrum in (LowRankPreconditioner.from_rows(problems.x, problems.weight), blind)
    ]
    assert 2 * counts[0] < counts[1]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 6), st.floats(0, 2.7), st.integers(0, 2**32 - 1))
def test_cross_entropy_is_that_of_scipy(outputs: int, a: int, b: int, decades: float, seed: int) -> None:
    if outputs == 2:
        return  # of two classes there is one logit
    rng = np.random.default_rng(seed)
    logits = 10**decades * rng.normal(size=(outputs, a, b))
    labels = rng.integers(0, max(2, outputs), b)
    full = np.concatenate([np.zeros((1, a, b)), logits]) if outputs == 1 else logits
    losses, slopes = cross_entropy(logits.copy(), labels)
    logs = log_softmax(full, axis=0)
    np.testing.assert_allclose(losses, -logs[labels, :, np.arange(b)].T, rtol=1e-9, atol=1e-12)
    expected = np.exp(logs) - (labels == np.arange(len(full))[:, None])[:, None]
    np.testing.assert_allclose(slopes, expected[1:] if outputs == 1 else expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("outputs", [1, 3, 5])
def test_the_slope_of_cross_entropy_is_that_of_finite_differences(outputs: int) -> None:
    rng = np.random.default_rng(outputs)
    logits, labels = 3 * rng.normal(size=(outputs, 2, 4)), rng.integers(0, max(2, outputs), 4)
    _, slopes = cross_entropy(logits.copy(), labels)
    for number in range(outputs):
        step = np.zeros_like(logits)
        step[number] = 1e-5
        rise = cross_entropy(logits + step, labels)[0] - cross_entropy(logits - step, labels)[0]
        np.testing.assert_allclose(slopes[number], rise / 2e-5, atol=1e-8)


@pytest.mark.parametrize("outputs", [1, 3])
def test_small_losses_keep_all_their_digits_in_float32(outputs: int) -> None:
    """A margin of m, above one other class or two, is a loss of e^-m or 2 e^-m, far below float32's 1 + 6e-8."""
    margins = np.array([20.0, 40.0, 80.0], dtype=np.float32)
    logits = margins[None, None] if outputs == 1 else np.stack([0 * margins, margins, 0 * margins])[:, None]
    losses, slopes = cross_entropy(logits.copy(), np.ones(3, np.int64))
    assert losses.dtype == slopes.dtype == np.float32
    expected = max(1, outputs - 1) * np.exp(-margins.astype(np.float64))
    np.testing.assert_allclose(losses[0], expected, rtol=1e-5)
    np.testing.assert_allclose(slopes[0 if outputs == 1 else 1, 0], -expected, rtol=1e-5)
