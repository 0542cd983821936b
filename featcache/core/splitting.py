"""Splits that depend on content only: `hold_out` draws a val split, `assign_folds` the folds of cross-validation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from featcache.core.rng import content_order, content_words
from featcache.core.samples import Labels, count_images, is_multilabel, strata
from featcache.errors import DataLayoutError, HeadError

NEVER = -1  # fold of images that always stay in training

_FOLDS, _MAX_FOLDED = 5, 1_000_000  # with more images x classes, one fifth is held out once, or
_MAX_LOGITS = 20_000_000  # the number of images with this number of logits, if fewer


def plan_folds(
    labels: Labels, n_classes: int, keys: NDArray[np.uint8], folds: int | None, seed: int
) -> tuple[NDArray[np.int64], int]:
    """The fold of each image, (n,), and the number of folds for the choice of settings; 1 means one held-out part.

    folds : 2 or more; None uses 5, or holds out a fifth once if images x classes exceed a million.
    Raises HeadError.
    """
    if folds is not None and folds < 2:
        raise HeadError(f"cross-validation takes two folds or more; got {folds}")
    logits = len(labels) * n_classes
    if folds is not None or logits <= _MAX_FOLDED:
        return assign_folds(labels, keys, folds or _FOLDS, seed), folds or _FOLDS
    fold = assign_folds(labels, keys, max(_FOLDS, -(-logits // _MAX_LOGITS)), seed)
    return np.where(fold == 0, 0, NEVER), 1


def assign_folds(labels: Labels, keys: NDArray[np.uint8], k: int, seed: int = 0) -> NDArray[np.int64]:
    """Assign each image a fold from 0 to k - 1, stratified by class. Returns (n,), int64.

    Images with equal keys (equal bytes, or one group) share a fold. The distinct images of a class (with several
    labels: of the rarest one), ordered by content, get the folds in turn. Each training set has an image of each class,
    and with several labels also one without it: if a fold would hold out all of them, one image gets the fold NEVER.

    Parameters
    ----------
    labels : see `featcache.core.samples.Labels`.
    keys : (n, 32), uint8, see `Samples.split_keys`.
    k : 2 or more.
    """
    _, first, group = np.unique(content_words(keys), return_index=True, return_inverse=True)
    stratum = np.full(len(first), np.iinfo(np.int64).max)
    np.minimum.at(stratum, group, strata(labels))  # equal images may have two labels
    order = content_order(keys[first], seed, "fold")
    order = order[np.argsort(stratum[order], kind="stable")]
    fold, rank = np.empty(len(first), np.int64), np.empty(len(first), np.int64)
    rank[order] = np.arange(len(first))
    fold[order] = np.arange(len(first)) % k
    for rows in _rows_to_keep(labels):
        members = group[rows]
        if np.all(fold[members] == fold[members[0]]):
            fold[members[np.argmin(rank[members])]] = NEVER
    return fold[group]


def _rows_to_keep(labels: Labels) -> Iterator[NDArray[np.int64]]:
    """Yield sets of rows of which one must stay in training: of each class; with several labels also without it."""
    if is_multilabel(labels):
        groups = (np.flatnonzero(mask) for column in labels.T for mask in (column != 0, column == 0))
    else:
        groups = (np.flatnonzero(labels == label) for label in np.unique(labels))
    yield from (rows for rows in groups if len(rows))


def hold_out(
    labels: Labels, keys: NDArray[np.uint8], fraction: float, seed: int, *, may_be_empty: bool = False
) -> NDArray[np.int64]:
    """Rows to hold out: a fraction of each class, at least one and never all; rows with equal keys stay together.

    Rare classes come first. An image with several labels counts for the rarest of them; images without labels form a
    class. At the end, a class without a held-out image gets one if it has two.

    Parameters
    ----------
    keys : (n, 32), uint8, see `Samples.split_keys`: hashes of the bytes or of the group.
    may_be_empty : whether to return no row, and not to raise DataLayoutError, if none can be held out.
    """
    if not len(labels) and may_be_empty:
        return np.empty(0, np.int64)
    _, first, group, sizes = np.unique(content_words(keys), return_index=True, return_inverse=True, return_counts=True)
    rows_of = np.split(np.argsort(group, kind="stable"), np.cumsum(sizes)[:-1])
    stratum, several = strata(labels), is_multilabel(labels)
    if several:
        labels = np.column_stack([labels, ~labels.any(axis=1)])  # the last column is for images without labels
    n_classes = labels.shape[1] if several else int(labels.max()) + 1
    images = count_images(labels, n_classes)
    training, order = images.copy(), np.argsort(images, kind="stable")
    held: list[NDArray[np.int64]] = []

    def hold(member: int) -> int:
        """Hold out a group, unless a class would lose its last training image. Returns the number of rows held out."""
        rows = rows_of[member]
        counts = count_images(labels[rows], n_classes)
        if np.any((counts > 0) & (training <= counts)):
            return 0
        training[:] -= counts
        held.append(rows)
        return len(rows)

    def by_content(members: NDArray[np.int64]) -> NDArray[np.int64]:
        """Order by content, so that added images change the split of few others."""
        return members[content_order(keys[first[members]], seed, "split")]

    for label in order[np.isin(order, stratum)]:
        members = by_content(np.flatnonzero(stratum[first] == label))
        target = max(1, round(fraction * int(sizes[members].sum())))
        filled = 0
        for member in members:
            if filled + sizes[member] <= target:  # groups that would exceed it are skipped
                filled += hold(int(member))
        if not filled and len(members) > 1:
            hold(int(members[np.argmin(sizes[members])]))
    for label in order:
        if training[label] == images[label]:  # none is held out
            has = group[labels[:, label] != 0 if several else labels == label]  # a group can have several classes
            any(hold(int(member)) for member in by_content(np.unique(has)))
    if not held and may_be_empty:
        return np.empty(0, np.int64)
    if not held:
        raise DataLayoutError(
            "every class has a single distinct image, or lies in a single group: nothing can be held out for val"
        )
    return np.sort(np.concatenate(held))
