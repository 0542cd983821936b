"""auto: the best of its members, on the same held-out images as each of them alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from caches import cache_of, cache_of_layers, clouds
from featcache.cache.feature_cache import FeatureCache
from featcache.errors import HeadError
from featcache.heads.fit_head import HeadFit, fit_head
from featcache.heads.registry import HEADS, auto_heads
from featcache.metrics.classification import Accuracy
from featcache.metrics.multilabel import LabelAccuracy
from tuned import AUTO


def overlapping(path: Path, kind: str) -> FeatureCache:
    """Sets on which another member is the best one."""
    train, (x, y) = clouds(120, 3, views=2, d=10, apart=0.8), clouds(300, 3, d=10, apart=0.8, seed=1)
    x_train, y_train = train
    if kind == "wide":  # most of the features are noise
        noise = np.random.default_rng(0).normal(size=(420, 2, 150)).astype(np.float32)
        x_train, x = np.concatenate([x_train, noise[:120]], 2), np.concatenate([x, noise[120:, :1]], 2)
    elif kind == "correlated":
        mix = np.random.default_rng(0).normal(size=(10, 10)).astype(np.float32) * np.logspace(
            0, 1.5, 10, dtype=np.float32
        )
        x_train, x = x_train @ mix, x @ mix
    elif kind == "mislabelled":
        y_train = np.where(np.random.default_rng(0).random(120) < 0.15, (y_train + 1) % 3, y_train)
    return cache_of(path, (x_train, y_train), (x[:, 0], y))


def held_out(fit: HeadFit) -> dict[str, Accuracy | LabelAccuracy]:
    assert fit.selection is not None
    return {candidate.head: candidate.accuracy for candidate in fit.selection.candidates}


def test_cheap_heads_come_first() -> None:
    assert AUTO == ("lda", "centroid", "ridge", "linear")
    assert all(spec.estimate_s for spec in auto_heads())


@pytest.mark.parametrize("kind", ["plain", "wide", "correlated", "mislabelled"])
def test_the_choice_is_no_worse_than_any_member(kind: str, tmp_path: Path) -> None:
    """Of the members as accurate as the best, but for one standard error, the one with the lowest log-loss."""
    cache = overlapping(tmp_path / "c.h5", kind)
    fit = fit_head(cache, budget_s=600)
    assert fit.selection is not None
    scores = held_out(fit)
    assert set(scores) == set(AUTO)
    assert fit.selection.skipped == ()
    for name in AUTO:
        alone = fit_head(cache, head=name)
        assert held_out(alone) == {name: scores[name]}
        if name == fit.name:
            np.testing.assert_array_equal(alone.estimator.coef_, fit.estimator.coef_)
            assert alone.accuracy == fit.accuracy
    best = max(score.accuracy for score in scores.values())
    chosen = scores[fit.name]
    assert chosen.log_loss is not None
    assert best - chosen.accuracy <= np.sqrt((2 - best - chosen.accuracy) / 120)  # at most, if they err on other images
    for score in scores.values():
        if score.accuracy >= chosen.accuracy:
            assert score.log_loss is None or chosen.log_loss <= score.log_loss


def test_a_head_that_takes_longer_than_the_budget_is_named_with_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = overlapping(tmp_path / "c.h5", "plain")
    monkeypatch.setitem(HEADS._entries, "linear", replace(HEADS.get("linear"), estimate_s=lambda _: 7200.0))
    fit = fit_head(cache, budget_s=3600)
    assert set(held_out(fit)) == {"centroid", "lda", "ridge"}
    (line,) = (line for line in str(fit).splitlines() if line.startswith("linear was left out"))
    assert line == "linear was left out: it would take about 7200 s, and 3600 s are left"
    selection = fit.to_dict()["selection"]
    assert selection["missed"] == [["linear", "it would take about 7200 s, and 3600 s are left"]]
    assert fit_head(cache, head="linear").name == "linear"  # alone it has all the time


def test_the_estimate_is_near_the_time(tmp_path: Path) -> None:
    """In passes: the search of C takes 80, within a factor of four."""
    from featcache.heads.tuning.tuning_data import TuningData

    x, y = clouds(600, 5, d=40, apart=0.6)
    data = TuningData(cache_of(tmp_path / "c.h5", (x, y), (x[:5, 0], y[:5])).features("train"))
    passes, count = data.rows.loss_and_gradient, []

    def counted(theta: np.ndarray, ids: np.ndarray, *rest: object) -> object:
        count.append(len(ids) / data.folds)
        return passes(theta, ids, *rest)  # type: ignore[arg-type]

    vars(data.rows)["loss_and_gradient"] = counted
    data.estimate_logistic_path_s()
    assert count == [0.2, 1.0]  # the first, of one fold, is not timed
    data.select(data.logistic_path())
    assert 20 <= sum(count) <= 320


def test_images_with_several_labels_get_linear(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y, y_val = (rng.integers(0, 2, (n, 3)).astype(np.uint8) for n in (120, 60))
    directions = rng.normal(size=(3, 8))
    x, x_val = (
        (labels @ directions + rng.normal(size=(len(labels), 8)))[:, None].astype(np.float32) for labels in (y, y_val)
    )
    cache = cache_of_layers(tmp_path / "c.h5", ({"penultimate": x}, y), ({"penultimate": x_val}, y_val))
    fit, linear = fit_head(cache), fit_head(cache, head="linear")
    assert fit.name == "linear"
    assert set(held_out(fit)) == {"linear"}
    np.testing.assert_array_equal(fit.estimator.coef_, linear.estimator.coef_)
    assert fit.accuracy == linear.accuracy
    with pytest.raises(HeadError, match="budget_s is for samples with one label"):
        fit_head(cache, budget_s=5)
