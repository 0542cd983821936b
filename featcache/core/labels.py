"""Labels: one an image, shape (n,), int64, indices of classes; or several, (n, c), uint8, 1 where an image has it.

Of images whose label is not known, which are in the split "unlabelled", they are -1, or 0 everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SEPARATOR = "|"

Labels = NDArray[Any]


def is_multilabel(labels: Labels) -> bool:
    """Whether an image can have several."""
    return labels.ndim == 2


def count_images(labels: Labels, n_classes: int) -> NDArray[np.int64]:
    """How many images have each class, shape (c,)."""
    if is_multilabel(labels):
        return labels.sum(axis=0, dtype=np.int64)
    return np.bincount(labels, minlength=n_classes)


def strata(labels: Labels) -> NDArray[np.int64]:
    """What an image is dealt by when a split shall be even, shape (n,): its label; of several the rarest one, else c.

    Rare labels have little room, so they come first (Sechidis et al. 2011, "On the stratification of
    multi-label data").
    """
    if not is_multilabel(labels):
        return labels
    rarity = np.append(count_images(labels, labels.shape[1]), len(labels) + 1)
    order = np.argsort(rarity, kind="stable")
    some = np.hstack([labels != 0, np.ones((len(labels), 1), bool)])  # the last for images without any
    return order[some[:, order].argmax(axis=1)]


def format_labels(labels: Labels, classes: tuple[str, ...]) -> list[str]:
    """The class of each image, or its classes as "a|b"; "" for -1, which is no class."""
    if is_multilabel(labels):
        return [SEPARATOR.join(classes[place] for place in np.flatnonzero(row)) for row in labels]
    return ["" if label < 0 else classes[label] for label in labels]
