"""Self-training: what a head learns from samples without a label, when it is used, and what it must not see."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from featcache import FeatureCache, fit_head
from featcache.core.model_card import ModelCard
from featcache.errors import CacheIncompleteError, HeadError
from featcache.heads import self_training
from featcache.heads.self_training import STRENGTH, WEIGHT, SelfTraining
from featcache.heads.training_data import TrainingData
from featcache.models.feature_classifier import FeatureClassifier

CLASSES = ["ant", "bee", "wasp"]


def clusters(n: int, seed: int, d: int = 60) -> tuple[NDArray[np.float32], list[str]]:
    """Three clusters in d dimensions, which few samples locate badly."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return (rng.normal(size=(n, d)) + 3 * np.eye(3, d)[y]).astype(np.float32), [CLASSES[i] for i in y]


def make_cache(
    unlabeled: NDArray[np.float32], *, train: int = 24, val: int = 300, seed: int = 4, groups: Sequence[str] = ()
) -> FeatureCache:
    """Few labels, these samples without one, and val. groups : of train, then of unlabeled."""
    x, names = clusters(train + val, seed)
    labels = [*names[:train], *[None] * len(unlabeled), *names[train:]]
    split = ["train"] * train + ["unlabeled"] * len(unlabeled) + ["val"] * val
    return FeatureCache.from_arrays(
        np.concatenate([x[:train], unlabeled, x[train:]]),
        labels,
        split=split,
        groups=[*groups, *[""] * (len(split) - len(groups))] if groups else None,
    )


def result_of(cache: FeatureCache) -> SelfTraining:
    fit = fit_head(cache, unlabeled=True)
    assert fit.self_training
    return fit.self_training


def test_head_learns_from_unlabeled_samples_if_they_help(tmp_path: Path) -> None:
    cache = make_cache(clusters(400, seed=1)[0])
    plain, fit = fit_head(cache), fit_head(cache, tmp_path, unlabeled=True)
    result = fit.self_training
    assert result
    assert result.used
    assert result.gain > 0
    assert (result.samples, result.unlabeled, result.copies, result.held_out) == (400, 400, 0, 24)
    assert result.gain == pytest.approx(result.self_trained - result.plain)
    assert fit.accuracy.accuracy > plain.accuracy.accuracy + 0.03
    assert f"self-training: {100 * result.gain:+.1f} points (CV " in str(fit)
    assert "400 of 400 unlabeled samples used" in str(fit)
    # the saved head says so, and predicts alike
    saved = json.loads((tmp_path / "model.json").read_text())
    assert saved["self_training"] == json.loads((tmp_path / "run.json").read_text())["self_training"]
    assert saved["self_training"]["samples"] == 400
    assert ModelCard.read(tmp_path).self_training == result.to_dict()
    assert saved["head"] == fit.name == "lda"
    predicted = [prediction.label for prediction in FeatureClassifier.load(tmp_path).stream(cache, split="val")]
    expected = [CLASSES[label] for label in fit.estimator.predict(cache.features("val").clean())]
    assert predicted == expected


def test_head_is_the_plain_one_if_they_do_not_help(tmp_path: Path) -> None:
    noise = np.random.default_rng(5).normal(3, 4, size=(300, 60)).astype(np.float32)
    cache = make_cache(noise)
    plain, fit = fit_head(cache), fit_head(cache, tmp_path, unlabeled=True)
    assert fit.self_training
    assert not fit.self_training.used
    assert fit.name == plain.name
    np.testing.assert_array_equal(fit.estimator.coef_, plain.estimator.coef_)
    assert "self-training does not help" in str(fit)
    assert "the head is the one without them" in str(fit)
    assert "self_training" not in json.loads((tmp_path / "model.json").read_text())
    assert json.loads((tmp_path / "run.json").read_text())["self_training"]["used"] is False


def test_without_the_option_unlabeled_samples_are_not_read() -> None:
    fit = fit_head(make_cache(clusters(400, seed=1)[0]))
    assert fit.self_training is None
    assert "self-training" not in str(fit)


def test_head_is_lda_on_labels_and_predictions() -> None:
    """The formula, in numpy: two rounds of LDA with equal priors; the second with all predictions of the first."""
    x, y = (part[:24] for part in clusters(324, seed=4))
    unlabeled = clusters(400, seed=1)[0]
    labels = np.array([CLASSES.index(name) for name in y])

    def lda(x: NDArray[np.float64], labels: NDArray[np.int64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
        means = np.stack([np.average(x[labels == c], axis=0, weights=weight[labels == c]) for c in range(3)])
        within = np.cov((x - means[labels]).T, aweights=weight, ddof=0)
        scale = np.cov(x.T, aweights=weight, ddof=0).trace() / x.shape[1]
        coef = np.linalg.solve(within + STRENGTH * scale * np.eye(x.shape[1]), means.T).T
        return np.c_[coef, -np.einsum("cd,cd->c", coef, means) / 2]

    def logits(weights: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        return x @ weights[:, :-1].T + weights[:, -1]

    first = lda(x.astype(float), labels, np.ones(24))
    guessed = logits(first, unlabeled).argmax(axis=1)
    everything, weight = np.concatenate([x, unlabeled]).astype(float), np.r_[np.ones(24), np.full(400, WEIGHT)]
    second = logits(lda(everything, np.r_[labels, guessed], weight), unlabeled)
    fit = fit_head(make_cache(unlabeled), unlabeled=True)
    assert fit.self_training
    assert fit.self_training.used
    assert fit.selection
    found = fit.estimator.decision_function(unlabeled) * fit.selection.temperature
    np.testing.assert_allclose(*(z - z.mean(axis=1, keepdims=True) for z in (found, second)), atol=2e-3)


def test_copies_of_val_and_test_are_left_out_and_counted() -> None:
    unlabeled = clusters(100, seed=1)[0]
    cache = make_cache(unlabeled)
    val = cache.features("val").clean()
    with_copies = result_of(make_cache(np.concatenate([unlabeled, val[:30]])))
    assert (with_copies.samples, with_copies.unlabeled, with_copies.copies) == (100, 130, 30)
    assert "(30 left out: val or test has a copy, or their group)" in str(with_copies)
    without = result_of(cache)
    assert with_copies.self_trained_log_loss == pytest.approx(without.self_trained_log_loss, rel=1e-3)


def test_if_val_has_a_copy_of_each_the_head_says_so() -> None:
    cache = make_cache(make_cache(np.zeros((1, 60), np.float32)).features("val").clean())
    fit = fit_head(cache, unlabeled=True)
    assert fit.self_training is None
    assert "self-training was not tried: val or test has a copy of each sample without a label" in str(fit)


@pytest.mark.parametrize("by", ["content", "group"])
def test_held_out_samples_teach_nothing_through_unlabeled_ones(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of training samples, or samples of their groups, never weigh in the fold that holds the original out."""
    x, extra = clusters(324, seed=4)[0][:24], clusters(50, seed=1)[0]
    others = x if by == "content" else clusters(24, seed=2)[0]
    names = [f"patient {row}" for row in range(24)]
    cache = make_cache(np.concatenate([others, extra]), groups=[*names, *names] if by == "group" else ())
    seen: list[NDArray[np.float64]] = []
    accumulate = self_training.accumulate

    def spy(x, labels, weight, fold, k, classes):  # type: ignore[no-untyped-def]
        if k == 1:
            seen.append(weight)
        return accumulate(x, labels, weight, fold, k, classes)

    monkeypatch.setattr(self_training, "accumulate", spy)
    result_of(cache)
    assert len(seen) == 6  # five folds, and all samples
    left_out = np.array([weight[:24] == 0 for weight in seen])
    np.testing.assert_array_equal(left_out.sum(axis=0), np.ones(24))  # in the fold of its original, and nowhere else
    assert not left_out[-1].any()
    assert all(weight[24:].min() == WEIGHT for weight in seen)


def test_many_labels_need_no_unlabeled_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_training, "MAX_LABELED", 20)
    fit = fit_head(make_cache(clusters(100, seed=1)[0]), unlabeled=True)
    assert "self-training was not tried: it is for few labels, 20 or fewer, not for 24" in str(fit)


def test_of_many_unlabeled_samples_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_training, "MAX_UNLABELED", 60)
    result = result_of(make_cache(clusters(100, seed=1)[0]))
    assert (result.samples, result.unlabeled) == (60, 100)


def test_too_few_labels_to_hold_a_fold_out() -> None:
    x, names = clusters(40, seed=0)
    labels = [*names[:4], *[None] * 16, *names[20:]]
    cache = FeatureCache.from_arrays(x, labels, split=["train"] * 4 + ["unlabeled"] * 16 + ["val"] * 20)
    fit = fit_head(cache, unlabeled=True)
    assert fit.self_training is None
    assert "self-training was not tried: there are too few labels" in str(fit)


def test_errors() -> None:
    x, names = clusters(60, seed=0)
    labeled = FeatureCache.from_arrays(x, names)
    with pytest.raises(CacheIncompleteError, match="no images without a label to learn from: all 60 have one"):
        fit_head(labeled, unlabeled=True)
    cache = make_cache(clusters(30, seed=1)[0])
    with pytest.raises(HeadError, match="unlabeled is for auto, which compares heads, not for ridge"):
        fit_head(cache, head="ridge", unlabeled=True)
    with pytest.raises(HeadError, match="unlabeled takes no class_weight"):
        fit_head(cache, parameters={"class_weight": "balanced"}, unlabeled=True)


def test_several_labels_are_refused() -> None:
    x, _ = clusters(40, seed=0)
    labels = np.array([[1, 0], [0, 1], [1, 1], [np.nan, np.nan]] * 10)
    split = ["train", "val", "train", "unlabeled"] * 10
    cache = FeatureCache.from_arrays(x, labels, classes=CLASSES[:2], split=split)
    with pytest.raises(HeadError, match="unlabeled is for samples with one label"):
        fit_head(cache, unlabeled=True)


def test_two_classes_and_views() -> None:
    """A binary head has one logit; the labels of all views count as one sample."""
    rng = np.random.default_rng(0)
    y = np.arange(320) % 2
    clean = rng.normal(size=(320, 40)) + 2.2 * np.eye(2, 40)[y]
    x = np.stack([clean, clean + 0.1 * rng.normal(size=clean.shape)], axis=1).astype(np.float32)
    labels = [["no", "yes"][label] if row < 16 or row >= 216 else None for row, label in enumerate(y)]
    cache = FeatureCache.from_arrays(x, labels, split=["train"] * 16 + ["unlabeled"] * 200 + ["val"] * 104)
    data = TrainingData.read(cache, "penultimate", with_unlabeled=True)
    assert data.unlabeled
    assert len(data.unlabeled.samples) == 200
    fit = fit_head(cache, unlabeled=True)
    assert fit.self_training
    assert fit.self_training.held_out == 16
    if fit.self_training.used:
        assert fit.estimator.coef_.shape == (1, 40)
