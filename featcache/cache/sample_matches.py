"""`match_samples`: the samples that several caches have in common, by their bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featcache._utils.formatting import plural, printable
from featcache.core.samples import SPLITS, format_labels
from featcache.core.specs import is_arrays
from featcache.errors import CacheMismatchError

if TYPE_CHECKING:
    from featcache.cache.feature_cache import FeatureCache


@dataclass(frozen=True)
class SampleMatches:
    """Samples that all caches have.

    Attributes
    ----------
    rows : tuple of ndarray, shape (n,), int64
        Of each cache, the rows of the n samples, in the order of the first cache.
    notes : tuple of str
        What is left out, a line each.
    """

    rows: tuple[NDArray[np.int64], ...]
    notes: tuple[str, ...]


def match_samples(caches: Sequence[FeatureCache]) -> SampleMatches:
    """Match the samples of caches by their bytes; names and orders may differ.

    Of samples with equal bytes, whose features are equal, those with the same name, else with the same split and label,
    belong together.

    Raises
    ------
    CacheMismatchError
        There is no sample in common, or a sample has another label or is in another split.
    """
    first = caches[0]
    columns = [np.arange(len(first.samples))]
    for cache in caches[1:]:
        column = _rows_in(first, cache)
        if np.all(column < 0):
            raise CacheMismatchError(_nothing_in_common(first, cache))
        _check(first, cache, column)
        columns.append(column)
    in_all = np.all([column >= 0 for column in columns], axis=0)
    if not in_all.any():
        raise CacheMismatchError(f"no sample is in all of {', '.join(str(cache.path) for cache in caches)}.")
    rows = tuple(column[in_all] for column in columns)
    return SampleMatches(rows, tuple(_left_out(caches, rows)))


def _rows_in(first: FeatureCache, other: FeatureCache) -> NDArray[np.int64]:
    """For each row of the first cache, that of the other one with the same content; -1 for none."""
    found: dict[bytes, list[int]] = {}
    for row, content in enumerate(other.samples.sha256):
        found.setdefault(content.tobytes(), []).append(row)
    kinds = [_kinds(cache) for cache in (first, other)]
    column = np.full(len(first.samples), -1, np.int64)
    for row, content in enumerate(first.samples.sha256):
        copies = found.get(content.tobytes())
        if copies:
            same_name = [copy for copy in copies if other.samples.ids[copy] == first.samples.ids[row]]
            same_kind = [copy for copy in copies if kinds[1][copy] == kinds[0][row]]
            column[row] = [*same_name, *same_kind, *copies][0]
    return column


def _kinds(cache: FeatureCache) -> list[tuple[str, str]]:
    """Label and split of each sample, for people."""
    samples = cache.samples
    splits = [SPLITS[split] for split in samples.split.tolist()]
    return list(zip(format_labels(samples.labels, samples.classes), splits, strict=True))


def _check(first: FeatureCache, other: FeatureCache, column: NDArray[np.int64]) -> None:
    """Raise CacheMismatchError if samples have other labels, or are in other splits, than in the first cache."""
    if first.samples.multilabel != other.samples.multilabel:
        several, one = (first, other) if first.samples.multilabel else (other, first)
        raise CacheMismatchError(
            f"samples of {several.path} can have several labels, those of {one.path} have one. Extract one of them "
            "again, from the same data."
        )
    kinds = [_kinds(cache) for cache in (first, other)]
    for position, what in enumerate(("label", "split")):
        rows = [
            row for row in np.flatnonzero(column >= 0) if kinds[0][row][position] != kinds[1][column[row]][position]
        ]
        if rows:
            row = rows[0]
            values = [kind[number][position] or "none" for kind, number in zip(kinds, (row, column[row]), strict=True)]
            of = "labels of" if what == "label" else "splits of"
            raise CacheMismatchError(
                f"{other.path} has other {of} {plural(len(rows), 'sample')} than {first.path}, for example of "
                f"{printable(first.samples.ids[row])}: {printable(values[1])}, expected {printable(values[0])}. Bring "
                f"both up to date with the same data: featcache update {other.path} DATA."
            )


def _nothing_in_common(first: FeatureCache, other: FeatureCache) -> str:
    text = (
        f"{first.path} ({plural(len(first.samples), 'sample')}) and {other.path} "
        f"({plural(len(other.samples), 'sample')}) have no sample in common: no bytes are equal. Extract both from the "
        "same data."
    )
    if any(is_arrays(cache.spec.backbone) for cache in (first, other)):
        text += (
            " Features that were given as arrays have no bytes of samples; FeatureCache.from_parquet reads them from a "
            "column sha256."
        )
    return text


def _left_out(caches: Sequence[FeatureCache], rows: Sequence[NDArray[np.int64]]) -> list[str]:
    """What is not among the rows of each cache, a line each."""
    joined = {content.tobytes() for content in caches[0].samples.sha256[rows[0]]}
    notes = []
    for cache, own_rows in zip(caches, rows, strict=True):
        unused = np.setdiff1d(np.arange(len(cache.samples)), own_rows)
        is_copy = np.array([content.tobytes() in joined for content in cache.samples.sha256[unused]], bool)
        for lost, reason in (
            (unused[~is_copy], "not all caches have the same bytes"),
            (unused[is_copy], "they are copies of others, and another cache has fewer copies"),
        ):
            if len(lost):
                by_split = Counter(SPLITS[split] for split in cache.samples.split[lost].tolist())
                counts = ", ".join(f"{count} of {split}" for split, count in by_split.items())
                notes.append(
                    f"{plural(len(lost), 'sample')} of {cache.path} left out ({counts}; for example "
                    f"{printable(cache.samples.ids[lost[0]])}): {reason}"
                )
    return notes
