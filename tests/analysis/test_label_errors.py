"""Label errors, overlapping classes and gain against values calculated by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from featcache.analysis.doctor.label_errors import (
    Overlap,
    find_label_errors,
    gain,
    leave_out,
    overlaps,
    rank_labels,
    thresholds,
)
from featcache.cache.features import Features
from featcache.core.samples import Samples


def test_confident_learning_by_hand() -> None:
    p = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.1, 0.9], [0.4, 0.6], [0.05, 0.95]])
    y = np.array([0, 0, 0, 1, 1, 0])
    assert_allclose(thresholds(p, y), [(0.9 + 0.7 + 0.2 + 0.05) / 4, (0.9 + 0.6) / 2])
    # of label 0 two are sure of 0 (0.4625) and two of 1 (0.75): half of four are doubted
    errors = find_label_errors(p, y, thresholds(p, y))
    assert_array_equal(errors.row, [5, 2])
    assert_array_equal(errors.label, [1, 1])
    assert_allclose(errors.margin, [0.9, 0.6])
    assert_array_equal(find_label_errors(p, y, np.array([0.4625, 0.9])).row, [5])  # one of three that are sure, of four
    assert thresholds(np.eye(3)[[0, 1]], np.array([0, 1]))[2] == np.inf
    assert len(find_label_errors(np.full((2, 3), 1 / 3), np.array([0, 1]), np.full(3, np.inf)).row) == 0


def test_as_many_are_doubted_as_the_sure_ones_say() -> None:
    """Half of the images are sure, so that those of the wrong label that are a bit less so are named, too."""
    y = np.zeros(40, np.int64)
    first = np.array([0.95] * 10 + [0.6] * 10 + [0.05] * 10 + [0.3] * 10)
    errors = find_label_errors(np.stack([first, 1 - first], axis=1), y, np.array([0.9, 0.9]))
    assert_array_equal(errors.row, np.arange(20, 40))
    first[20:25] = 0.95  # 15 of 20 that are sure are of class 0: a quarter of 40 is doubted
    errors = find_label_errors(np.stack([first, 1 - first], axis=1), y, np.array([0.9, 0.9]))
    assert_array_equal(errors.row, [25, 26, 27, 28, 29, 30, 31, 32, 33, 34])


def test_an_image_whose_own_label_is_the_likeliest_is_never_doubted() -> None:
    p = np.array([[0.5, 0.45, 0.05]] * 8)
    assert find_label_errors(p, np.zeros(8, np.int64), np.array([0.6, 0.4, 0.4])).row.tolist() == []


def test_a_label_that_no_other_class_is_sure_enough_of_is_ranked_though_not_doubted() -> None:
    p = np.array([[0.97, 0.03], [0.99, 0.01], [0.3, 0.7], [0.01, 0.99], [0.01, 0.99], [0.04, 0.96], [0.02, 0.98]])
    y = np.array([0, 0, 0, 1, 1, 0, 1])
    certain = np.array([0.9, 0.98])
    assert find_label_errors(p, y, certain).row.tolist() == []
    errors = rank_labels(p, y)
    assert (errors.row.tolist(), errors.label.tolist()) == ([5, 2], [1, 1])
    assert_allclose(errors.margin, [0.92, 0.4])
    assert rank_labels(p[:2], y[:2]).row.tolist() == []


def test_classes_overlap_where_surely_a_fifth_is_confused() -> None:
    y = np.repeat([0, 1, 2], 100)
    predicted = y.copy()
    predicted[:45], predicted[100:145] = 1, 0
    predicted[200:210] = 1
    (overlap,) = overlaps(predicted, y, 3)
    assert (overlap.first, overlap.second, overlap.fraction) == (0, 1, 90 / 200)
    assert 0.37 < overlap.low < 0.39
    assert overlaps(predicted[[0, 50, 100, 150]], y[[0, 50, 100, 150]], 3) == []  # half of four is chance
    assert overlaps(y, y, 3) == []
    assert isinstance(overlap, Overlap)


def test_gain_is_the_share_of_log_loss_that_is_gone() -> None:
    y = np.array([0, 1] * 50)
    p = np.where(np.eye(2)[y] == 1, 0.9, 0.1)
    reduction, z = gain(p, y)
    assert reduction == pytest.approx(1 - np.log(0.9) / np.log(0.5))
    assert z > 1e6  # every image says the same
    assert gain(np.full((100, 2), 0.5), y)[0] == pytest.approx(0)
    assert gain(p, y, p) == (0.0, 0.0)
    guess = np.random.default_rng(1).dirichlet([5, 5], 100)
    assert gain(guess, y)[1] < 3


def test_nearly_every_class_has_one_image() -> None:
    """Of 80 classes one has four images: the first fold is empty or small, and all folds choose the strength."""
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(80), [0, 0, 0]])
    x = (rng.normal(size=(80, 16))[labels] + 0.1 * rng.normal(size=(83, 16)))[:, None].astype(np.float32)
    samples = Samples(
        tuple(map(str, range(83))), labels, np.zeros(83, np.uint8), rng.integers(0, 256, (83, 32), dtype=np.uint8),
        tuple(f"c{n:02d}" for n in range(80)),
    )  # fmt: skip
    result = leave_out(Features(x, samples))
    assert len(result.rows) == 4
