"""select_layers: the layers that say the class are used, by what held-out training images tell."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from caches import cache_of_layers
from featcache.cache.feature_cache import FeatureCache
from featcache.core.samples import Samples
from featcache.errors import HeadError
from featcache.heads.fit_head import fit_head
from featcache.heads.io import load_head
from featcache.heads.layer_scaling import weigh_layers
from featcache.heads.solvers.path import PathWeights
from featcache.heads.tuning import layer_comparison
from featcache.heads.tuning.image_sample import sample_images
from featcache.heads.tuning.layer_comparison import LayerWeights
from featcache.heads.tuning.layer_selection import WEIGHTS, select_layers
from featcache.heads.tuning.path_selection import HeldOut, select_on_path
from featcache.metrics.classification import Accuracy

STAGES = ("penultimate", "layer1", "layer2:mean")
NAMES = (*STAGES, "layer2:max")
Parts = tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]


def parts(
    apart: Mapping[str, float],
    n: int = 120,
    classes: int = 3,
    d: int = 16,
    views: int = 1,
    seed: int = 0,
    labels: NDArray[np.int64] | None = None,
) -> Parts:
    """Layers in units of their own, in which the classes are so far apart, in standard deviations; 0 is noise."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes if labels is None else labels
    layers = {}
    for number, (name, distance) in enumerate(apart.items()):
        centres = np.linalg.qr(np.random.default_rng(number).normal(size=(max(d, classes), d)))[0][:classes]
        signal = y @ centres if y.ndim == 2 else centres[y]
        x = 3 + distance * signal[:, None] + rng.normal(size=(n, 1, d)) + 0.1 * rng.normal(size=(n, views, d))
        layers[name] = (10.0**number * x).astype(np.float32)
    return layers, y


def cache(path: Path, apart: Mapping[str, float], classes: int = 3, **options: Any) -> FeatureCache:
    names = classes if classes > 10 else None
    val = parts(apart, 60, classes, seed=9)
    return cache_of_layers(path, parts(apart, classes=classes, **options), val, names)


def chosen(cache: FeatureCache, keep_all: bool = False, **options: Any) -> tuple[str, ...]:
    layers = tuple(cache.spec.layers)
    weights, _ = select_layers(cache.features("train", "all"), layers, keep_all=keep_all, **options)
    return tuple(layers[number] for number in weights.layers)


def test_a_stage_that_alone_knows_the_class_is_used_and_right_on_val(tmp_path: Path) -> None:
    known = cache(tmp_path / "c.h5", dict(zip(STAGES, (0, 8, 0), strict=True)))
    fit = fit_head(known)
    assert fit.layers == ("penultimate", "layer1")
    assert fit.accuracy.accuracy > 0.95
    assert fit_head(known, layer="penultimate").accuracy.accuracy < 0.5
    assert fit.layer_selection is not None
    best = fit.layer_selection.candidates[fit.layer_selection.chosen]
    alone = fit.layer_selection.candidates[0]
    assert (alone.layers, alone.weights) == (("penultimate",), (1.0,))
    assert alone.log_loss > 1.0 > 0.3 > best.log_loss
    assert best.accuracy > 0.9
    assert best.weights[0] == 1.0
    assert best.weights[1] >= 3.0
    assert "\n".join(str(fit).splitlines()[:2]) == (
        f"layers and their weights: penultimate x 1, layer1 x {best.weights[1]:g}\n"
        f"  log-loss {best.log_loss:.4f} of ridge or LDA on 120 held-out training samples; penultimate alone has "
        f"{alone.log_loss:.4f}."
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_penultimate_layer_beside_noise_is_used_alone(tmp_path: Path, seed: int) -> None:
    known = cache(tmp_path / "c.h5", dict(zip(STAGES, (8, 0, 0), strict=True)), seed=seed)
    fit = fit_head(known)
    assert fit.layers == ("penultimate",)
    assert fit.accuracy.accuracy > 0.95
    assert fit.estimator.n_features_in_ == 16
    assert str(fit).startswith("layers: penultimate alone\n  log-loss ")
    alone = fit_head(known, layer="penultimate")
    np.testing.assert_array_equal(fit.estimator.coef_, alone.estimator.coef_)
    assert alone.layer_selection is None


def test_layers_that_all_say_a_part_are_better_together(tmp_path: Path) -> None:
    known = cache(tmp_path / "c.h5", dict.fromkeys(STAGES, 2.0), n=300)
    fit = fit_head(known)
    assert fit.layers == STAGES
    assert fit.accuracy.accuracy > fit_head(known, layer="penultimate").accuracy.accuracy + 0.05


def test_a_pool_that_alone_knows_the_class_is_used(tmp_path: Path) -> None:
    """ "all" is compared with the stages, of which a maximum is none."""
    known = cache(tmp_path / "c.h5", dict(zip(NAMES, (0, 0, 0, 8), strict=True)))
    assert chosen(known) == ("penultimate", "layer2:max")
    known = cache(tmp_path / "d.h5", dict(zip(NAMES, (0, 8, 0, 0), strict=True)))
    assert chosen(known) == ("penultimate", "layer1")


def test_each_layer_gets_a_weight_of_its_own(tmp_path: Path) -> None:
    """One stage that says much, and one that says little: a common weight is worse on new images, too."""
    apart = dict(zip(STAGES, (0.0, 1.5, 4.0), strict=True))
    val = parts(apart, 300, 10, d=64, seed=9)
    known = cache_of_layers(tmp_path / "c.h5", parts(apart, 150, 10, d=64), val)
    weights, selection = select_layers(known.features("train", "all"), STAGES, keep_all=True)
    assert selection
    assert weights.weights[2] >= 3 * weights.weights[1]
    common = min(selection.candidates[: len(WEIGHTS)], key=lambda candidate: candidate.log_loss)
    assert selection.candidates[selection.chosen].log_loss < common.log_loss - 0.05

    def log_loss(weights: tuple[float, ...]) -> float:
        train, val = known.features("train", "all"), known.features("val", "all")
        scale = weigh_layers(train, weights)
        x, x_val = (np.asarray(features.x[:]) * scale for features in (train, val))
        path = tmp_path / f"{weights}.h5"
        weighted = cache_of_layers(path, ({"penultimate": x}, train.y), ({"penultimate": x_val}, val.y))
        return fit_head(weighted, head="lda").accuracy.log_loss or 0.0

    assert log_loss(weights.weights) < log_loss(common.weights) - 0.05


def test_class_weights_count_in_the_choice(tmp_path: Path) -> None:
    """The penultimate layer tells two classes apart, layer 1 a third one, which counts for nothing or as the others."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [90, 90, 60])
    x = {name: rng.normal(size=(240, 1, 8)).astype(np.float32) for name in STAGES}
    x["penultimate"][:, 0, 0] += 6 * (y == 1)
    x["layer1"][:, 0, 0] += 6 * (y == 2)
    known = cache_of_layers(tmp_path / "c.h5", (x, y), (x, y))
    for weight, is_used in ((1e-6, False), (1.0, True)):
        parameters = {"class_weight": {"c000": 1.0, "c001": 1.0, "c002": weight}}
        assert ("layer1" in fit_head(known, head="ridge", parameters=parameters).layers) == is_used


def test_layers_that_the_user_names_are_all_used(tmp_path: Path) -> None:
    known = cache(tmp_path / "c.h5", dict(zip(STAGES, (8, 0, 0), strict=True)))
    for head in ("auto", "linear", "ridge", "lda", "centroid"):
        fit = fit_head(known, head=head, layer="penultimate,layer1")
        assert fit.layers == ("penultimate", "layer1")
        assert fit.estimator.n_features_in_ == 32
        assert fit.layer_selection is not None
        assert {candidate.layers for candidate in fit.layer_selection.candidates} == {fit.layers}
        tried = sorted(candidate.weights for candidate in fit.layer_selection.candidates)
        np.testing.assert_allclose(tried, [(1, 1 / 9), *((1, each) for each in WEIGHTS)])
        assert fit.layer_selection.candidates[fit.layer_selection.chosen].weights[1] <= 1 / 3  # the least noise


@pytest.mark.parametrize("head", ["knn", "logreg", "svm"])
def test_heads_that_choose_no_layers_take_the_penultimate_one(tmp_path: Path, head: str) -> None:
    known = cache(tmp_path / "c.h5", dict(zip(STAGES, (8, 8, 0), strict=True)))
    fit = fit_head(known, head=head)
    assert (fit.layers, fit.layer_selection) == (("penultimate",), None)
    assert fit_head(known, head="linear", parameters={"C": 1.0}).layers == ("penultimate",)
    assert fit_head(known, head="linear", parameters={"class_weight": "balanced"}).layer_selection is not None


def test_head2toe_takes_all_layers(tmp_path: Path) -> None:
    known = cache(tmp_path / "c.h5", dict(zip(NAMES, (8, 0, 0, 0), strict=True)), n=60)
    fit = fit_head(known, head="head2toe")
    assert fit.layers == NAMES
    assert fit.estimator.n_features_in_ == 64
    assert fit.accuracy.accuracy > 0.9


def test_images_with_several_labels(tmp_path: Path) -> None:
    """Noise beside a stage that says each of three labels, and the reverse."""
    rng = np.random.default_rng(0)
    train, val = (rng.integers(0, 2, (n, 3)).astype(np.uint8) for n in (150, 60))
    stage = ("penultimate", "layer1")
    for name, distances, expected in (("a", (0, 8, 0), stage), ("b", (8, 0, 0), ("penultimate",))):
        apart = dict(zip(STAGES, distances, strict=True))
        known = cache_of_layers(
            tmp_path / f"{name}.h5", parts(apart, 150, labels=train), parts(apart, 60, labels=val, seed=9)
        )
        fit = fit_head(known)
        assert (fit.name, fit.layers) == ("linear", expected)
        assert fit.accuracy.macro_f1 > 0.9  # type: ignore[union-attr]
        assert not isinstance(fit.accuracy, Accuracy)


def test_class_weights_count_with_several_labels(tmp_path: Path) -> None:
    """The weight of a label counts where it is present: the log-loss of the choice is another one."""
    y = np.random.default_rng(0).integers(0, 2, (150, 3)).astype(np.uint8)
    data = parts(dict.fromkeys(STAGES, 2.0), 150, labels=y)
    features = cache_of_layers(tmp_path / "c.h5", data, data).features("train", "all")
    losses = []
    for class_weight in (None, {0: 1.0, 1: 1.0, 2: 1.0}, {0: 9.0}):
        selection = select_layers(features, STAGES, keep_all=True, class_weight=class_weight)[1]
        assert selection
        losses.append(selection.candidates[0].log_loss)
    assert losses[0] == losses[1]
    assert abs(losses[2] - losses[0]) > 1e-3


def test_layers_of_images_with_several_labels_have_their_own_weights(tmp_path: Path) -> None:
    """Two layers of ten say the labels; the others are left out, or count less."""
    train, val = (np.random.default_rng(n).integers(0, 2, (n, 3)).astype(np.uint8) for n in (150, 200))
    apart = {"penultimate": 2.0, **{f"layer{n}": 6.0 if n == 4 else 0.0 for n in range(9)}}
    known = cache_of_layers(tmp_path / "c.h5", parts(apart, 150, labels=train), parts(apart, 200, labels=val, seed=9))
    names = tuple(known.spec.layers)
    weights, selection = select_layers(known.features("train", "all"), names, keep_all=False)
    assert selection
    by_name = dict(zip((names[layer] for layer in weights.layers), weights.weights, strict=True))
    others = [by_name[name] for name in by_name if name not in ("penultimate", "layer4")]
    assert len(others) <= 3
    assert all(by_name["layer4"] >= 3 * weight for weight in others)
    together = fit_head(known, layer="penultimate,layer4").accuracy.macro_f1  # type: ignore[union-attr]
    assert fit_head(known).accuracy.macro_f1 > together - 0.02  # type: ignore[union-attr]


def test_classes_with_a_single_image_are_trained_on(tmp_path: Path) -> None:
    apart = dict(zip(STAGES, (0, 30, 0), strict=True))
    y = np.where(np.arange(61) == 60, 2, np.arange(61) % 2)
    known = cache_of_layers(tmp_path / "c.h5", parts(apart, 61, labels=y), parts(apart, 60, seed=9))
    fit = fit_head(known, head="ridge")
    assert fit.layers == ("penultimate", "layer1")
    assert fit.layer_selection is not None
    assert fit.layer_selection.images == 60
    assert fit.estimator.classes_.tolist() == [0, 1, 2]
    assert fit.accuracy.accuracy > 0.95


def test_one_image_of_each_class_is_an_error(tmp_path: Path) -> None:
    apart = dict(zip(STAGES, (0, 8, 0), strict=True))
    known = cache_of_layers(tmp_path / "c.h5", parts(apart, 3), parts(apart, 60, seed=9))
    with pytest.raises(HeadError, match=r"^no class has two different training images, so none can be held out"):
        fit_head(known)


def test_a_seed_gives_the_same_choice(tmp_path: Path) -> None:
    known = cache(tmp_path / "c.h5", dict.fromkeys(STAGES, 2.0), n=900)
    first, again, other = (
        select_layers(known.features("train", "all"), STAGES, keep_all=False, seed=seed)[1] for seed in (1, 1, 2)
    )
    assert first
    assert again
    assert other
    assert dataclasses.replace(again, seconds=first.seconds) == first
    assert other.candidates != first.candidates  # of other images
    assert first.images == 498  # as many of each class


def test_the_choice_depends_on_no_image_of_val(tmp_path: Path) -> None:
    """Other features and labels of val give the same layers, weights and head."""
    apart = dict.fromkeys(STAGES, 2.0)
    x_val, y_val = parts(apart, 60, seed=9)
    vals: list[Parts] = [(x_val, y_val), ({name: -5 * part for name, part in x_val.items()}, (y_val + 1) % 3)]
    fits = [fit_head(cache_of_layers(tmp_path / f"{n}.h5", parts(apart), val)) for n, val in enumerate(vals)]
    selections = [fit.layer_selection for fit in fits]
    assert selections[0]
    assert selections[1]
    assert dataclasses.replace(selections[0], seconds=0) == dataclasses.replace(selections[1], seconds=0)
    np.testing.assert_array_equal(fits[0].estimator.coef_, fits[1].estimator.coef_)
    np.testing.assert_array_equal(fits[0].estimator.intercept_, fits[1].estimator.intercept_)
    assert fits[0].accuracy.accuracy > fits[1].accuracy.accuracy + 0.3


@pytest.mark.parametrize("head", ["auto", "linear", "ridge", "lda", "centroid"])
def test_the_saved_head_predicts_the_same_from_features_as_they_are(head: str, tmp_path: Path) -> None:
    known = cache(tmp_path / "c.h5", dict.fromkeys(STAGES, 2.0), n=300, views=3)
    fit = fit_head(known, tmp_path / "head", head=head)
    assert fit.layers == STAGES
    val = known.features("val", "all")
    loaded = load_head(tmp_path / "head" / "head.safetensors")
    probabilities = loaded.predict_proba(np.asarray(val.clean()))
    np.testing.assert_array_equal(probabilities, fit.estimator.predict_proba(np.asarray(val.clean())))
    assert (probabilities.argmax(axis=1) == val.y).mean() == fit.accuracy.accuracy
    assert json.loads((tmp_path / "head" / "model.json").read_text())["layer"] == ",".join(STAGES)


def test_the_head_is_that_of_the_weighted_layers(tmp_path: Path) -> None:
    """Without a choice of layers, a cache of the weighted features gives the same head."""
    known = cache(tmp_path / "c.h5", dict.fromkeys(STAGES, 2.0), n=300)
    fit = fit_head(known, head="ridge")
    assert fit.layer_selection
    assert fit.layers == STAGES
    train, val = known.features("train", "all"), known.features("val", "all")
    scale = weigh_layers(train, fit.layer_selection.candidates[fit.layer_selection.chosen].weights)
    x, x_val = (np.asarray(features.x[:]) * scale for features in (train, val))
    weighted = cache_of_layers(tmp_path / "w.h5", ({"penultimate": x}, train.y), ({"penultimate": x_val}, val.y))
    direct = fit_head(weighted, head="ridge")
    np.testing.assert_allclose(fit.estimator.coef_, direct.estimator.coef_ * scale, rtol=1e-9)
    np.testing.assert_allclose(fit.estimator.intercept_, direct.estimator.intercept_, rtol=1e-9)
    assert fit.accuracy.confusion == direct.accuracy.confusion
    assert fit.accuracy.log_loss == pytest.approx(direct.accuracy.log_loss, rel=1e-6)


def test_json_names_the_layers_and_how_they_were_chosen(tmp_path: Path) -> None:
    known = cache(tmp_path / "c.h5", dict(zip(STAGES, (0, 8, 0), strict=True)))
    fit = fit_head(known, tmp_path / "head")
    values = json.loads((tmp_path / "head" / "run.json").read_text())
    assert values["layers"] == ["penultimate", "layer1"]
    selection = values["layer_selection"]
    assert set(selection) == {"candidates", "chosen", "images", "seconds", "skipped", "too_wide"}
    assert selection["images"] == 120
    assert [candidate["weights"] for candidate in selection["candidates"][: 1 + len(WEIGHTS)]] == [
        [1.0],
        *([1.0, weight, weight] for weight in WEIGHTS),
    ]
    best = selection["candidates"][selection["chosen"]]
    assert fit.layer_selection
    assert best == {
        "layers": ["penultimate", "layer1"],
        "weights": [1.0, best["weights"][1]],
        "log_loss": fit.layer_selection.candidates[fit.layer_selection.chosen].log_loss,
        "accuracy": fit.layer_selection.candidates[fit.layer_selection.chosen].accuracy,
    }
    alone = fit_head(known, layer="penultimate").to_dict()
    assert (alone["layers"], alone["layer_selection"]) == (["penultimate"], None)


# Features that say little


@pytest.mark.parametrize("value", [0.0, 0.1, 7.0, 1e4])
@pytest.mark.parametrize("constant", [("penultimate",), ("layer1", "layer2:mean"), STAGES])
def test_layers_without_spread(constant: tuple[str, ...], value: float, tmp_path: Path) -> None:
    """The others decide; if there are none, the classes are as probable as they are frequent."""
    y, y_val = np.arange(90) % 3 // 2, np.arange(60) % 3 // 2
    apart = dict.fromkeys(STAGES, 8.0)
    (x, _), (x_val, _) = parts(apart, 90, 2, labels=y), parts(apart, 60, 2, labels=y_val, seed=9)
    for name in constant:
        x[name], x_val[name] = np.full_like(x[name], value), np.full_like(x_val[name], value)
    known = cache_of_layers(tmp_path / "c.h5", (x, y), (x_val, y_val))
    fit = fit_head(known, head="linear")
    assert np.isfinite(fit.estimator.coef_).all()
    if len(constant) < 3:
        assert fit.accuracy.accuracy == 1.0
    else:
        np.testing.assert_allclose(
            fit.estimator.predict_proba(np.asarray(val_of(known, fit.layers)))[:, 0], 2 / 3, atol=0.05
        )
    scale = weigh_layers(known.features("train", "all"), (1.0, 1.0, 1.0))
    for number, name in enumerate(STAGES):
        deviation = known.features("train", name).clean()[:].std(axis=0) * scale[16 * number : 16 * (number + 1)]
        total = np.sum(deviation.astype(np.float64) ** 2)
        assert total < 1e-6 if name in constant else total == pytest.approx(1, rel=1e-4)


def val_of(known: FeatureCache, layers: tuple[str, ...]) -> NDArray[Any]:
    return np.asarray(known.features("val", ",".join(layers)).clean())


def test_more_classes_than_the_sample_has_room_for(tmp_path: Path) -> None:
    """Of 130 classes, the choice takes 125 with four images each; the head knows all."""
    apart = dict(zip(STAGES, (0, 30, 0), strict=True))
    train = parts(apart, 650, 130, d=140)
    known = cache_of_layers(tmp_path / "c.h5", train, parts(apart, 130, 130, d=140, seed=9))
    fit = fit_head(known, head="ridge")
    assert fit.layer_selection is not None
    assert fit.layer_selection.images == 500
    assert fit.layers == ("penultimate", "layer1")
    assert len(fit.estimator.classes_) == 130
    assert fit.accuracy.accuracy > 0.95


def test_a_cache_without_a_penultimate_layer_uses_all_alike(tmp_path: Path) -> None:
    known = cache(tmp_path / "c.h5", {"layer1": 0.0, "layer2:mean": 8.0})
    weights, selection = select_layers(known.features("train", "all"), ("layer1", "layer2:mean"), keep_all=False)
    assert (weights, selection) == (LayerWeights((0, 1), (1.0, 1.0)), None)
    fit = fit_head(known)
    assert (fit.layers, fit.layer_selection) == (("layer1", "layer2:mean"), None)
    assert fit.accuracy.accuracy > 0.95


def test_a_cache_of_one_layer_chooses_nothing(tmp_path: Path) -> None:
    known = cache(tmp_path / "c.h5", {"penultimate": 8.0})
    for head in ("auto", "linear", "head2toe"):
        fit = fit_head(known, head=head)
        assert (fit.layers, fit.layer_selection) == (("penultimate",), None)
    fit = fit_head(cache(tmp_path / "d.h5", {"layer1": 8.0}))
    assert (fit.layers, fit.layer_selection, fit.accuracy.accuracy > 0.95) == (("layer1",), None, True)


def test_progress_counts_the_candidates(tmp_path: Path) -> None:
    known = cache(tmp_path / "c.h5", dict.fromkeys(NAMES, 2.0))
    calls: list[tuple[str, int, int]] = []
    fit_head(known, head="centroid", progress=lambda *now: calls.append(now))
    compared = [call for call in calls if call[0] == "compare layers"]
    assert compared == [("compare layers", done, 7) for done in range(8)]


def test_the_images_of_the_choice_come_from_all_groups() -> None:
    """Groups larger than the sample: each gives some images, so that folds can hold groups out."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(8), 260)
    labels = (group % 2).astype(np.int64)
    sha256 = rng.integers(0, 256, (len(group), 32), dtype=np.uint8)
    names = tuple(f"group {number}" for number in group)
    samples = Samples(
        tuple(map(str, range(len(group)))), labels, np.zeros(len(group), np.uint8), sha256, ("a", "b"), names
    )
    rows = sample_images(samples, 500, 0)
    assert len(rows) == 500
    assert np.ptp(np.bincount(group[rows])) <= 1


def test_a_head_with_fixed_settings_takes_layers_at_equal_weight(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    x = {name: rng.normal(size=(40, 1, 6)).astype(np.float32) for name in ("penultimate", "blocks.1")}
    cache = cache_of_layers(tmp_path / "c.h5", (x, y), (x, y))
    fit = fit_head(cache, head="linear", parameters={"C": 1.0}, layer="stages")
    assert fit.layer_selection is None
    assert fit.notes == ("layers: penultimate, blocks.1, with equal weight",)
    assert fit.layers == ("penultimate", "blocks.1")


def test_options_that_do_not_fit_are_refused_before_layers_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    x = {name: rng.normal(size=(40, 1, 6)).astype(np.float32) for name in ("penultimate", "blocks.1")}
    cache = cache_of_layers(tmp_path / "c.h5", (x, y), (x, y))
    monkeypatch.setattr("featcache.heads.fit.select_layers", lambda *_, **__: pytest.fail("layers were compared"))
    with pytest.raises(HeadError, match="auto chooses its settings itself"):
        fit_head(cache, parameters={"C": 1.0})
    with pytest.raises(HeadError, match="scaling is for heads that are not tuned"):
        fit_head(cache, head="ridge", scaling="l2")


def test_layers_that_are_too_wide_are_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer that says least for its width goes first. The width of few rows does not matter."""
    apart = {"penultimate": 2.0, "layer1": 2.0, "layer2": 1.4, "layer3": 2.0}
    known = cache(tmp_path / "c.h5", apart, n=300)
    features, names = known.features("train", "all"), tuple(known.spec.layers)
    wide, selection = select_layers(features, names, keep_all=False)
    assert selection
    assert (wide.layers, selection.too_wide) == ((0, 1, 2, 3), 0)
    monkeypatch.setattr(layer_comparison, "MAX_WIDTH", 48)
    narrow, selection = select_layers(features, names, keep_all=False)
    assert selection
    assert (narrow.layers, selection.too_wide) == ((0, 1, 3), 1)
    assert selection.candidates[selection.chosen].layers == ("penultimate", "layer1", "layer3")
    assert "1 layer more would help, but take too long with so many samples." in str(selection)
    assert select_layers(features, names, keep_all=True)[0].layers == (0, 1, 2, 3)
    few = cache(tmp_path / "d.h5", apart, n=45)
    monkeypatch.setattr(layer_comparison, "MAX_WIDTH", 0)
    assert len(select_layers(few.features("train", "all"), names, keep_all=True)[0].layers) == 4
    monkeypatch.setattr(layer_comparison, "is_smaller", lambda *_: True)
    assert select_layers(features, names, keep_all=False)[0].layers == (0, 1, 2, 3)


def test_class_weights_of_classes_that_the_sample_lacks(tmp_path: Path) -> None:
    """Of 130 classes, the sample has 125."""
    apart = dict.fromkeys(STAGES, 9.0)
    val = parts(apart, 130, 130, d=140, seed=9)
    known = cache_of_layers(tmp_path / "c.h5", parts(apart, 650, 130, d=140), val)
    for name in ("c000", "c064", "c129"):
        fit = fit_head(known, head="ridge", parameters={"class_weight": {name: 2.0}})
        assert fit.accuracy.accuracy > 0.95


def test_images_of_a_group_count_as_one(tmp_path: Path) -> None:
    """Twenty images of each of ten groups, which differ by group alone: the standard error is that of ten."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(10), 20)
    samples = Samples(
        tuple(map(str, range(200))), (group % 2).astype(np.int64), np.zeros(200, np.uint8),
        rng.integers(0, 256, (200, 32), dtype=np.uint8), ("a", "b"), tuple(f"group {n}" for n in group),
    )  # fmt: skip
    logits = np.repeat(rng.normal(size=10), 20)[:, None] * [[-0.5, 0.5]]
    held_out = HeldOut(samples.labels, np.zeros(200, np.int64), np.ones(200), lambda _: logits)
    selection = select_on_path([PathWeights(1.0, np.zeros((1, 2, 0)), np.zeros((1, 2)))], held_out)
    losses = layer_comparison._losses(selection, held_out, samples)
    assert losses.shape == (10,)
    expected = -np.log(selection.probabilities(False)[np.arange(200), samples.labels])
    assert losses.mean() == pytest.approx(expected.mean())
    np.testing.assert_allclose(np.sort(losses), np.sort(expected.reshape(10, 20).mean(axis=1)))
