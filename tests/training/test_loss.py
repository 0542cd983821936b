"""The loss that training minimises, against numpy: class weights, label smoothing, several labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax

from featcache.training.loss import ClassificationLoss, class_weights

RNG = np.random.default_rng(2)
LOGITS = RNG.normal(size=(6, 3))
Y = np.array([0, 0, 0, 1, 1, 2])
LABELS = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 1], [0, 1, 0]], np.uint8)
CLASSES = ("a", "b", "c")


def loss(labels: Any, logits: Any = LOGITS, **options: Any) -> float:
    return float(ClassificationLoss(**options)(torch.from_numpy(logits), torch.from_numpy(labels)))


def entropies(labels: Any, smoothing: float = 0.0) -> Any:
    """Of each image, or of each image and label."""
    if labels.ndim == 1:
        targets = (1 - smoothing) * np.eye(3)[labels] + smoothing / 3
        return -(targets * log_softmax(LOGITS, axis=1)).sum(1)
    targets = (1 - smoothing) * labels + smoothing / 2
    return -(targets * np.log(expit(LOGITS)) + (1 - targets) * np.log(expit(-LOGITS)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("labels", [Y, LABELS], ids=["one label", "several labels"])
def test_the_loss_is_the_mean_cross_entropy_with_smoothed_labels(labels: Any, smoothing: float) -> None:
    assert loss(labels, label_smoothing=smoothing) == pytest.approx(entropies(labels, smoothing).mean(), rel=1e-5)


def test_weights_are_those_of_images_given_several_times() -> None:
    """Twice as much for b is b twice; only the ratio counts."""
    twice = np.repeat(np.arange(6), np.where(Y == 1, 2, 1))
    for weights in ({"b": 2}, {"a": 5, "b": 10.0, "c": 5}):
        value = loss(Y, weights=class_weights(weights, Y, CLASSES))
        assert value == pytest.approx(entropies(Y)[twice].mean(), rel=1e-5)


def test_balanced_classes_count_alike_in_sum() -> None:
    weights = class_weights("balanced", Y, CLASSES)
    np.testing.assert_allclose(weights, [2 / 3, 1, 2])
    each = [entropies(Y)[label == Y].mean() for label in range(3)]
    assert loss(Y, weights=weights) == pytest.approx(np.mean(each), rel=1e-5)


def test_balanced_labels_weigh_images_with_each_as_much_as_those_without() -> None:
    weights = class_weights("balanced", LABELS, CLASSES)
    assert weights is not None
    assert weights.shape == (3, 2)
    terms = entropies(LABELS)
    each = [terms[LABELS[:, label] == has, label].mean() for label in range(3) for has in (0, 1)]
    assert loss(LABELS, weights=weights) == pytest.approx(np.mean(each), rel=1e-5)


def test_a_label_s_weight_is_that_of_images_that_have_it() -> None:
    weights = class_weights({"c": 3}, LABELS, CLASSES)
    factors = np.where((LABELS == 1) & (np.arange(3) == 2), 3.0, 1.0)
    assert loss(LABELS, weights=weights) == pytest.approx(np.average(entropies(LABELS), weights=factors), rel=1e-5)


@pytest.mark.parametrize("labels", [Y, LABELS])
@pytest.mark.parametrize("class_weight", ["balanced", {"a": 0.1, "c": 7}])
def test_images_count_once_on_average(labels: Any, class_weight: Any) -> None:
    weights = class_weights(class_weight, labels, CLASSES)
    assert weights is not None
    counts = np.bincount(labels) if labels.ndim == 1 else np.stack([(labels == has).sum(0) for has in (0, 1)], 1)
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1.0)


def test_a_class_without_training_images_has_no_weight_to_disturb_the_others() -> None:
    np.testing.assert_allclose(class_weights("balanced", np.array([0, 0, 1]), CLASSES), [0.75, 1.5, 0])


def test_a_name_that_is_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match="class_weight names 'd'; the classes are a, b, c"):
        class_weights({"d": 2}, Y, CLASSES)
