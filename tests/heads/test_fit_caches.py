"""fit_head on several caches: cross-validation chooses caches as it chooses layers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from featcache.cache.feature_cache import FeatureCache
from featcache.core.model_card import ModelCard
from featcache.core.ray_cluster import Cluster
from featcache.errors import CacheMismatchError, HeadError
from featcache.heads.cache_comparison import Gain
from featcache.heads.fit_head import HeadFit, fit_head
from featcache.heads.held_out import HeldOutPredictions
from featcache.models.feature_classifier import FeatureClassifier
from joined import N, Y, network_cache, signal

X = signal(0.8, 16)
HALVES = X[..., :8], X[..., 8:]


@pytest.fixture
def halves(tmp_path: Path) -> list[FeatureCache]:
    """Two networks that each know a part."""
    return [network_cache(tmp_path / f"{name}.h5", x, extract_s=s) for name, x, s in zip("ab", HALVES, (0.01, 0.03),
                                                                                     strict=True)]  # fmt: skip


def coefficients(fit: HeadFit) -> np.ndarray:
    return np.asarray(fit.estimator.coef_)


@pytest.mark.parametrize("head", ["ridge", "linear", "auto"])
def test_two_halves_are_the_head_on_the_layers_of_one_cache(
    tmp_path: Path, halves: list[FeatureCache], head: str
) -> None:
    best_first = sorted(halves, key=lambda cache: fit_head(cache, head=head).selection.chosen.accuracy.log_loss)
    joined = fit_head(best_first, head=head)
    first, second = (HALVES["ab".index(cache.path.stem)] for cache in best_first)
    whole = network_cache(tmp_path / "whole.h5", {"penultimate": first, "layer1": second})
    expected = fit_head(whole, head=head)
    assert expected.layers == ("penultimate", "layer1")
    assert joined.layers == tuple(f"{cache.path.stem}/penultimate" for cache in best_first)
    np.testing.assert_allclose(coefficients(joined), coefficients(expected), rtol=1e-6)
    assert joined.accuracy == expected.accuracy
    comparison = joined.cache_comparison
    assert comparison is not None
    assert comparison.chosen == tuple(cache.path.stem for cache in best_first)
    alone, _, both = comparison.candidates
    assert alone.accuracy == fit_head(best_first[0], head=head).selection.chosen.accuracy
    assert both.gain is not None
    assert both.gain.log_loss == pytest.approx(alone.accuracy.log_loss - both.accuracy.log_loss)
    assert both.gain.accuracy.difference == pytest.approx(both.accuracy.accuracy - alone.accuracy.accuracy)
    assert both.extract_s == pytest.approx(40)


def test_the_order_of_samples_does_not_matter(tmp_path: Path, halves: list[FeatureCache]) -> None:
    (tmp_path / "other").mkdir()
    shuffled = network_cache(tmp_path / "other" / "b.h5", HALVES[1], np.random.default_rng(0).permutation(N))
    expected, found = fit_head(halves, head="ridge"), fit_head([halves[0], shuffled], head="ridge")
    np.testing.assert_array_equal(coefficients(found), coefficients(expected))


def test_noise_is_dropped_and_the_head_needs_one_network(tmp_path: Path, halves: list[FeatureCache]) -> None:
    noise = network_cache(tmp_path / "noise.h5", signal(0, seed=7), extract_s=0.5)
    alone = fit_head(halves[0], tmp_path / "alone")
    found = fit_head([noise, halves[0]], tmp_path / "head")
    comparison = found.cache_comparison
    assert comparison is not None
    assert comparison.chosen == ("a",)
    assert found.layers == alone.layers == ("penultimate",)
    assert (tmp_path / "head/head.safetensors").read_bytes() == (tmp_path / "alone/head.safetensors").read_bytes()
    assert ModelCard.read(tmp_path / "head").spec == halves[0].spec
    assert not ModelCard.read(tmp_path / "head").networks
    text = str(found)
    assert "noise adds" in text
    assert "for 500.0 s per 1,000 views: not worth it" in text
    assert "chosen: a alone; the head needs one network" in text
    assert json.loads((tmp_path / "head/run.json").read_text())["cache_comparison"]["chosen"] == ["a"]
    three = fit_head([noise, *halves])
    assert three.layers == ("a/penultimate", "b/penultimate")
    assert three.cache_comparison is not None
    assert len(three.cache_comparison.candidates) == 6


def test_a_dropped_cache_costs_no_samples(tmp_path: Path, halves: list[FeatureCache]) -> None:
    noise = network_cache(tmp_path / "noise.h5", signal(0, seed=7), np.r_[0:90, 120:N])
    notes: list[str] = []
    found = fit_head([noise, halves[0]], head="ridge", on_note=notes.append)
    np.testing.assert_array_equal(coefficients(found), coefficients(fit_head(halves[0], head="ridge")))
    assert found.report.images == 120
    assert any("30 samples of" in note and "left out" in note for note in notes)


def test_named_layers_are_all_used(tmp_path: Path, halves: list[FeatureCache]) -> None:
    noise = network_cache(tmp_path / "noise.h5", signal(0, seed=7))
    found = fit_head([noise, halves[0]], head="ridge", layer="last")
    assert found.layers == ("noise/penultimate", "a/penultimate")
    assert "the head uses a and noise, as the layers were named" in str(found)
    single = fit_head([noise, halves[0]], head="ridge", layer="a/penultimate")
    assert single.layers == ("penultimate",)
    assert single.notes == ("the layers are those of a, so noise is not used",)
    np.testing.assert_array_equal(coefficients(single), coefficients(fit_head(halves[0], head="ridge")))


def test_heads_that_do_not_cross_validate_use_all(halves: list[FeatureCache]) -> None:
    found = fit_head(halves, head="sklearn.naive_bayes.GaussianNB")
    assert found.layers == ("a/penultimate", "b/penultimate")
    assert found.cache_comparison is None
    assert (
        "sklearn.naive_bayes.GaussianNB does not cross-validate, so the caches are not compared: it uses all of them"
        in found.notes
    )


def test_views_of_one_are_used_where_those_of_both_cannot_be(tmp_path: Path) -> None:
    views = network_cache(tmp_path / "views.h5", signal(0.8, views=3))
    noise = network_cache(tmp_path / "noise.h5", signal(0, seed=7, views=3), seed=4)
    found = fit_head([noise, views], head="ridge")
    np.testing.assert_array_equal(coefficients(found), coefficients(fit_head(views, head="ridge")))


def test_caches_predict_in_any_order_what_the_head_said_of_val(tmp_path: Path, halves: list[FeatureCache]) -> None:
    fit = fit_head(halves, tmp_path / "head", head="ridge")
    card = ModelCard.read(tmp_path / "head")
    assert [network.name for network in card.networks] == ["a", "b"]
    assert [network.spec for network in card.networks] == [cache.spec for cache in halves]
    classifier = FeatureClassifier.load(tmp_path / "head")
    for caches in (halves, halves[::-1], [cache.path for cache in halves]):
        predictions = classifier.predict(caches, split="val")
        right = [prediction.label == ("ants", "bees", "cats")[label] for prediction, label in
                 zip(predictions, Y[120:], strict=True)]  # fmt: skip
        assert np.mean(right) == fit.accuracy.accuracy
    with pytest.raises(CacheMismatchError, match=r"takes features of 2 networks \(a: a, b: b\), and 1 cache was given"):
        classifier.predict(halves[0])
    other = network_cache(tmp_path / "other.h5", HALVES[1])
    with pytest.raises(CacheMismatchError, match=r"other\.h5 lacks the features .* it has backbone=other, the head ne"):
        classifier.predict([other, halves[0]])
    single = FeatureClassifier(*_saved(tmp_path, halves[0]))
    with pytest.raises(CacheMismatchError, match=r"takes features of one network \(a\), and 2 caches were given"):
        single.predict(halves)


def _saved(tmp_path: Path, cache: FeatureCache) -> tuple[str, ModelCard, object]:
    fit = fit_head(cache, tmp_path / "single", head="ridge")
    return "single", ModelCard.read(tmp_path / "single"), fit.estimator


def test_a_cluster_is_refused(halves: list[FeatureCache]) -> None:
    with pytest.raises(HeadError, match="a cluster is for a head on one cache: leave it out"):
        fit_head(halves, cluster=Cluster())


def test_gain_is_paired_by_sample_and_group(halves: list[FeatureCache]) -> None:
    train = halves[0].features("train").take(np.arange(4))
    y = train.y
    sure, unsure = np.full((4, 3), 0.05), np.full((4, 3), 0.25)
    sure[np.arange(4), y], unsure[np.arange(4), y] = 0.9, 0.5
    worse = unsure.copy()
    worse[3] = np.roll(unsure[3], 1)
    first = HeldOutPredictions(np.arange(4), worse.argmax(axis=1), worse)
    gain = Gain.between(train, first, HeldOutPredictions(np.arange(4), y, sure))
    losses = np.log([0.9 / 0.5] * 3 + [0.9 / 0.25])
    assert gain.log_loss == pytest.approx(losses.mean())
    assert gain.log_loss_error == pytest.approx(losses.std() / 2)
    assert gain.accuracy.difference == 0.25
    assert gain.is_clear
    assert not Gain.between(train, first, first).is_clear


@pytest.mark.parametrize(
    ("name", "value"), [("name", 3), ("layer", "layer9"), ("digest", "0" * 64), ("spec", {"backbone": "x"})]
)
def test_damaged_networks_of_a_card_are_refused(
    tmp_path: Path, halves: list[FeatureCache], name: str, value: object
) -> None:
    fit_head(halves, tmp_path / "head", head="ridge")
    file = tmp_path / "head/model.json"
    fields = json.loads(file.read_text())
    fields["networks"][1][name] = value
    file.write_text(json.dumps(fields))
    with pytest.raises(HeadError):
        FeatureClassifier.load(tmp_path / "head")
