"""`ClassificationLoss`: the loss that training minimises, cross-entropy; with several labels, binary for each label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from featcache.core.samples import Labels, is_multilabel
from featcache.training.config import ClassWeight


class ClassificationLoss:
    """The mean loss of a batch, in nats.

    Parameters
    ----------
    label_smoothing : float
        This fraction of a label's probability is spread over all classes evenly, 0 <= value < 1 (Szegedy et al. 2016,
        arXiv 1512.00567). With several labels an image, each target moves by this fraction towards 1/2. Default: 0.
    weights : ndarray, float64, optional
        The weight of each class, see `class_weights`. Default: all images have the same weight.

    Call it with logits, shape (b, c), and labels, shape (b,), int64, or (b, c), 0 or 1.
    """

    def __init__(self, label_smoothing: float = 0.0, weights: NDArray[np.float64] | None = None) -> None:
        self._smoothing = label_smoothing
        self._weights = None if weights is None else torch.from_numpy(weights.astype(np.float32))

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss, a scalar tensor."""
        logits = logits.float()
        if labels.ndim == 2:
            return self._multilabel_loss(logits, labels)
        weights = self._weights_on(labels.device)
        if weights is None:
            return functional.cross_entropy(logits, labels, label_smoothing=self._smoothing)
        losses = functional.cross_entropy(logits, labels, label_smoothing=self._smoothing, reduction="none")
        return (losses * weights[labels]).mean()

    def _multilabel_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        targets = labels.float() * (1 - self._smoothing) + self._smoothing / 2
        weight, weights = None, self._weights_on(labels.device)
        if weights is not None:
            absent, present = weights.T
            weight = torch.where(labels > 0, present, absent)
        return functional.binary_cross_entropy_with_logits(logits, targets, weight)

    def _weights_on(self, device: torch.device) -> Tensor | None:
        """The weights, copied once: a copy to a GPU in every step would wait for the steps before it."""
        if self._weights is not None and self._weights.device != device:
            self._weights = self._weights.to(device)
        return self._weights


def class_weights(
    class_weight: ClassWeight | None, labels: Labels, classes: tuple[str, ...]
) -> NDArray[np.float64] | None:
    """The weight of an image of each class, scaled so that training images have the mean weight 1.

    Parameters
    ----------
    class_weight : None, "balanced" or dict
        "balanced" gives all classes the same total weight, and with several labels an image, the images with a label
        the same as those without it. A dict maps class names to weights, of which only the ratio matters; classes that
        it does not name have the weight 1. With several labels it is the weight of the images that have the label.
    labels : ndarray
        Of the training images, shape (n,), int64, or (n, c), 0 or 1.
    classes : tuple of str

    Returns
    -------
    ndarray, float64, or None
        Shape (c,). With several labels shape (c, 2): the weights of images without and with each label. None for None.

    Raises
    ------
    ValueError
        A name that is not a class.
    """
    if class_weight is None:
        return None
    multilabel = is_multilabel(labels)
    c = len(classes)
    counts = (
        np.stack([(labels == 0).sum(axis=0), (labels != 0).sum(axis=0)], axis=1)
        if multilabel
        else np.bincount(labels, minlength=c)
    )
    if isinstance(class_weight, str):
        weights = np.where(counts > 0, 1 / np.maximum(counts, 1), 0.0)
    else:
        weights = _weights_by_name(class_weight, classes, counts, multilabel)
    total = float((weights * counts).sum())
    return np.asarray(weights * (counts.sum() / total if total else 1.0), np.float64)


def _weights_by_name(
    class_weight: Mapping[str, Any], classes: tuple[str, ...], counts: NDArray[Any], multilabel: bool
) -> NDArray[np.float64]:
    weights = np.ones(counts.shape)
    for name, value in class_weight.items():
        if name not in classes:
            raise ValueError(f"class_weight names {name!r}; the classes are {', '.join(classes)}")
        index = classes.index(name)
        weights[(index, 1) if multilabel else index] = value
    return weights
