"""`ClassificationLoss`: the loss that training minimises: cross-entropy, of several labels for each by itself."""

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
    label_smoothing : float, 0 <= value < 1, default 0. This share of a label's probability goes to all classes evenly
        (Szegedy et al. 2016, arXiv 1512.00567); of several labels, each target moves so far towards 1/2.
    weights : float64, see `class_weights`; None (the default) weighs all images alike.

    Call it with logits, shape (b, c), and labels, shape (b,), int64, or (b, c), 0 or 1.
    """

    def __init__(self, label_smoothing: float = 0.0, weights: NDArray[np.float64] | None = None) -> None:
        self._smoothing = label_smoothing
        self._weights = None if weights is None else torch.from_numpy(weights.astype(np.float32))

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss, a scalar tensor."""
        logits = logits.float()
        if labels.ndim == 2:
            return self._of_labels(logits, labels)
        if self._weights is None:
            return functional.cross_entropy(logits, labels, label_smoothing=self._smoothing)
        losses = functional.cross_entropy(logits, labels, label_smoothing=self._smoothing, reduction="none")
        return (losses * self._weights.to(labels.device)[labels]).mean()

    def _of_labels(self, logits: Tensor, labels: Tensor) -> Tensor:
        targets = labels.float() * (1 - self._smoothing) + self._smoothing / 2
        weight = None
        if self._weights is not None:
            without, having = self._weights.to(labels.device).T
            weight = torch.where(labels > 0, having, without)
        return functional.binary_cross_entropy_with_logits(logits, targets, weight)


def class_weights(
    class_weight: ClassWeight | None, labels: Labels, classes: tuple[str, ...]
) -> NDArray[np.float64] | None:
    """How much an image of each class counts, such that training images count 1 on average.

    Parameters
    ----------
    class_weight : None; "balanced", where all classes count alike in sum, and of several labels the images with a label
        as much as those without it; or a dict of class name to weight, in which only the ratio matters and 1 is that of
        classes that are not named; of several labels it weighs the images that have the label.
    labels : of the training images, shape (n,), int64, or (n, c), 0 or 1.
    classes : their names.

    Returns
    -------
    weights : float64, shape (c,); of several labels (c, 2), for images without and with each label. None for None.

    Raises
    ------
    ValueError : names that are no classes, weights that are not finite numbers above 0.
    """
    if class_weight is None:
        return None
    several = is_multilabel(labels)
    c = len(classes)
    counts = (
        np.stack([(labels == 0).sum(axis=0), (labels != 0).sum(axis=0)], axis=1)
        if several
        else np.bincount(labels, minlength=c)
    )
    if isinstance(class_weight, str):
        weights = np.where(counts > 0, 1 / np.maximum(counts, 1), 0.0)
    else:
        weights = _by_name(class_weight, classes, counts, several)
    total = float((weights * counts).sum())
    return np.asarray(weights * (counts.sum() / total if total else 1.0), np.float64)


def _by_name(
    class_weight: Mapping[str, Any], classes: tuple[str, ...], counts: NDArray[Any], several: bool
) -> NDArray[np.float64]:
    weights = np.ones(counts.shape)
    for name, value in class_weight.items():
        if name not in classes:
            raise ValueError(f"class_weight names {name!r}; the classes are {', '.join(classes)}")
        place = classes.index(name)
        weights[(place, 1) if several else place] = value
    return weights
