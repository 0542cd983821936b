"""The novelty score against its definition, its limit on new samples, and what is said of classes that are left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from featcache import FeatureCache, fit_head
from featcache.heads.held_out import FILE, HeldOutNovelty, HeldOutScores
from featcache.heads.novelty import STRENGTH

Array = NDArray[np.float64]


def clusters(n: int, classes: int, seed: int, d: int = 8, distance: float = 3.0) -> tuple[Array, NDArray[np.int64]]:
    """Clusters of unequal frequency with a common covariance that is not round."""
    rng = np.random.default_rng(seed)
    y = np.minimum(rng.integers(0, classes + 1, n), classes - 1)
    return rng.normal(size=(n, d)) * np.linspace(0.4, 2, d) + distance * np.eye(classes, d)[y], y


def fitted(x: Array, y: NDArray[np.int64], tmp_path: Path, head: str = "auto") -> tuple[HeldOutNovelty, object]:
    cache = FeatureCache.from_arrays(x, [f"{label:02d}" for label in y])
    fit = fit_head(cache, tmp_path / "head", head=head)
    novelty = HeldOutScores.load(tmp_path / "head", tmp_path / "head" / FILE).novelty
    assert novelty
    return novelty, (cache, fit)


def relative_distance(train: Array, y: NDArray[np.int64], x: Array) -> Array:
    """With full matrices, as it is defined."""
    means = np.stack([train[y == label].mean(axis=0) for label in np.unique(y)])
    mean, within = train.mean(axis=0), np.cov((train - means[y]).T, ddof=0)
    total = np.cov(train.T, ddof=0)
    penalty = STRENGTH * np.trace(total) / train.shape[1] * np.eye(train.shape[1])

    def squared(x: Array, center: Array, covariance: Array) -> Array:
        return np.einsum("nd,nd->n", (x - center) @ np.linalg.inv(covariance + penalty), x - center)

    nearest = np.min([squared(x, center, within) for center in means], axis=0)
    return nearest - squared(x, mean, total)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("head", ["auto", "knn"])
def test_score_is_the_relative_mahalanobis_distance(classes: int, head: str, tmp_path: Path) -> None:
    x, y = clusters(300, classes, seed=0)
    novelty, (cache, _) = fitted(x, y, tmp_path, head)
    train = cache.features("train")
    new = clusters(50, classes, seed=1)[0]
    expected = -relative_distance(np.asarray(train.clean(), np.float64), train.y, new)
    np.testing.assert_allclose(novelty.score.score_samples(new), expected, rtol=1e-4, atol=1e-3)


def test_more_features_than_samples(tmp_path: Path) -> None:
    """The fit is in the space of the rows; the score is that of all features."""
    x, y = clusters(120, 3, seed=0, d=200, distance=6)
    novelty, (cache, _) = fitted(x, y, tmp_path)
    train = cache.features("train")
    new = clusters(50, 3, seed=1, d=200)[0]
    expected = -relative_distance(np.asarray(train.clean(), np.float64), train.y, new)
    np.testing.assert_allclose(novelty.score.score_samples(new), expected, rtol=1e-3, atol=1e-2)


def test_of_new_samples_of_the_classes_one_in_twenty_is_below_the_limit(tmp_path: Path) -> None:
    x, y = clusters(1250, 4, seed=0)
    novelty, _ = fitted(x, y, tmp_path)
    new = clusters(4000, 4, seed=1)[0]
    share = np.mean(novelty.score.score_samples(new) < novelty.threshold)
    assert abs(share - 0.05) < 4 * np.sqrt(0.05 * 0.95 * (1 / 4000 + 1 / 1000))


def test_many_classes_with_few_samples_are_not_refused_more_often(tmp_path: Path) -> None:
    """Forty classes with 12 samples each, and more features than samples."""
    rng = np.random.default_rng(0)
    y = np.arange(1080) % 40
    means = rng.normal(size=(40, 600))
    x = 0.5 * means[y] + rng.normal(size=(1080, 600))
    split = ["train" if row < 480 else "val" for row in range(1080)]
    cache = FeatureCache.from_arrays(x, [f"{label:02d}" for label in y], split=split)
    fit_head(cache, tmp_path, head="lda")
    novelty = HeldOutScores.load(tmp_path, tmp_path / FILE).novelty
    assert novelty
    assert np.mean(novelty.score.score_samples(cache.features("val").clean()) < novelty.threshold) < 0.08


def test_figures_are_those_of_a_class_that_was_left_out(tmp_path: Path) -> None:
    """The area that is said is close to that of new classes, measured by fits without each class."""
    x, y = clusters(1200, 4, seed=0, distance=2.5)
    _, (_, fit) = fitted(x, y, tmp_path)
    assert fit.novelty.classes == 4
    areas, refused = [], []
    for label in range(4):
        others = np.flatnonzero(y != label)
        novelty, (cache, _) = fitted(x[others], y[others], tmp_path / str(label))
        known = novelty.score.score_samples(cache.features("val").clean())
        unknown = novelty.score.score_samples(x[y == label])
        truth = np.r_[np.ones(len(known)), np.zeros(len(unknown))]
        areas.append(roc_auc_score(truth, np.r_[known, unknown]))
        refused.append(np.mean(unknown < novelty.threshold))
    assert abs(fit.novelty.auroc - np.mean(areas)) < 0.03
    assert abs(fit.novelty.refused - np.mean(refused)) < 0.1
    assert fit.novelty.curve[0] <= fit.novelty.curve[5] <= fit.novelty.curve[-1] == 1
    assert f"(AUROC {fit.novelty.auroc:.2f})" in str(fit)
    assert fit.to_dict()["novelty"]["curve"][-1] == 1


def test_two_classes_have_a_score_but_no_figures(tmp_path: Path) -> None:
    x, y = clusters(200, 2, seed=0)
    _, (_, fit) = fitted(x, y, tmp_path)
    assert fit.novelty is None
    assert "--unknown" not in str(fit)


def test_classes_of_one_sample_leave_no_figures_and_do_not_stop_the_fit(tmp_path: Path) -> None:
    """All held-out samples are of one class then."""
    x, y = clusters(10, 1, 0)
    x, y = np.concatenate([x, x[:2] + 9]), np.concatenate([y, [1, 2]])
    fit = fit_head(FeatureCache.from_arrays(x, y, val_fraction=0), head="lda")
    assert fit.novelty is None
