"""Views that carry news of their class are better than none; copies, noise and views of the other class do not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ttest_1samp

from caches import clouds
from featcache.cache.features import Features
from featcache.core.samples import Samples
from featcache.heads.solvers.closed_form import lda, ridge
from featcache.heads.tuning.tuning_data import TuningData
from featcache.heads.tuning.view_selection import Gain, ViewCandidate, ViewSelection, _fewest, select_views

N, D = 120, 60


def features(x: NDArray[np.float32], y: NDArray[np.int64], seed: int = 0) -> Features:
    hashes = np.random.default_rng(seed + 50).integers(0, 256, (len(y), 32), dtype=np.uint8)
    names = tuple(f"{row:03d}.png" for row in range(len(y)))
    classes = tuple(f"class {label}" for label in range(int(y.max()) + 1))
    return Features(x, Samples(names, y, np.zeros(len(y), np.uint8), hashes, classes))


def planted(seed: int = 0) -> tuple[dict[str, Features], NDArray[np.int64]]:
    """Views near the centre of the class; views like images of the other class; copies; noise."""
    rng = np.random.default_rng(seed)
    y = np.arange(N) % 2
    center = np.zeros(D)
    center[0] = 1.0
    sign = 2 * y - 1
    clean = sign[:, None] * center + rng.normal(size=(N, D))
    fresh = sign[:, None, None] * center + 0.3 * rng.normal(size=(N, 4, D))
    kinds = {
        "fresh": fresh,
        "mirrored": -sign[:, None, None] * center + rng.normal(size=(N, 4, D)),
        "copies": np.repeat(clean[:, None], 4, axis=1),
        "noise": rng.normal(size=(N, 4, D)),
    }
    arrays = {name: np.concatenate([clean[:, None], views], axis=1) for name, views in kinds.items()}
    return {name: features(x.astype(np.float32), y) for name, x in arrays.items()}, y


@pytest.fixture(scope="module")
def selection() -> ViewSelection:
    return select_views(planted()[0], ["penultimate"])


def test_a_planted_gain_is_found(selection: ViewSelection) -> None:
    assert selection.chosen is not None
    assert selection.chosen.recipe == "fresh"
    assert selection.chosen.log_loss_gain.low > 0
    assert selection.chosen.accuracy_gain.value > 0
    assert [(each.recipe, each.views) for each in selection.candidates if each.is_better] == [
        ("fresh", views) for views in (1, 2, 4)
    ]


def test_a_planted_harm_is_refused_and_measured(selection: ViewSelection) -> None:
    mirrored = [each for each in selection.candidates if each.recipe == "mirrored"]
    assert [each.views for each in mirrored] == [1, 2, 4]
    assert all(each.log_loss_gain.high < 0 for each in mirrored)
    assert mirrored[-1].accuracy < 0.5  # most of its rows show the other class


def test_copies_change_nothing(selection: ViewSelection) -> None:
    for each in selection.candidates:
        if each.recipe == "copies":
            np.testing.assert_allclose([*each.accuracy_gain, *each.log_loss_gain], 0, atol=1e-4)
            assert not each.is_better


def test_the_scores_are_those_of_the_clean_views_of_held_out_images(selection: ViewSelection) -> None:
    made, _ = planted()
    for recipe, views in (("fresh", 2), ("noise", 4)):
        data = TuningData(made[recipe].with_views(views), "all")
        log_loss = min(float(data.select_closed_form(solve).log_loss[0]) for solve in (ridge, lda))
        found = next(each for each in selection.candidates if (each.recipe, each.views) == (recipe, views))
        assert found.log_loss == pytest.approx(log_loss, rel=1e-4)
        assert found.log_loss_gain.value == pytest.approx(selection.log_loss - found.log_loss)
        assert found.accuracy_gain.value == pytest.approx(found.accuracy - selection.accuracy)
    assert selection.images == N


def test_the_intervals_are_those_of_the_means_of_groups_and_copies() -> None:
    """Student's t over 12 groups, of which the last are two copies each, for three choices together."""
    made, y = planted()
    fresh, n = made["fresh"], 36
    kept = np.arange(n)
    groups = tuple(f"patient {row // 2 % 8}" if row < 28 else "" for row in kept)
    hashes = fresh.samples.sha256[:n].copy()
    hashes[32:] = hashes[28:32]  # rows 28 and 32 are copies of one class, and so on
    samples = replace(fresh.samples.take(kept), groups=groups, sha256=hashes)
    grouped = Features(np.asarray(fresh.x)[:n], samples)
    selection = select_views({"fresh": grouped}, ["penultimate"])
    keys = np.array([group or bytes(key).hex() for group, key in zip(groups, hashes, strict=True)])
    assert (selection.images, selection.groups) == (n, 12)

    def scores(views: int) -> NDArray[np.float64]:
        data = TuningData(grouped.with_views(views), "all")
        best = min(map(data.select_closed_form, (ridge, lda)), key=lambda found: found.log_loss[0])
        true = best.probabilities(False)[np.arange(n), y[:n]]
        both = np.stack([true > 0.5, np.log(true)])
        return np.stack([both[:, keys == key].mean(axis=1) for key in np.unique(keys)], axis=1)

    for each in selection.candidates:
        differences = scores(each.views) - scores(0)
        for gain, of_groups in zip((each.accuracy_gain, each.log_loss_gain), differences, strict=True):
            result = ttest_1samp(of_groups, 0)
            low, high = result.confidence_interval(1 - 0.05 / 3)
            np.testing.assert_allclose(gain, (of_groups.mean(), low, high), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("means", "noise", "expected"),
    [
        ((0.30, 0.20, 0.19), 0.5, 2),  # 4 views are better than 2 by less than one standard error
        ((0.30, 0.20, 0.19), 0.0, 4),
        ((0.20, 0.21, 0.19), 0.5, 1),
        ((0.60, 0.61, 0.62), 0.0, None),  # none is better
    ],
)
def test_the_fewest_views_that_are_as_good_are_chosen(
    means: tuple[float, ...], noise: float, expected: int | None
) -> None:
    rng = np.random.default_rng(0)
    losses = [mean + noise * (spread - spread.mean()) for mean in means for spread in [rng.normal(size=400)]]
    gains = [Gain(0.5 - mean, 0.45 - mean, 0.55 - mean) for mean in means]
    candidates = [ViewCandidate("crop", views, 0.9, mean, Gain(0.0, 0.0, 0.0), gain)
                  for views, mean, gain in zip((1, 2, 4), means, gains, strict=True)]  # fmt: skip
    chosen = _fewest(candidates, losses)
    assert (chosen and chosen.views) == expected


def test_noise_is_seldom_taken_for_a_gain() -> None:
    """The intervals hold for all choices together: one of twenty trials may err."""
    wrong = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x, y = clouds(60, 3, 1, 8, seed=seed)
        views = {name: np.concatenate([x, x + rng.normal(0, 0.05, (60, 4, 8))], axis=1).astype(np.float32)
                 for name in ("first", "second")}  # fmt: skip
        chosen = select_views({name: features(each, y, seed) for name, each in views.items()}, ["penultimate"]).chosen
        wrong += chosen is not None
    assert wrong <= 2


def test_several_labels_are_compared_label_by_label() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (N, 2)).astype(np.uint8)
    signal = np.concatenate([2.0 * y - 1, np.zeros((N, D - 2))], axis=1)
    clean = signal[:, None] + rng.normal(size=(N, 1, D))
    views = signal[:, None] + rng.normal(size=(N, 4, D))
    hashes = rng.integers(0, 256, (N, 32), dtype=np.uint8)
    samples = Samples(tuple(f"{row}.png" for row in range(N)), y, np.zeros(N, np.uint8), hashes, ("a", "b"))
    made = Features(np.concatenate([clean, views], axis=1).astype(np.float32), samples)
    chosen = select_views({"fresh": made}, ["penultimate"]).chosen
    assert chosen is not None
    assert chosen.accuracy > 0.5  # both labels right; a guess has 0.25


def test_the_figures_are_json_values(selection: ViewSelection) -> None:
    values = json.loads(json.dumps(selection.to_dict()))
    assert values["images"] == N
    assert values["candidates"][0]["recipe"] == "fresh"
    assert len(values["candidates"]) == 12
