"""Ridge, discriminant analysis and centroids from sums: equal to scikit-learn fitted to the rows of the other folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeClassifier

from featcache.cache import lazy_arrays
from featcache.cache.lazy_arrays import CenteredMatrix
from featcache.heads.solvers import closed_form
from featcache.heads.solvers.closed_form import (
    RegularizedCovariances,
    SufficientStatistics,
    accumulate,
    lda,
    nearest_centroid,
    ridge,
)
from featcache.heads.solvers.path import Layer, OutOfTimeError, PathWeights

K = 4  # problems: three folds, and all rows


class Data(NamedTuple):
    x: NDArray[Any]
    y: NDArray[np.int64]
    weight: NDArray[np.float64]
    fold: NDArray[np.int64]

    def seen(self, problem: int) -> NDArray[np.int64]:
        """Rows that a problem does not hold out; the last problem holds out none."""
        return np.flatnonzero(self.fold != problem)

    def moments(self, classes: int) -> list[SufficientStatistics]:
        return accumulate(CenteredMatrix(self.x, self.weight), self.y, self.weight, self.fold, K, classes)

    def mean(self) -> NDArray[np.float64]:
        return np.average(self.x.astype(np.float64), axis=0, weights=self.weight)


def data(classes: int, n: int = 90, d: int = 6, seed: int = 0, dtype: str = "float64", counts: bool = False) -> Data:
    """Overlapping clouds off centre, with weights; some rows are in no fold. counts : weights are 1, 2 or 3."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % (classes + 1)) % classes  # class 0 is twice as frequent as the others
    x = 3 + rng.normal(size=(n, d)) * np.logspace(0, 1, d) + 2 * rng.normal(size=(classes, d))[y]
    weight = rng.integers(1, 4, n).astype(np.float64) if counts else rng.uniform(0.1, 2, n)
    return Data(x.astype(dtype), y, weight, rng.integers(-1, K - 1, n))


def naive(data: Data, classes: int, problem: int) -> SufficientStatistics:
    x = data.x.astype(np.float64) - data.mean()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    result = SufficientStatistics(
        np.zeros(classes), np.zeros((classes, x.shape[1])), np.zeros((classes, x.shape[1])), np.zeros(())
    )
    squares = np.zeros((x.shape[1], x.shape[1]))
    for row in data.seen(problem):
        result.counts[data.y[row]] += data.weight[row]
        result.sums[data.y[row]] += data.weight[row] * x[row]
        result.directions[data.y[row]] += data.weight[row] * unit[row]
        squares += data.weight[row] * np.outer(x[row], x[row])
    return result._replace(squares=squares)


def check_moments(data: Data, classes: int, tol: float) -> None:
    result = data.moments(classes)
    assert len(result) == K
    for problem, moments in enumerate(result):
        for actual, expected in zip(moments, naive(data, classes, problem), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=tol, atol=tol * max(1, np.abs(expected).max()))


@pytest.mark.parametrize(("dtype", "tol"), [("float64", 1e-11), ("float32", 1e-5), ("float16", 1e-5)])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("is_cached", [True, False])
def test_moments_are_those_of_the_rows_outside_the_fold(
    monkeypatch: pytest.MonkeyPatch, classes: int, dtype: str, tol: float, is_cached: bool
) -> None:
    monkeypatch.setattr(lazy_arrays, "BLOCK_BYTES", 256)
    if not is_cached:
        monkeypatch.setattr(lazy_arrays, "MAX_CACHED_BYTES", 0)
    check_moments(data(classes, dtype=dtype), classes, tol)


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 30), st.integers(1, 5), st.integers(1, 5), st.integers(1, 2000), st.integers(0, 2**32 - 1))
def test_moments_are_right_of_few_rows_too(n: int, d: int, classes: int, block_bytes: int, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lazy_arrays, "BLOCK_BYTES", block_bytes)
        patch.setattr(lazy_arrays, "MAX_CACHED_BYTES", 0)
        check_moments(data(classes, n, d, seed), classes, 1e-9)


def test_gathering_changes_no_row() -> None:
    example = data(3)
    centred = CenteredMatrix(example.x, example.weight)
    before = centred.take(np.arange(90)).copy()
    accumulate(centred, example.y, example.weight, example.fold, K, 3)
    np.testing.assert_array_equal(centred.take(np.arange(90)), before)


def solutions(covariances: RegularizedCovariances, solve: str, strengths: Sequence[float]) -> list[PathWeights]:
    """The layers of all problems at each strength, that of all rows last."""
    solve_one = {"ridge": ridge, "lda": lda}[solve]
    results = list(covariances.path(solve_one, strengths))
    assert [result.value for result in results] == list(strengths)
    return [with_layer(result, covariances.refit(solve_one, result.value)) for result in results]


def centroids(data: Data, classes: int) -> list[PathWeights]:
    """The layers of all problems, that of all rows last."""
    *folds, whole = (nearest_centroid(sums, data.mean()) for sums in data.moments(classes))
    weights = PathWeights(0.0, np.stack([fold.coef for fold in folds]), np.stack([fold.intercept for fold in folds]))
    return [with_layer(weights, whole)]


def with_layer(weights: PathWeights, layer: Layer) -> PathWeights:
    assert (len(weights.coef), len(weights.intercept)) == (K - 1, K - 1)
    return PathWeights(
        weights.value,
        np.concatenate([weights.coef, layer.coef[None]]),
        np.concatenate([weights.intercept, layer.intercept[None]]),
    )


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """All strengths are solved in float64, as that of all rows is."""
    monkeypatch.setattr(closed_form, "_ROUGH", np.inf)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("strength", [100.0, 0.1, 1e-6])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_ridge_is_that_of_scikit_learn_on_the_other_folds(classes: int, strength: float) -> None:
    """With two classes, scikit-learn fits one target, which is half the difference of the two logits."""
    example = data(classes)
    covariances = RegularizedCovariances(example.moments(classes), example.mean())
    (result,) = solutions(covariances, "ridge", [strength])
    assert result.value == strength
    half = 2 if classes == 2 else 1
    for problem in range(K):
        rows = example.seen(problem)
        alpha = strength * covariances.scale * example.weight[rows].sum()
        reference = RidgeClassifier(alpha=alpha, solver="cholesky").fit(
            example.x[rows], example.y[rows], example.weight[rows]
        )
        np.testing.assert_allclose(result.coef[problem] / half, np.atleast_2d(reference.coef_), rtol=1e-6, atol=1e-10)
        np.testing.assert_allclose(result.intercept[problem] / half, reference.intercept_, rtol=1e-6, atol=1e-9)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("shrinkage", [0.9, 0.1, 1e-4])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_lda_is_that_of_scikit_learn_on_the_other_folds(classes: int, shrinkage: float) -> None:
    """scikit-learn scales the variance within the classes by 1 - shrinkage before it adds the ridge."""
    example = data(classes, counts=True)
    covariances = RegularizedCovariances(example.moments(classes), example.mean())
    for problem in range(K):
        rows = np.repeat(example.seen(problem), example.weight[example.seen(problem)].astype(np.int64))
        x, y = example.x[rows], example.y[rows]
        probabilities = np.bincount(y) / len(y)
        within = sum(probabilities[label] * np.cov(x[y == label].T, bias=True) for label in range(classes))
        penalty = shrinkage / (1 - shrinkage) * np.trace(within) / x.shape[1]
        (result,) = solutions(covariances, "lda", [penalty / covariances.scale])
        reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(x, y)
        np.testing.assert_allclose(
            apart(result.coef[problem]), (1 - shrinkage) * apart(reference.coef_), rtol=1e-6, atol=1e-9
        )
        priors = np.log(probabilities[1:] / probabilities[:1]) if classes == 2 else np.log(probabilities)
        actual = example.x @ result.coef[problem].T + result.intercept[problem] - priors
        other = example.x @ reference.coef_.T + reference.intercept_ - priors
        np.testing.assert_allclose(apart(actual.T), (1 - shrinkage) * apart(other.T), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("strength", [1e4, 1.0, closed_form._ROUGH])
@pytest.mark.parametrize("solve", [ridge, lda])
def test_strong_penalties_are_compared_in_float32(solve: Any, strength: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits differ by less than a thousandth of their spread; the head of all rows is that of float64."""
    example = data(3)
    rough, exact = (RegularizedCovariances(example.moments(3), example.mean()) for _ in range(2))
    (result,), layer = rough.path(solve, [strength]), rough.refit(solve, strength)
    monkeypatch.setattr(closed_form, "_ROUGH", np.inf)
    (expected,), expected_layer = exact.path(solve, [strength]), exact.refit(solve, strength)
    for problem in range(K - 1):
        logits, expected_logits = (
            example.x @ weights.coef[problem].T + weights.intercept[problem] for weights in (result, expected)
        )
        assert np.abs(logits - expected_logits).max() < 1e-3 * expected_logits.std()
    np.testing.assert_array_equal(layer.coef, expected_layer.coef)


def apart(rows: NDArray[Any]) -> NDArray[Any]:
    """Without what all classes have in common; one row is a difference already."""
    return rows if len(rows) == 1 else rows - rows.mean(axis=0)


@pytest.mark.parametrize("classes", [2, 3])
def test_lda_without_a_ridge_gives_the_logits_of_equal_gaussians(classes: int) -> None:
    """Twice the logit's difference is that of the squared Mahalanobis distances, but for the classes' shares."""
    example = data(classes)
    covariances = RegularizedCovariances(example.moments(classes), example.mean())
    (result,) = solutions(covariances, "lda", [1e-13])
    means = np.stack(
        [np.average(example.x[example.y == c], axis=0, weights=example.weight[example.y == c]) for c in range(classes)]
    )
    rest = example.x - means[example.y]
    inverse = np.linalg.inv((rest * example.weight[:, None]).T @ rest / example.weight.sum())
    gap = example.x[:, None] - means
    logits = np.log(np.bincount(example.y, example.weight)) - np.einsum("ncd,de,nce->nc", gap, inverse, gap) / 2
    actual = example.x @ result.coef[-1].T + result.intercept[-1]
    expected = logits[:, 1:] - logits[:, :1] if classes == 2 else logits
    np.testing.assert_allclose(apart(actual.T), apart(expected.T), atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_centroids_give_the_cosine_times_the_length(classes: int) -> None:
    example = data(classes)
    (result,) = centroids(example, classes)
    x = example.x - example.mean()
    for problem in range(K):
        rows = example.seen(problem)
        logits = np.empty((len(x), classes))
        for label in range(classes):
            true_class = rows[example.y[rows] == label]
            direction = example.weight[true_class] @ (
                x[true_class] / np.linalg.norm(x[true_class], axis=1, keepdims=True)
            )
            logits[:, label] = x @ direction / np.linalg.norm(direction)
        actual = example.x @ result.coef[problem].T + result.intercept[problem]
        expected = logits[:, 1:] - logits[:, :1] if classes == 2 else logits
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)


def test_the_scale_is_the_mean_variance_of_a_feature() -> None:
    example = data(3)
    spread = np.average((example.x - example.mean()) ** 2, axis=0, weights=example.weight)
    np.testing.assert_allclose(
        RegularizedCovariances(example.moments(3), example.mean()).scale, spread.mean(), rtol=1e-12
    )


@pytest.mark.parametrize("factor", [1e-3, 8000.0])
def test_the_unit_of_the_features_changes_no_logit(factor: float) -> None:
    example = data(3)
    larger = example._replace(x=example.x * factor)
    first, other = (RegularizedCovariances(each.moments(3), each.mean()) for each in (example, larger))
    for solve in ("ridge", "lda"):
        for actual, theirs in zip(
            solutions(first, solve, [1.0, 1e-4]), solutions(other, solve, [1.0, 1e-4]), strict=True
        ):
            np.testing.assert_allclose(actual.coef, theirs.coef * factor, rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(actual.intercept, theirs.intercept, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("unit", [1e-4, 0.01, 100.0])
@pytest.mark.parametrize("solve", ["ridge", "lda", "centroids"])
def test_the_unit_of_the_weights_changes_no_logit(solve: str, unit: float) -> None:
    example = data(3)
    lighter = example._replace(weight=example.weight * unit)
    for first, other in zip(path(example, solve), path(lighter, solve), strict=True):
        np.testing.assert_allclose(other.coef, first.coef, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(other.intercept, first.intercept, rtol=1e-6, atol=1e-8)


def path(data: Data, solve: str) -> list[PathWeights]:
    if solve == "centroids":
        return centroids(data, 3)
    return solutions(RegularizedCovariances(data.moments(3), data.mean()), solve, [1e4, 1.0, 1e-6])


def test_more_features_than_rows_are_told_apart() -> None:
    example = data(3, n=30, d=50)
    covariances = RegularizedCovariances(example.moments(3), example.mean())
    for result in (*solutions(covariances, "ridge", [1e-4]), *solutions(covariances, "lda", [1e-4])):
        np.testing.assert_array_equal((example.x @ result.coef[-1].T + result.intercept[-1]).argmax(axis=1), example.y)


def without_class_2_in_problem_1(n: int, d: int) -> Data:
    example = data(3, n, d)
    return example._replace(fold=np.where(example.y == 2, 1, np.where(example.fold == 1, 0, example.fold)))


@pytest.mark.parametrize("solve", ["ridge", "lda", "centroids"])
def test_a_class_without_rows_in_a_problem_breaks_nothing(solve: str) -> None:
    data = without_class_2_in_problem_1(90, 6)
    assert data.moments(3)[1].counts[2] == 0
    for result in path(data, solve):
        assert np.isfinite(result.coef).all()
        assert np.isfinite(result.intercept).all()


@pytest.mark.parametrize("solve", ["ridge", "lda"])
@pytest.mark.parametrize(("n", "d"), [(90, 6), (30, 50)])
def test_a_class_without_rows_in_a_problem_is_not_what_it_predicts(n: int, d: int, solve: str) -> None:
    data = without_class_2_in_problem_1(n, d)
    new = data.x.mean(axis=0) + np.random.default_rng(1).normal(size=(200, d)) * data.x.std(axis=0)
    for result in path(data, solve):
        logits = new @ result.coef[1].T + result.intercept[1]
        assert (logits.argmax(axis=1) == 2).sum() == 0


@pytest.mark.parametrize("solve", ["ridge", "lda"])
def test_features_without_spread_give_the_shares_of_the_classes(solve: str) -> None:
    example = data(3)
    example = example._replace(x=np.full_like(example.x, 7.0))
    covariances = RegularizedCovariances(example.moments(3), example.mean())
    probabilities = np.bincount(example.y, example.weight) / example.weight.sum()
    for result in solutions(covariances, solve, [1e4, 1e-6]):
        logits = np.full(6, 7.0) @ result.coef[-1].T + result.intercept[-1]
        np.testing.assert_allclose(
            logits, 2 * probabilities - 1 if solve == "ridge" else np.log(probabilities), atol=1e-9
        )


def test_a_strength_below_the_rounding_errors_ends_the_path() -> None:
    """30 rows of 50 features leave 20 eigenvalues or more of 0, which rounding makes negative ones."""
    example = data(3, n=30, d=50)
    covariances = RegularizedCovariances(example.moments(3), example.mean())
    for solve in (ridge, lda):
        assert [weights.value for weights in covariances.path(solve, [1.0, 1e-3, 1e-30, 1e-31])] == [1.0, 1e-3]


def test_a_first_strength_below_the_rounding_errors_is_an_error() -> None:
    """Without a solution there is nothing to choose from."""
    example = data(3, n=30, d=50)
    covariances = RegularizedCovariances(example.moments(3), example.mean())
    with pytest.raises(np.linalg.LinAlgError):
        next(covariances.path(ridge, [1e-30]))


def test_ridge_and_lda_of_a_strength_share_their_factorization(monkeypatch: pytest.MonkeyPatch) -> None:
    example = data(3)
    covariances = RegularizedCovariances(example.moments(3), example.mean())
    factorize = Mock(side_effect=closed_form.cho_factor)
    monkeypatch.setattr(closed_form, "cho_factor", factorize)
    solutions(covariances, "ridge", [1.0, 1e-3])
    assert factorize.call_count == 2 * K
    solutions(covariances, "lda", [1.0, 1e-3])
    assert factorize.call_count == 2 * K


def test_factorizations_end_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that continues later does not repeat what was computed."""
    example = data(3)
    covariances = RegularizedCovariances(example.moments(3), example.mean())
    factorize = Mock(side_effect=closed_form.cho_factor)
    monkeypatch.setattr(closed_form, "cho_factor", factorize)
    answers = iter([False, False, True])
    with pytest.raises(OutOfTimeError):
        next(covariances.path(ridge, [1.0], lambda: next(answers)))
    assert factorize.call_count == 2
    next(covariances.path(ridge, [1.0]))
    assert factorize.call_count == K - 1


def test_the_scale_of_a_basis_is_that_of_the_features() -> None:
    """Rows in a space of r dimensions have the variance of d features, so that strengths mean the same."""
    example = data(3)
    whole = RegularizedCovariances(example.moments(3), example.mean())
    assert RegularizedCovariances(example.moments(3), example.mean(), 60).scale == pytest.approx(whole.scale / 10)
