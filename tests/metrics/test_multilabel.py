"""Figures of several labels: examples by hand, and definitions written out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, log_loss

from featcache.metrics.classification import Accuracy, evaluate
from featcache.metrics.multilabel import LabelAccuracy, evaluate_labels, judge
from featcache.metrics.significance import wilson_interval

NAMES = ("ants", "bees", "cats", "dogs", "eels")

# Cats are on no image, though one is predicted; dogs are never predicted.
Y = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]], np.uint8)
P = np.array([[0.9, 0.17, 0.1, 0.1], [0.38, 0.83, 0.62, 0.3], [0.7, 0.62, 0.17, 0.3], [0.1, 0.3, 0.38, 0.17]])


@pytest.fixture
def found() -> LabelAccuracy:
    return evaluate_labels(Y, P, NAMES[:4])


def test_exact_matches_by_hand(found: LabelAccuracy) -> None:
    """The first image and the last are right in every label."""
    assert (found.accuracy, found.n, found.images) == (0.5, 4, (2, 2, 0, 1))
    assert (found.accuracy_low, found.accuracy_high) == pytest.approx((0.15003899, 0.84996101))  # Wilson, 2 of 4


def test_average_precisions_by_hand(found: LabelAccuracy) -> None:
    """Ants come first and third of four; bees first and second; dogs share the first place with another image."""
    assert found.average_precision == pytest.approx((0.5 * 1 + 0.5 * 2 / 3, 1.0, None, 0.5))
    assert found.mean_average_precision == pytest.approx((5 / 6 + 1 + 0.5) / 3)


def test_recall_and_precision_by_hand(found: LabelAccuracy) -> None:
    """Predicted are ants in 0 and 2, bees in 1 and 2, cats in 1."""
    assert found.recall == (0.5, 1.0, None, 0.0)
    assert found.class_precision == (0.5, 1.0, 0.0, None)


def test_f1_by_hand(found: LabelAccuracy) -> None:
    """F1 is 2 hits / (predicted + there): 2/4, 4/4, no cats, 0/1; in all 3 hits, 5 predicted, 5 there."""
    assert found.macro_f1 == pytest.approx((0.5 + 1 + 0) / 3)
    assert found.micro_f1 == pytest.approx(6 / 10)


def test_log_loss_by_hand(found: LabelAccuracy) -> None:
    own = [0.9, 0.83, 0.9, 0.9, 0.38, 0.83, 0.38, 0.7, 0.3, 0.62, 0.83, 0.3, 0.9, 0.7, 0.62, 0.83]
    assert found.log_loss == pytest.approx(-np.log(own).mean())


def test_the_calibration_error_by_hand(found: LabelAccuracy) -> None:
    """Of fifteen bins four are used: confidences of 0.62, 2 of 4 right; 0.7, 2 of 4; 0.83, 4 of 4; 0.9, 4 of 4."""
    gaps = [4 * 0.62 - 2, 4 * 0.7 - 2, 4 * 0.83 - 4, 4 * 0.9 - 4]
    assert found.calibration_error == pytest.approx(np.abs(gaps).sum() / 16)


def test_one_half_is_not_more_probable_than_not() -> None:
    half = evaluate_labels(np.array([[1, 0]], np.uint8), np.array([[0.5, 0.5]]), NAMES[:2])
    assert (half.recall, half.accuracy, half.class_precision) == ((0.0, None), 0.0, (None, None))
    more = evaluate_labels(np.array([[1, 0]], np.uint8), np.array([[0.5 + 1e-9, 0.5]]), NAMES[:2])
    assert (more.recall, more.accuracy, more.class_precision) == ((1.0, None), 1.0, (1.0, None))


@pytest.mark.parametrize("n", [1, 5])
def test_images_without_any_label_have_no_average_precision(n: int) -> None:
    found = evaluate_labels(np.zeros((n, 3), np.uint8), np.full((n, 3), 0.2), NAMES[:3])
    assert found.mean_average_precision is None
    assert (found.macro_f1, found.micro_f1, found.accuracy) == (0.0, 0.0, 1.0)
    assert found.average_precision == found.recall == found.class_precision == (None,) * 3
    assert found.log_loss == pytest.approx(-np.log(0.8))
    assert found.calibration_error == pytest.approx(0.2)
    low, high = wilson_interval(n, n)
    assert str(found) == f"mAP none, all labels right 1.0000 (95 % interval {low:.4f} to {high:.4f}, n = {n})"


def test_certainty_that_is_wrong_has_a_finite_loss() -> None:
    found = evaluate_labels(np.array([[1, 0], [0, 1]], np.uint8), np.array([[0.0, 1.0], [0.0, 1.0]]), NAMES[:2])
    assert 5 < found.log_loss < 40
    assert found.calibration_error == 0.5


def average_precision(y: NDArray[Any], scores: NDArray[Any]) -> float:
    """The mean, over images with the label, of the precision among those with at least their score."""
    return float(np.mean([y[scores >= score].mean() for score in scores[y == 1]]))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 12), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_every_figure_is_what_its_name_says(n: int, c: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = (rng.uniform(size=(n, c)) < rng.uniform(size=c)).astype(np.uint8)
    shares = rng.integers(0, 11, (n, c)) / 10  # with ties, and 0.5
    found, guess = evaluate_labels(y, shares, NAMES[:c]), shares > 0.5
    averages, f1 = [], []
    for label in range(c):
        there, said, hits = y[:, label].sum(), guess[:, label].sum(), (guess[:, label] & (y[:, label] == 1)).sum()
        assert found.images[label] == there
        assert found.class_precision[label] == (None if not said else pytest.approx(hits / said))
        if there:
            averages.append(average_precision(y[:, label], shares[:, label]))
            f1.append(2 * hits / (there + said))
            assert found.average_precision[label] == pytest.approx(averages[-1])
            assert found.recall[label] == pytest.approx(hits / there)
        else:
            assert found.average_precision[label] is found.recall[label] is None
    assert found.mean_average_precision == (pytest.approx(np.mean(averages)) if averages else None)
    assert found.macro_f1 == pytest.approx(np.mean(f1) if f1 else 0)
    right = int((guess == y).all(axis=1).sum())
    assert (found.accuracy, found.accuracy_low, found.accuracy_high) == (right / n, *wilson_interval(right, n))
    if y.any():
        assert found.micro_f1 == pytest.approx(f1_score(y, guess, average="micro", zero_division=0))
        there = y.any(axis=0)
        theirs = average_precision_score(y[:, there], shares[:, there], average="macro") if there.sum() > 1 else None
        assert theirs is None or found.mean_average_precision == pytest.approx(theirs)
    expected = np.mean([log_loss(y[:, label], shares[:, label], labels=[0, 1]) for label in range(c)])
    assert found.log_loss == pytest.approx(expected)


def test_the_text_of_a_few_labels(found: LabelAccuracy) -> None:
    assert found.describe() == "\n".join([
        "mAP 0.7778, all labels right 0.5000 (95 % interval 0.1500 to 0.8500, n = 4)",
        "macro F1 0.5000, micro F1 0.6000, log-loss 0.4487, calibration error 0.1475",
        "label    AP      recall  precision  samples",
        "  ants   0.8333  0.5000  0.5000     2",
        "  bees   1.0000  1.0000  1.0000     2",
        "  cats   none    none    0.0000     0",
        "  dogs   0.5000  0.0000  none       1",
    ])  # fmt: skip


def test_of_many_labels_the_worst_are_shown(found: LabelAccuracy) -> None:
    """Those without images have no place among them."""
    lines = found.describe(most=3).splitlines()
    assert lines[2].startswith("the 3 worst labels  AP")
    assert [line.split()[:2] for line in lines[3:]] == [["dogs", "0.5000"], ["ants", "0.8333"], ["bees", "1.0000"]]
    assert [line.split()[0] for line in found.describe(most=1).splitlines()[3:]] == ["dogs"]
    assert len(found.describe(most=4).splitlines()) == 7


def test_names_and_figures_stand_below_their_heads() -> None:
    names = ("a", "a label that is quite long", "é")
    lines = evaluate_labels(Y[:, :3], P[:, :3], names).describe().splitlines()
    for head, width in (("AP", 6), ("recall", 6), ("precision", 6), ("samples", 1)):
        start = lines[2].index(head)
        for line in lines[3:]:
            assert line[start - 1] == " "
            assert " " not in line[start : start + width].rstrip()
            assert line[start] != " "


def test_the_dictionary_is_json(found: LabelAccuracy) -> None:
    fields = found.to_dict()
    assert json.loads(json.dumps(fields)) == fields
    assert fields == {
        "accuracy": 0.5,
        "accuracy_low": found.accuracy_low,
        "accuracy_high": found.accuracy_high,
        "n": 4,
        "classes": ["ants", "bees", "cats", "dogs"],
        "mean_average_precision": pytest.approx(7 / 9),
        "macro_f1": pytest.approx(0.5),
        "micro_f1": pytest.approx(0.6),
        "log_loss": found.log_loss,
        "calibration_error": found.calibration_error,
        "images": [2, 2, 0, 1],
        "average_precision": [pytest.approx(5 / 6), 1.0, None, 0.5],
        "recall": [0.5, 1.0, None, 0.0],
        "class_precision": [0.5, 1.0, 0.0, None],
    }


def test_one_label_an_image_is_judged_as_before() -> None:
    y, shares = np.array([0, 2, 1]), np.array([[0.8, 0.1, 0.1], [0.3, 0.3, 0.4], [0.6, 0.3, 0.1]])
    found = judge(y, shares.argmax(axis=1), shares, NAMES[:3])
    assert isinstance(found, Accuracy)
    assert found == evaluate(y, shares.argmax(axis=1), NAMES[:3], shares)


def test_several_are_judged_by_their_probabilities() -> None:
    assert judge(Y, (P > 0.5).astype(np.int64), P, NAMES[:4]) == evaluate_labels(Y, P, NAMES[:4])
