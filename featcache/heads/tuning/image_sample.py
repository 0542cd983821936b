"""`sample_images`: a part of the training images, on which a choice is made that would take too long on all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featcache.core.rng import content_order, content_words
from featcache.core.samples import Samples

_LEAST = 4  # images of each class, where there are so many classes


def sample_images(samples: Samples, images: int, seed: int) -> NDArray[np.int64]:
    """At most so many training images or a few more, of each class as many, in the order of the rows.

    Each group gives one image, then each a second one, and so on; copies count as a group.
    """
    order = content_order(samples.split_keys, seed, "layers")
    _, group = np.unique(content_words(samples.split_keys), return_inverse=True)
    order = order[np.argsort(_ranks(group[order]), kind="stable")]
    if samples.multilabel:
        return np.sort(order[:images])
    labels = samples.labels[order]
    classes, first = np.unique(labels, return_index=True)
    most = max(_LEAST, images // len(classes))
    if len(classes) * _LEAST > images:  # a part of the classes
        classes = classes[np.argsort(first)][: images // _LEAST]
    rows = [order[labels == label][:most] for label in classes]
    return np.sort(np.concatenate(rows))


def _ranks(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of the values before have the same group, shape (n,)."""
    order = np.argsort(groups, kind="stable")
    first = np.searchsorted(groups[order], groups[order])  # where the group begins
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = np.arange(len(groups)) - first
    return ranks
