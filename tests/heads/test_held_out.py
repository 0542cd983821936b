"""Scores of held-out samples: what `fit_head` saves of them, and which files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save
from sklearn.linear_model import LogisticRegression

from featcache import FeatureCache, fit_head
from featcache.errors import HeadError
from featcache.heads.held_out import FILE, HeldOutScores

CLASSES = ["ant", "bee", "wasp"]
ARRAYS = {
    "probability": np.zeros(3), "novelty": np.zeros(3), "coef": np.ones((2, 4), np.float32), "intercept": np.zeros(2),
    "products": np.eye(2), "priors": np.ones(2) / 2,
}  # fmt: skip


def make_cache(n: int = 240, seed: int = 0) -> FeatureCache:
    """Three overlapping clusters; every fourth sample is val."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = rng.normal(size=(n, 6)) + 1.5 * np.eye(6)[y]
    return FeatureCache.from_arrays(x, [CLASSES[i] for i in y], split=["train", "train", "train", "val"] * (n // 4))


def test_scores_are_sorted_probabilities() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3]])
    scores = HeldOutScores.from_probabilities(probabilities, np.array([0, 1, 1]))
    np.testing.assert_allclose(scores.probability, [0.3, 0.5, 0.7], rtol=1e-6)
    assert scores.novelty is None


@pytest.mark.parametrize("head", ["linear", "ridge", "lda", "centroid", "knn", "auto"])
def test_heads_that_choose_their_settings_save_scores_of_all_training_samples(tmp_path: Path, head: str) -> None:
    fit_head(make_cache(), tmp_path, head=head)
    arrays = load_file(tmp_path / FILE)
    assert {name: values.shape for name, values in arrays.items()} == {
        "probability": (180,), "novelty": (180,), "coef": (3, 6), "intercept": (3,), "products": (3, 3), "priors": (3,)
    }  # fmt: skip
    assert all(np.all(np.diff(arrays[name]) >= 0) for name in ("probability", "novelty"))


def test_scores_of_folds_are_those_of_scikit_learn(tmp_path: Path) -> None:
    """With settings of the user, the folds can be counted by hand: the mean score is that of new samples."""
    cache = make_cache(2400)
    fit_head(cache, tmp_path, head=LogisticRegression(C=1.0), cv=5)
    held_out = HeldOutScores.load(tmp_path, tmp_path / FILE).probability
    train, val = cache.features("train"), cache.features("val")
    fitted = LogisticRegression(C=1.0).fit(train.x[:, 0], train.y)
    new = fitted.predict_proba(val.x[:, 0])[np.arange(len(val.y)), val.y]
    assert len(held_out) == len(train.y)
    assert abs(held_out.mean() - new.mean()) < 4 * new.std() / np.sqrt(len(new))


def test_fit_without_held_out_samples_saves_no_scores_and_removes_former_ones(tmp_path: Path) -> None:
    fit_head(make_cache(), tmp_path, head="linear")
    assert (tmp_path / FILE).exists()
    fit = fit_head(make_cache(), tmp_path, head=LogisticRegression())
    assert not (tmp_path / FILE).exists()
    assert fit.sets == ()


def test_figures_of_val_are_those_of_the_saved_threshold(tmp_path: Path) -> None:
    cache = make_cache(2400)
    fit = fit_head(cache, tmp_path, head="lda")
    val, scores = cache.features("val"), HeldOutScores.load(tmp_path, tmp_path / FILE)
    probabilities = fit.estimator.predict_proba(val.x[:, 0])
    assert [figures.requested for figures in fit.sets] == [0.8, 0.9, 0.95, 0.99]
    for figures in fit.sets:
        sets = probabilities >= scores.set_threshold(figures.requested)
        assert figures.coverage == sets[np.arange(len(sets)), val.y].mean()
        assert figures.mean_size == sets.sum(axis=1).mean()
        assert figures.low < figures.requested < figures.high
    assert "sets with a coverage of 95%" in str(fit)


def test_few_samples_give_only_the_figures_that_they_suffice_for() -> None:
    fit = fit_head(make_cache(40), head="linear")  # 30 training samples
    assert [figures.requested for figures in fit.sets] == [0.8, 0.9, 0.95]


def test_too_few_samples_are_an_error_with_the_number_that_is_needed() -> None:
    scores = HeldOutScores(np.zeros(18))
    with pytest.raises(HeadError, match=r"coverage 0\.95 needs 19 training samples or more, and this head has 18"):
        scores.check_enough(0.95, "coverage")
    scores.check_enough(0.9, "coverage")
    assert scores.set_threshold(0.95) == 0  # all labels


@pytest.mark.parametrize("coverage", [0, 1, 1.5, -0.1])
def test_impossible_coverage_is_refused(coverage: float) -> None:
    scores = HeldOutScores(np.zeros(100))
    with pytest.raises(HeadError, match=f"coverage is {coverage}; it must be above 0 and below 1"):
        scores.set_threshold(coverage)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        save({"novelty": np.zeros(3)}),
        save({"probability": np.zeros(3), "novelty": np.zeros(3)}),
        save({**ARRAYS, "novelty": np.array([1.0, 0.0])}),
        save({**ARRAYS, "priors": np.ones(3) / 3}),
        save({**ARRAYS, "intercept": np.array([0.0, np.inf])}),
        save({"probability": np.array([1, 0], np.float32)}),
        save({"probability": np.array([0, np.nan], np.float32)}),
        save({"probability": np.zeros((2, 2), np.float32)}),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / FILE
    path.write_bytes(content)
    with pytest.raises(HeadError, match="is damaged"):
        HeldOutScores.load(tmp_path, path)


def test_a_sound_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(save(ARRAYS))
    novelty = HeldOutScores.load(tmp_path, path).novelty
    assert novelty
    np.testing.assert_array_equal(novelty.score.priors, [0.5, 0.5])
    path.write_bytes(save({"probability": ARRAYS["probability"]}))
    assert HeldOutScores.load(tmp_path, path).novelty is None


def test_a_head_without_scores_says_which_heads_have_them(tmp_path: Path) -> None:
    with pytest.raises(HeadError, match="written by heads that choose their settings"):
        HeldOutScores.load(tmp_path, tmp_path / FILE)
