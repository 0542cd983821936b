"""`hold_out`: which images become val where the data has none, drawn by content."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featcache.errors import DataLayoutError
from featcache.labels import Labels, count_images, strata
from featcache.rng import content_order, content_words


def hold_out(labels: Labels, sha256: NDArray[np.uint8], fraction: float, seed: int) -> NDArray[np.int64]:
    """Rows to hold out: of each class the fraction, at least one and never all; equal files together."""
    _, first, group, sizes = np.unique(
        content_words(sha256), return_index=True, return_inverse=True, return_counts=True
    )
    rows_of = np.split(np.argsort(group, kind="stable"), np.cumsum(sizes)[:-1])
    stratum, n_classes = strata(labels), labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    training = count_images(labels, n_classes)
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

    for label in np.unique(stratum):
        members = np.flatnonzero(stratum[first] == label)
        members = members[content_order(sha256[first[members]], seed, "split")]  # new images move few old ones
        wanted = max(1, round(fraction * int(sizes[members].sum())))
        filled = 0
        for member in members:
            if filled + sizes[member] <= wanted:  # copies that would overshoot are passed over
                filled += hold(int(member))
        if not filled and len(members) > 1:
            hold(int(members[np.argmin(sizes[members])]))
    if not held:
        raise DataLayoutError("every class has a single distinct image: nothing can be held out for val")
    return np.sort(np.concatenate(held))
