"""Thresholds of labels: by hand, by scikit-learn's curve, and the same ones in all that decides labels."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, precision_recall_curve

from commands import as_json, done, refused
from featcache.backbones import load as backbone_loading
from featcache.cache.feature_cache import FeatureCache
from featcache.core.model_card import FILE, ModelCard
from featcache.core.splitting import assign_folds
from featcache.core.thresholds import (
    HALF,
    LEAST,
    best_f1_threshold,
    check_thresholds,
    choose_thresholds,
    decide,
    format_thresholds,
)
from featcache.errors import HeadError
from featcache.extraction.extract import extract
from featcache.finetuning.finetune import finetune
from featcache.heads.estimators import set_thresholds, thresholds_of
from featcache.heads.fit_head import HeadFit, fit_head
from featcache.heads.io import load_head
from featcache.metrics.multilabel import LabelAccuracy, evaluate_labels
from featcache.metrics.predictions import compare_heads, read_predictions
from featcache.models.classifier import Classifier
from featcache.models.evaluate import evaluate
from featcache.models.export.export import export
from featcache.models.serving.page import format_description
from featcache.training.loop import TrainConfig
from several import features, write_pictures
from toys import toy_backbone
from tuned import tune_labels

CLASSES = ("blue", "green", "red")


# One label


@pytest.mark.parametrize(
    ("y", "shares", "expected"),
    [
        # F1 after 1, 2, ... images, the most probable first: 2/3, 2/4, 4/5 at 0.4, 4/6
        ([1, 0, 1, 0], [0.9, 0.6, 0.4, 0.1], 0.25),
        # 2/2 after the first one
        ([1, 0, 0], [0.9, 0.2, 0.1], 0.55),
        # 1, 1/2, 2/3 of the three below 0.5: all is best
        ([0, 1, 1], [0.3, 0.2, 0.1], 0.05),
        # 2/3, 2/4, 4/5: between 0.1 and 0
        ([1, 0, 1], [0.9, 0.5, 0.1], 0.05),
        # two images of one probability are predicted together: 2/3 or 4/5, never between them
        ([1, 1, 0, 0], [0.8, 0.4, 0.4, 0.2], 0.3),
        # 2/5, 2/6, 2/7, 6/8, 6/9: the fourth is the last good one
        ([1, 0, 1, 1, 0], [0.9, 0.8, 0.6, 0.5, 0.2], 0.35),
        # equal F1 of 2/4 with one image and of 4/8 with five: the nearer to a half counts
        ([1, 0, 0, 0, 1, 0, 1], [0.7, 0.65, 0.64, 0.63, 0.62, 0.2, 0.0], 0.41),
        # one with no probability at all is not below any threshold
        ([1, 0], [0.0, 0.0], 0.5),
    ],
)
def test_the_threshold_by_hand(y: list[int], shares: list[float], expected: float) -> None:
    assert best_f1_threshold(np.array(y), np.array(shares)) == pytest.approx(expected, abs=1e-12)


def test_a_threshold_between_neighbouring_numbers_keeps_them_apart() -> None:
    high = 0.5
    low = float(np.nextafter(high, 0))
    threshold = best_f1_threshold(np.array([1, 0]), np.array([high, low]))
    assert low <= threshold < high
    for _ in range(50):  # where the mean of two neighbours is rounded up, too
        high, low = low, float(np.nextafter(low, 0))
        assert low <= best_f1_threshold(np.array([1, 0]), np.array([high, low])) < high


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.01, 0.2, 0.3, 0.45, 0.5, 0.7, 0.99, 1.0])), min_size=1)
)
def test_no_point_of_scikit_learns_curve_has_a_higher_f1(pairs: list[tuple[bool, float]]) -> None:
    y, shares = (np.array(column) for column in zip(*pairs, strict=True))
    if not (y & (shares > 0)).any():
        return
    precision, recall, points = precision_recall_curve(y, shares)  # predicted from each point on, itself included
    apart = points > 0  # nothing is above a threshold below 0
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    found = f1_score(y, shares > best_f1_threshold(y, shares), zero_division=0)
    assert found == pytest.approx(f1[:-1][apart].max(), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_the_threshold_is_halfway_below_scikit_learns_best_point(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.uniform(size=60) < 0.3
    y[0] = True
    shares = np.clip(rng.normal(0.3 + 0.2 * y, 0.15), 0.001, 1)
    precision, recall, points = precision_recall_curve(y, shares)
    f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-300))[:-1]
    best = points[f1 > f1.max() - 1e-12]
    below = [max(shares[shares < point], default=0.0) for point in best]
    halfway = (best + below) / 2
    assert best_f1_threshold(y, shares) == pytest.approx(halfway[np.argmin(abs(halfway - 0.5))])


# All labels


def test_labels_of_few_left_out_images_and_of_all_keep_one_half() -> None:
    n = 40
    y = np.zeros((n, 4), np.uint8)
    y[:LEAST, 0], y[: LEAST - 1, 1], y[:, 3] = 1, 1, 1
    shares = np.linspace(0.3, 0.1, n)[:, None].repeat(4, axis=1)
    thresholds, unknown = choose_thresholds(y, shares)
    assert unknown.tolist() == [False, True, True, True]
    assert thresholds[0] == pytest.approx((shares[LEAST - 1, 0] + shares[LEAST, 0]) / 2)
    assert thresholds[1:].tolist() == [0.5, 0.5, 0.5]


def test_a_probability_must_be_above_the_threshold() -> None:
    shares = np.array([[0.5, 0.3, 0.2], [0.51, 0.31, 0.1]])
    assert decide(shares).tolist() == [[0, 0, 0], [1, 0, 0]]
    assert decide(shares, (0.5, 0.3, 0.15)).tolist() == [[0, 0, 1], [1, 1, 0]]
    assert decide(shares).dtype == np.int64


def long_tail(n: int, seed: int, c: int = 10, d: int = 24) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Labels of half to a fiftieth of the images, each moving an image in a direction of its own."""
    moves = 0.45 * np.random.default_rng(99).normal(size=(c, d))
    rng = np.random.default_rng(seed)
    y = (rng.uniform(size=(n, c)) < np.geomspace(0.5, 0.02, c)).astype(np.uint8)
    return (y @ moves + rng.normal(size=(n, d))).astype(np.float32), y


def test_on_new_images_of_a_long_tail_f1_is_higher_and_fewer_images_are_right_throughout() -> None:
    """What the choice gains and what it costs; each of three sets of 600 images, judged on 5,000 others."""
    for seed in range(3):
        x, y = long_tail(600, seed)
        found = tune_labels(features(x[:, None], y, names="abcdefghij"))
        thresholds, unknown = choose_thresholds(found.labels, found.probabilities)
        others, truth = long_tail(5000, 100 + seed)
        shares = found.head.predict_proba(others)
        classes = tuple("abcdefghij")
        at_half, chosen = (evaluate_labels(truth, shares, classes, decide(shares, one)) for one in (None, thresholds))
        assert unknown.sum() <= 2
        assert chosen.macro_f1 > at_half.macro_f1 + 0.03
        assert chosen.accuracy < at_half.accuracy
        assert chosen.micro_f1 > at_half.micro_f1 - 0.02
        assert chosen.mean_average_precision == at_half.mean_average_precision  # which no threshold decides
        assert chosen.log_loss == at_half.log_loss


# What a user gives


def test_numbers_are_taken_by_label_or_for_all() -> None:
    assert check_thresholds(None, CLASSES) is None
    assert check_thresholds("f1", CLASSES) == "f1"
    assert np.array_equal(check_thresholds(0.3, CLASSES), [0.3, 0.3, 0.3])
    assert np.array_equal(check_thresholds({"red": 0.2, "blue": 0}, CLASSES), [0.0, HALF, 0.2])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("F2", "thresholds is 'F2'; give 'f1', a number, or a number for each label by its name"),
        ({"pink": 0.5}, "thresholds names 'pink'; the labels are blue, green, red"),
        (1.0, "the threshold of blue is 1.0; give a number from 0 up to, but not, 1"),
        ({"red": -0.1}, "the threshold of red is -0.1; give a number from 0 up to, but not, 1"),
        ({"red": float("nan")}, "the threshold of red is nan; give a number from 0 up to, but not, 1"),
        ({"red": "0.5"}, "the threshold of red is '0.5'; give a number from 0 up to, but not, 1"),
    ],
)
def test_what_is_no_threshold_is_refused(given: Any, message: str, cache: FeatureCache) -> None:
    with pytest.raises(HeadError) as caught:
        fit_head(cache, thresholds=given)
    assert str(caught.value) == message


def test_a_range_of_thresholds_is_spelled() -> None:
    assert format_thresholds(np.array([0.123456, 0.5])) == "0.123 to 0.5 by label"
    assert format_thresholds((0.3, 0.3)) == "0.3"


# From the cache to the prediction


def ran(program: Path, *photos: Path) -> str:
    """What the program prints that is written beside an exported file."""
    line = [sys.executable, str(program), *map(str, photos)]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 + 8 pictures of colours, some training images of which are called other than they are."""
    wrong = {1: "red", 3: "blue", 8: "", 12: "green", 16: "red|green", 21: "blue", 23: "red"}
    return write_pictures(tmp_path_factory.mktemp("thresholds") / "data", wrong)


@pytest.fixture(scope="module")
def cache(data: Path) -> FeatureCache:
    return extract(data, data.parent.parent / "toy.h5", backbone=toy_backbone(), views=1, dtype="float32").cache


@pytest.fixture
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a saved head loads by the name in its card is the toy."""
    monkeypatch.setattr(backbone_loading, "load_backbone", lambda *_, **__: toy_backbone())


def figures(fit: HeadFit) -> LabelAccuracy:
    assert isinstance(fit.accuracy, LabelAccuracy)
    return fit.accuracy


def shares_of(fit: HeadFit, cache: FeatureCache) -> NDArray[np.float64]:
    return np.asarray(fit.estimator.predict_proba(np.asarray(cache.features("val").clean())))


def other_decisions(cache: FeatureCache) -> dict[str, float]:
    """A threshold of each label that some val images pass and others do not, other ones than at 0.5."""
    shares = np.sort(shares_of(fit_head(cache), cache), axis=0)
    places = (1, 6, 5)  # of eight images; four have each colour
    return {
        name: float(shares[place : place + 2, label].mean())
        for label, (name, place) in enumerate(zip(CLASSES, places, strict=True))
    }


def spelled(decided: NDArray[np.int64]) -> list[str]:
    return ["|".join(name for name, has in zip(CLASSES, row, strict=True) if has) for row in decided]


def test_the_default_is_one_half_and_leaves_no_trace(cache: FeatureCache, tmp_path: Path) -> None:
    fit = fit_head(cache, tmp_path / "head")
    assert (fit.thresholds, fit.at_half, thresholds_of(fit.estimator)) == (None, None, None)
    assert "thresholds" not in json.loads((tmp_path / "head" / FILE).read_text())
    assert ModelCard.read(tmp_path / "head").thresholds is None
    assert "threshold" not in str(fit)


def test_the_best_f1_of_the_left_out_images_is_chosen(cache: FeatureCache, tmp_path: Path) -> None:
    fit, plain = fit_head(cache, tmp_path / "head", thresholds="f1"), fit_head(cache)
    found = tune_labels(cache.features("train"))
    expected, unknown = choose_thresholds(found.labels, found.probabilities)
    assert fit.thresholds == tuple(expected.tolist())
    assert unknown.sum() < 3
    assert len(set(fit.thresholds)) > 1
    np.testing.assert_array_equal(fit.estimator.coef_, plain.estimator.coef_)  # probabilities stay as they are
    assert figures(fit).log_loss == figures(plain).log_loss
    assert fit.at_half == figures(plain)
    shares, y = shares_of(fit, cache), cache.features("val").y
    assert figures(fit) == evaluate_labels(y, shares, CLASSES, decide(shares, expected))
    assert ModelCard.read(tmp_path / "head").thresholds == fit.thresholds
    told = json.loads((tmp_path / "head" / "run.json").read_text())
    assert (told["thresholds"], told["at_half"]["accuracy"]) == (list(fit.thresholds), figures(plain).accuracy)
    assert fit.selection is not None
    assert plain.selection is not None
    assert fit.selection.chosen.accuracy == plain.selection.chosen.accuracy


def test_the_text_says_what_was_chosen_what_was_not_and_what_one_half_gives(tmp_path: Path) -> None:
    """Red is on nine training images only, the other colours on twelve."""
    path = write_pictures(tmp_path / "data", {16: "", 19: "green", 20: "blue"})
    cache = extract(path, tmp_path / "toy.h5", backbone=toy_backbone(), views=0, dtype="float32").cache
    fit = fit_head(cache, thresholds="f1")
    lines, half = str(fit).splitlines(), fit.at_half
    assert half is not None
    assert fit.thresholds is not None
    assert fit.thresholds[2] == 0.5
    assert fit.notes == (
        "thresholds with the highest F1 on held-out samples (whose figures are at 0.5): "
        f"{format_thresholds(fit.thresholds)}",
        "1 of 3 labels keep 0.5, since fewer than 10 held-out samples have them, or all: red",
    )
    assert set(fit.notes) < set(lines)
    assert (
        f"at thresholds of 0.5: macro F1 {half.macro_f1:.4f}, micro F1 {half.micro_f1:.4f}, all labels right "
        f"{half.accuracy:.4f}"
    ) in lines


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("linear", {}),
        ("linear", {"parameters": {"C": 0.1}}),
        ("linear", {"parameters": {"C": 0.1}, "scaling": "standard"}),
        ("logreg", {}),
        ("knn", {"scaling": "l2"}),
    ],
    ids=str,
)
@pytest.mark.usefixtures("_toy")
def test_figures_val_csv_predictions_and_evaluation_agree(
    head: str, options: dict[str, Any], data: Path, cache: FeatureCache, tmp_path: Path
) -> None:
    given = other_decisions(cache) if head != "knn" else {"blue": 0.1, "green": 0.7}
    fit = fit_head(cache, tmp_path / "head", head=head, thresholds=given, **options)
    thresholds = [given.get(name, 0.5) for name in CLASSES]
    shares, y = shares_of(fit, cache), cache.features("val").y
    decided = decide(shares, thresholds)
    assert not np.array_equal(decided, decide(shares))
    assert np.array_equal(fit.estimator.predict(np.asarray(cache.features("val").clean())), decided)
    assert figures(fit) == evaluate_labels(y, shares, CLASSES, decided)
    assert figures(fit).accuracy == np.mean((decided == y).all(axis=1))
    assert [row.predicted for row in read_predictions(tmp_path / "head")] == spelled(decided)
    classifier = Classifier.load(tmp_path / "head", device="cpu")
    assert classifier.card.thresholds == tuple(thresholds)
    pictures = [data.parent / f"{row}.png" for row in range(24, 32)]
    assert [one.label for one in classifier.predict(pictures)] == spelled(decided)
    found = evaluate(classifier, data)
    assert (found.accuracy.accuracy, found.accuracy.n) == (figures(fit).accuracy, 8)
    assert isinstance(found.accuracy, LabelAccuracy)
    assert (found.accuracy.macro_f1, found.accuracy.recall) == (figures(fit).macro_f1, figures(fit).recall)
    assert compare_heads(tmp_path / "head", tmp_path / "head").right[0] == (decided == y).all(axis=1).sum()
    told = as_json("predict", tmp_path / "head", *pictures)["predictions"]
    assert [one["label"] for one in told] == spelled(decided)


@pytest.mark.usefixtures("_toy")
@pytest.mark.parametrize("format", ["onnx", "torch-export"])
def test_an_exported_program_names_the_same_labels(
    format: Any, data: Path, cache: FeatureCache, tmp_path: Path
) -> None:
    given = other_decisions(cache)
    fit = fit_head(cache, tmp_path / "head", thresholds=given)
    program = export(tmp_path / "head", tmp_path / "model", format).program
    pictures = [data.parent / f"{row}.png" for row in range(24, 32)]
    rows = [line.split("\t")[1:] for line in ran(program, *pictures).splitlines()]
    decided = decide(shares_of(fit, cache), [given[name] for name in CLASSES])
    assert ["|".join(text.split()[0] for text in row) for row in rows] == spelled(decided)
    assert [one.label for one in Classifier.load(tmp_path / "head", device="cpu").predict(pictures)] == spelled(decided)
    if format == "onnx":
        import onnx

        told = {entry.key: entry.value for entry in onnx.load(tmp_path / "model").metadata_props}
        assert json.loads(told["thresholds"]) == [given[name] for name in CLASSES]


@pytest.mark.usefixtures("_toy")
def test_views_are_averaged_before_labels_are_decided(data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"views": 2, "val_views": 2, "dtype": "float32"}
    cache = extract(data, tmp_path / "tta.h5", backbone=toy_backbone(), **options).cache
    fit = fit_head(cache, tmp_path / "head", tta=2, thresholds={"red": 0.2, "blue": 0.8})
    x = np.asarray(cache.features("val").x)
    shares = np.mean([fit.estimator.predict_proba(x[:, view]) for view in range(3)], axis=0)
    decided = decide(shares, (0.8, 0.5, 0.2))
    assert [row.predicted for row in read_predictions(tmp_path / "head")] == spelled(decided)
    found = Classifier.load(tmp_path / "head", device="cpu").predict(
        [data.parent / f"{row}.png" for row in range(24, 32)], tta=2
    )
    assert [one.label for one in found] == spelled(decided)


def test_other_heads_choose_by_their_cross_validation(cache: FeatureCache) -> None:
    fit = fit_head(cache, head="logreg", cv=3, use_views="clean", thresholds="f1")
    train = cache.features("train")
    x, fold, shares = np.asarray(train.clean()), assign_folds(train.y, train.samples.sha256, 3), np.zeros((24, 3))
    for number in range(3):
        here, theirs = fold == number, fold != number
        for label in range(3):
            inner = LogisticRegression(max_iter=1000).fit(x[theirs], train.y[theirs, label])
            shares[here, label] = inner.predict_proba(x[here])[:, 1]
    expected, _ = choose_thresholds(train.y, shares)
    assert fit.thresholds == pytest.approx(expected, abs=1e-4)


def test_heads_that_leave_out_no_images_have_nothing_to_choose_by(cache: FeatureCache, tmp_path: Path) -> None:
    for options in ({"head": "logreg"}, {"head": "linear", "parameters": {"C": 1.0}}):
        with pytest.raises(HeadError, match=r"this head holds out none: give cv \(--cv 5\), or numbers of your own"):
            fit_head(cache, tmp_path / "head", thresholds="f1", **options)
    assert fit_head(cache, head="logreg", cv=2, thresholds="f1").thresholds is not None


@pytest.mark.parametrize("given", ["f1", 0.3, 0.0, {}])
def test_images_with_one_label_have_no_thresholds(given: Any) -> None:
    x = np.random.default_rng(0).normal(size=(40, 4)) + np.repeat([[0], [3]], 20, axis=0)
    one = FeatureCache.from_arrays(x, np.repeat([0, 1], 20))
    for head in ("linear", "auto", "sgd", "logreg"):
        with pytest.raises(HeadError, match=r"^thresholds is for samples with several labels$"):
            fit_head(one, head=head, thresholds=given)


def test_refitting_forgets_the_thresholds(cache: FeatureCache) -> None:
    flat = cache.features("train").flatten()
    for head in ("linear", "logreg"):
        estimator = fit_head(cache, head=head, parameters={"C": 1.0}, thresholds=0.2).estimator
        assert np.array_equal(thresholds_of(estimator), [0.2, 0.2, 0.2])
        assert thresholds_of(estimator.fit(np.asarray(flat.x), flat.y)) is None


# Files


@pytest.mark.usefixtures("_toy")
def test_model_json_decides_not_the_head_s_file(cache: FeatureCache, tmp_path: Path) -> None:
    """A scikit-learn head that was saved with other thresholds."""
    fit = fit_head(cache, tmp_path / "head", head="knn", thresholds=0.9)
    assert np.array_equal(thresholds_of(load_head(tmp_path / "head" / "head.skops")), [0.9, 0.9, 0.9])
    card = json.loads((tmp_path / "head" / FILE).read_text())
    assert card.pop("thresholds") == list(fit.thresholds or ())
    (tmp_path / "head" / FILE).write_text(json.dumps(card))
    from featcache.models.load import open_model

    assert thresholds_of(open_model(tmp_path / "head", device="cpu").model) is None


@pytest.mark.parametrize(
    "value",
    [[0.5], [0.5, 0.5, 1.0], [0.5, 0.5, -0.1], [0.5, 0.5, "0.5"], [0.5, 0.5, None], [0.5, True, 0.5], 0.5, None, {}],
    ids=str,
)
def test_forged_thresholds_are_refused(value: Any, cache: FeatureCache, tmp_path: Path) -> None:
    fit_head(cache, tmp_path / "head", thresholds=0.25)
    card = json.loads((tmp_path / "head" / FILE).read_text())
    assert card["thresholds"] == [0.25, 0.25, 0.25]
    (tmp_path / "head" / FILE).write_text(json.dumps({**card, "thresholds": value}))
    with pytest.raises(HeadError, match=r"model\.json is damaged: its thresholds are "):
        ModelCard.read(tmp_path / "head")
    (tmp_path / "head" / FILE).write_text(json.dumps({**card, "multilabel": False}))
    with pytest.raises(HeadError, match=r"model\.json is damaged: its thresholds are "):
        ModelCard.read(tmp_path / "head")


def test_thresholds_of_a_pipeline_are_those_of_its_last_step(cache: FeatureCache) -> None:
    fit = fit_head(cache, head="logreg", scaling="standard", thresholds=0.3)
    assert np.array_equal(fit.estimator.steps[-1][1].thresholds_, [0.3, 0.3, 0.3])
    set_thresholds(fit.estimator, None)
    assert thresholds_of(fit.estimator) is None


@pytest.mark.usefixtures("_toy")
def test_the_classifier_and_the_page_say_that_they_decide_otherwise(cache: FeatureCache, tmp_path: Path) -> None:
    fit_head(cache, tmp_path / "head", thresholds={"red": 0.125})
    classifier = Classifier.load(tmp_path / "head", device="cpu")
    assert str(classifier).splitlines()[1] == "3 classes: blue, green, red; thresholds 0.125 to 0.5 by label"
    assert (
        "<p>A label is shown if its probability is above its threshold: 0.125 to 0.5 by label.</p>"
        in format_description(classifier.card)
    )


def test_a_run_that_begins_with_a_head_does_not_take_its_thresholds(
    data: Path, cache: FeatureCache, tmp_path: Path
) -> None:
    fit_head(cache, tmp_path / "head", thresholds=0.9)
    recipe = TrainConfig(epochs=1, batch_size=8, lr=1e-6)
    found = finetune(
        data, tmp_path / "run", backbone=toy_backbone(), mode="head", init_head=tmp_path / "head", config=recipe
    )
    assert f"the thresholds of {tmp_path / 'head'} are not used: this run decides every label at 0.5" in found.notes
    assert ModelCard.read(tmp_path / "run").thresholds is None
    with (tmp_path / "run" / "val.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            assert all(float(share) > 0.5 for share in row["probability"].split("|") if share)


# The command line


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["f1"], "f1"),
        (["0.3"], 0.3),
        (["red=0.2"], {"red": 0.2}),
        (["red=0.2", "a=b=0.5"], {"red": 0.2, "a=b": 0.5}),
        ([], None),
    ],
)
def test_the_command_takes_f1_a_number_or_labels(
    texts: list[str], expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import featcache

    seen: dict[str, Any] = {}
    monkeypatch.setitem(vars(featcache), "fit_head", lambda cache, **given: seen.update(given))
    done("fit-head", "c.h5", *(word for text in texts for word in ("--thresholds", text)))
    assert seen["thresholds"] == expected


@pytest.mark.parametrize("texts", [["f2"], ["0.3", "0.4"], ["f1", "red=0.3"], ["=0.3"], ["red="]], ids=str)
def test_the_command_refuses_others(texts: list[str]) -> None:
    words = [word for text in texts for word in ("--thresholds", text)]
    said = f"{' '.join(texts)} is neither f1 nor a number nor LABEL=NUMBER, given once or more"
    assert said in refused("fit-head", "c.h5", *words, status=2)


def test_the_page_says_the_command_with_its_thresholds(cache: FeatureCache, tmp_path: Path) -> None:
    page = tmp_path / "head.html"
    given = ("--thresholds", "red=0.25", "--thresholds", "blue=0.75")
    found = as_json("fit-head", cache.path, "-o", tmp_path / "head", *given, "--report", page)
    assert found["thresholds"] == [0.75, 0.5, 0.25]
    assert "--thresholds red=0.25 --thresholds blue=0.75" in page.read_text()


def test_a_label_with_two_thresholds_is_refused() -> None:
    words = ("--thresholds", "red=0.3", "--thresholds", "red=0.4")
    assert "red has two thresholds; give one" in refused("fit-head", "c.h5", *words, status=2)
