"""fit_head: accuracies on features with known classes, and the saved folder."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.linear_model import LinearRegression, RidgeClassifier

from caches import cache_of, clouds
from commands import COUNTS, write_folder
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.features import Features
from featcache.core.model_card import ModelCard
from featcache.errors import CacheDamagedError, CacheError, CacheIncompleteError, HeadError
from featcache.extraction.extract import extract
from featcache.heads.fit_head import fit_head
from featcache.heads.io import load_head
from featcache.heads.linear import LinearHead
from featcache.heads.predict import classify
from featcache.heads.registry import heads_with
from featcache.heads.tuning.tuning_data import TuningData
from featcache.metrics.predictions import read_predictions
from foreign import Foreign
from toys import random_image, toy_backbone

MakeFolder = Callable[..., Path]
NAMES = ["sgd", *heads_with("estimator"), "sklearn.naive_bayes.GaussianNB"]


def parameters(head: str) -> dict[str, Any]:
    return {"sgd": {"lr": 0.3, "epochs": 20}, "forest": {"n_jobs": 1}, "svm": {"C": 100.0}}.get(head, {})


def cached(data: Path, **options: Any) -> FeatureCache:
    """Features of the toy network, whose channel means tell the tints of the classes apart."""
    return extract(data, data.parent / "toy.h5", backbone=toy_backbone(), views=2, augment="tutorial", **options).cache


@pytest.fixture
def cache(split_folder: Path) -> FeatureCache:
    return cached(split_folder)


@pytest.fixture
def mislabelled(make_folder: MakeFolder) -> FeatureCache:
    """Separable, with one of the ants among the three bees of val, and two of the four of test."""
    data = make_folder({"train/ants": 7, "train/bees": 6, "val/ants": 3, "val/bees": 2, "test/bees": 2})
    for number, position in enumerate(("val/bees/x.png", "test/bees/x.png", "test/bees/y.png")):
        random_image(9000 + number, tint=0).save(data / position)
    return cached(data)


@pytest.mark.parametrize("head", NAMES)
def test_every_head_has_the_accuracy_of_its_wrong_label(head: str, mislabelled: FeatureCache) -> None:
    fit = fit_head(mislabelled, head=head, parameters=parameters(head))
    saved = json.loads(json.dumps(fit.to_dict()))
    assert (saved["accuracy"], saved["n"]) == (5 / 6, 6)
    assert saved["confusion"] == [[3, 0], [1, 2]]
    assert saved["recall"] == [1.0, 2 / 3]
    assert saved["classes"] == ["ants", "bees"]
    interval = binomtest(5, 6).proportion_ci(method="wilson")
    assert (saved["accuracy_low"], saved["accuracy_high"]) == pytest.approx((interval.low, interval.high))
    assert (saved["head"], saved["path"], saved["method"]) == (head, None, f"head {head}")
    assert (saved["images"], saved["spec_digest"]) == (13, mislabelled.spec.digest())
    assert saved["test"]["accuracy"] == 0.5
    assert saved["test"]["confusion"] == [[0, 0], [2, 2]]
    assert set(saved["seconds"]) == {"read", "fit", "evaluate", "wall"}
    assert sum(saved["seconds"].values()) <= 2 * saved["seconds"]["wall"]
    assert len(saved["history"]) == (20 if head == "sgd" else 0)


@pytest.mark.parametrize("head", NAMES)
def test_the_saved_folder_gives_the_head_and_its_card_back(head: str, cache: FeatureCache, tmp_path: Path) -> None:
    out = tmp_path / "models" / "head"
    fit = fit_head(cache.path, out, head=head, parameters=parameters(head), seed=4)
    card = ModelCard.read(out)
    assert fit.path == out
    assert (card.kind, card.head, card.layer, card.weights) == ("head", head, "penultimate", "none")
    assert (card.spec, card.classes) == (cache.spec, ("ants", "bees"))
    assert card.metrics == fit.accuracy.to_dict()
    assert card.metrics["accuracy"] == 1.0
    x = np.random.default_rng(0).normal(0, 3, (40, 3))
    np.testing.assert_array_equal(classify(load_head(out / card.file), x, 2)[0], classify(fit.estimator, x, 2)[0])
    assert len(set(classify(fit.estimator, x, 2)[0])) == 2


def test_predictions_of_test_are_kept_and_go_with_the_next_head(mislabelled: FeatureCache, tmp_path: Path) -> None:
    fit_head(mislabelled, tmp_path / "head")
    mask = {row.image: row.right for row in read_predictions(tmp_path / "head", "test.csv")}
    assert mask == {image: image[-5] not in "xy" for image in mask}
    assert len(mask) == 4
    fit_head(cached(write_folder(tmp_path / "other" / "data", COUNTS)), tmp_path / "head")
    assert len(read_predictions(tmp_path / "head")) == 5
    assert not (tmp_path / "head" / "test.csv").exists()


def test_without_a_test_split_none_is_reported(cache: FeatureCache) -> None:
    fit = fit_head(cache)
    assert fit.report.test is None
    assert fit.to_dict()["test"] is None
    assert "test:" not in str(fit)


def test_the_text_names_head_accuracy_test_and_folder(mislabelled: FeatureCache, tmp_path: Path) -> None:
    lines = str(fit_head(mislabelled, tmp_path / "head", head="linear")).splitlines()
    assert lines[0] == "5-fold cross-validation, 13 training samples:"
    start = lines.index("head linear, val:")
    assert lines[start + 1] == f"accuracy {fit_head(mislabelled, head='linear').accuracy}"
    assert lines[lines.index("test:") + 1].startswith("accuracy 0.5000 (95 % interval")
    assert lines[-1] == f"saved in {tmp_path / 'head'}"


def test_a_refused_head_leaves_the_saved_one_alone(cache: FeatureCache, tmp_path: Path) -> None:
    folder = tmp_path / "head"
    fit_head(cache, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(HeadError, match=r"^GradientBoostingClassifier (cannot be saved|could not be loaded again)"):
        fit_head(cache, folder, head="sklearn.ensemble.GradientBoostingClassifier")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "head",
    ["sklearn.ensemble.GradientBoostingClassifier", "sklearn.gaussian_process.GaussianProcessClassifier",
     "sklearn.ensemble.BaggingClassifier"],
)  # fmt: skip
def test_what_cannot_be_saved_is_refused_before_it_is_fitted(
    head: str, cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise AssertionError("it was fitted")

    monkeypatch.setattr("featcache.heads.fixed_settings.fit_estimator", fails)
    with pytest.raises(HeadError, match="cannot be saved so that loading executes no code, so it was not fitted"):
        fit_head(cache, tmp_path / "head", head=head)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_probabilities_that_are_no_numbers_are_a_head_error(cache: FeatureCache) -> None:
    with pytest.raises(HeadError, match=r"LabelSpreading could not predict: its probabilities for \d+ of \d+ samples"):
        fit_head(cache, head="sklearn.semi_supervised.LabelSpreading", parameters={"gamma": 1e9})


def test_a_head_that_cannot_predict_is_a_head_error(cache: FeatureCache) -> None:
    with pytest.raises(HeadError, match=r"^KNeighborsClassifier could not predict: "):
        fit_head(cache, head="knn", parameters={"n_neighbors": 5000})


def test_parameters_of_an_object_are_refused(cache: FeatureCache) -> None:
    with pytest.raises(HeadError, match="set them on the classifier object itself"):
        fit_head(cache, head=RidgeClassifier(), parameters={"alpha": 2.0})


def test_a_classifier_object_is_fitted_itself(cache: FeatureCache) -> None:
    actual = RidgeClassifier(alpha=3.0)
    fit = fit_head(cache, head=actual)
    assert fit.estimator is actual
    assert (fit.name, fit.accuracy.accuracy) == ("RidgeClassifier", 1.0)


def test_all_views_of_the_training_images_are_learnt_from(cache: FeatureCache) -> None:
    features = cache.features("train")
    expected = LinearHead(C=0.5).fit(
        np.array(features.x).reshape(13 * 3, 3), np.repeat(features.y, 3), np.full(39, 1 / 3)
    )
    estimator = fit_head(cache, head="linear", parameters={"C": 0.5}).estimator
    np.testing.assert_array_equal(estimator.coef_, expected.coef_)


def test_the_seed_is_that_of_sgd(cache: FeatureCache) -> None:
    coefs = [fit_head(cache, head="sgd", seed=seed).estimator.coef_ for seed in (1, 1, 2)]
    np.testing.assert_array_equal(coefs[0], coefs[1])
    assert not np.allclose(coefs[0], coefs[2])


def test_another_layer_is_learnt_from_and_recorded(split_folder: Path, tmp_path: Path) -> None:
    cache = cached(split_folder)
    with pytest.raises(CacheIncompleteError, match="has no layer 'stem'; it has penultimate"):
        fit_head(cache, tmp_path / "head", layer="stem")
    layered = extract(
        split_folder, tmp_path / "layers.h5", backbone=toy_backbone(layers=("penultimate", "norm")), views=1
    ).cache
    fit_head(layered, tmp_path / "head", layer="norm")
    assert ModelCard.read(tmp_path / "head").layer == "norm"


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_readable_images_is_refused(split: str, split_folder: Path) -> None:
    for path in (split_folder / split).rglob("*.png"):
        path.write_bytes(b"")
    cache = cached(split_folder)
    with pytest.raises(CacheIncompleteError) as caught:
        fit_head(cache)
    assert str(caught.value) == f"{cache.path} has no readable {split} images"


def test_what_is_no_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="does not exist"):
        fit_head(tmp_path / "nothing.h5")


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"epoch": 3},
        {"epochs": "many"},
        {"momentum": -1.0},
        {"weight_decay": -1.0},
        {"schedule": "cosin"},
        {"optimizer": "adam"},
    ],
    ids=str,
)
def test_a_bad_parameter_of_sgd_is_a_head_error(bad: dict[str, Any], cache: FeatureCache) -> None:
    with pytest.raises(HeadError, match=r"^sgd: "):
        fit_head(cache, head="sgd", parameters=bad)


def test_a_folder_that_cannot_hold_a_model_is_refused_before_the_work(cache: FeatureCache, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("mine")
    for out, message in (
        (full, f"{full} holds other files and no model.json. Give an empty or a new folder."),
        (full / "thesis.tex", f"{full / 'thesis.tex'} is a file; give a folder"),
    ):
        with pytest.raises(HeadError) as caught:
            fit_head(cache.path.with_name("nothing.h5"), out)
        assert str(caught.value) == message
    assert [path.name for path in full.iterdir()] == ["thesis.tex"]


def test_a_saved_head_is_replaced_by_the_next_one(cache: FeatureCache, tmp_path: Path) -> None:
    out = tmp_path / "head"
    fit_head(cache, out)
    fit_head(cache, out, head="svm")
    card = ModelCard.read(out)
    assert (card.head, card.file) == ("svm", "head.skops")


def test_a_classifier_that_cannot_be_saved_is_refused_and_leaves_no_model(cache: FeatureCache, tmp_path: Path) -> None:
    assert fit_head(cache, head=Foreign()).accuracy.accuracy == 3 / 5
    with pytest.raises(HeadError, match="Foreign cannot be saved so that loading executes no code"):
        fit_head(cache, tmp_path / "head", head=Foreign())
    assert not (tmp_path / "head" / "model.json").exists()


def test_a_moved_cache_gives_the_same_head(cache: FeatureCache, tmp_path: Path) -> None:
    coef = fit_head(cache).estimator.coef_
    shutil.move(cache.path, tmp_path / "moved.h5")
    np.testing.assert_array_equal(fit_head(tmp_path / "moved.h5").estimator.coef_, coef)


def test_the_report_with_seconds_by_phase_is_saved_beside_the_head(cache: FeatureCache, tmp_path: Path) -> None:
    fit = fit_head(cache, tmp_path / "head")
    saved = json.loads((tmp_path / "head" / "run.json").read_text(encoding="utf-8"))
    assert saved == json.loads(json.dumps(fit.to_dict()))
    assert {"read", "fit", "evaluate", "wall"} <= saved["seconds"].keys()


@pytest.mark.parametrize("split", ["train", "val"])
def test_damaged_features_are_not_learnt_from(cache: FeatureCache, split: str, tmp_path: Path) -> None:
    row = int(cache.samples.rows(split)[1])
    region = cache.layout.layers["penultimate"]
    path = tmp_path / "damaged.h5"
    whole = bytearray(cache.path.read_bytes())
    whole[region.offset + row * region.stride] ^= 1  # the lowest bit of one float16
    path.write_bytes(whole)
    with pytest.raises(CacheDamagedError) as caught:
        fit_head(path)
    assert str(caught.value) == (
        f"{path} is damaged: 1 images of {split} do not have the checksums of their features, for example "
        f"{cache.samples.ids[row]}. Extract those again with `featcache verify {path} --repair DATA`."
    )


@pytest.mark.parametrize("head", ["linear", "sgd", "logreg"])
def test_a_cache_with_skipped_images_gives_the_head_of_the_others(split_folder: Path, head: str) -> None:
    images = sorted(split_folder.rglob("*.png"))
    (split_folder / "train/ants" / images[0].name).write_bytes(b"broken")
    fit = fit_head(cached(split_folder), head=head, parameters=parameters(head))
    (split_folder.parent / "toy.h5").unlink()
    (split_folder / "train/ants" / images[0].name).unlink()
    without = fit_head(cached(split_folder), head=head, parameters=parameters(head))
    np.testing.assert_array_equal(fit.estimator.coef_, without.estimator.coef_)
    assert fit.report.images == 12


def test_a_tuned_head_is_not_chosen_by_val(tmp_path: Path) -> None:
    """Other labels of val give the same head."""
    train, (x, y) = clouds(60, 2, views=3), clouds(30, 2, seed=1)
    fits = [fit_head(cache_of(tmp_path / f"{shift}.h5", train, (x[:, 0], (y + shift) % 2))) for shift in (0, 1)]
    np.testing.assert_array_equal(fits[0].estimator.coef_, fits[1].estimator.coef_)
    assert fits[0].accuracy.accuracy == pytest.approx(1 - fits[1].accuracy.accuracy)


def test_the_tuned_head_says_how_it_was_chosen(mislabelled: FeatureCache, tmp_path: Path) -> None:
    fit = fit_head(mislabelled, tmp_path / "head", head="linear")
    assert fit.selection is not None
    saved = json.loads((tmp_path / "head" / "run.json").read_text())["selection"]
    (entrant,) = saved["entrants"]
    assert (saved["folds"], saved["images"], entrant["head"], entrant["n"]) == (5, 13, "linear", 13)
    losses = [loss for _, loss, _ in (trial.values() for trial in entrant["trials"])]
    best = entrant["trials"][int(np.argmin(losses))]
    assert entrant["setting"] == f"C={best['value']:.3g}"
    assert entrant["log_loss"] == pytest.approx(min(losses))
    assert fit.before is not None
    val = mislabelled.features("val")
    logits = fit.estimator.decision_function(np.asarray(val.clean())) * fit.selection.temperature
    assert fit.before.log_loss == pytest.approx(np.logaddexp(0, np.where(val.y, -logits, logits)).mean())
    assert "before its temperature of " in str(fit)


@pytest.mark.parametrize(
    ("log_loss", "error", "words"),
    [
        (0.0, 0.0, "made log-loss and calibration error worse on val"),
        (0.0, 1.0, "made log-loss worse on val"),
        (9.0, 0.0, "made calibration error worse on val"),
        (9.0, 1.0, ""),
    ],
)
def test_a_temperature_that_made_val_worse_is_said(
    log_loss: float, error: float, words: str, mislabelled: FeatureCache
) -> None:
    fit = fit_head(mislabelled)
    assert fit.before is not None
    before = dataclasses.replace(fit.before, log_loss=log_loss, calibration_error=error)
    (line,) = (
        item for item in str(dataclasses.replace(fit, before=before)).splitlines() if item.startswith("before its")
    )
    assert line.endswith(f"; the temperature, chosen on train, {words}" if words else f"calibration error {error:.4f}")


def test_parameters_fix_the_settings(cache: FeatureCache) -> None:
    assert fit_head(cache, head="linear", parameters={"C": 0.1}).selection is None
    for head in ("linear", "auto"):
        assert fit_head(cache, head=head, parameters={"class_weight": "balanced"}).selection is not None
    assert isinstance(fit_head(cache, head="ridge", parameters={"alpha": 2.0}).estimator, RidgeClassifier)


def test_auto_keeps_the_best_and_names_it(cache: FeatureCache, tmp_path: Path) -> None:
    fit = fit_head(cache, tmp_path / "head", head="auto", budget_s=60)
    assert fit.selection is not None
    assert fit.name == fit.selection.chosen.head == ModelCard.read(tmp_path / "head").head
    assert len(fit.selection.candidates) == 4
    assert fit.accuracy.accuracy == 1.0


@pytest.mark.parametrize(
    ("head", "options", "expected"),
    [
        ("auto", {}, [("fit heads", tried, 4) for tried in range(5)]),
        ("sgd", {"parameters": {"epochs": 2}}, [("fit epochs", epoch, 2) for epoch in range(3)]),
        ("forest", {"cv": 3}, [("fit folds", fold, 3) for fold in range(4)]),
        ("forest", {}, []),
    ],
    ids=["auto", "sgd", "cross-validation", "one step"],
)
def test_progress_counts_what_a_head_is_made_of(
    head: str, options: dict[str, Any], expected: list[tuple[str, int, int]], cache: FeatureCache
) -> None:
    calls: list[tuple[str, int, int]] = []
    fit_head(cache, head=head, progress=lambda *now: calls.append(now), **options)
    assert calls == expected


def test_progress_counts_strengths_up_to_where_the_path_ends(cache: FeatureCache) -> None:
    calls: list[tuple[str, int, int]] = []
    fit = fit_head(cache, head="ridge", progress=lambda *now: calls.append(now))
    assert fit.selection
    tried = len(fit.selection.chosen.trials)
    ended = [16] if tried < 16 else []
    assert calls == [("fit strengths", done, 16) for done in [*range(tried + 1), *ended]]


def test_what_a_progress_callback_raises_ends_the_fit(cache: FeatureCache, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(_what: str, done: int, _total: int) -> None:
        if done == 2:
            raise StopError

    with pytest.raises(StopError):
        fit_head(cache, tmp_path / "head", head="auto", progress=stop)
    assert list((tmp_path / "head").iterdir()) == []


def test_any_classifier_is_cross_validated_when_asked(mislabelled: FeatureCache) -> None:
    fit = fit_head(mislabelled, head="logreg", cv=3)
    assert fit.selection is not None
    assert (fit.selection.folds, fit.selection.images, fit.selection.chosen.head) == (3, 13, "logreg")
    assert fit.selection.temperature is None
    assert fit.before is None
    assert fit.selection.chosen.accuracy.n == 13


def test_a_head_without_probabilities_gets_some_when_asked(cache: FeatureCache) -> None:
    assert fit_head(cache, head="svm", parameters={"C": 100.0}).accuracy.log_loss is None
    assert fit_head(cache, head="svm", parameters={"C": 100.0}, calibrate=True).accuracy.log_loss is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "sgd", "cv": 5}, "cv has no effect on sgd: leave it out"),
        ({"head": "sgd", "use_views": "mean"}, "sgd trains on one view an epoch (cycle) or on the clean one; mean is "),
        ({"use_views": "cycle"}, "cycle trains on one view an epoch, as sgd and attention do; use all, mean or clean"),
        ({"head": "linear", "budget_s": 5.0}, "budget_s is for auto"),
        ({"head": "logreg", "budget_s": 5.0}, "budget_s is for auto"),
        ({"calibrate": True}, "calibrate is for heads that have no probabilities of their own"),
        ({"head": "auto", "parameters": {"C": 1}}, "auto chooses its settings itself; it takes class_weight alone"),
        ({"head": "head2toe", "parameters": {"C": 1}}, "head2toe chooses its settings itself; it takes class_weight "),
        ({"parameters": {"class_weight": "even"}}, "the head could not be fitted: "),
        (
            {"parameters": {"class_weight": {"wasps": 2}}},
            "the head could not be fitted: class_weight names 'wasps'; the classes are ants, bees",
        ),
        ({"scaling": "l2"}, "scaling is for heads that are not tuned: fix their settings with -p, or name another"),
        ({"head": "auto", "scaling": "l2"}, "scaling is for heads that are not tuned"),
        ({"head": "logreg", "calibrate": True}, "calibrate is for heads that have no probabilities of their own; "),
        ({"head": LinearRegression()}, "LinearRegression is not a scikit-learn classifier; give an object of one"),
        ({"head": RidgeClassifier}, "ABCMeta is not a scikit-learn classifier; give an object of one"),
    ],
    ids=str,
)
def test_options_without_effect_are_refused(options: dict[str, Any], message: str, cache: FeatureCache) -> None:
    with pytest.raises(HeadError) as caught:
        fit_head(cache, **options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("use", ["all", "mean", "clean"])
def test_views_are_used_as_asked(use: Any, cache: FeatureCache) -> None:
    features = cache.features("train")
    flat = features.flatten(use)
    expected = LinearHead(C=0.5).fit(np.asarray(flat.x), flat.y, flat.weights)
    estimator = fit_head(cache, head="linear", parameters={"C": 0.5}, use_views=use).estimator
    np.testing.assert_array_equal(estimator.coef_, expected.coef_)


def test_sgd_on_clean_views_sees_nothing_else(cache: FeatureCache, split_folder: Path, tmp_path: Path) -> None:
    bare = extract(split_folder, tmp_path / "bare.h5", backbone=toy_backbone(), views=0).cache
    clean = fit_head(cache, head="sgd", use_views="clean", parameters={"epochs": 2}).estimator.coef_
    np.testing.assert_array_equal(clean, fit_head(bare, head="sgd", parameters={"epochs": 2}).estimator.coef_)


@pytest.mark.parametrize("head", ["linear", "auto", "ridge", "lda", "centroid", "knn"])
@pytest.mark.parametrize("constant", [0.0, 7.0, 1e4])
def test_features_that_say_nothing_give_the_more_frequent_class(head: str, constant: float, tmp_path: Path) -> None:
    x, y = np.full((30, 2, 4), constant, np.float32), (np.arange(30) % 3 == 0).astype(np.int64)
    fit = fit_head(cache_of(tmp_path / "c.h5", (x, y), (x[:9, 0], y[:9])), head=head)
    if head not in ("centroid", "knn", "auto"):  # those know no shares
        assert fit.accuracy.confusion == ((6, 0), (3, 0))
    assert fit.accuracy.log_loss is not None
    assert np.isfinite(fit.accuracy.log_loss)


@pytest.mark.parametrize("head", ["linear", "auto"])
def test_two_images_a_class_are_enough(head: str, tmp_path: Path) -> None:
    x, y = clouds(20, 10, views=2, d=16, apart=8)
    fit = fit_head(cache_of(tmp_path / "c.h5", (x, y), (x[:, 0], y)), head=head)
    assert fit.accuracy.accuracy == 1.0
    assert fit.selection is not None
    assert fit.selection.images == 20


def test_one_image_a_class_cannot_be_tuned_but_fitted(tmp_path: Path) -> None:
    x, y = clouds(10, 10, d=16, apart=8)
    cache = cache_of(tmp_path / "c.h5", (x, y), (x[:, 0], y))
    with pytest.raises(HeadError, match=r"^no class has two different training images, so none can be held out to "):
        fit_head(cache)
    assert fit_head(cache, head="linear", parameters={"C": 1}).accuracy.accuracy == 1.0


def test_a_thousand_to_one(tmp_path: Path) -> None:
    """The rare class lies apart: it is found although leaving one image out leaves two of it."""
    rng = np.random.default_rng(0)
    y = (np.arange(3003) >= 3000).astype(np.int64)
    x = (rng.normal(size=(3003, 1, 4)) + 12 * y[:, None, None]).astype(np.float32)
    fit = fit_head(cache_of(tmp_path / "c.h5", (x, y), (x[:, 0], y)))
    assert fit.accuracy.recall == (1.0, 1.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_said(value: float, tmp_path: Path) -> None:
    x, y = clouds(12, 2)
    cache = cache_of(tmp_path / "c.h5", (x, y), (x[:, 0], y))
    broken = x.copy()
    broken[5, 0, 3] = value
    with pytest.raises(HeadError, match=r"^the head could not be fitted: Input X contains (NaN|infinity)"):
        TuningData(Features(broken, cache.features("train").samples))


def test_one_class_is_said(tmp_path: Path) -> None:
    x, _ = clouds(12, 2)
    y = np.zeros(12, np.int64)
    y[-2:] = 1
    cache = cache_of(tmp_path / "c.h5", (x[:10], y[:10]), (x[:, 0], y))
    with pytest.raises(HeadError, match=r"^a head needs two classes or more, and all training samples are a$"):
        fit_head(cache)


def test_class_weights_are_given_by_name(cache: FeatureCache) -> None:
    by_name = fit_head(cache, parameters={"class_weight": {"ants": 3.0, "bees": 0.5}}).estimator
    by_index = fit_head(cache, parameters={"class_weight": {0: 3.0, 1: 0.5}}).estimator
    np.testing.assert_array_equal(by_name.coef_, by_index.coef_)
    assert not np.allclose(by_name.coef_, fit_head(cache).estimator.coef_)


def test_the_tuned_head_knows_its_strength(cache: FeatureCache) -> None:
    fit = fit_head(cache, head="linear")
    assert fit.selection is not None
    assert f"C={fit.estimator.C:.3g}" == fit.selection.chosen.setting


def test_pytorch_solves_what_numpy_solves(cache: FeatureCache) -> None:
    """On the CPU; test_gpu.py does it on a GPU."""
    expected, actual = (fit_head(cache, head="linear", device=device) for device in ("cpu", "cpu:0"))
    np.testing.assert_allclose(actual.estimator.coef_, expected.estimator.coef_, rtol=1e-2, atol=1e-4)
    fixed = [
        fit_head(cache, head="linear", parameters={"C": 1.0}, device=device).estimator.coef_
        for device in ("cpu", "cpu:0")
    ]
    np.testing.assert_allclose(fixed[1], fixed[0], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("head", ["knn", "logreg"])
def test_the_best_device_there_is_suits_every_head(
    head: str, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "featcache.heads.training_data.resolve_device", lambda device: "cuda" if device == "auto" else device
    )
    assert fit_head(cache, head=head, device="auto").accuracy == fit_head(cache, head=head).accuracy


def test_neighbours_do_not_vote_with_means(cache: FeatureCache) -> None:
    with pytest.raises(HeadError, match="neighbours vote with their clean views; leave out use_views"):
        fit_head(cache, head="knn", use_views="mean")
    assert fit_head(cache, head="knn", use_views="clean").accuracy == fit_head(cache, head="knn").accuracy


@pytest.mark.parametrize("head", ["knn", "sgd", "logreg"])
def test_a_device_that_a_head_would_not_work_on_is_refused(cache: FeatureCache, head: str) -> None:
    with pytest.raises(HeadError, match="only auto, head2toe and linear work on cpu:0"):
        fit_head(cache, head=head, device="cpu:0")
