"""Labelling: sets of labels and refused samples, from known probabilities and from heads on known clusters."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from commands import featcache_cli, refused
from featcache import FeatureCache, FeatureClassifier, fit_head
from featcache.core.model_card import ModelCard
from featcache.errors import HeadError
from featcache.heads.held_out import FILE, HeldOutScores
from featcache.heads.novelty import NoveltyScore
from featcache.models.labelling import Labelling
from featcache.models.prediction import format_predictions

NAMES = ("ant", "bee", "wasp")
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.05, 0.35, 0.6]])


def clusters(n: int, seed: int = 0, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Three clusters in six dimensions."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return rng.normal(size=(n, 6)) * spread + 3 * np.eye(6)[y], np.array(NAMES)[y]


@pytest.fixture
def head(tmp_path: Path) -> Path:
    """On 300 samples of the clusters; test/ of the cache has 1,500 others."""
    x, y = clusters(2100)
    split = ["train"] * 300 + ["val"] * 300 + ["test"] * 1500
    cache = FeatureCache.from_arrays(x, y, split=split, out=tmp_path / "cache.h5")
    fit_head(cache, tmp_path / "head", head="lda")
    return tmp_path / "head"


def test_a_set_has_the_labels_that_are_probable_enough() -> None:
    found = Labelling(NAMES, 1, set_threshold=0.35).apply(np.array([0, 1, 2]), PROBABILITIES)
    assert [one.label_set for one in found] == [("ant",), ("bee",), ("wasp", "bee")]
    assert [one.label for one in found] == ["ant", "bee", "wasp"]
    assert [one.top for one in found] == [(("ant", 0.7),), (("bee", 0.4),), (("wasp", 0.6),)]


def test_a_set_can_be_empty_or_have_all_labels() -> None:
    found = Labelling(NAMES, 1, set_threshold=0.65).apply(np.array([0, 1, 2]), PROBABILITIES)
    assert [one.label_set for one in found] == [("ant",), (), ()]
    found = Labelling(NAMES, 1, set_threshold=0).apply(np.array([0, 1, 2]), PROBABILITIES)
    assert [set(one.label_set or ()) for one in found] == [set(NAMES)] * 3


def test_a_sample_with_a_low_score_has_no_label() -> None:
    """The classes lie at 0, 4 and 8 of one feature, and the second sample is at -9."""
    products = 16.0 * np.outer([-1, 0, 1], [-1, 0, 1])
    score = NoveltyScore(np.array([[-4.0], [0], [4]], np.float32), np.array([16.0, 0, -16]), products, np.ones(3) / 3)
    labelling = Labelling(NAMES, 3, novelty=score, least_novelty=-10.0)
    found = labelling.apply(np.array([0, 1, 2]), PROBABILITIES, np.array([[0.0], [-9.0], [8.0]]))
    assert [(one.label, one.is_unknown) for one in found] == [("ant", False), (None, True), ("wasp", False)]
    assert found[1].top[0] == ("bee", 0.4)


def test_sets_of_new_samples_hold_the_label_as_often_as_requested(head: Path) -> None:
    """1,500 samples, and the chance in the 300 that set the limit: within four standard errors of both."""
    classifier, cache = FeatureClassifier.load(head), FeatureCache.open(head.parent / "cache.h5")
    truth = [cache.samples.classes[label] for label in cache.features("test").y]
    for coverage in (0.9, 0.95, 0.99):
        found = classifier.predict(cache, split="test", coverage=coverage)
        share = np.mean([label in (one.label_set or ()) for label, one in zip(truth, found, strict=True)])
        error = np.sqrt(coverage * (1 - coverage) * (1 / 1500 + 1 / 300))
        assert abs(share - coverage) < 4 * error


def test_of_known_samples_one_in_twenty_is_refused_and_of_others_most(head: Path, tmp_path: Path) -> None:
    classifier = FeatureClassifier.load(head)
    known = classifier.predict(head.parent / "cache.h5", split="test", unknown=True)
    assert abs(np.mean([one.is_unknown for one in known]) - 0.05) < 4 * np.sqrt(0.05 * 0.95 * (1 / 1500 + 1 / 300))
    x, y = clusters(300)
    between = FeatureCache.from_arrays(np.full_like(x, 1.0) + 0.01 * x, y, out=tmp_path / "between.h5")
    assert np.mean([one.is_unknown for one in classifier.predict(between, unknown=True)]) > 0.9
    far = FeatureCache.from_arrays(20 * np.eye(6)[0] + 0.01 * x, y, out=tmp_path / "far.h5")
    assert np.mean([one.is_unknown for one in classifier.predict(far, unknown=True)]) > 0.9


def test_limits_are_those_of_the_saved_scores(head: Path) -> None:
    scores = HeldOutScores.load(head, head / FILE)
    labelling = Labelling.of_model(head, ModelCard.read(head), 5, 0.9, True, 0)
    assert scores.novelty is not None
    assert (labelling.set_threshold, labelling.least_novelty) == (scores.set_threshold(0.9), scores.novelty.threshold)
    assert Labelling.of_model(head, ModelCard.read(head), 5, None, False, 0) == Labelling(NAMES)


def test_the_formats_have_sets_and_refusals(head: Path) -> None:
    found = FeatureClassifier.load(head).predict(head.parent / "cache.h5", split="val", coverage=0.95, unknown=True)
    rows = list(csv.DictReader(io.StringIO("".join(format_predictions(found, "csv", ["label_set", "unknown"])))))
    assert [row["label_set"].split("|") if row["label_set"] else [] for row in rows] == [
        list(one.label_set or ()) for one in found
    ]
    assert [row["unknown"] == "yes" for row in rows] == [one.is_unknown for one in found]
    assert [row["label"] for row in rows] == [one.label or "" for one in found]
    lines = [json.loads(line) for line in format_predictions(found, "jsonl")]
    assert [line["label_set"] for line in lines] == [list(one.label_set or ()) for one in found]
    assert [line["unknown"] for line in lines] == [one.is_unknown for one in found]
    for one in found:
        assert f"\t{{{', '.join(one.label_set or ())}}}\t" in str(one)
        assert ("\tunknown\t" in str(one)) == one.is_unknown


def test_the_command_counts_the_refused(head: Path) -> None:
    result = featcache_cli("predict", head, head.parent / "cache.h5", "--split", "test", "--unknown", "--json")
    answer = json.loads(result.stdout)
    refused_ones = sum(one.get("unknown", False) for one in answer["predictions"])
    assert answer["unknown"] == refused_ones > 0
    assert f"{refused_ones} of 1500 images are like none of the classes: they have no label" in result.stderr


@pytest.mark.parametrize("options", [["--coverage", "0.9"], ["--unknown"]])
def test_a_head_without_scores_is_refused(options: list[str], tmp_path: Path) -> None:
    x, y = clusters(90)
    cache = FeatureCache.from_arrays(x, y, out=tmp_path / "cache.h5")
    fit_head(cache, tmp_path / "head", head="logreg")
    message = refused("predict", tmp_path / "head", tmp_path / "cache.h5", *options)
    assert f"has no {FILE}" in message
    assert "--cv" in message
    fit_head(cache, tmp_path / "head", head="logreg", cv=5)
    assert featcache_cli("predict", tmp_path / "head", tmp_path / "cache.h5", *options).exit_code == 0


@pytest.mark.parametrize("coverage", ["0", "1", "95", "nan"])
def test_an_impossible_coverage_is_refused(coverage: str, head: Path) -> None:
    assert "--coverage" in refused("predict", head, head.parent / "cache.h5", "--coverage", coverage, status=2)


@pytest.mark.parametrize("name", ["knn", "sklearn.naive_bayes.GaussianNB", "forest"])
def test_scores_that_many_samples_share_count_as_reached(name: str, tmp_path: Path) -> None:
    """Well separated clusters: all votes are for one class, and nothing may be refused."""
    x, y = clusters(300, spread=0.1)
    cache = FeatureCache.from_arrays(x, y, out=tmp_path / "cache.h5")
    fit_head(cache, tmp_path / "head", head=name, **({} if name == "knn" else {"cv": 5}))
    found = FeatureClassifier.load(tmp_path / "head").predict(cache, coverage=0.9, unknown=True)
    assert np.mean([one.is_unknown for one in found]) < 0.12
    assert np.mean([len(one.label_set or ()) == 1 for one in found]) > 0.85


def test_averaged_views_are_refused(tmp_path: Path) -> None:
    """The scores are of the clean view."""
    x, y = clusters(300)
    views = np.stack([x, x + 0.1, x - 0.1], axis=1)
    cache = FeatureCache.from_arrays(views, y)
    assert fit_head(cache, tmp_path / "head", head="lda", tta=2).sets == ()
    classifier = FeatureClassifier.load(tmp_path / "head")
    with pytest.raises(HeadError, match="average no augmented views"):
        classifier.predict(cache, coverage=0.9)
    assert classifier.predict(cache, coverage=0.9, tta=0)[0].label_set is not None


def test_too_few_samples_for_a_coverage_are_refused(tmp_path: Path) -> None:
    x, y = clusters(60)
    cache = FeatureCache.from_arrays(x, y, split=["train"] * 30 + ["val"] * 30)
    fit_head(cache, tmp_path, head="lda")
    classifier = FeatureClassifier.load(tmp_path)
    assert classifier.predict(cache, coverage=0.95)
    with pytest.raises(HeadError, match=r"coverage 0\.99 needs 99 training samples or more, and this head has 30"):
        classifier.predict(cache, coverage=0.99)


def test_several_labels_are_refused(tmp_path: Path) -> None:
    x, _ = clusters(60)
    labels = np.stack([np.arange(60) % 2, np.arange(60) % 3 == 0], axis=1).astype(int)
    cache = FeatureCache.from_arrays(x, labels, classes=["ant", "bee"])
    fit_head(cache, tmp_path)
    with pytest.raises(HeadError, match="for models that give a sample one label"):
        FeatureClassifier.load(tmp_path).predict(cache, coverage=0.9)
