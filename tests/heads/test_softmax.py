"""Softmax regression along a path, several folds at once: scikit-learn's minima on the rows of the other folds."""

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


def solve(some: Data, Cs: Sequence[float], tol: float = 1e-9, max_iter: int = 1000) -> list[Solution]:
    problems = some.problems()
    return list(solve_path(problems, LowRankPreconditioner.of(problems.x, problems.weight), Cs, tol, max_iter))


def loss(coef: NDArray[Any], intercept: NDArray[Any], some: Data, rows: NDArray[np.int64], C: float) -> float:
    """The objective that `solve_path` documents."""
    logits = some.x[rows].astype(np.float64) @ coef.T + intercept
    if len(coef) == 1:
        logits = np.hstack([np.zeros_like(logits), logits])
    losses = -log_softmax(logits, axis=1)[np.arange(len(rows)), some.y[rows]]
    return float(C * some.weight[rows] @ losses + (coef**2).sum() / 2)


def reference(some: Data, problem: int, C: float) -> tuple[NDArray[Any], NDArray[Any]]:
    rows = some.seen(problem)
    head = LogisticRegression(C=C, tol=1e-10, solver="newton-cholesky", max_iter=1000)
    head.fit(some.x[rows].astype(np.float64), some.y[rows], some.weight[rows])
    return head.coef_, head.intercept_


def gap(found: Solution, some: Data, problem: int, best: tuple[NDArray[Any], NDArray[Any]]) -> float:
    """How far a loss lies above scikit-learn's, as a share of it."""
    rows, (coef, intercept) = some.seen(problem), best
    mine = loss(found.coef[problem], found.intercept[problem], some, rows, found.C)
    return mine / loss(coef, intercept, some, rows, found.C) - 1


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_every_problem_is_logistic_regression_on_the_other_folds(classes: int, dtype: str) -> None:
    some = data(classes, dtype=dtype)
    found = solve(some, PATH)
    assert [one.C for one in found] == PATH
    for one in found:
        assert one.converged.all()
        for problem in range(K):
            coef, intercept = reference(some, problem, one.C)
            assert abs(gap(one, some, problem, (coef, intercept))) <= 1e-4
            size = np.abs(coef).max()
            np.testing.assert_allclose(one.coef[problem], coef, rtol=1e-2, atol=2e-3 * size)
            mine, theirs = (
                softmax(np.pad(some.x @ c.T + b, ((0, 0), (len(c) == 1, 0))), axis=1)
                for c, b in ((one.coef[problem], one.intercept[problem]), (coef, intercept))
            )
            np.testing.assert_allclose(mine, theirs, atol=2e-3)


@pytest.mark.parametrize("classes", [2, 3])
def test_ill_conditioned_features_off_centre_are_solved_too(classes: int) -> None:
    some = ill_conditioned(classes)
    for one in solve(some, [1e-4, 1e-2, 1.0, 10.0, 100.0], tol=1e-5):
        assert one.converged.all()
        for problem in (0, K - 1):
            assert gap(one, some, problem, reference(some, problem, one.C)) <= 1e-4


def test_float32_that_is_ill_conditioned_ends_well() -> None:
    some = ill_conditioned(3)
    some = some._replace(x=some.x.astype(np.float32))
    for one in solve(some, [1e-2, 1.0, 100.0], tol=1e-5):
        assert one.converged.all()
        assert gap(one, some, 0, reference(some, 0, one.C)) <= 1e-4


@pytest.mark.parametrize("seed", [6, 9])
def test_what_is_said_to_have_converged_has(seed: int) -> None:
    """Classes that can nearly be told apart, along a path to hardly any penalty."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(120) % 3)
    means = 2 * np.linalg.qr(rng.normal(size=(12, 12)))[0][:3]
    some = Data(3 + means[y] + rng.normal(size=(120, 12)), y, np.ones(120), rng.integers(-1, K - 1, 120))
    gaps = {
        one.C: max(gap(one, some, problem, reference(some, problem, one.C)) for problem in range(K))
        for one in solve(some, np.logspace(-4, 4, 13).tolist(), tol=1e-5)
        if one.converged.all()
    }
    assert {C: share for C, share in gaps.items() if share > 5e-3} == {}


@pytest.mark.parametrize("Cs", [PATH[::-1], [1.0, 1e-4, 100.0, 1e-2]])
def test_the_order_of_the_path_does_not_change_the_minima(Cs: list[float]) -> None:
    some = data(3)
    forth = {one.C: one for one in solve(some, PATH, tol=1e-13)}
    for one in solve(some, Cs, tol=1e-13):
        np.testing.assert_allclose(one.coef, forth[one.C].coef, atol=1e-4)
        np.testing.assert_allclose(one.intercept, forth[one.C].intercept, atol=1e-3)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_logits_of_a_problem_sum_to_zero_or_are_one(classes: int) -> None:
    for one in solve(data(classes), [0.1, 10.0]):
        assert one.coef.shape == (K, 1 if classes == 2 else classes, 6)
        if classes > 2:
            np.testing.assert_allclose(one.coef.sum(axis=1), 0, atol=1e-9)
            np.testing.assert_allclose(one.intercept.sum(axis=1), 0, atol=1e-9)


def test_the_unit_of_the_features_changes_no_prediction() -> None:
    some = data(3)
    larger = some._replace(x=some.x * 8000)
    for one, other in zip(solve(some, [0.01, 1.0]), solve(larger, [0.01 / 8000**2, 1 / 8000**2]), strict=True):
        np.testing.assert_allclose(one.coef, other.coef * 8000, atol=1e-3)
        np.testing.assert_allclose(one.intercept, other.intercept, atol=5e-3)


@pytest.mark.parametrize("kept", [True, False])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    some = data(3)
    (whole,) = solve(some, [1.0])
    monkeypatch.setattr(lazy_arrays, "BLOCK_BYTES", 400)
    if not kept:
        monkeypatch.setattr(lazy_arrays, "MAX_CACHED_BYTES", 0)
    (parts,) = solve(some, [1.0])
    np.testing.assert_allclose(parts.coef, whole.coef, atol=1e-4)
    np.testing.assert_allclose(parts.intercept, whole.intercept, atol=1e-4)


@pytest.mark.parametrize("C", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("absent", ["left out", "weightless"])
def test_a_class_that_a_problem_does_not_see_gets_no_probability(absent: str, C: float) -> None:
    """The other classes are fitted as if there were none; with k logits, only their sum of squares is shared."""
    some = data(3)
    if absent == "left out":
        some = some._replace(fold=np.where(some.y == 2, 0, np.where(some.fold == 0, 1, some.fold)))
    else:
        some = some._replace(weight=np.where(some.y == 2, 0.0, some.weight))
    (found,) = solve(some, [C])
    assert np.isfinite(found.coef).all()
    assert np.isfinite(found.intercept).all()
    rows = some.seen(0)
    probabilities = softmax(some.x[rows] @ found.coef[0].T + found.intercept[0], axis=1)
    assert probabilities[:, 2].max() < 1e-3
    two = LogisticRegression(C=2 * C, tol=1e-10).fit(some.x[rows], some.y[rows], some.weight[rows])
    np.testing.assert_allclose(probabilities[:, 1], two.predict_proba(some.x[rows])[:, 1], atol=0.01)


def test_a_problem_that_sees_one_class_is_sure_of_it() -> None:
    some = data(2)
    some = some._replace(fold=np.where(some.y == 1, 0, -1))
    for found in solve(some, [1e-3, 1.0, 100.0], tol=1e-5):
        assert np.isfinite(found.coef).all()
        assert (some.x @ found.coef[0, 0] + found.intercept[0, 0] < -7).all()


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
def test_a_thousand_to_one_is_logistic_regression(C: float) -> None:
    rng = np.random.default_rng(0)
    y = (np.arange(3003) % 1001 == 0).astype(np.int64)
    x = rng.normal(size=(3003, 4)) + 2 * y[:, None]
    some = Data(x, y, np.ones(3003), np.full(3003, -1))
    (found,) = solve(some, [C])
    assert found.converged.all()
    coef, intercept = reference(some, 0, C)
    for problem in range(K):  # nothing is left out by any
        assert abs(gap(found, some, problem, (coef, intercept))) <= 1e-6
        np.testing.assert_allclose(found.coef[problem], coef, rtol=5e-3, atol=1e-3)
        np.testing.assert_allclose(found.intercept[problem], intercept, rtol=5e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_columns_without_spread_get_no_weight(dtype: str) -> None:
    some = data(3, dtype=dtype)
    wider = some._replace(x=np.insert(some.x, [0, 3], [7.0, -40.0], axis=1).astype(dtype))
    (found,), (plain,) = solve(wider, [1.0]), solve(some, [1.0])
    np.testing.assert_allclose(found.coef[..., [0, 4]], 0, atol=1e-3 if dtype == "float32" else 1e-5)
    np.testing.assert_allclose(np.delete(found.coef, [0, 4], axis=-1), plain.coef, atol=1e-3)


def test_features_without_any_spread_give_the_shares_of_the_classes() -> None:
    some = data(3)
    some = some._replace(x=np.full_like(some.x, 7.0))
    (found,) = solve(some, [1.0])
    for problem in range(K):
        rows = some.seen(problem)
        shares = np.bincount(some.y[rows], some.weight[rows]) / some.weight[rows].sum()
        logits = some.x[0] @ found.coef[problem].T + found.intercept[problem]
        np.testing.assert_allclose(softmax(logits), shares, atol=1e-4)


def test_too_few_iterations_are_no_convergence() -> None:
    (found,) = solve(ill_conditioned(3), [100.0], tol=1e-12, max_iter=2)
    assert found.iterations.tolist() == [2] * K
    assert found.converged.tolist() == [False] * K


def test_leading_directions_save_half_of_the_iterations() -> None:
    """60 features are no more than the spectrum's rank, so that the first estimate is about Newton's."""
    some = ill_conditioned(2)
    problems = some.problems()
    blind = LowRankPreconditioner(np.eye(60), np.ones(60), 1.0)
    counts = [
        sum(one.iterations.sum() for one in solve_path(problems, spectrum, PATH, 1e-5, 1000))
        for spectrum in (LowRankPreconditioner.of(problems.x, problems.weight), blind)
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
