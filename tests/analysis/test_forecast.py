"""Forecasts: measurements that equal those of other functions, the thresholds of the rule, and its record."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from caches import DIMS, PROVENANCE, SPEC, cache_of, clouds
from commands import ROOT, toy_cache
from featcache.analysis.curves import label_curve
from featcache.analysis.forecast.forecast import (
    MIN_FIXED,
    MIN_GAIN,
    RECORD,
    SCRATCH_IMAGES,
    TERMS,
    Forecast,
    Record,
    forecast,
    gain_by_doubling,
)
from featcache.analysis.forecast.transferability import chance_purity, h_score, log_me, purity
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.writer import CacheWriter
from featcache.errors import CacheIncompleteError, HeadError
from featcache.heads.fit_head import fit_head
from featcache.heads.layer_scaling import standardize_layers
from featcache.metrics.significance import paired_test, wilson_interval
from several import write_pictures

FIGURES: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / "forecast.json").read_text(encoding="utf-8"))

CASES = {
    "there is too little room: ": "the headroom is too small: ",
    "the network has random weights": "the network has random weights",
    "the features do not carry the classes: ": "the features do not separate the classes: ",
    "there is room, and the features do not fit ": "there is headroom, and the features do not fit ",
    "there is room, and more labels would not fill it: ": "there is headroom that more labels would not use: ",
    "the features fit, and the head is short of labels: ": "the features fit, and the head lacks labels: ",
}
"""The start of the reason in the results, and today."""

FIELDS = [field.name for field in dataclasses.fields(Forecast) if field.name != "gain_from_doubling"]

Split = tuple[NDArray[np.float32], NDArray[np.int64]]


def planted(path: Path, train: Split, val: Split) -> FeatureCache:
    return cache_of(path, train, (val[0][:, 0], val[1]))


def made(**changes: Any) -> Forecast:
    """100 of 400 wrong on val, none on train, neighbourhoods three quarters of the way to pure: short of labels."""
    fields: dict[str, Any] = {
        "n": 400, "errors": 100, "majority": 0.25, "train_accuracy": 1.0, "cv_accuracy": 0.74, "images": 200,
        "fewest": 50, "curve": ((50, 0.6), (100, 0.68), (200, 0.75)), "gain_from_doubling": 0.05, "purity": 0.8125,
        "chance": 0.25, "h_score": 1.5, "log_me": -0.2, "pretrained": True, "seconds": 1.0,
    }  # fmt: skip
    return Forecast(**{**fields, **changes})


def test_every_figure_is_what_its_own_function_gives(tmp_path: Path) -> None:
    train, val = clouds(160, 4, views=3, apart=0.7), clouds(120, 4, apart=0.7, seed=1)
    cache = planted(tmp_path / "c.h5", train, val)
    result, fit, again = forecast(cache), fit_head(cache, head="linear"), forecast(str(cache.path))
    assert result.n == 120
    assert result.accuracy == pytest.approx(fit.accuracy.accuracy)
    assert result.errors == round(120 * (1 - fit.accuracy.accuracy)) > 10
    assert result.interval == wilson_interval(120 - result.errors, 120)
    assert fit.selection is not None
    assert result.cv_accuracy == fit.selection.chosen.accuracy.accuracy
    x, y = train[0][:, 0], train[1]
    assert result.train_accuracy == float((fit.estimator.predict(x) == y).mean())
    assert result.gap == pytest.approx(result.train_accuracy - fit.accuracy.accuracy)
    points = label_curve(cache, shares=(0.25, 0.5, 1.0), repeats=3).points
    assert result.curve == tuple((point.images, point.accuracy) for point in points)
    assert [images for images, _ in result.curve] == [40, 80, 160]
    assert result.gain_from_doubling == gain_by_doubling(result.curve, 120)
    sha256 = cache.samples.sha256[:160]
    assert (result.purity, result.chance) == (purity(x, y, sha256), chance_purity(y)) == (result.purity, 0.25)
    assert (result.h_score, result.log_me) == (h_score(x, y), log_me(x, y))
    assert (result.images, result.fewest, result.majority, result.pretrained) == (160, 40, 0.25, True)
    assert dataclasses.replace(again, seconds=result.seconds) == result


def test_the_fewest_images_and_the_most_frequent_class_are_counted(tmp_path: Path) -> None:
    (x, y), val = clouds(90, 3), clouds(80, 2, seed=1)
    rows = np.flatnonzero((y != 1) | (np.arange(90) < 40))
    result = forecast(planted(tmp_path / "c.h5", (x[rows], y[rows]), (val[0][:70], val[1][:70])))
    assert (result.fewest, result.images, result.majority) == (13, 73, 0.5)


def test_features_that_part_the_classes_leave_no_room(tmp_path: Path) -> None:
    result = forecast(planted(tmp_path / "c.h5", clouds(120, 3, apart=6), clouds(90, 3, apart=6, seed=1)))
    assert (result.accuracy, result.purity, result.pays) == (1.0, 1.0, False)
    assert result.reason.startswith("the headroom is too small: the head predicts 0 of 90 val images wrongly. ")
    assert "\nThe rule predicts that fine-tuning does not pay: the headroom is too small" in str(result)


def test_features_that_know_nothing_are_said_not_to_carry_the_classes(tmp_path: Path) -> None:
    result = forecast(planted(tmp_path / "c.h5", clouds(150, 3, apart=0), clouds(120, 3, apart=0, seed=1)))
    assert abs(result.fit) < 0.1
    assert not result.pays
    assert result.reason.startswith("the features do not separate the classes: the head's accuracy of ")
    assert "always predicting the most frequent class (33.3%)" in result.reason


def test_features_that_know_a_little_do_not_fit(tmp_path: Path) -> None:
    result = forecast(planted(tmp_path / "c.h5", clouds(200, 4, apart=0.45), clouds(160, 4, apart=0.45, seed=1)))
    assert result.interval[0] > 0.25
    assert (result.pays, result.fit < 0.5) == (True, True)
    assert result.reason.startswith("there is headroom, and the features do not fit the task")


def test_pure_neighbourhoods_that_no_line_parts_lack_something(tmp_path: Path) -> None:
    """Four clouds crosswise, two of them small: a line gets the large ones right."""

    def crossed(n: int, seed: int) -> Split:
        rng = np.random.default_rng(seed)
        corner = np.arange(n) % 10
        corner = np.select([corner < 3, corner < 5, corner < 8], [0, 1, 2], 3)
        x = np.array([[1, 1], [-1, -1], [1, -1], [-1, 1]])[corner] + 0.1 * rng.normal(size=(n, 2))
        return x[:, None].astype(np.float32), corner // 2

    result = forecast(planted(tmp_path / "c.h5", crossed(200, 0), crossed(160, 1)))
    assert result.fit > 0.9
    assert result.pays
    assert result.reason.startswith("there is headroom that more labels would not use")


def test_pure_neighbourhoods_and_few_labels_ask_for_labels(tmp_path: Path) -> None:
    result = forecast(
        planted(tmp_path / "c.h5", clouds(24, 4, d=60, apart=0.42), clouds(200, 4, d=60, apart=0.42, seed=1))
    )
    assert (result.train_accuracy, result.pays) == (1.0, False)
    assert result.fit >= 0.5
    assert f"twice as many add about {100 * result.gain_from_doubling:+.1f} points" in result.reason


@pytest.mark.parametrize(
    ("changes", "pays", "reason"),
    [
        ({}, False, "the features fit, and the head lacks labels: it predicts 0.0% of train and 25.0% of val wrongly"),
        (
            {"errors": 17},
            False,
            "the headroom is too small: the head predicts 17 of 400 val images wrongly. Fine-tuning is assumed to fix "
            "a third of them at best (5.7), and a gain of fewer than 6 images is not distinguishable from chance",
        ),
        ({"errors": 18, "purity": 0.5}, True, "there is headroom, and the features do not fit"),
        (
            {"n": 4000, "errors": 119, "purity": 0.5},
            False,
            "the headroom is too small: the head predicts 2.97% of val wrongly. Fine-tuning is assumed to fix a third "
            "of that at best, which is less than 1 point of accuracy and not worth hours",
        ),
        ({"n": 4000, "errors": 121, "purity": 0.5}, True, "there is headroom, and the features do not fit"),
        ({"pretrained": False, "fewest": 4999, "purity": 0.5}, False, "the network has random weights"),
        ({"pretrained": False, "fewest": 5000, "purity": 0.5}, True, "there is headroom"),
        ({"majority": 0.71}, False, "the features do not separate the classes: the head's accuracy of 75.0% is not"),
        ({"majority": 0.70, "purity": 0.5}, True, "there is headroom"),
        (
            {"purity": 0.62},
            True,
            "there is headroom, and the features do not fit the task: the neighbourhoods are 49% of",
        ),
        ({"purity": 0.625}, False, "the features fit"),
        (
            {"train_accuracy": 0.875},
            True,
            "there is headroom that more labels would not use: the head predicts 12.5% of",
        ),
        ({"train_accuracy": 0.876}, False, "the features fit"),
    ],
)
def test_the_rule_on_both_sides_of_its_thresholds(changes: dict[str, Any], pays: bool, reason: str) -> None:
    result = made(**changes)
    assert (result.pays, result.reason[: len(reason)]) == (pays, reason)


def test_fewer_images_than_the_least_are_noise_and_the_least_are_not() -> None:
    for fixed, significant in ((MIN_FIXED - 1, False), (MIN_FIXED, True)):
        assert (paired_test(np.arange(50) < fixed, np.zeros(50, bool)).p < 0.05) == significant
    assert (MIN_GAIN, SCRATCH_IMAGES) == (0.01, 5000)


@pytest.mark.parametrize(
    ("curve", "gain"),
    [
        (((10, 0.6), (20, 0.8)), 0.1),  # halved errors are halved again
        (((10, 0.2), (20, 0.6), (40, 0.8)), 0.1),
        (((10, 0.8), (20, 0.8)), 0.0),
        (((10, 0.9), (20, 0.8)), 0.0),  # noise: more labels do no harm
        (((10, 0.9), (20, 1.0)), 0.0),
        (((10, 0.9), (40, 0.975)), 0.0125),  # two doublings, a quarter of the errors
        (((40, 0.7),), 0.0),
    ],
)
def test_twice_the_labels_go_on_as_a_power(curve: tuple[tuple[int, float], ...], gain: float) -> None:
    assert gain_by_doubling(curve, 100) == pytest.approx(gain, abs=1e-12)


def test_errors_of_nothing_count_half_an_image() -> None:
    assert gain_by_doubling(((10, 1.0), (20, 0.98)), 100) == 0.0
    # errors of 0.02 times 4, 1/4, 1 at 0, 1 and 3 doublings: the line through their logarithms falls by 3/7 in each
    expected = 0.02 * (1 - 2 ** (-3 / 7))
    assert gain_by_doubling(((5, 0.92), (10, 1.0), (40, 0.98)), 100) == pytest.approx(expected, abs=1e-12)


def test_it_is_of_the_layer_that_is_named(tmp_path: Path) -> None:
    (x, y), (x_val, y_val) = clouds(60, 2, d=4, apart=6), clouds(40, 2, d=4, apart=6, seed=1)
    path, m = tmp_path / "c.h5", 100
    cache_of_one = cache_of(tmp_path / "one.h5", (x, y), (x_val[:, 0], y_val))
    spec = dataclasses.replace(SPEC, views=0, dtype="float32", layers=("early", "penultimate"))
    noise = np.random.default_rng(3).normal(size=(m, 1, 4)).astype(np.float32)
    with CacheWriter(path, spec, cache_of_one.samples, {"early": 4, **DIMS}, PROVENANCE) as writer:
        writer.write(np.arange(m), {"early": noise, "penultimate": np.concatenate([x, x_val])})
        writer.finish({})
    plain, early = forecast(path), forecast(path, layer="early")
    assert dataclasses.replace(plain, seconds=0) == dataclasses.replace(forecast(cache_of_one), seconds=0)
    assert (plain.accuracy, early.accuracy < 0.8) == (1.0, True)
    points = label_curve(path, shares=(0.25, 0.5, 1.0), repeats=3, layer="early").points
    assert early.curve == tuple((point.images, point.accuracy) for point in points)
    with pytest.raises(CacheIncompleteError, match="has no layer 'late'"):
        forecast(path, layer="late")


def test_several_layers_are_scored_as_equally_wide(tmp_path: Path) -> None:
    """A narrow layer that tells the classes, in small units, beside a wide one of noise in large units."""
    train, val = clouds(120, 3, d=12, apart=2), clouds(60, 3, d=12, apart=2, seed=1)
    cache_of_one = planted(tmp_path / "one.h5", train, val)
    spec = dataclasses.replace(SPEC, views=0, dtype="float32", layers=("wide", "penultimate"))
    noise = 500 + 100 * np.random.default_rng(3).normal(size=(180, 1, 12)).astype(np.float32)
    noise[..., 5] = 1e6
    with CacheWriter(
        tmp_path / "c.h5", spec, cache_of_one.samples, {"wide": 12, "penultimate": 12}, PROVENANCE
    ) as writer:
        narrow = 0.001 * np.concatenate([train[0], val[0]])
        writer.write(np.arange(180), {"wide": noise, "penultimate": narrow})
        cache = writer.finish({})
    both, alone = forecast(cache, layer="all"), forecast(cache)
    features = cache.features("train", "all")
    x = np.asarray(features.clean()) * standardize_layers(features)
    assert both.purity == purity(x, features.y, features.samples.sha256)
    assert both.purity > 0.85 < alone.purity
    assert both.log_me == log_me(x, features.y)


def test_many_images_are_scored_by_a_part_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featcache.analysis.forecast.forecast._MAX_IMAGES", 60)
    seen: list[int] = []
    monkeypatch.setattr("featcache.analysis.forecast.forecast.log_me", lambda x, y: seen.append(len(x)) or 0.0)
    forecast(planted(tmp_path / "c.h5", clouds(120, 3), clouds(60, 3, seed=1)))
    assert seen == [60]


def test_random_weights_are_known_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROVENANCE, "weights", "none")
    assert not forecast(planted(tmp_path / "c.h5", clouds(60, 3), clouds(60, 3, seed=1))).pretrained


def test_several_labels_an_image_are_refused(tmp_path: Path) -> None:
    cache = toy_cache(write_pictures(tmp_path / "data"), tmp_path / "c.h5")
    with pytest.raises(HeadError, match=r"^a forecast needs images with one label; those of .*c\.h5 can have several$"):
        forecast(cache)


def test_progress_is_told(tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    cache = planted(tmp_path / "c.h5", clouds(40, 2), clouds(30, 2, seed=1))
    forecast(cache, progress=lambda *step: steps.append(step))
    assert steps == [("forecast", step, 3) for step in (1, 2, 3)]


def test_the_text_names_every_figure_and_the_record() -> None:
    text = str(made())
    for part in ("0.7500  of the linear head on val", "0.7400 cross-validated", "100 errors", "0.2500 by chance",
                 "+0.0500  from twice the labels, extrapolated from 0.6000 with 50, 0.6800 with 100",
                 "Label more images first", f"{RECORD} {TERMS} (benchmarks/results/forecast.md)."):  # fmt: skip
        assert part in text


def test_a_record_counts_and_says_whether_it_beats_one_answer_for_all() -> None:
    record = Record(5, 1, 2, 4)
    assert (record.pairs, record.right) == (12, 9)
    assert str(record) == (
        "The rule was right for 9 of 12 pairs of a data set and a network: its yes was right 5 of 6 times, its no 4 of "
        '6 times. It is better than always answering "yes", which is right for 7.'
    )
    end = 'not better than always answering "no", which is right for {}; `benchmark` decides.'
    assert str(Record(1, 2, 1, 5)).endswith(f" It is {end.format(7)}")
    assert str(Record(0, 0, 0, 3)).endswith(f" It is {end.format(3)}")


def test_the_record_is_that_of_the_results() -> None:
    pairs = FIGURES["pairs"]
    outcomes = [(pair["said"], pair["paid"]) for pair in pairs]
    kinds = ((True, True), (True, False), (False, True), (False, False))
    assert Record(*(outcomes.count(kind) for kind in kinds)) == RECORD
    assert RECORD.pairs == len(pairs) >= 12
    counts = [pair["images"]["train"] for pair in pairs]
    epochs = {recipe["epochs"] for recipe in FIGURES["recipes"].values()}
    assert (FIGURES["image_size"], FIGURES["views"], epochs, len(FIGURES["recipes"])) == (96, 2, {8}, 2)
    assert (min(counts), max(counts), counts.count(240) > len(pairs) / 2) == (60, 900, True)
    assert TERMS.startswith(
        "The record was measured at 96 pixels with 2 augmented views, with 240 training images for most pairs (60 to"
    )
    assert FIGURES["record"] == {**RECORD._asdict(), "pairs": RECORD.pairs, "right": RECORD.right}


def test_the_table_of_all_pairs_is_that_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    text = (ROOT / "benchmarks" / "results" / "forecast.md").read_text(encoding="utf-8")
    assert text == importlib.import_module("forecast").page(FIGURES)
    assert text.count("(missed)") == RECORD.pairs - RECORD.right
    assert "| gratings | mobilenet_v2 | imagenet | pays |" in text


@pytest.mark.parametrize(
    "pair", FIGURES["pairs"], ids=lambda pair: f"{pair['set']} {pair['network']} {pair['weights']}"
)
def test_the_rule_is_still_the_one_whose_record_it_is(pair: dict[str, Any]) -> None:
    fields = {name: pair["forecast"][name] for name in FIELDS}
    curve = tuple(map(tuple, fields.pop("curve")))
    result = Forecast(**fields, curve=curve, gain_from_doubling=pair["forecast"]["doubling"])
    assert result.pays == pair["said"]
    (case,) = [new for old, new in CASES.items() if pair["forecast"]["reason"].startswith(old)]
    assert result.reason.startswith(case)  # the case that applied; the sentences have been reworded since
    assert pair["paid"] == (pair["gain"] >= MIN_GAIN and pair["p"] < 0.05)
    assert pair["gain"] == pytest.approx(pair["tuned"] - pair["cached"], abs=1e-12)
