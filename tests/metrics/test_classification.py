from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from featcache.metrics.classification import confusion_matrix, evaluate
from featcache.metrics.significance import paired_test, wilson_interval

COUNTS = st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)
CLASSES = ("a", "b", "c", "d")


@settings(deadline=None)
@given(COUNTS)
def test_wilson_interval_is_that_of_scipy(counts: tuple[int, int]) -> None:
    expected = binomtest(*counts).proportion_ci(method="wilson")
    assert wilson_interval(*counts) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-12)


@settings(deadline=None)
@given(COUNTS)
def test_wilson_interval_contains_the_proportion_and_stays_between_0_and_1(counts: tuple[int, int]) -> None:
    low, high = wilson_interval(*counts)
    assert 0 <= low <= counts[0] / counts[1] + 1e-12
    assert counts[0] / counts[1] - 1e-12 <= high <= 1


def test_wilson_interval_of_published_and_empty_cases() -> None:
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for counts, interval in published.items():
        assert wilson_interval(*counts) == pytest.approx(interval, abs=5e-5)
    assert wilson_interval(0, 0) == (0.0, 1.0)


@settings(deadline=None)
@given(PAIRS)
def test_confusion_accuracy_and_recall_are_those_of_sklearn(pairs: list[tuple[int, int]]) -> None:
    y, predicted = np.array(pairs, dtype=np.int64).T
    labels = list(range(len(CLASSES)))
    result = evaluate(y, predicted, CLASSES)
    expected = sklearn_confusion(y, predicted, labels=labels)
    np.testing.assert_array_equal(confusion_matrix(y, predicted, len(CLASSES)), expected)
    assert result.confusion == tuple(map(tuple, expected.tolist()))
    assert result.accuracy == pytest.approx(accuracy_score(y, predicted))
    recall = recall_score(y, predicted, labels=labels, average=None, zero_division=np.nan)
    assert result.recall == pytest.approx([None if np.isnan(value) else value for value in recall])
    assert (result.accuracy_low, result.accuracy_high) == wilson_interval(int((y == predicted).sum()), len(y))
    assert (result.n, result.classes) == (len(y), CLASSES)


@settings(deadline=None)
@given(PAIRS)
def test_balanced_accuracy_f1_and_precision_are_those_of_sklearn(pairs: list[tuple[int, int]]) -> None:
    y, predicted = np.array(pairs, dtype=np.int64).T
    result = evaluate(y, predicted, CLASSES)
    there = np.unique(y)
    recall = recall_score(y, predicted, labels=there, average="macro", zero_division=0)
    assert result.balanced_accuracy == pytest.approx(recall)
    assert result.macro_f1 == pytest.approx(f1_score(y, predicted, labels=there, average="macro", zero_division=0))
    precision = precision_score(y, predicted, labels=range(4), average=None, zero_division=np.nan)
    assert result.class_precision == pytest.approx([None if np.isnan(value) else value for value in precision])


def test_figures_of_probabilities() -> None:
    """Six classes; the true one is first, second, sixth."""
    shares = np.array([[0.5, 0.1, 0.1, 0.1, 0.1, 0.1], [0.6, 0.4, 0, 0, 0, 0], [0.3, 0.2, 0.2, 0.15, 0.1, 0.05]])
    y = np.array([0, 1, 5])
    result = evaluate(y, shares.argmax(1), tuple("abcdef"), shares)
    assert result.top5 == pytest.approx(2 / 3)
    assert result.log_loss == pytest.approx(-np.log([0.5, 0.4, 0.05]).mean())
    assert result.calibration_error == pytest.approx((0.5 + 0.6 + 0.3) / 3)  # bins of their own: right, wrong, wrong
    assert evaluate(y, shares.argmax(1), tuple("abcdef")).log_loss is None


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 20))
def test_the_paired_test_is_the_sign_test_of_the_images_that_one_alone_gets_right(a: int, b: int, both: int) -> None:
    first = np.array([True] * (a + both) + [False] * (b + 3))
    second = np.array([False] * a + [True] * (both + b) + [False] * 3)
    found = paired_test(first, second)
    assert (found.n, found.only_first, found.only_second) == (a + b + both + 3, a, b)
    assert found.p == pytest.approx(binomtest(a, a + b).pvalue if a + b else 1.0)


def test_rows_are_true_and_columns_predicted() -> None:
    assert confusion_matrix(np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1]), 2).tolist() == [[1, 2], [0, 1]]


def test_to_dict_is_json_and_a_class_without_images_has_no_recall() -> None:
    result = evaluate(np.array([0, 0, 0, 1]), np.array([0, 0, 2, 1]), ("ants", "bees", "wasps"))
    fields = result.to_dict()
    assert json.loads(json.dumps(fields)) == fields
    assert fields == {
        "accuracy": 0.75,
        "accuracy_low": result.accuracy_low,
        "accuracy_high": result.accuracy_high,
        "n": 4,
        "classes": ["ants", "bees", "wasps"],
        "balanced_accuracy": pytest.approx(5 / 6),
        "macro_f1": pytest.approx((0.8 + 1) / 2),
        "recall": [pytest.approx(2 / 3), 1.0, None],
        "class_precision": [1.0, 1.0, 0.0],
        "top5": None,
        "log_loss": None,
        "calibration_error": None,
        "confusion": [[2, 0, 1], [0, 1, 0], [0, 0, 0]],
    }
    assert str(result) == "0.7500 (95 % interval 0.3006 to 0.9544, n = 4)"


def test_no_images_say_nothing() -> None:
    nothing = np.array([], dtype=np.int64)
    result = evaluate(nothing, nothing, ("ants", "bees"))
    assert (result.accuracy, result.accuracy_low, result.accuracy_high, result.n) == (0.0, 0.0, 1.0, 0)
    assert result.recall == (None, None)
    assert result.confusion == ((0, 0), (0, 0))
