"""`hold_out`: which images become val where the data has none, drawn by content."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featcache.core.labels import Labels, count_images, is_multilabel, strata
from featcache.core.rng import content_order, content_words
from featcache.errors import DataLayoutError


def hold_out(labels: Labels, keys: NDArray[np.uint8], fraction: float, seed: int) -> NDArray[np.int64]:
    """Rows to hold out: of each class the fraction, at least one and never all; rows with equal keys together.

    Rare classes are served first, and one that is still missing afterwards gets an image if it has two: where images
    have several labels, each is held out for the rarest of them. So is what has no label.

    Parameters
    ----------
    keys : shape (n, 32), uint8, see `Samples.split_keys`: hashes of the bytes, or of the group.
    """
    _, first, group, sizes = np.unique(content_words(keys), return_index=True, return_inverse=True, return_counts=True)
    rows_of = np.split(np.argsort(group, kind="stable"), np.cumsum(sizes)[:-1])
    stratum, several = strata(labels), is_multilabel(labels)
    if several:
        labels = np.column_stack([labels, ~labels.any(axis=1)])  # the last for images without any
    n_classes = labels.shape[1] if several else int(labels.max()) + 1
    images = count_images(labels, n_classes)
    training, order = images.copy(), np.argsort(images, kind="stable")
    held: list[NDArray[np.int64]] = []

    def hold(member: int) -> int:
        """Hold a group out, unless a class would lose its last training image; returns how many rows went."""
        rows = rows_of[member]
        counts = count_images(labels[rows], n_classes)
        if np.any((counts > 0) & (training <= counts)):
            return 0
        training[:] -= counts
        held.append(rows)
        return len(rows)

    def by_content(members: NDArray[np.int64]) -> NDArray[np.int64]:
        """In an order in which new images move few old ones."""
        return members[content_order(keys[first[members]], seed, "split")]

    for label in order[np.isin(order, stratum)]:
        members = by_content(np.flatnonzero(stratum[first] == label))
        wanted = max(1, round(fraction * int(sizes[members].sum())))
        filled = 0
        for member in members:
            if filled + sizes[member] <= wanted:  # copies that would overshoot are passed over
                filled += hold(int(member))
        if not filled and len(members) > 1:
            hold(int(members[np.argmin(sizes[members])]))
    for label in order:
        if training[label] == images[label]:  # none is held out
            has = group[labels[:, label] != 0 if several else labels == label]  # a group can have several classes
            any(hold(int(member)) for member in by_content(np.unique(has)))
    if not held:
        raise DataLayoutError(
            "every class has a single distinct image, or lies in a single group: nothing can be held out for val"
        )
    return np.sort(np.concatenate(held))
